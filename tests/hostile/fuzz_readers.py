"""Random files and texts for every reader: read, or refused with one line.

A case is the number of a reader and what it is to read, made from good examples by changing values, keys and lines of
JSON, members of archives, words of a grammar, or bytes. With atheris installed, cases that reach new code are kept and
changed further (libFuzzer); without it, as in the suite, every case is made from the examples.

    python tests/hostile/fuzz_readers.py FOLDER [--count 1000000] [--seed 1]

FOLDER, best in memory, takes the cases that were kept, in `corpus`, and the wrong ones, in `wrong`, with what they
raised. For Linux.
"""

import argparse
import contextlib
import io
import json
import os
import pkgutil
import random
import signal
import struct
import sys
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import hostile_files as good
import numpy as np

from ropesearch import kernels
from ropesearch.core.errors import InputError

SECONDS = 5  # of one case, before it counts as hanging
LARGEST = 32768  # bytes of a case
LONGEST = 2000  # characters of a message
NASTY: list[Any] = [
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e308, 5e-324, 2**31, 2**53 + 1, 2**63, 2**64, -(2**63), 10**30, 10**400,
    float("nan"), float("inf"), "", "a", "0", "1e400", "nan", "\ud800", "\x1b[2J", "\u202e", "\n", "[/x]", "$\\frac$",
    "../x", "/dev/zero", "default", "llama", "float32", [], {}, [[]], [0], [1, 2, 3], {"a": 1}, [None], [1e400],
]  # fmt: skip
WORDS = [
    "rope", "abf", "abf-multi-stage", "pi", "ntk", "ntk-by-parts", "dynamic", "yarn", "llama3", "longrope",
    "self-extend", "uniform", "harpe", "ms-poe", "table2", "attention-buckets", "uniform-descending", "head_dim",
    "original", "heads", "kv_heads", "base", "factor", "window", "group", ":", ",", "=", "..", "->", "#", "#1", "/",
    ".", "e", "e-", "k", "m", "0", "1", "2", "4", "8", "32", "64", "128", "10000", "131072", "1e6", "5e6", "-1",
    "0.5", "1e308", "1e400", "1e-400", "1e-999999999", "nan", "inf", "٣", "1_0",
    " ", "\n", "\x00", "x" * 100, "9" * 400,
]  # fmt: skip


class WrongError(Exception):
    """A reader accepted what it should not have, or refused it in the wrong way."""


@dataclass(frozen=True)
class Reader:
    """A reader, good examples of what it reads, and how to change them."""

    read: Callable[[bytes], object]
    examples: list[bytes]
    change: Callable[[random.Random, bytes], bytes]


# How examples are changed


def change_bytes(draw: random.Random, data: bytes) -> bytes:
    """Cut, repeat, overwrite or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 4])):
        begin = draw.randint(0, len(changed))
        end = min(len(changed), begin + draw.choice([0, 1, 1, 2, 4, 8, 30]))
        new = draw.choice(
            [
                b"",
                bytes(changed[begin:end]) * 2,
                draw.randbytes(end - begin),
                b"\xff" * (end - begin),
                bytes(end - begin),
                draw.choice([b"\n", b'"', b"[", b"{", b"]", b"}", b",", b"-", b"9" * 20, b"\x00", b"\xed\xa0\x80"]),
            ]
        )
        changed[begin:end] = new
    return bytes(changed)


def change_json(draw: random.Random, data: bytes) -> bytes:
    """Change values or keys of a JSON text; sometimes its bytes."""
    try:
        content = json.loads(data)
        for _ in range(draw.choice([1, 1, 1, 2, 3])):
            content = change_value(draw, content)
        text = json.dumps(content).encode()
    except (ValueError, RecursionError):  # no JSON, too deep, or a number of too many digits
        return change_bytes(draw, data)
    return change_bytes(draw, text) if draw.random() < 0.1 else text


def change_value(draw: random.Random, content: Any) -> Any:
    """Return the content with one of its values, or one of its keys, changed."""
    if isinstance(content, dict) and content and draw.random() < 0.9:
        key = draw.choice(list(content))
        changed = dict(content)
        kind = draw.random()
        if kind < 0.1:
            del changed[key]
        elif kind < 0.15:
            changed[draw.choice([*content, "a", "", "\ud800"])] = changed.pop(key)
        else:
            changed[key] = change_value(draw, content[key])
        return changed
    if isinstance(content, list) and content and draw.random() < 0.9:
        place = draw.randrange(len(content))
        kind = draw.random()
        if kind < 0.1:
            return content[:place] + content[place + 1 :]
        if kind < 0.2:
            return [*content, content[place]]
        return [*content[:place], change_value(draw, content[place]), *content[place + 1 :]]
    if isinstance(content, int | float) and draw.random() < 0.3:
        return draw.choice([content + 1, content - 1, -content, content * 2, str(content), [content]])
    if isinstance(content, str) and draw.random() < 0.3:
        return change_bytes(draw, content.encode(errors="surrogatepass")).decode(errors="replace")
    return draw.choice(NASTY)


def change_lines(draw: random.Random, data: bytes) -> bytes:
    """Change a line of JSON, or the order of lines."""
    lines = data.split(b"\n")
    place = draw.randrange(len(lines))
    kind = draw.random()
    if kind < 0.1:
        draw.shuffle(lines)
    elif kind < 0.2:
        lines.insert(place, draw.choice(lines))
    elif kind < 0.3:
        del lines[place]
    else:
        lines[place] = change_json(draw, lines[place])
    return b"\n".join(lines)


def change_archive(draw: random.Random, data: bytes) -> bytes:
    """Change a member of a zip file, or its bytes."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
    except Exception:  # of many classes
        return change_bytes(draw, data)
    if not members or draw.random() < 0.3:
        return change_bytes(draw, data)
    name = draw.choice(list(members))
    members[draw.choice([name, name, name, *members])] = change_bytes(draw, members[name])
    return good.zipped(members)


def change_words(draw: random.Random, data: bytes) -> bytes:
    """Put words of the grammar into a text, or its bytes elsewhere."""
    text = data.decode(errors="replace")
    for _ in range(draw.choice([1, 1, 2, 3])):
        begin = draw.randint(0, len(text))
        end = min(len(text), begin + draw.choice([0, 0, 1, 2, 5]))
        text = text[:begin] + draw.choice(WORDS) + text[end:]
    return change_bytes(draw, text.encode()) if draw.random() < 0.1 else text.encode()


# Readers


def readers(folder: Path) -> dict[str, Reader]:
    """Return all readers; what they read is put into a folder."""
    return {**readers_of_files(folder), **readers_of_models(folder), **readers_of_texts(folder)}


def in_file(path: Path, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """Return a function that puts bytes into a file and reads it."""

    def put(data: bytes) -> object:
        path.write_bytes(data)
        return read(path)

    return put


def dumped(*contents: Any) -> list[bytes]:
    """Return contents as JSON texts."""
    return [json.dumps(content).encode() for content in contents]


def readers_of_files(folder: Path) -> dict[str, Reader]:
    """Return the readers of our own files."""
    from ropesearch import BaseSet, Decay, read_sweep
    from ropesearch.evaluation.table import Evaluated, make_tables
    from ropesearch.evaluation.table_formats import printed, to_csv, to_json
    from ropesearch.search.sweep_file import is_sweep_file
    from ropesearch.training.folder import RunFolder

    def base_set(path: Path) -> None:
        found = BaseSet.load(path)
        if BaseSet.from_json(found.to_json()) != found:
            raise WrongError("it is not what is written again")
        str(found), hash(found)

    def sweep(path: Path) -> None:
        if is_sweep_file(path):
            read_sweep(path)

    def results(path: Path) -> None:
        for by_task in (False, True):
            tables, notes = make_tables([Evaluated.load(path)], by_task=by_task)
            to_csv(tables), to_json(tables, notes), list(printed(tables))

    def sampled(path: Path) -> None:
        path.with_name("read.json").write_bytes(rows[0])
        make_tables([Evaluated.load(path.with_name("read.json"))])

    def pair(path: Path) -> None:  # a line of JSON, then the arrays
        text, _, packed = path.read_bytes().partition(b"\n")
        with contextlib.suppress(ValueError, RecursionError, TypeError):
            named = {"arrays": {"file": "pair.npz", "sha256": sha256(packed).hexdigest()}}
            text = json.dumps(json.loads(text) | named).encode()
        (folder / "pair.npz").write_bytes(packed)
        (folder / "pair.json").write_bytes(text)
        found = Decay.load(folder / "pair.json")
        _ = found.figures, found.prediction

    def run(path: Path) -> None:  # a line of settings, then the metrics
        settings, _, metrics = path.read_bytes().partition(b"\n")
        own = RunFolder(folder / "run")
        own.path.mkdir(exist_ok=True)
        (own.path / "settings.json").write_bytes(settings)
        own.metrics.write_bytes(metrics)
        own.settings()
        own.forget_after(1)

    row = {"model": "m", "scheme": None, "suite": "recall", "task": "recall", "length": 64, "n": 3}
    row |= {"interval": [0.1, 0.9], "accuracy": 0.5}
    bands = {"from": [1, 8], "to": [7, 63], "accuracy": [0.5, 0.2], "n": [2, 1], "interval": [[0.1, 0.9], None]}
    lost = row | {"suite": "perplexity", "task": "text", "perplexity": 4.5, "by_position": bands}
    del lost["accuracy"]
    evaluated = {"format": "ropesearch.evaluation", "version": 1, "spec": {}}
    found = [row | {"by_distance": bands}], [lost, lost | {"length": 128}]
    rows = dumped(*(evaluated | {"rows": own} for own in found))
    record = {"model": "m", "scheme": None, "task": "recall", "length": 64, "sample": 0, "prompt": "0" * 64}
    record |= {"hits": 1, "n": 2}
    samples = dumped({"format": "ropesearch.samples", "version": 1, "settings": {}}, record, record | {"sample": 1})
    settings = {"format": "ropesearch.run", "version": 1, "spec": {}, "schemes": [], "model": {}, "data": []}
    step = {"step": 1, "stage": 1, "length": 64, "loss": 3.5}
    metrics = dumped(step, step | {"step": 2, "tokens": 128})
    of_layers = [[1e4 + head for head in range(good.KV_HEADS)]] * good.LAYERS
    facts = good.decay_facts(version=2, bases=of_layers)
    facts["model"] |= {"num_hidden_layers": good.LAYERS, "bases": of_layers}
    arrays = good.decay_arrays()
    theta = good.npy(np.ones((good.LAYERS, good.KV_HEADS, good.HEAD_DIM // 2)))
    pairs = (good.decay_facts(), arrays), (facts, arrays | {"inv_freq": theta})
    decay = [b"\n".join([*dumped(content), good.zipped(members)]) for content, members in pairs]
    by_layer = BaseSet.of([[1e4, 2e4], [3e4, 1e4], [5e6, 2e4]], heads=4, head_dim=8).to_json().encode()
    runs = [b"\n".join([*dumped(settings | {"arguments": {}}), *metrics])]
    return {
        "base set": Reader(in_file(folder / "set.json", base_set), [good.base_set().encode(), by_layer], change_json),
        "sweep": Reader(in_file(folder / "sweep.jsonl", sweep), [sweep_example(folder)], change_lines),
        "results": Reader(in_file(folder / "alone.json", results), rows, change_json),
        "samples": Reader(in_file(folder / "read.samples.jsonl", sampled), [b"\n".join(samples)], change_lines),
        "decay": Reader(in_file(folder / "pair", pair), decay, change_pair),
        "training run": Reader(in_file(folder / "of-a-run", run), runs, change_lines),
    }


def readers_of_models(folder: Path) -> dict[str, Reader]:
    """Return the readers of files of models, and of training arguments."""
    from ropesearch.core.gguf_header import read_header
    from ropesearch.core.model_config import ModelConfig
    from ropesearch.model.companions import read_json
    from ropesearch.training.arguments import read_arguments

    def config(path: Path) -> None:
        found = ModelConfig.read(path)
        for name in ("shape", "bases", "base", "rope_values", "long_rope", "rotating_layers", "identity", "vocab_size"):
            with contextlib.suppress(InputError):  # each says what it lacks
                getattr(found, name)

    long = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8, "factor": 4.0}
    configs = dumped(
        good.CONFIG,
        good.CONFIG | {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}},
        good.CONFIG | {"rope_parameters": long | {"original_max_position_embeddings": 64}},
        good.CONFIG | {"rope_scaling": {"rope_type": "harpe", "bases": [10000.0, 20000.0]}},
        good.CONFIG | {"rope_scaling": {"rope_type": "harpe", "bases": [[10000.0, 20000.0], [30000.0, 10000.0]]}},
        {"model_type": "llava", "text_config": good.CONFIG | {"partial_rotary_factor": 0.5}},
    )
    header = good.gguf(1, 2, packed_text(b"name") + b"\x08\0\0\0" + packed_text(b"toy"))
    header += packed_text(b"list") + struct.pack("<IIQf", 9, 6, 1, 0.5) + packed_text(b"t") + b"\x01\0\0\0" + bytes(20)
    companion = {"auto_map": {"AutoTokenizer": ["a.B", None]}}
    arguments = [b"learning_rate: 1e-4\nwarmup_steps: 3\nbf16: true\nmodel_init_kwargs: {attn_implementation: sdpa}\n"]
    return {
        "config": Reader(in_file(folder / "read-config.json", config), configs, change_json),
        "companion": Reader(in_file(folder / "tokenizer_config.json", read_json), dumped(companion), change_json),
        "gguf": Reader(in_file(folder / "model.gguf", read_header), [header], change_bytes),
        "training arguments": Reader(in_file(folder / "a.yaml", read_arguments), arguments, change_words),
    }


def readers_of_texts(folder: Path) -> dict[str, Reader]:
    """Return the readers of what people type."""
    from ropesearch import parse_scheme
    from ropesearch.core.numbers import read_number, read_range
    from ropesearch.schemes.grammar import SCHEMES

    def scheme(data: bytes) -> None:
        parse_scheme(data.decode(errors="surrogateescape"))

    def numbers(data: bytes) -> None:
        for read in (read_number, read_range):
            for binary in (False, True):
                with contextlib.suppress(ValueError):
                    read(data.decode(errors="surrogateescape"), binary=binary)

    (folder / "bases.json").write_text(good.base_set())
    factors = {"rope_type": "longrope", "short_factor": [1.0] * 8, "long_factor": [2.0] * 8}
    (folder / "config.json").write_text(json.dumps(good.CONFIG | {"rope_scaling": factors}))
    examples = [kind.example.encode() for kind in SCHEMES.values()] + [b"rope:1e4,head_dim=128"]
    return {
        "scheme": Reader(scheme, examples, change_words),
        "number": Reader(numbers, [b"30k", b"1.5m", b"10k:50k:10k", b"5e6", b"128k"], change_words),
    }


def packed_text(text: bytes) -> bytes:
    """Return a text as .gguf files hold it."""
    return struct.pack("<Q", len(text)) + text


def change_pair(draw: random.Random, data: bytes) -> bytes:
    """Change the JSON or the arrays of a decay."""
    text, _, packed = data.partition(b"\n")
    if draw.random() < 0.5:
        return change_json(draw, text) + b"\n" + packed
    return text + b"\n" + change_archive(draw, packed)


def sweep_example(folder: Path) -> bytes:
    """Return the file of a small sweep."""
    from ropesearch.search.sweep import sweep, sweep_points

    points = sweep_points(
        bmins=[10000], bmaxs=[12000], strides=[500, 1000], heads=[2], max_distances=[1500], head_dim=8
    )
    with ThreadPoolExecutor(1) as executor:
        sweep(points, folder / "example.jsonl", executor=executor, overwrite=True)
    return (folder / "example.jsonl").read_bytes()


# Cases


@dataclass
class Fuzzer:
    """Runs cases and keeps those that end in the wrong way, the first of each kind."""

    readers: dict[str, Reader]
    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, tuple[str, bytes, str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.names = list(self.readers)

    def examples(self) -> Iterator[bytes]:
        """Yield the case of every example."""
        for number, reader in enumerate(self.readers.values()):
            for example in reader.examples:
                yield bytes([number]) + example

    def change(self, case: bytes, most: int, seed: int) -> bytes:
        """Return another case of the same reader, mostly."""
        draw = random.Random(seed)
        number = case[0] % len(self.names) if case else draw.randrange(len(self.names))
        reader = self.readers[self.names[number]]
        data = case[1:] if case[1:] and draw.random() < 0.95 else draw.choice(reader.examples)
        return (bytes([number]) + reader.change(draw, data))[:most]

    def run(self, case: bytes) -> None:
        """Run a case."""
        name = self.names[case[0] % len(self.names)] if case else self.names[0]
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            self.readers[name].read(case[1:])
            self.outcomes[f"{name}: read"] += 1
        except (InputError, OSError) as error:
            self.outcomes[f"{name}: refused"] += 1
            if not str(error).isprintable() or len(str(error)) > LONGEST:
                self.keep(name, case, f"its message: {ascii(str(error))[:500]}", "message")
        except Exception as error:
            self.outcomes[f"{name}: wrong"] += 1
            place = traceback.extract_tb(error.__traceback__)[-1]
            text = "".join(traceback.format_exception(error))
            self.keep(name, case, text, f"{type(error).__name__} in {place.name}")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def keep(self, name: str, case: bytes, text: str, kind: str) -> None:
        """Keep a wrong case, if it is the first of its kind."""
        self.wrong.setdefault(f"{name}: {kind}", (name, case[1:], text))


def too_long(*_: object) -> None:
    """End a case that takes too long."""
    raise WrongError("it takes too long")


def main() -> int:
    """Run the fuzzer for as many cases as asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    try:
        import atheris
    except ImportError:
        print("this needs atheris: pip install atheris", file=sys.stderr)
        return 1
    folder = options.folder.resolve()
    for name in ("corpus", "wrong", "read"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    os.chdir(folder / "read")
    compiled = [module.name for module in pkgutil.iter_modules(kernels.__path__, "ropesearch.kernels.")]
    with atheris.instrument_imports(include=["ropesearch", "zipfile"], exclude=compiled):
        fuzzer = Fuzzer(readers(Path()))
    fuzz(atheris, fuzzer, folder, options.count, options.seed)
    return 0


def fuzz(atheris: Any, fuzzer: Fuzzer, folder: Path, count: int, seed: int) -> None:
    """Let libFuzzer make and run cases, then print what came of them."""
    for i, case in enumerate(fuzzer.examples()):
        (folder / "corpus" / f"example-{i}").write_bytes(case)
    signal.signal(signal.SIGALRM, too_long)
    begin = time.perf_counter()
    left = count

    def one(data: bytes) -> None:
        nonlocal left
        fuzzer.run(data)
        left -= 1
        if left == 0:  # libFuzzer would end the process without a word
            report(fuzzer, folder / "wrong", count, time.perf_counter() - begin)

    settings = {
        "runs": -1,
        "seed": seed,
        "max_len": LARGEST,
        "verbosity": 0,
        "rss_limit_mb": 4096,
        "timeout": 0,
    }
    flags = [f"-{name}={value}" for name, value in settings.items()]
    atheris.Setup(["fuzz", *flags, str(folder / "corpus")], one, custom_mutator=fuzzer.change)
    atheris.Fuzz()


def report(fuzzer: Fuzzer, folder: Path, count: int, seconds: float) -> None:
    """Print what came of the cases, keep the wrong ones, and end."""
    print(f"{count} cases: {len(fuzzer.wrong)} kinds wrong, {seconds:.0f} s")
    for outcome, n in sorted(fuzzer.outcomes.items()):
        print(f"{n:>9} {outcome}")
    for i, (kind, (name, data, text)) in enumerate(fuzzer.wrong.items()):
        print(f"WRONG {kind}", file=sys.stderr)
        (folder / f"{i}-{name.replace(' ', '-')}").write_bytes(data)
        (folder / f"{i}-{name.replace(' ', '-')}.txt").write_text(text, errors="backslashreplace")
    sys.stdout.flush()
    os._exit(bool(fuzzer.wrong))


if __name__ == "__main__":
    sys.exit(main())
