"""Samples of RULER's tasks, by lm-eval's own generators: as many as are asked for, on essays of the user's choice.

lm-eval's tasks make 500 samples whatever the limit, and download their essays. So each task gets a data set of ours,
made by the same functions with the same arguments; where the seed is 0, its samples are the first that lm-eval makes.
"""

import hashlib
import importlib
import io
import logging
import math
import os
import random
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ropesearch.core.errors import InputError

from .online import answers, hub_answers
from .texts import encode

NEEDLES: Mapping[str, Mapping[str, Any]] = {
    "niah_single_1": {"type_haystack": "repeat", "type_needle_k": "words", "type_needle_v": "numbers"},
    "niah_single_2": {"type_haystack": "essay", "type_needle_k": "words", "type_needle_v": "numbers"},
    "niah_single_3": {"type_haystack": "essay", "type_needle_k": "words", "type_needle_v": "uuids"},
    "niah_multikey_1": {
        "type_haystack": "essay",
        "type_needle_k": "words",
        "type_needle_v": "numbers",
        "num_needle_k": 4,
    },
    "niah_multikey_2": {"type_haystack": "needle", "type_needle_k": "words", "type_needle_v": "numbers"},
    "niah_multikey_3": {"type_haystack": "needle", "type_needle_k": "uuids", "type_needle_v": "uuids"},
    "niah_multivalue": {
        "type_haystack": "essay",
        "type_needle_k": "words",
        "type_needle_v": "numbers",
        "num_needle_v": 4,
    },
    "niah_multiquery": {
        "type_haystack": "essay",
        "type_needle_k": "words",
        "type_needle_v": "numbers",
        "num_needle_q": 4,
    },
}
"""What lm-eval's functions of these names give to its `generate_samples`."""
RULER = (*NEEDLES, "ruler_vt", "ruler_cwe", "ruler_fwe", "ruler_qa_squad", "ruler_qa_hotpot")
QUESTIONS = {"ruler_qa_squad": "rajpurkar.github.io", "ruler_qa_hotpot": "huggingface.co"}
"""Where the documents of these tasks come from."""
ESSAYS = "baber/paul_graham_essays"
TEXT_SUFFIXES = (".txt", ".md")
STEP = 500
"""Words by which lm-eval lengthens a text of essays."""
GENERATED = 128
"""Tokens that lm-eval keeps free for the answer to a needle."""


class CannotRunError(Exception):
    """A task cannot run here; `network` says whether a network would help."""

    def __init__(self, reason: str, *, network: bool = False) -> None:
        self.network = network
        super().__init__(reason)


@dataclass(frozen=True)
class Essays:
    """Words of the essays of a folder, in the order of its files' names."""

    words: Sequence[str]
    digest: str

    @classmethod
    def read(cls, folder: str | os.PathLike[str]) -> "Essays":
        """Read a folder of .txt and .md files; raises ValueError if there is no text in it."""
        path = Path(folder)
        if not path.is_dir():
            msg = f"`essays` must be a folder of .txt or .md files, not {path}"
            raise InputError(msg)
        texts = []
        for file in sorted(file for file in path.rglob("*") if file.suffix in TEXT_SUFFIXES and file.is_file()):
            try:
                texts.append(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError:
                msg = f"`essays` must hold text in UTF-8, and {file} is not"
                raise InputError(msg) from None
        words = re.sub(r"\s+", " ", " ".join(texts)).strip().split(" ")  # as lm-eval splits its own
        if words == [""]:
            msg = f"`essays` must be a folder of .txt or .md files, and {path} has no text in it"
            raise InputError(msg)
        return cls(words, hashlib.sha256(" ".join(words).encode()).hexdigest()[:16])


@contextmanager
def without_advice() -> Iterator[None]:
    """Keep what lm-eval logs, short of errors, from the user's screen."""
    logger = logging.getLogger("lm_eval")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


@contextmanager
def apart(seed: int = 0) -> Iterator[None]:
    """Keep lm-eval's bars and prints from the user's screen, and its draws from the process's random numbers."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    _seed(seed)
    try:
        with without_advice(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def import_generators() -> None:
    """Import lm-eval's RULER, which would otherwise ask the network for nltk's sentences at once, and wait."""
    import nltk

    with tempfile.TemporaryDirectory() as folder:
        # Where it finds a folder of this name, it asks for nothing.
        (Path(folder) / "tokenizers" / "punkt_tab").mkdir(parents=True)
        nltk.data.path.append(folder)
        try:
            with apart():
                importlib.import_module("lm_eval.tasks.ruler.niah_utils")
        finally:
            nltk.data.path.remove(folder)


def make_samples(
    name: str, tokenizer: Any, length: int, n: int, essays: Essays | None, seed: int
) -> list[dict[str, Any]]:
    """Make the first `n` samples of a task, as lm-eval does.

    Raises
    ------
    CannotRunError
        If the task needs what is not here, or makes no samples of this length.
    ValueError
        If there are too few essays.
    """
    with apart(seed):
        try:
            return _make(name, tokenizer, length, n, essays, seed)
        except InputError:
            raise
        except ValueError:  # of lm-eval's `generate_samples`, over several sentences
            raise _too_short(length) from None


def _make(name: str, tokenizer: Any, length: int, n: int, essays: Essays | None, seed: int) -> list[dict[str, Any]]:
    if name in NEEDLES:
        return _needles(name, tokenizer, length, n, essays)
    if name in QUESTIONS:
        return _questions(name, tokenizer, length, n)
    ruler = "lm_eval.tasks.ruler"
    if name == "ruler_vt":
        vt = importlib.import_module(f"{ruler}.vt_utils")
        # Its loops never end where the smallest sample does not fit: an example of 500 tokens, and a question.
        example, _ = vt.generate_input_output(5, 1, 4, is_icl=True)
        smallest, _ = vt.generate_input_output(10, 1, 4)
        if _count(tokenizer, example) > 420 or _count(tokenizer, smallest) + 580 > length:
            raise _too_short(length)
        _seed(seed)
        shown = vt.sys_vartrack_w_noise_random(tokenizer=tokenizer, num_samples=1, max_seq_length=500, incremental=5)[0]
        return list(
            vt.sys_vartrack_w_noise_random(tokenizer=tokenizer, num_samples=n, max_seq_length=length, icl_example=shown)
        )
    if name == "ruler_cwe":
        # It draws from a generator of its own, which goes on from one call to the next.
        cwe = importlib.reload(importlib.import_module(f"{ruler}.cwe_utils"))
        if sum(_count(tokenizer, text) for text in cwe.generate_input_output(10, length)[:2]) + 220 > length:
            raise _too_short(length)  # else it makes lists without words, or never ends
        cwe = importlib.reload(cwe)
        _seed(seed)
        return list(cwe.sys_word_pair_random(num_samples=n, max_seq_length=length, tokenizer=tokenizer))
    fwe = importlib.import_module(f"{ruler}.fwe_utils")
    if 2 * _count(tokenizer, fwe.TEMPLATE) > length or length < 256:
        raise _too_short(length)  # else it makes texts without words, or never ends
    return list(fwe.sys_kwext(tokenizer=tokenizer, max_seq_length=length, num_samples=n))


def _needles(name: str, tokenizer: Any, length: int, n: int, essays: Essays | None) -> list[dict[str, Any]]:
    from lm_eval.tasks.ruler import niah_utils, prepare_niah

    options = NEEDLES[name]
    if options["type_haystack"] == "essay":
        _require_sentences()
        hay = _essays() if essays is None else essays.words
        _require_words(hay, tokenizer, length)
    else:
        hay = prepare_niah.get_haystack(type_haystack=options["type_haystack"])
    made = prepare_niah.generate_samples(
        hay, max_seq_length=length, template=niah_utils.TEMPLATE, num_samples=n, TOKENIZER=tokenizer, **options
    )
    return list(made)


def _questions(name: str, tokenizer: Any, length: int, n: int) -> list[dict[str, Any]]:
    qa = importlib.import_module("lm_eval.tasks.ruler.qa_utils")
    host = QUESTIONS[name]
    missing = CannotRunError(f"its documents come from {host}, which does not answer", network=True)
    if not answers(host):
        raise missing
    try:
        questions, documents = qa.read_squad() if name == "ruler_qa_squad" else qa.read_hotpotqa()
    except OSError:
        raise missing from None
    made = qa.generate_samples(
        tokenizer=tokenizer, docs=documents, qas=questions, num_samples=n, tokens_to_generate=32, max_seq_length=length
    )
    return list(made)


def _essays() -> Sequence[str]:
    from lm_eval.tasks.ruler import prepare_niah

    missing = CannotRunError(
        f"its text is essays: `essays` names a folder of texts, and without one they are {ESSAYS} on the hub, "
        "which does not answer",
        network=True,
    )
    if not hub_answers():
        raise missing
    try:
        words: Sequence[str] = prepare_niah.get_haystack(type_haystack="essay")
    except OSError:
        raise missing from None
    return words


def _require_sentences() -> None:
    """Raise CannotRunError unless nltk has what splits English into sentences, or downloads it now."""
    import nltk

    wanted = "tokenizers/punkt_tab/english/"
    try:
        nltk.data.find(wanted)
    except LookupError:
        if answers("raw.githubusercontent.com") and nltk.download("punkt_tab", quiet=True):
            return
        msg = "lm-eval splits essays by nltk's punkt_tab, fetched by python -m nltk.downloader punkt_tab"
        raise CannotRunError(msg, network=True) from None


def _require_words(words: Sequence[str], tokenizer: Any, length: int) -> None:
    """Raise ValueError if lm-eval would silently make a shorter text."""
    if len(words) >= length:  # a word is a token at least
        return
    tokens = _count(tokenizer, " ".join(words))
    if tokens + GENERATED < length:
        needed = STEP * math.ceil(len(words) * length / tokens / STEP)
        msg = f"`essays` has {len(words)} words, and contexts of {length} tokens need about {needed}"
        raise InputError(msg)


def _too_short(length: int) -> CannotRunError:
    return CannotRunError(f"its smallest sample does not fit into {length} tokens")


def _count(tokenizer: Any, text: str) -> int:
    return len(encode(tokenizer, text, special=True))


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(1234 + seed)  # noqa: NPY002  (0 and 1234 are lm-eval's own seeds)
