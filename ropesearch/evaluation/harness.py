"""Suites of lm-eval's own tasks: RULER, its needles, and the short benchmarks; none of them rewritten."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ropesearch.core import checks
from ropesearch.core.errors import InputError, ParameterError, first_line, require_extra
from ropesearch.core.tokens import check_known

from .online import hub_answers
from .reader import Reader
from .ruler import NEEDLES, RULER, CannotRunError, Essays, apart, import_generators, make_samples, without_advice
from .samples import Record
from .spec import EvaluationSpec
from .statistics import ratio_interval, wilson
from .suite import Sample, Task, digest
from .texts import encode, require_tokenizer

SAMPLES = 500
"""Samples of a task of RULER, where no limit is given: as many as lm-eval makes."""
SHORT: Mapping[str, tuple[str, int, str]] = {
    "mmlu": ("mmlu/default", 5, "acc"),
    "hellaswag": ("hellaswag", 10, "acc_norm"),
    "arc_challenge": ("arc", 25, "acc_norm"),
    "piqa": ("piqa", 0, "acc_norm"),
    "triviaqa": ("triviaqa", 5, "exact_match"),
}
"""Of each benchmark its folder in lm-eval, the examples before each question, and the metric that counts."""
FEWSHOT_SEED = 1234
"""lm-eval's own seed of the examples."""
FULL, ENOUGH = 0.9, 0.5
"""Of the length asked for: samples shorter than the first are named, shorter than the second left out.

At 4096 tokens lm-eval's needles in essays have 0.88 of the length, those among other needles as few as 0.57.
"""
LOGITS = 2**31
"""Bytes of logits that are held at once, where answers are scored by their log-probability."""


@dataclass(frozen=True)
class _Source:
    """A task of lm-eval, how many of its documents to take, and the metric that counts."""

    task: Any
    limit: int | None
    metric: str


@dataclass(frozen=True)
class _Question:
    """A document of lm-eval's task, with the text that the model reads."""

    task: Any
    number: int
    doc: Mapping[str, Any]
    context: str
    tokens: int
    distance: int | None
    largest: int
    """Token id."""


class Harness:
    """The suites `niah`, `ruler` and `short`.

    Samples, prompts, filters and scores are lm-eval's. Where it has a limit, so does each of MMLU's 57 subjects.

    Parameters
    ----------
    spec : EvaluationSpec
    essays : path-like, optional
        Folder of .txt or .md files, for the tasks that hide needles in essays; if left out, lm-eval's own from the hub.

    Raises
    ------
    ValueError
        If a task is unknown, or the essays cannot be read or have no effect.
    ImportError
        If the extra `evaluate` is not installed.

    References
    ----------
    Hsieh et al., RULER, arXiv:2404.06654; HARPE, arXiv:2412.07171, Tables 4, 5 and 8.
    """

    def __init__(self, spec: EvaluationSpec, essays: Any = None) -> None:
        known = {"niah": tuple(NEEDLES), "ruler": RULER, "short": tuple(SHORT)}[spec.suite]
        for name in spec.tasks:
            if name not in known:
                requirement = f"tasks of {spec.suite} ({', '.join(known)})"
                raise ParameterError("tasks", name, requirement, checks.nearest(name, known))
        if essays is not None and spec.suite == "short":
            raise InputError("`essays` has no effect on short")
        self.spec = spec
        self.names = tuple(name for name in known if not spec.tasks or name in spec.tasks)
        packages = ("lm_eval", "torch") if spec.suite == "short" else ("lm_eval", "nltk", "torch", "wonderwords")
        require_extra(f"the suite {spec.suite}", "evaluate", *packages)
        self.essays = None if essays is None else Essays.read(essays)

    def describe(self) -> Mapping[str, Any]:
        """Digest of the essays, and versions of what makes the samples."""
        packages = ("lm_eval",) if self.spec.suite == "short" else ("lm_eval", "nltk", "wonderwords")
        found = {package: version(package) for package in packages}
        return found if self.essays is None else found | {"essays": self.essays.digest}

    def tasks(self, tokenizer: Any, note: Callable[[str], None]) -> list[Task]:
        """One task for each of lm-eval's and each length; `note` hears what cannot run, or is shorter than asked.

        Raises
        ------
        ValueError
            If there are too few essays, or no task can make samples of these lengths.
        OSError
            If no task can run without the network.
        """
        tokenizer = _ready(tokenizer)
        short = self.spec.suite == "short"
        if not short:
            import_generators()
        tasks: list[Task] = []
        left_out: dict[str, list[str]] = {}
        network = False
        for name in self.names:
            for length in (None,) if short else self.spec.lengths:
                try:
                    found = self._short(name) if length is None else [self._ruler(name, tokenizer, length)]
                    tasks.append(_made(name, length, found, tokenizer))
                except CannotRunError as error:
                    network = network or error.network
                    left_out.setdefault(str(error), []).append(name)
        lines = [f"{', '.join(dict.fromkeys(names))} left out: {reason}" for reason, names in left_out.items()]
        if not tasks:
            kind = OSError if network else InputError
            raise kind(f"no task of {self.spec.suite} can run: " + "; ".join(lines))
        for line in [*lines, *_shorter(tasks)]:
            note(line)
        return tasks

    def _ruler(self, name: str, tokenizer: Any, length: int) -> _Source:
        docs = make_samples(name, tokenizer, length, self.spec.limit_or(SAMPLES), self.essays, self.spec.seed)

        def data(**_: Any) -> dict[str, Any]:
            from datasets import Dataset, Split

            return {"test": Dataset.from_list(docs, split=Split.TEST)}

        # A group's members take options from it; lm-eval's load has no other way to change one of its tasks.
        (task,) = _load("ruler", {"group": "ropesearch", "task": [{"task": name, "custom_dataset": data}]})
        return _Source(task, None, str(length))

    def _short(self, name: str) -> list[_Source]:
        folder, examples, metric = SHORT[name]
        if not hub_answers():
            raise CannotRunError("its questions are on the hub, which does not answer", network=True)
        try:
            found = _load(folder, name)
        except OSError as error:
            msg = f"its questions are on the hub: {first_line(error)}"
            raise CannotRunError(msg, network=True) from None
        for task in found:
            task.set_config("num_fewshot", examples)
        return [_Source(task, self.spec.limit, metric) for task in found]


def _load(folder: str, spec: Any) -> list[Any]:
    """Load tasks of lm-eval; it reads only one folder, for all of them take half a minute."""
    import lm_eval.tasks

    with apart():
        manager = lm_eval.tasks.TaskManager(
            include_path=str(Path(lm_eval.tasks.__file__).parent / folder), include_defaults=False
        )
        return list(manager.load(spec)["tasks"].values())


def _ready(tokenizer: Any) -> Any:
    """A copy of a tokenizer that pads, for lm-eval, and does not warn of long texts."""
    require_tokenizer(tokenizer)
    if tokenizer.eos_token_id is None:
        raise InputError("the model's tokenizer has no token that ends a text, and lm-eval needs one")
    ready = copy.deepcopy(tokenizer)
    ready.model_max_length = int(1e30)  # transformers' own "no limit"
    if ready.pad_token_id is None:
        ready.pad_token = ready.eos_token
    return ready


def _made(name: str, length: int | None, sources: list[_Source], tokenizer: Any) -> Task:
    samples = [
        Sample(number, digest(ids), question)
        for number, (question, ids) in enumerate(pair for source in sources for pair in _questions(source, tokenizer))
    ]
    task = Task(name, length, samples, _scorer(tokenizer, sources[0].metric), _figures)
    if length is not None and (mean := _mean_length(task)) < ENOUGH * length:
        msg = f"at {length} tokens, lm-eval makes samples of {mean}, which is another length"
        raise CannotRunError(msg)
    return task


def _mean_length(task: Task) -> int:
    """Tokens of a sample of RULER with the room for its answer, on average."""
    questions: list[_Question] = [sample.content for sample in task.samples]
    room: int = questions[0].task.config.generation_kwargs["max_gen_toks"]
    return room + round(sum(question.tokens for question in questions) / len(questions))


def _shorter(tasks: Sequence[Task]) -> list[str]:
    """For each length, a line that names the tasks whose samples are shorter."""
    found: dict[int, list[str]] = {}
    for task in tasks:
        if task.length is not None and (mean := _mean_length(task)) < FULL * task.length:
            found.setdefault(task.length, []).append(f"{task.name} ({mean})")
    return [
        f"lm-eval makes samples shorter than {length} tokens: {', '.join(names)}" for length, names in found.items()
    ]


def _questions(source: _Source, tokenizer: Any) -> Iterator[tuple[_Question, list[int]]]:
    """Documents of a task in lm-eval's order, for the examples before each are drawn from one generator."""
    task = source.task
    examples = task.config.num_fewshot or 0
    task.set_fewshot_seed(FEWSHOT_SEED)
    for number, doc in task.doc_iterator(limit=source.limit):
        context = task.fewshot_context(doc, examples, gen_prefix=task.doc_to_prefix(doc))
        ids = encode(tokenizer, context, special=True)
        outputs: Sequence[str] = doc["outputs"] if task.config.task in NEEDLES else ()
        distance = _distance(tokenizer, context, outputs[0]) if len(outputs) == 1 else None
        yield _Question(task, number, doc, context, len(ids), distance, max(ids, default=0)), ids


def _distance(tokenizer: Any, context: str, needle: str) -> int:
    """Tokens from the end of a needle to the end of the prompt."""
    return len(encode(tokenizer, context[context.rfind(needle) + len(needle) :]))


def _scorer(tokenizer: Any, metric: str) -> Callable[[Reader, Sequence[Sample]], list[dict[str, Any]]]:
    def score(reader: Reader, samples: Sequence[Sample]) -> list[dict[str, Any]]:
        questions: list[_Question] = [sample.content for sample in samples]
        check_known([question.largest for question in questions], reader.vocabulary)
        requests = [_requests(question, reader.chunk) for question in questions]
        everything = [request for group in requests for request in group]
        kind = everything[0].request_type
        with without_advice():
            model = _model(reader, tokenizer, questions, kind)
            for request, answer in zip(everything, getattr(model, kind)(everything, disable_tqdm=True), strict=True):
                request.resps.append(answer)
        return [_judged(question, asked, metric) for question, asked in zip(questions, requests, strict=True)]

    return score


def _requests(question: _Question, chunk: int) -> list[Any]:
    task = question.task
    made = task.construct_requests(
        doc=question.doc, ctx=question.context, metadata=(task.config.task, question.number, 1)
    )
    requests: list[Any] = made if isinstance(made, list) else [made]
    for request in requests:
        if request.request_type == "generate_until":
            context, options = request.args
            request.arguments = (context, options | {"prefill_chunk_size": chunk})
    return requests


def _model(reader: Reader, tokenizer: Any, questions: Sequence[_Question], kind: str) -> Any:
    """The reader's model as lm-eval takes models."""
    from lm_eval.models.huggingface import HFLM

    size = len(questions)
    if kind == "loglikelihood":  # lm-eval computes the logits of every place, twice
        longest = max(question.tokens for question in questions)
        size = max(1, min(4 * size, LOGITS // (8 * longest * reader.vocabulary)))
    # Without a largest length lm-eval would cut prompts to what the model's config says.
    return HFLM(pretrained=reader.model, tokenizer=tokenizer, batch_size=size, max_length=2**31 - 1)


def _judged(question: _Question, requests: Sequence[Any], metric: str) -> dict[str, Any]:
    """What lm-eval makes of the answers: they are filtered, then scored."""
    from lm_eval.filters import build_filter_ensemble

    task = question.task
    filters = task.config.filter_list or [{"name": "none", "filter": [{"function": "take_first"}]}]
    name = filters[0]["name"]
    steps = [
        (step["function"], {key: value for key, value in step.items() if key != "function"})
        for step in filters[0]["filter"]
    ]
    build_filter_ensemble(name, steps).apply(list(requests))
    results = [request.filtered_resps[name] for request in requests]
    scores = task.process_results(question.doc, results)
    record = {
        "score": float(scores[metric]),
        "answer": results[0] if len(requests) == 1 else _chosen(question, results, metric),
        "expected": task.doc_to_target(question.doc),
        "tokens": question.tokens,
    }
    if len(requests) > 1:
        record["scores"] = {name: float(score) for name, score in scores.items()}
    return record if question.distance is None else record | {"distance": question.distance}


def _chosen(question: _Question, results: Sequence[tuple[float, bool]], metric: str) -> int:
    """Which of several answers is the most likely; by acc_norm, for each of its characters."""
    choices = question.task.doc_to_choice(question.doc)
    sizes = [len(choice) if metric == "acc_norm" else 1 for choice in choices]
    return max(range(len(choices)), key=lambda i: results[i][0] / sizes[i])


def _figures(records: Sequence[Record]) -> list[dict[str, Any]]:
    """One row: the mean of the scores."""
    scores = [record["score"] for record in records]
    n = len(scores)
    interval: list[float] | None
    if all(score in (0, 1) for score in scores):
        interval = list(wilson(sum(scores), n))
    else:  # shares of several answers
        interval = None if n < 2 else list(ratio_interval(scores, [1.0] * n))
    tokens = round(sum(record["tokens"] for record in records) / n)
    return [{"accuracy": sum(scores) / n, "n": n, "interval": interval, "tokens": tokens}]
