"""Hostile files, made anew by each run: `python tests/hostile/hostile_files.py FOLDER` makes them to be looked at.

Each case is a file, or a few, and the command that reads them. The command must refuse it with one line.
"""

import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

DEEP = 10**5
HUGE = 10**9
LAYERS, HEADS, KV_HEADS, HEAD_DIM, LENGTH = 2, 4, 2, 16, 128
POINTS = LENGTH // 2 + 1

CONFIG = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 1,
    "hidden_size": HEADS * HEAD_DIM,
    "intermediate_size": 32,
    "vocab_size": 32,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "head_dim": HEAD_DIM,
    "rope_theta": 10000.0,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
SHAPES = {
    "model.embed_tokens.weight": (32, 64),
    "model.layers.0.input_layernorm.weight": (64,),
    "model.layers.0.mlp.down_proj.weight": (64, 32),
    "model.layers.0.mlp.gate_proj.weight": (32, 64),
    "model.layers.0.mlp.up_proj.weight": (32, 64),
    "model.layers.0.post_attention_layernorm.weight": (64,),
    "model.layers.0.self_attn.k_proj.weight": (32, 64),
    "model.layers.0.self_attn.o_proj.weight": (64, 64),
    "model.layers.0.self_attn.q_proj.weight": (64, 64),
    "model.layers.0.self_attn.v_proj.weight": (32, 64),
    "model.norm.weight": (64,),
}


class Planted:
    """Makes a folder, `code-ran`, when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Return what to call."""
        return (os.mkdir, ("code-ran",))


@dataclass(frozen=True)
class Case:
    """A command that reads hostile files; some only transformers can judge, and it takes what time it takes."""

    name: str
    arguments: list[str]
    read_by_us: bool = True


def make(folder: Path, *, all_of_them: bool = True) -> Iterator[Case]:
    """Write the files to a folder, which must be the current one when the commands run.

    Those that take seconds to make, and those that need torch to refuse, are left out unless all are wanted.
    """
    yield from base_sets(folder)
    yield from configs(folder)
    yield from schemes(folder)
    yield from sweeps(folder)
    yield from results(folder)
    yield from decays(folder)
    yield from reports(folder)
    if all_of_them:
        yield from bombs(folder)
        yield from models(folder)
        yield from tokenizers(folder)


# Texts that are wrong whatever they should be


def broken_texts(good: str) -> dict[str, bytes]:
    """Ways to spoil a JSON file."""
    text = good.encode()
    return {
        "empty": b"",
        "cut-off": text[: len(text) // 2],
        "nested-lists": b"[" * DEEP,
        "nested-lists-closed": b"[" * DEEP + b"]" * DEEP,
        "nested-objects": b'{"a":' * DEEP,
        "utf-16": good.encode("utf-16"),
        "utf-16-without-mark": good.encode("utf-16-le"),
        "latin-1": b'{"\xe4": 1}',
        "zeros": bytes(1000),
        "not-an-object": b"[1, 2]",
        "a-number-of-5000-digits": b"9" * 5000,
        "two-objects": text + text,
        "a-million-lists": b"[" + b"[]," * 1_200_000 + b"[]]",
        "as-many-lists-as-may-be": b"[" + b"[]," * 499_000 + b"[]]",
        "as-many-numbers-as-may-be": b"[" + b"1.5," * 499_000 + b"[]]",
    }


def write(folder: Path, name: str, content: bytes | str) -> str:
    """Write a file and return its name."""
    (folder / name).write_bytes(content.encode(errors="surrogatepass") if isinstance(content, str) else content)
    return name


def special_files(folder: Path, suffix: str) -> dict[str, str]:
    """Make what is no regular file, or one without end; return names by kind."""
    names = {kind: f"{kind}{suffix}" for kind in ("pipe", "device", "loop", "nowhere", "folder", "sparse")}
    os.mkfifo(folder / names["pipe"])
    (folder / names["device"]).symlink_to("/dev/zero")
    (folder / names["loop"]).symlink_to(names["loop"])
    (folder / names["nowhere"]).symlink_to("none")
    (folder / names["folder"]).mkdir()
    with (folder / names["sparse"]).open("wb") as file:
        file.truncate(10**10)
    return names


# Base sets


def base_set(**changes: Any) -> str:
    """Return the text of a base-set file."""
    content = {
        "format": "ropesearch.base-set",
        "version": 1,
        "heads": 2,
        "kv_heads": 2,
        "head_dim": 16,
        "bases": [10000.0, 20000.0],
        "selection": [10000.0, 20000.0],
        "strategy": "given",
        "parameters": {},
        "coverage": {},
        "made_by": {},
    }
    return json.dumps(content | changes)


def base_sets(folder: Path) -> Iterator[Case]:
    """Spoil base-set files in many ways."""
    good = base_set()
    texts: dict[str, bytes | str] = dict(broken_texts(good))
    for name, changes in {
        "heads-10^12": {"heads": 10**12},
        "heads-0": {"heads": 0},
        "heads-true": {"heads": True},
        "heads-of-text": {"heads": "2"},
        "head-dim-200-million": {"head_dim": 200_000_000},
        "head-dim-odd": {"head_dim": 15},
        "kv-heads-not-a-divisor": {"heads": 3},
        "bases-of-text": {"bases": "12"},
        "bases-an-object": {"bases": {"1e4": 1, "2e4": 2}},
        "bases-nested": {"bases": [[10000.0], [20000.0]]},
        "bases-null": {"bases": None},
        "bases-too-many": {"bases": [1e4] * 100_000},
        "bases-below-1": {"bases": [1e4, 0.5], "selection": [1e4, 0.5]},
        "selection-of-others": {"selection": [1e4, 3e4]},
        "strategy-a-list": {"strategy": []},
        "parameters-a-list": {"parameters": []},
        "version-9": {"version": 9},
        "version-text": {"version": "1"},
        "format-escape": {"format": "\x1b[2J\x1b]0;title\x07"},
        "format-long": {"format": "x" * 3_000_000},
    }.items():
        texts[name] = base_set(**changes)
    texts["nan"] = good.replace("20000.0", "NaN", 1)
    texts["infinity"] = good.replace("20000.0", "Infinity")
    texts["1e400"] = good.replace("20000.0", "1e400")
    texts["1e400-elsewhere"] = good.replace('"made_by": {}', '"made_by": {"x": -1e400}')
    texts["a-key-twice"] = good.replace('"heads": 2', '"heads": 2, "heads": 2', 1)
    texts["surrogate-bytes"] = good.replace("given", "\ud800")
    for kind, text in texts.items():
        yield Case(f"base-set {kind}", ["show", write(folder, f"{kind}.json", text)])
    for kind, name in special_files(folder, ".json").items():
        yield Case(f"base-set {kind}", ["show", name, "--json"])
    for i, name in enumerate(["line\nbreak.json", "\x1b[31mred.json", "\udcff.json", "\u202etxet.json", "[/x].json"]):
        yield Case(f"base-set name {i}", ["show", name])
    yield Case("base-set device", ["show", "/dev/zero"])
    yield Case("base-set of coverage", ["show", write(folder, "c.json", base_set(coverage={"distances": [1, 2]}))])


# Configs and schemes


def configs(folder: Path) -> Iterator[Case]:
    """Spoil config.json files."""
    texts: dict[str, bytes | str] = dict(broken_texts(json.dumps(CONFIG)))
    for name, changes in {
        "layers-10^12": {"num_hidden_layers": 10**12},
        "layers-10^9": {"num_hidden_layers": HUGE},
        "heads-1e400": {"num_attention_heads": "1e400"},
        "heads-0": {"num_attention_heads": 0},
        "heads-a-list": {"num_attention_heads": [4]},
        "head-dim-200-million": {"head_dim": 200_000_000},
        "hidden-size-text": {"hidden_size": "64", "head_dim": None},
        "rope-theta-inf": {"rope_theta": float("inf"), "num_attention_heads": -1},
        "model-type-a-list": {"model_type": ["llama"], "rope_theta": [], "num_attention_heads": None},
    }.items():
        texts[name] = json.dumps(CONFIG | changes)
    for kind, text in texts.items():
        name = write(folder, f"config-{kind}.json", text)
        yield Case(
            f"config {kind}", ["search", "--bmin", "1e4", "--bmax", "2e4", "--stride", "1e3", "--model-config", name]
        )
    for kind, name in special_files(folder, ".config.json").items():
        if kind != "folder":
            yield Case(f"config {kind}", ["waveform", "--scheme", f"longrope:{name}"])


def schemes(folder: Path) -> Iterator[Case]:
    """Wild texts for schemes."""
    texts = [
        "",
        ":",
        ",",
        "rope:" + "9" * 5000,
        "rope:1e400",
        "yarn:nan",
        "yarn:1e308,original=2147483647",
        "rope:\x1b[2J",
    ]
    texts += ["pi:" + "1" * 10**6, "x" * 10**6, "," * 10**5, "rope:1e4" + ",head_dim=2" * 10**4, "harpe:/dev/zero"]
    texts += ["harpe:pipe.json", "rope:1e4,head_dim=200000000", "longrope:folder.json", "rope:\ud800", "rope:1e4,\n=1"]
    for i, text in enumerate(texts):
        yield Case(f"scheme {i} {text[:20]!r}", ["waveform", "--scheme", text])


# Sweeps

GRID = ["--bmin", "10000", "--bmax", "30000", "--stride", "1000", "--heads", "2", "--head-dim", "16"]
GRID += ["--max-distance", "2000", "--workers", "1"]


def sweeps(folder: Path) -> Iterator[Case]:
    """Spoil sweep files that are to be resumed."""
    header: dict[str, Any] = {"format": "ropesearch.sweep", "version": 1, "sweep": {"digest": "0" * 64}}
    texts = {kind: text + b"\n" for kind, text in broken_texts(json.dumps(header)).items() if kind != "empty"}
    texts["another"] = json.dumps(header).encode() + b"\n"
    texts["differs-oddly"] = (
        json.dumps(header | {"sweep": {"fixed": 1, "varied": {"heads": 1}, "digest": 0}}).encode() + b"\n"
    )
    texts["one-endless-line"] = b"x" * 50_000_000
    for kind, text in texts.items():
        name = write(folder, f"sweep-{kind}.jsonl", text)
        yield Case(f"sweep {kind}", ["sweep", *GRID, "-o", name, "--resume"])
    for kind, name in special_files(folder, ".jsonl").items():
        if kind != "nowhere":
            yield Case(f"sweep {kind}", ["sweep", *GRID, "-o", name, "--resume"])


# Results of evaluations


def results(folder: Path) -> Iterator[Case]:
    """Spoil results files and the samples beside them."""
    row = {"model": "m", "scheme": None, "suite": "recall", "task": "recall", "length": 64, "n": 3, "interval": None}
    row |= {"accuracy": 0.5}
    content = {"format": "ropesearch.evaluation", "version": 1, "spec": {}, "rows": [row]}
    texts = broken_texts(json.dumps(content))
    rows: dict[str, Any] = {
        "none": [],
        "no-list": {"0": row},
        "no-mapping": [1],
        "another-suite": [row, row | {"suite": "needle"}],
        "infinite": [row | {"n": 10**400}],
        "text-for-a-figure": [row | {"accuracy": "0.5"}],
        "crooked-interval": [row | {"interval": [1, "2"]}],
        "crooked-bands": [row | {"by_distance": {"from": [1], "to": 2}}],
    }
    texts |= {kind: json.dumps(content | {"rows": own}).encode() for kind, own in rows.items()}
    texts["too-large-a-number"] = json.dumps(content).replace("0.5", "1e400").encode()
    texts["newer"] = json.dumps(content | {"version": 2}).encode()
    for kind, text in texts.items():
        name = write(folder, f"results-{kind}.json", text)
        yield Case(f"results {kind}", ["table", name])
    for kind, name in special_files(folder, ".results.json").items():
        yield Case(f"results {kind}", ["table", name])
    for kind in ("cut-off", "nested-lists", "utf-16", "zeros", "not-an-object"):
        name = write(folder, f"sampled-{kind}.json", json.dumps(content))
        write(folder, f"sampled-{kind}.samples.jsonl", broken_texts(json.dumps({"format": "ropesearch.samples"}))[kind])
        yield Case(f"samples {kind}", ["table", name])


# Decays


def npy(values: Any) -> bytes:
    """Return an array as a .npy file."""
    made = io.BytesIO()
    np.lib.format.write_array(made, np.asarray(values), allow_pickle=True)
    return made.getvalue()


def npy_that_claims(kind: str, shape: str, size: int = 1000) -> bytes:
    """Return a .npy file whose header claims what it likes."""
    header = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(size)


def decay_arrays() -> dict[str, bytes]:
    """Return the members of a good file of arrays."""
    curves = np.zeros((LAYERS, HEADS, POINTS), np.float32)
    arrays: dict[str, Any] = {
        "inv_freq": np.ones((KV_HEADS, HEAD_DIM // 2)),
        "coefficients": np.ones((LAYERS, HEADS, HEAD_DIM // 2), complex),
        "pairs": np.arange(POINTS),
        "score": curves,
        "standard_error": curves,
        "parts": np.stack([curves, curves]),
    }
    return {name: npy(values) for name, values in arrays.items()}


def decay_facts(**changes: Any) -> dict[str, Any]:
    """Return the content of a good decay file, but for its arrays."""
    model = {"name": "toy", "heads": HEADS, "kv_heads": KV_HEADS, "head_dim": HEAD_DIM, "model_type": "llama"}
    facts: dict[str, Any] = {"format": "ropesearch.decay", "version": 1, "model": model, "texts": [{}, {}]}
    facts |= {"length": LENGTH, "layers": list(range(LAYERS)), "agreement_to": 64, "bases": None, "made_by": {}}
    return facts | changes


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """Return a .npz file."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


def decay(folder: Path, name: str, facts: dict[str, Any], packed: bytes) -> Case:
    """Write a pair."""
    write(folder, f"decay-{name}.npz", packed)
    named = {"file": f"decay-{name}.npz", "sha256": sha256(packed).hexdigest()}
    file = write(folder, f"decay-{name}.json", json.dumps({"arrays": named} | facts))
    return Case(f"decay {name}", ["plot", "decay", file, "-o", "never.png"])


def bombs(folder: Path) -> Iterator[Case]:
    """Make files that are large, or would be once unpacked."""
    yield Case("base-set of 100 MB", ["show", write(folder, "spaces.json", b" " * 10**8 + base_set().encode())])
    arrays = decay_arrays() | {"score": npy(np.zeros(10**8, np.float32))}
    yield decay(folder, "zip-bomb", decay_facts(), zipped(arrays, zipfile.ZIP_DEFLATED))
    members = {str(i): b"" for i in range(10**5)}
    yield decay(folder, "zip-of-10^5-members", decay_facts(), zipped(members))


def decays(folder: Path) -> Iterator[Case]:
    """Spoil decay pairs."""
    arrays, good = decay_arrays(), decay_facts()
    packed = zipped(arrays)
    pairs: dict[str, tuple[dict[str, Any], bytes]] = {}
    for name, change in {
        "model-null": {"model": None},
        "heads-10^9": {"model": good["model"] | {"heads": HUGE, "kv_heads": HUGE}},
        "heads-text": {"model": good["model"] | {"heads": "4"}},
        "kv-heads-0": {"model": good["model"] | {"kv_heads": 0}},
        "head-dim-10^9": {"model": good["model"] | {"head_dim": HUGE}},
        "no-name": {"model": {k: v for k, v in good["model"].items() if k != "name"}},
        "length-10^9": {"length": HUGE},
        "length-10^12": {"length": 10**12},
        "length-0": {"length": 0},
        "layers-text": {"layers": "01"},
        "layers-twice": {"layers": [0, 0]},
        "texts-number": {"texts": 3},
        "bases-of-text": {"bases": ["a", "b"]},
        "agreement-to-10^9": {"agreement_to": HUGE},
        "made-by-null": {"made_by": None},
        "arrays-null": {"arrays": None},
        "arrays-elsewhere": {"arrays": {"file": "/dev/zero", "sha256": ""}},
        "arrays-device": {"arrays": {"file": "device.npz", "sha256": ""}},
        "arrays-pipe": {"arrays": {"file": "pipe.npz", "sha256": ""}},
        "arrays-sparse": {"arrays": {"file": "sparse.npz", "sha256": ""}},
        "arrays-nul": {"arrays": {"file": "a\0b", "sha256": ""}},
        "arrays-surrogate": {"arrays": {"file": "\ud800", "sha256": ""}},
    }.items():
        pairs[name] = (good | change, packed)
    for name, score in {
        "pickle": npy(np.full((LAYERS, HEADS, POINTS), Planted(), object)),
        "only-a-pickle": pickle.dumps(Planted()),
        "claims-10^9": npy_that_claims("'<f4'", f"({HUGE},)"),
        "claims-10^30": npy_that_claims("'<f4'", f"({10**30},)"),
        "claims-negative": npy_that_claims("'<f4'", "(-1, 4, 65)"),
        "claims-and-is-cut-off": npy_that_claims("'<f4'", f"({LAYERS}, {HEADS}, {POINTS})"),
        "claims-a-structure": npy_that_claims("[('a', '<f4', (1000000000,))]", "(1,)"),
        "header-of-code": npy_that_claims("__import__('os').mkdir('code-ran')", "(1,)"),
        "header-nested": npy_that_claims("[" * 100, "(1,)"),
        "empty": b"",
        "infinite": npy(np.full((LAYERS, HEADS, POINTS), np.inf, np.float32)),
        "of-text": npy(np.full((LAYERS, HEADS, POINTS), "x" * 100)),
    }.items():
        pairs[f"score-{name}"] = (good, zipped(arrays | {"score": score}))
    pairs["zip-cut-off"] = (good, packed[:-50])
    pairs["zip-broken"] = (good, packed[:200] + bytes(100) + packed[300:])
    pairs["zip-empty"] = (good, b"")
    pairs["zip-of-nothing"] = (good, zipped({}))
    pairs["zip-lies-about-sizes"] = (good, packed.replace(struct.pack("<L", len(arrays["score"])), b"\xfe\xff\xff\xff"))
    special_files(folder, ".npz")
    for name, (facts, content) in pairs.items():
        yield decay(folder, name, facts, content)
    for kind, text in broken_texts(json.dumps(good)).items():
        name = write(folder, f"decay-{kind}.json", text)
        yield Case(f"decay {kind}", ["search", *GRID[:-2], "--order-by", name])
    for kind, name in special_files(folder, ".decay.json").items():
        yield Case(f"decay {kind}", ["plot", "decay", name, "-o", "never.png"])


# Pages


def reports(folder: Path) -> Iterator[Case]:
    """Spoil what a page can be made of, of every kind; the files of other commands are there already."""
    page = ["-o", "never.html"]
    for kind in broken_texts("{}"):
        for name in (f"{kind}.json", f"sweep-{kind}.jsonl", f"results-{kind}.json", f"decay-{kind}.json"):
            if (folder / name).exists():
                yield Case(f"report {name}", ["report", name, *page])
    for kind in ("pipe", "device", "loop", "nowhere", "folder", "sparse"):
        for suffix in (".json", ".jsonl", ".results.json", ".decay.json"):
            yield Case(f"report {kind}{suffix}", ["report", f"{kind}{suffix}", *page])
    for name in ("format-escape", "format-long", "nan", "results-crooked-bands", "arrays-pipe", "score-of-text"):
        yield Case(f"report {name}", ["report", f"{name}.json", *page])
    header: dict[str, Any] = {"format": "ropesearch.sweep", "version": 1, "sweep": {}}
    for kind, coverage in {"a-number": 5, "of-other-points": {"floor": 0.5}}.items():
        rows = [{"point": {"kv_heads": i, "x": i}, "error": "x", "coverage": coverage} for i in range(2)]
        name = write(folder, f"coverage-{kind}.jsonl", "\n".join(map(json.dumps, [header, *rows, ""])))
        yield Case(f"report coverage {kind}", ["report", name, *page])
    settings = {"format": "ropesearch.run", "version": 1, "spec": {}, "schemes": [], "model": "m", "data": {}}
    settings["arguments"] = {}
    step = {"step": 1, "stage": 1, "length": 64, "loss": 2.5, "tokens": 64}
    metrics: dict[str, bytes | str] = dict(broken_texts(json.dumps(step)))
    del metrics["utf-16"], metrics["utf-16-without-mark"]  # which are read
    for kind, change in {
        "step-of-400-digits": {"step": 10**400},
        "loss-of-400-digits": {"loss": 10**400},
        "loss-true": {"loss": True},
        "losses-a-list": {"loss_by_position": [1]},
        "position-of-5000-digits": {"loss_by_position": {"9" * 5000: 1.0}},
        "position-arabic": {"loss_by_position": {"\u0661": 1.0}},
        "position-0": {"loss_by_position": {"0": 1.0}},
        "loss-there-of-400-digits": {"loss_by_position": {"16": 10**400}},
    }.items():
        metrics[kind] = json.dumps(step | change) + "\n"
    for kind, text in metrics.items():
        own = folder / f"run-{kind}"
        own.mkdir()
        write(own, "settings.json", json.dumps(settings))
        write(own, "metrics.jsonl", text)
        yield Case(f"report run {kind}", ["report", own.name, *page])
    for kind, text in broken_texts(json.dumps(settings)).items():
        own = folder / f"settings-{kind}"
        own.mkdir()
        write(own, "settings.json", text)
        write(own, "metrics.jsonl", json.dumps(step) + "\n")
        yield Case(f"report settings {kind}", ["report", own.name, *page])
    for special in ("pipe", "device", "sparse", "loop"):
        for file in ("settings.json", "metrics.jsonl"):
            own = folder / f"run-{special}-{file}"
            own.mkdir()
            write(own, "settings.json", json.dumps(settings))
            (own / file).unlink(missing_ok=True)
            (own / file).symlink_to(f"../{special}.json")
            yield Case(f"report run {special} {file}", ["report", own.name, *page])


# Models


def safetensors(shapes: dict[str, tuple[int, ...]] = SHAPES) -> bytes:
    """Return weights, all zeros."""
    header, end = {}, 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    return with_header(json.dumps(header).encode(), end)


def with_header(header: bytes, size: int, claimed: int | None = None) -> bytes:
    """Return a safetensors file with this header."""
    return struct.pack("<Q", len(header) if claimed is None else claimed) + header + bytes(size)


def gguf(n_tensors: int = 0, n_values: int = 0, rest: bytes = b"", version: int = 3) -> bytes:
    """Return a .gguf file with this beginning."""
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + rest


def models(folder: Path) -> Iterator[Case]:
    """Spoil the folders of models."""
    config = json.dumps(CONFIG)

    def model(name: str, *, config: bytes | str = config, **files: bytes | str) -> Case:
        own = folder / f"model-{name}"
        own.mkdir()
        write(own, "config.json", config)
        for file, content in files.items():
            write(own, file.replace("__", "."), content)
        return Case(f"model {name}", ["apply", own.name, "--scheme", "abf:5e5", "-o", f"never-{name}"])

    for kind, text in broken_texts(config).items():
        yield model(f"config-{kind}", config=text, model__safetensors=safetensors())
    for kind, change in {
        "layers-10^12": {"num_hidden_layers": 10**12},
        "layers-10^7": {"num_hidden_layers": 10**7},
        "vocab-10^12": {"vocab_size": 10**12},
        "remote-code": {"auto_map": {"AutoConfig": "evil.Config"}, "model_type": "evil"},
        "type-of-a-path": {"model_type": "../../etc"},
    }.items():
        text = json.dumps(CONFIG | change)
        code = "import os; os.mkdir('code-ran')"
        yield model(kind, config=text, model__safetensors=safetensors(), evil__py=code)
    weights: dict[str, bytes] = {
        "empty": b"",
        "cut-off": safetensors()[:-100],
        "header-of-10^18-bytes": with_header(b"{}", 0, 10**18),
        "header-nested": with_header(b'{"a":' * DEEP, 0),
        "header-no-json": with_header(b"x" * 100, 0),
        "10^9-elements": with_header(
            b'{"lm_head": {"dtype": "F32", "shape": [1000000000], "data_offsets": [0, 8]}}', 8
        ),
        "overflow": with_header(
            b'{"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 8]}}', 8
        ),
        "other-shapes": safetensors(SHAPES | {"model.norm.weight": (65,)}),
        "missing": safetensors({"model.norm.weight": (64,)}),
    }
    for kind, content in weights.items():
        yield model(f"weights-{kind}", model__safetensors=content)
    yield model("pickle", pytorch_model__bin=pickle.dumps({"model.norm.weight": Planted()}))
    torch_like = {
        "archive/data.pkl": pickle.dumps(Planted(), 2),
        "archive/version": b"3\n",
        "archive/byteorder": b"little",
    }
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in torch_like.items():
            archive.writestr(name, content)
    yield model("pickle-in-zip", pytorch_model__bin=made.getvalue())
    for kind, index in {
        "outside": {"weight_map": dict.fromkeys(SHAPES, "../../../etc/passwd")},
        "a-number": {"weight_map": 1},
        "numbers": {"weight_map": {"a": 1}},
        "none": {},
    }.items():
        yield model(f"index-{kind}", model__safetensors__index__json=json.dumps(index))
    for kind, content in {
        "empty": b"",
        "cut-off": gguf(1, 1),
        "10^18-tensors": gguf(10**18, 0),
        "10^18-values": gguf(0, 10**18),
        "text-of-10^18-bytes": gguf(0, 1, struct.pack("<Q", 10**18)),
        "list-of-10^18": gguf(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 4, 10**18)),
        "nested-lists": gguf(0, 1, struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 9, 1) * 5000),
        "version-0": gguf(version=0),
    }.items():
        yield Case(
            f"gguf {kind}", ["apply", write(folder, f"{kind}.gguf", content), "--scheme", "abf:5e5", "-o", "never"]
        )
    yield Case("a folder without a model", ["apply", "folder.json", "--scheme", "abf:5e5", "-o", "never"])
    yield Case("a model that is a pipe", ["apply", "pipe.json", "--scheme", "abf:5e5", "-o", "never"])
    for special in ("pipe", "device", "sparse", "loop"):
        case = model(f"weights-{special}")
        (folder / case.arguments[1] / "model.safetensors").symlink_to(f"../{special}.json")
        yield case
        own = folder / f"model-config-{special}"
        own.mkdir()
        (own / "config.json").symlink_to(f"../{special}.json")
        yield Case(f"model config-{special}", ["apply", own.name, "--scheme", "abf:5e5", "-o", "never"])


# Tokenizers

TOKENIZER: dict[str, Any] = {
    "version": "1.0",
    "truncation": None,
    "padding": None,
    "added_tokens": [],
    "normalizer": None,
    "pre_tokenizer": {"type": "WhitespaceSplit"},
    "post_processor": None,
    "decoder": None,
    "model": {"type": "WordLevel", "vocab": {"a": 0, "<unk>": 1}, "unk_token": "<unk>"},
}
TOKENIZER_CONFIG = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
ADDED = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
CODE = "import os; os.mkdir('code-ran')"


def tokenizer_model(folder: Path, name: str, **files: bytes | str) -> Path:
    """Write the folder of a model with these files of a tokenizer."""
    own = folder / f"tokenizer-{name}"
    own.mkdir()
    write(own, "config.json", json.dumps(CONFIG))
    write(own, "model.safetensors", safetensors())
    for file, content in files.items():
        write(own, file.replace("__", "."), content)
    return own


def tokenizers(folder: Path) -> Iterator[Case]:
    """Spoil the tokenizers of models."""
    write(folder, "words.txt", "some words of English " * 100)
    write(folder, "two.json", base_set(heads=HEADS, kv_heads=2))
    good = json.dumps(TOKENIZER)

    def refused(name: str, own: Path, *commands: str, read_by_us: bool = True) -> Iterator[Case]:
        arguments = {
            "apply": ["apply", own.name, "--bases", "two.json", "-o", f"never-{name}"],
            "train": ["train", own.name, "--data", "words.txt", "--length", "16", "--tokens", "32", "--batch-tokens"],
            "evaluate": ["evaluate", own.name, "--suite", "recall", "--pairs", "2", "--lengths", "256", "-o"],
        }
        arguments["train"] += ["16", "-o", f"never-{name}"]
        arguments["evaluate"] += [f"never-{name}.json"]
        for command in commands or arguments:
            yield Case(f"tokenizer {name}, {command}", arguments[command], read_by_us)

    # What we read ourselves, and every command refuses.
    texts = broken_texts(good)
    ours = ("empty", "cut-off", "nested-lists", "nested-lists-closed", "nested-objects", "utf-16", "zeros")
    for kind in (*ours, "not-an-object", "a-number-of-5000-digits", "a-million-lists"):
        yield from refused(kind, tokenizer_model(folder, kind, tokenizer__json=texts[kind]))
        own = tokenizer_model(folder, f"config-{kind}", tokenizer__json=good, tokenizer_config__json=texts[kind])
        yield from refused(f"config-{kind}", own)
    objects = '{"a": [' + "{}," * 600_000 + "{}]}"
    own = tokenizer_model(folder, "config-million-objects", tokenizer__json=good, tokenizer_config__json=objects)
    yield from refused("config-million-objects", own)
    for special in ("pipe", "device", "sparse", "loop", "nowhere"):
        for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
            name = f"{special}-{file}"
            own = tokenizer_model(folder, name, **{} if file == "tokenizer.json" else {"tokenizer__json": good})
            (own / file).symlink_to(f"../{special}.json")
            yield from refused(name, own)
    own = tokenizer_model(folder, "passwords", tokenizer__json=good)
    (own / "vocab.txt").symlink_to("/etc/passwd")
    yield from refused("passwords", own, "apply")

    # What only transformers can judge. A copy takes such a tokenizer along as it is.
    def changed(name: str, tokenizer: dict[str, Any], config: dict[str, Any] | None = None) -> Iterator[Case]:
        settings = TOKENIZER_CONFIG | (config or {})
        texts = {"tokenizer__json": json.dumps(TOKENIZER | tokenizer), "tokenizer_config__json": json.dumps(settings)}
        own = tokenizer_model(folder, name, **texts)
        return refused(name, own, "train", "evaluate", read_by_us=False)

    deep = '{"a":' * DEEP + "1" + "}" * DEEP
    own = tokenizer_model(folder, "nested-objects-closed", tokenizer__json=deep)
    yield from refused("nested-objects-closed", own, "train", "evaluate", read_by_us=False)
    own = tokenizer_model(folder, "config-nested-closed", tokenizer__json=good, tokenizer_config__json=deep)
    yield from refused("config-nested-closed", own, read_by_us=False)
    for file in ("tokenizer.model", "tokenizer.tiktoken"):
        for kind, content in {
            "garbage": bytes(range(256)) * 40,
            "claims": b"\x0a\xff\xff\xff\xff\x7f",
            "pickle": pickle.dumps(Planted()),
        }.items():
            own = tokenizer_model(folder, f"{file}-{kind}", **{file.replace(".", "__"): content})
            (own / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
            yield from refused(f"{file}-{kind}", own, "train", "evaluate", read_by_us=False)
    code = {"tokenizer_class": "Evil", "auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    texts_of_code = {"tokenizer_config__json": json.dumps(code), "evil__py": CODE}
    yield from refused("code", tokenizer_model(folder, "code", **texts_of_code), "train", "evaluate", read_by_us=False)
    words = {"a": 0, "<unk>": 1}
    token = ADDED | {"content": "<unk>", "id": 1}
    for kind, tokenizer in {
        "model-null": {"model": None},
        "model-a-list": {"model": [1]},
        "vocab-negative": {"model": TOKENIZER["model"] | {"vocab": words | {"b": -1}}},
        "vocab-10^18": {"model": TOKENIZER["model"] | {"vocab": words | {"b": 10**18}}},
        "ids-beyond-the-model": {"model": TOKENIZER["model"] | {"vocab": {"a": 0, "<unk>": 4 * 10**9}}},
        "no-unknown-word": {"model": TOKENIZER["model"] | {"vocab": {"a": 0}}},
        "added-10^18": {"added_tokens": [token | {"id": 10**18}]},
        "added-negative": {"added_tokens": [token | {"id": -1}]},
        "pattern-broken": {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": "((("}, "behavior": "Isolated"}},
        "merges-of-none": {"model": {"type": "BPE", "vocab": {"a": 0}, "merges": ["a b"]}},
        "unigram-beyond": {"model": {"type": "Unigram", "unk_id": HUGE, "vocab": [["a", 0.0]]}},
        "cut-to-nothing": {
            "truncation": {"direction": "Right", "max_length": 1, "strategy": "LongestFirst", "stride": 9}
        },
    }.items():
        yield from changed(kind, tokenizer)
    for kind, settings in {
        "class-a-list": {"tokenizer_class": ["Evil"]},
        "added-of-text": {"added_tokens_decoder": {"x": 1}},
        "extra-tokens-a-number": {"extra_special_tokens": 5},
        "template-of-numbers": {"chat_template": [1, 2]},
    }.items():
        yield from changed(kind, {}, settings)


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir()
    for made_case in make(place):
        print(made_case.name, *map(ascii, made_case.arguments))
