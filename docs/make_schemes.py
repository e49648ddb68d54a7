"""Write docs/schemes.md, the grammar of position schemes, from the table of names that `parse_scheme` knows.

python docs/make_schemes.py
"""

import json
import math
import re
import tempfile
from contextlib import chdir
from pathlib import Path

from ropesearch import Scheme, parse_scheme, search_bases
from ropesearch.schemes.grammar import SCHEMES

OPTIONS = {
    "original": "The trained length, in tokens. Default 4096.",
    "base": "RoPE's theta that the scheme starts from. Default 10000.",
    "head_dim": "Channels per head. Default 128.",
    "heads": "Query heads. Default: as many as `kv_heads`, or any number.",
    "kv_heads": "KV heads, the number of rows. Default: as many as `heads`, or 32.",
    "group": "Tokens in a group. Required.",
    "low_freq_factor": "Frequencies that turn less often over the trained length are divided. Default 1.",
    "high_freq_factor": "Frequencies that turn more often are kept; in between lies a ramp. Default 4.",
}

RAMP = r"""$$\theta'_i = (1 - r_i)\, \theta_i + r_i\, \frac{\theta_i}{s}, \qquad
r_i = \mathrm{clip}\left( \frac{i - 1 - \lfloor n(32) \rfloor}{\lceil n(1) \rceil - \lfloor n(32) \rfloor},\, 0,\, 1 \right), \qquad
n(t) = \frac{d\, \ln (L_0 / 2 \pi t)}{2\, \ln\, b}$$

$n(t)$ is the place of the frequency that turns $t$ times over the trained length; both ends of the ramp stay within the
head's channels."""

FORMULAS = {
    "rope": r"$$\theta_i = b^{-2(i-1)/d}$$",
    "pi": r"$$\theta'_i = \theta_i / s$$",
    "abf": r"$$\theta'_i = b'^{\,-2(i-1)/d}$$",
    "abf-multi-stage": r"""$$(b', L) = (10^6, 32768), \; (2 \cdot 10^6, 65536), \; (5 \cdot 10^6, 131072)$$

HARPE's comparison. $L$ is the length that a stage trains with.""",
    "ntk": r"""$$b' = b\, s^{d/(d-2)}$$

*Source: as in YaRN ([arXiv:2309.00071](https://arxiv.org/abs/2309.00071)), section 3.1.*""",
    "dynamic": r"""$$b' = b \left( s\, \frac{\max(L, L_0)}{L_0} - (s - 1) \right)^{d/(d-2)}$$

$L$ is the length of the sequence. Waveforms are computed for $L = s L_0$.""",
    "ntk-by-parts": RAMP,
    "yarn": r"""The frequencies of [`ntk-by-parts`](#ntk-by-parts), with an attention factor:

$$f = 0.1\, \ln\, s + 1$$""",
    "llama3": r"""$$\theta'_i = k_i\, \theta_i + (1 - k_i)\, \frac{\theta_i}{s}, \qquad
k_i = \mathrm{clip}\left( \frac{L_0 \theta_i / 2 \pi - l}{h - l},\, 0,\, 1 \right)$$

$l$ and $h$ are `low_freq_factor` and `high_freq_factor`.""",
    "longrope": r"""$$\theta'_i = \theta_i / \lambda_i$$

The divisors $\lambda_i$ and the attention factor are those that the file has for lengths up to the trained one, or beyond
it.""",
    "self-extend": r"""The frequencies stay. With the window $w$ and groups of $G$ tokens the model sees the distance

$$m' = m \;\; (m < w), \qquad m' = \lfloor m / G \rfloor + w - \lfloor w / G \rfloor \;\; (m \ge w)$$

or one more, by where query and key lie in their groups. Figures shade both. `apply` refuses it, since no config holds
it; `evaluate` puts it into a model in memory.""",
    "uniform": r"$$b_h = b_\mathrm{min} + h\, \frac{b_\mathrm{max} - b_\mathrm{min}}{N - 1}, \qquad h = 0, \ldots, N - 1$$",
    "uniform-descending": r"$$b_h = b_\mathrm{max} - h\, \frac{b_\mathrm{max} - b_\mathrm{min}}{N - 1}, \qquad h = 0, \ldots, N - 1$$",
    "table2": "What `ropesearch search --preset table2` finds; see [Table 2](table2.md).",
    "ms-poe": r"$$\theta'_{h,i} = \theta_i / r_h, \qquad r_h = r_\mathrm{min} + h\, \frac{r_\mathrm{max} - r_\mathrm{min}}{N - 1}$$"
    "\n\nNo config holds it, so that no model can take it: it is for waveforms and coverage.",
    "harpe": "Any [base-set file](base-set-file.md).",
}

TEMPLATE = """\
<!-- Made by `python docs/make_schemes.py`. -->

# Position schemes

A position scheme is a rule that turns positions into angles. It is written in one line of text, the same everywhere: as
`--scheme` of `apply`, `evaluate`, `train`, `compare`, `waveform`, `extrema` and `plot coverage`; as a name for `compare`,
`plot overlay` and `report`; and in Python for `parse_scheme`. Those that are nothing but bases also go to `show`, `export`,
`plot bases` and `plot alignment`.

```text
NAME[:VALUE][,OPTION=NUMBER…]

yarn:32
llama3:8,original=8192,base=5e5
```

Numbers may end in k or m: thousands and millions in bases (`abf:5m`), 1024s in lengths (`original=8k`). A range is
`LOW..HIGH`. Where the scheme is for a model, what the text does not say is the model's own and not the default.

$d$ is head_dim, $b$ the base, $s$ the factor, $L_0$ the trained length, $\\theta_i$ the frequency $i = 1, \\ldots, d/2$;
[Terms](terms.md) has the rest.

| name | value | options | |
|---|---|---|---|
{rows}

## Options

{options}

{sections}"""


def linked(description: str) -> str:
    return re.sub(r"arXiv:(\d{4}\.\d{5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", description)


def row(name: str) -> str:
    kind = SCHEMES[name]
    options = ", ".join(f"`{key}`" for key in kind.keys)
    return f"| [`{name}`](#{name}) | {kind.value} | {options} | {linked(kind.description)} |"


def section(name: str) -> str:
    kind = SCHEMES[name]
    description = linked(kind.description)
    lead = description[0].upper() + description[1:] + "."
    parts = [f"## {name}", lead, f"```text\n{kind.example}\n```", FORMULAS[name]]
    scheme = parse_scheme(kind.example)
    if kind.value != "file":
        parts.append(facts(scheme))
    return "\n\n".join(parts) + "\n"


def facts(scheme: Scheme) -> str:
    """Say what the example of a scheme comes to."""
    theta = scheme.inv_freq()
    n = len(theta)
    longest = sorted(2 * math.pi / theta[:, -1])
    if n == 1:
        waves = f"longest wavelength {longest[0]:,.0f} tokens"
    else:
        waves = f"{n} rows, longest wavelengths from {longest[0]:,.0f} to {longest[-1]:,.0f} tokens"
    said = [waves, f"attention factor {scheme.attention_factor():.4g}"]
    if scheme.target_length:
        said.append(f"extends to {scheme.target_length:,} tokens")
    rule = scheme.rope_parameters()
    said.append(f"in transformers `{rule['rope_type']}`" if rule else "not in transformers")
    return f"The example: {'; '.join(said)}."


def write_files() -> None:
    """Write, into the current folder, the two files that the examples name."""
    search_bases(1e6, 5e6, 30000, 32).save("bases.json")
    config = {
        "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 32, "hidden_size": 4096, "vocab_size": 32000,
        "max_position_embeddings": 131072, "original_max_position_embeddings": 4096, "rope_theta": 10000.0,
        "rope_scaling": {
            "rope_type": "longrope",
            "short_factor": [1.0] * 64,
            "long_factor": [1 + 31 * i / 63 for i in range(64)],
        },
    }  # fmt: skip
    Path("config.json").write_text(json.dumps(config))


def page() -> str:
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        write_files()
        return TEMPLATE.format(
            rows="\n".join(row(name) for name in SCHEMES),
            options="\n".join(f"- `{key}`: {text}" for key, text in OPTIONS.items()),
            sections="\n".join(section(name) for name in SCHEMES),
        )


if __name__ == "__main__":
    Path(__file__).with_name("schemes.md").write_text(page())
