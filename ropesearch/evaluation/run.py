"""Run a suite over models and schemes, on the same samples."""

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropesearch._version import __version__
from ropesearch.core import checks
from ropesearch.core.device import find_device
from ropesearch.core.errors import ArgumentTypeError, InputError, ParameterError, require_extra
from ropesearch.core.files import check_output, reserved
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.model_source import ModelSource
from ropesearch.core.progress import Progress
from ropesearch.model.apply import apply_scheme, find_decoder
from ropesearch.model.change import check_model, rope_change
from ropesearch.model.load import load_model
from ropesearch.model.tokenizer import load_tokenizer
from ropesearch.schemes.grammar import parse_scheme
from ropesearch.schemes.rules import Scheme, SelfExtend
from ropesearch.training.models import identity, stock_config

from .needle import Needle
from .perplexity import Perplexity
from .reader import CHUNK, Reader
from .recall import Recall
from .results import Results
from .samples import Record, SampleLog, samples_path
from .self_extend import apply_self_extend
from .spec import HARNESS, EvaluationSpec
from .suite import Suite, Task
from .texts import Data, Texts, require_tokenizer

if TYPE_CHECKING:
    from torch import nn

AnyPath = str | os.PathLike[str]
Note = Callable[[str], None]
DTYPES = ("float32", "bfloat16", "float16")
OWN = "own"
"""What a user writes for the model's own scheme."""
PACKAGES = ("torch", "transformers", "lm_eval", "datasets", "numpy")


def evaluate(
    model: "nn.Module",
    tokenizer: Any,
    suite: str,
    *,
    lengths: Sequence[int] = (),
    schemes: Sequence[str | None] = (None,),
    data: Data = (),
    essays: AnyPath | None = None,
    name: str = "model",
    output: AnyPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    batch_size: int | None = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
    note: Note | None = None,
    **options: Any,
) -> Results:
    """Evaluate a model in memory, under its own position scheme or others, on the same samples.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        A causal model, stock or with bases in it; in memory its schemes come and go, and its weights stay.
    tokenizer : transformers.PreTrainedTokenizerBase
    suite : str
        perplexity, recall, needle, niah, ruler or short.
    lengths : sequence of int
        In tokens; for all suites but short.
    schemes : sequence of str or None
        Each a text as for `parse_scheme`, self-extend included; None or "own" is what the model has.
    data : sequence of path-like or str
        Documents of perplexity, or the text around pairs and needles: files, folders or hub names.
    essays : path-like, optional
        Folder of texts for the tasks of niah and ruler that hide needles in essays.
    name : str
        What results call the model.
    output : path-like, optional
        The results file; samples are kept beside it as they are scored.
    resume : bool
        Keep the samples of an earlier run with the same settings.
    overwrite : bool
        Replace the files of an earlier run.
    batch_size : int, optional
        Samples to read at once; found by trying if left out.
    chunk : int
        Tokens to read at once.
    progress, note : callable, optional
        Told where the work stands, and in one line what was left out.
    **options
        Of `EvaluationSpec`: limit, tasks, seed, stride, truncate, min_tokens, depths, pairs, text_key.

    Returns
    -------
    Results

    Raises
    ------
    ValueError
        If an option, a text or a scheme cannot be used, or the samples beside `output` are of other settings.
    OSError
        If a file exists and may not be replaced, or cannot be written, or the network is needed and absent.
    MemoryError
        If a length does not fit; the message says which would, and finished samples stay.
    ImportError
        If the extra `evaluate` is not installed.
    """
    own: Any = model
    if not hasattr(own, "get_output_embeddings") or own.get_output_embeddings() is None:
        raise ArgumentTypeError("model", model, "a causal language model of transformers")
    checks.instance("name", name, str, "a text")
    spec = _made(EvaluationSpec, options | {"suite": suite, "lengths": lengths})
    schemes, data = _as_sequence("schemes", schemes), _as_sequence("data", data)
    how = _How(output, resume, overwrite, batch_size, chunk, progress, note)
    return _run([_InMemory(name, own, tokenizer)], spec, schemes, data, essays, how)


def evaluate_models(
    models: Sequence[AnyPath],
    spec: EvaluationSpec,
    *,
    schemes: Sequence[str | None] = (None,),
    data: Data = (),
    essays: AnyPath | None = None,
    output: AnyPath | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    dtype: str | None = None,
    batch_size: int | None = None,
    chunk: int = CHUNK,
    progress: Progress | None = None,
    note: Note | None = None,
) -> Results:
    """Evaluate models on disk or on the hub, each under every scheme, on the same samples.

    Parameters
    ----------
    models : sequence of path-like or str
        As for `load_model`; each is loaded once.
    spec : EvaluationSpec
    device : str
        cpu, cuda or cuda:N.
    dtype : str, optional
        float32, bfloat16 or float16; as stored if left out.
    schemes, data, essays, output, resume, overwrite, batch_size, chunk, progress, note
        As for `evaluate`.

    Returns
    -------
    Results

    Raises
    ------
    ValueError, OSError, MemoryError, ImportError
        As for `evaluate`, and as for `load_model`.
    """
    checks.instance("spec", spec, EvaluationSpec, "an EvaluationSpec")
    models, schemes, data = (
        _as_sequence(name, value) for name, value in (("models", models), ("schemes", schemes), ("data", data))
    )
    if not models:
        raise InputError("`models` must name at least one model")
    if dtype is not None:
        checks.choice("dtype", dtype, DTYPES)
    sources = [ModelSource.find(model) for model in models]
    names = [source.name for source in sources]
    if len(set(names)) < len(names):
        raise ParameterError("models", names, "different from each other")
    found = find_device(device)
    options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
    options |= {} if found is None else {"device_map": {"": found}}
    how = _How(output, resume, overwrite, batch_size, chunk, progress, note)
    return _run([_OnDisk(source, options, progress) for source in sources], spec, schemes, data, essays, how, dtype)


def _as_sequence(name: str, value: Any) -> Any:
    """Return several as they are, and one alone as the only one."""
    if isinstance(value, str | os.PathLike):
        return [value]
    return checks.instance(name, value, (list, tuple), "a list")


def read_scheme(model: ModelConfig, text: str) -> Scheme:
    """Read a scheme for a model; raises ValueError unless it can be put into that in memory, self-extend included."""
    check_model(model, text, "a scheme")
    scheme = parse_scheme(text, model=model)
    if isinstance(scheme, SelfExtend):
        scheme.check_fit(model)
    else:
        rope_change(scheme, model)
    return scheme


def under(model: Any, scheme: Scheme | None) -> AbstractContextManager[object]:
    """The model under a scheme, to the end of a `with` block; None leaves it its own."""
    if scheme is None:
        return nullcontext()
    return apply_self_extend(model, scheme) if isinstance(scheme, SelfExtend) else apply_scheme(model, scheme)


def scheme_digest(scheme: Scheme | None) -> str | None:
    """Digest of the frequencies of a scheme, which a file may hold; None of the model's own."""
    return None if scheme is None else hashlib.sha256(scheme.inv_freq().tobytes()).hexdigest()[:16]


def _made(spec: type[EvaluationSpec], options: dict[str, Any]) -> EvaluationSpec:
    for name in options:
        if name not in spec.__dataclass_fields__:
            msg = f"evaluate has no option {name}{checks.nearest(name, spec.__dataclass_fields__)}"
            raise InputError(msg)
    return spec(**options)


@dataclass(frozen=True)
class _How:
    """What shapes no figure."""

    output: AnyPath | None
    resume: bool
    overwrite: bool
    batch_size: int | None
    chunk: int
    progress: Progress | None
    note: Note | None

    def __post_init__(self) -> None:
        if self.batch_size is not None:
            checks.integer("batch_size", self.batch_size, 1)
        checks.integer("chunk", self.chunk, 1)
        if self.resume and self.output is None:
            raise InputError("`resume` has no effect without `output`: there are no samples to keep")


@dataclass(frozen=True)
class _InMemory:
    name: str
    model: Any
    tokenizer: Any

    def config(self) -> ModelConfig:
        return ModelConfig.of(find_decoder(self.model, "a scheme").config.to_dict(), self.name)

    def positions(self) -> int | None:
        return getattr(self.model.config.get_text_config(), "max_position_embeddings", None)

    def digest(self) -> str:
        """Digest of the config, and of the sums of all weights."""
        whole = hashlib.sha256(json.dumps(self.model.config.to_dict(), sort_keys=True, default=str).encode())
        for name, weight in self.model.state_dict().items():
            if weight.device.type != "meta":
                whole.update(f"{name} {float(weight.double().sum())} {float(weight.double().abs().sum())}".encode())
        return whole.hexdigest()

    @contextmanager
    def loaded(self) -> Iterator[Any]:
        was_training = self.model.training
        try:
            yield self.model.eval()
        finally:
            self.model.train(was_training)


class _OnDisk:
    def __init__(self, source: ModelSource, options: Mapping[str, Any], progress: Progress | None) -> None:
        self.source, self.options, self.progress = source, options, progress
        self.name = source.name

    def config(self) -> ModelConfig:
        return self.source.config()

    def positions(self) -> int | None:
        return getattr(stock_config(self.source).get_text_config(), "max_position_embeddings", None)

    def digest(self) -> str:
        return str(identity(self.source)["digest"])

    @cached_property
    def tokenizer(self) -> Any:
        return load_tokenizer(self.source, required=True)

    @contextmanager
    def loaded(self) -> Iterator[Any]:
        model, _ = load_model(self.source, keep_unpacked=True, progress=self.progress, **self.options)
        yield model


def _run(
    sources: Sequence[_InMemory | _OnDisk],
    spec: EvaluationSpec,
    schemes: Sequence[str | None],
    data: Data,
    essays: AnyPath | None,
    how: _How,
    dtype: str | None = None,
) -> Results:
    require_extra("an evaluation", "evaluate", "torch", "transformers")
    if not schemes:
        raise InputError("`schemes` must name at least one scheme; own is the model's own")
    texts_of_schemes = dict.fromkeys(None if text == OWN else text for text in schemes)
    # The same text can mean another scheme for another model: what it does not say is the model's.
    read = [
        {text: None if text is None else read_scheme(source.config(), text) for text in texts_of_schemes}
        for source in sources
    ]
    suite = make_suite(spec, data, essays)
    for source in sources:
        require_tokenizer(source.tokenizer)  # of all models before the first is scored
    texts = dict(suite.describe())
    settings = {
        **spec.effective(),
        "texts": texts,
        "models": {source.name: source.digest() for source in sources} if how.output is not None else {},
        "schemes": {text or OWN: [scheme_digest(own[text]) for own in read] for text in texts_of_schemes},
        "dtype": str(dtype),
    }
    if how.output is None:
        return _score(sources, read, spec, suite, SampleLog(None, settings), how, _made_by(texts, str(dtype)))
    check_output(how.output, overwrite=how.overwrite or how.resume)
    with reserved(how.output, "evaluation"):
        log = SampleLog(samples_path(how.output), settings, resume=how.resume, overwrite=how.overwrite)
        results = _score(sources, read, spec, suite, log, how, _made_by(texts, str(dtype)))
        results.save(how.output, overwrite=how.overwrite or how.resume)
    return results


def _score(
    sources: Sequence[_InMemory | _OnDisk],
    schemes: Sequence[Mapping[str | None, Scheme | None]],
    spec: EvaluationSpec,
    suite: Suite,
    log: SampleLog,
    how: _How,
    made_by: dict[str, Any],
) -> Results:
    run = _Evaluation(spec, suite, log, how)
    rows = [row for source, own in zip(sources, schemes, strict=True) for row in run.rows(source, own)]
    return Results(spec.to_dict(), tuple(rows), tuple(run.notes), made_by)


def make_suite(spec: EvaluationSpec, data: Data, essays: AnyPath | None) -> Suite:
    """Return the suite of a spec; raises ValueError if texts do not exist, or have no effect on it."""
    if spec.suite in HARNESS:
        if data:
            msg = f"`data` has no effect on {spec.suite}"
            raise InputError(msg)
        from .harness import Harness

        return Harness(spec, essays)
    if essays is not None:
        msg = f"`essays` has no effect on {spec.suite}"
        raise InputError(msg)
    texts = Texts.find(data, spec.text_key)
    kinds: dict[str, Callable[[EvaluationSpec, Texts], Suite]] = {
        "perplexity": Perplexity,
        "recall": Recall,
        "needle": Needle,
    }
    return kinds[spec.suite](spec, texts)


@dataclass
class _Evaluation:
    """The tasks of a suite, model by model and scheme by scheme."""

    spec: EvaluationSpec
    suite: Suite
    log: SampleLog
    how: _How
    notes: list[str] = field(default_factory=list)

    def rows(self, source: _InMemory | _OnDisk, schemes: Mapping[str | None, Scheme | None]) -> list[dict[str, Any]]:
        tasks = self.suite.tasks(source.tokenizer, self._note)
        longest, positions = max((task.length or 0 for task in tasks), default=0), source.positions()
        if None in schemes and positions is not None and longest > positions:
            self._note(f"{longest} tokens are beyond the {positions} positions of {source.name}")
        missing = {
            (scheme, i): pending
            for scheme in schemes
            for i, task in enumerate(tasks)
            if (pending := self._pending(source.name, scheme, task))
        }
        if missing:
            with source.loaded() as model:
                reader = Reader(model, chunk=self.how.chunk, batch_size=self.how.batch_size)
                for (scheme, i), pending in missing.items():
                    with under(model, schemes[scheme]):
                        self._score(reader, source.name, scheme, tasks[i], pending)
        return [row for scheme in schemes for task in tasks for row in self._rows(source.name, scheme, task)]

    def _note(self, line: str) -> None:
        if line not in self.notes:  # once for all models
            self.notes.append(line)
            if self.how.note is not None:
                self.how.note(line)

    def _pending(self, name: str, scheme: str | None, task: Task) -> list[Any]:
        pending = []
        for sample in task.samples:
            record = self.log.find(name, scheme, task.name, task.length, sample.number)
            if record is None or record["prompt"] != sample.prompt:
                pending.append(sample)
        return pending

    def _score(self, reader: Reader, name: str, scheme: str | None, task: Task, pending: Sequence[Any]) -> None:
        what = ", ".join([Path(name).name, *([scheme] if scheme else []), task.name])
        done, total = len(task.samples) - len(pending), len(task.samples)
        key = self._key(name, scheme, task)
        for found in reader.in_batches(pending, task.length or 1, lambda batch: task.score(reader, batch)):
            batch = pending[: len(found)]
            pending = pending[len(found) :]
            records = [
                {**key, "sample": sample.number, "prompt": sample.prompt, **values}
                for sample, values in zip(batch, found, strict=True)
            ]
            for record in records:
                _check_finite(record, what)
            self.log.add(records)
            done += len(records)
            if self.how.progress is not None:
                self.how.progress(f"{what} {task.length or ''}".strip(), done, total)

    def _rows(self, name: str, scheme: str | None, task: Task) -> list[dict[str, Any]]:
        found: list[Record] = []
        for sample in sorted(task.samples, key=lambda sample: sample.number):
            record = self.log.find(name, scheme, task.name, task.length, sample.number)
            assert record is not None  # all were scored
            found.append(record)
        return [self._key(name, scheme, task) | figures for figures in task.figures(found)]

    def _key(self, name: str, scheme: str | None, task: Task) -> dict[str, Any]:
        """What a row and its records begin with."""
        return {"model": name, "scheme": scheme, "suite": self.spec.suite, "task": task.name, "length": task.length}


def _check_finite(record: Record, what: str) -> None:
    for value in record.values():
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                msg = f"{what}: the model gives probabilities that are not finite"
                raise InputError(msg)


@cache
def _versions() -> dict[str, str]:
    found = {"ropesearch": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _made_by(texts: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    return {**_versions(), "dtype": dtype, "texts": dict(texts)}
