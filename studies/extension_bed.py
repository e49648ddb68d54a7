"""What is trained and asked in the study: a small model of its own on made-up text, or a real model on real text."""

import math
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from extension_data import (
    FIRST_VALUE,
    KEYS,
    VALUES,
    VOCABULARY,
    Questions,
    accuracy,
    by_band,
    make_questions,
    make_tokenizer,
    training_rows,
    write_documents,
)
from extension_schemes import Candidate, Shape
from transformers import LlamaConfig, LlamaForCausalLM

from ropesearch import Stage, TrainSpec, apply_scheme, evaluate, load_model, train_model
from ropesearch.core.model_config import ModelConfig
from ropesearch.evaluation import recall
from ropesearch.evaluation.reader import Reader

Bands = list[list[int]]
"""Right answers and questions of each band of distance."""


@dataclass(frozen=True)
class Setting:
    """One extension of the context.

    Attributes
    ----------
    factor : int
        New length as a multiple of the model's own.
    steps : tuple of int
        After which steps questions are asked, ascending.
    primary : int
        The one of them that schemes are compared at.
    learning_rate : float
    rows : int
        Rows of the new length in a step.
    """

    factor: int
    steps: tuple[int, ...]
    primary: int
    learning_rate: float
    rows: int = 2

    @property
    def name(self) -> str:
        """How files and tables call it."""
        return f"{self.factor}x"


@dataclass(frozen=True)
class OwnTraining:
    """How the small model comes to retrieve: rounds of steps until it does.

    The learning rate stays in a round until accuracy at the model's own length is `nearly`; in the rounds after that it
    falls to zero, until accuracy is `retrieves`.
    """

    hidden: int = 128
    feed_forward: int = 256
    layers: int = 2
    heads: int = 4
    base: float = 188.0
    length: int = 64
    rows: int = 32
    first_steps: int = 1500
    later_steps: int = 250
    rounds: int = 12
    learning_rate: float = 3e-3
    nearly: float = 0.9
    retrieves: float = 0.97


class Bed:
    """What the study needs of a model and its text; `folder` is the study's, `device` cpu or cuda."""

    shape: Shape
    described: str
    limits: tuple[str, ...] = ()
    rows_at_once = 1
    weight_decay = 0.01

    def __init__(self, folder: Path, device: str) -> None:
        self.folder, self.device = folder, device

    def model(self, seed: int) -> Path | str:
        """Return the model that all schemes of a seed start from."""
        raise NotImplementedError

    def data(self, seed: int, setting: Setting) -> list[Path]:
        """Text that all schemes of a seed are trained on, in the same order; written by the first call."""
        raise NotImplementedError

    def score(self, model: Any, seed: int, length: int, share: float = 1.0) -> Bands:
        """Ask a model the questions of a seed at a length, or a share of them."""
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """What shapes the figures beside the settings."""
        raise NotImplementedError

    def method(self) -> str:
        """Say in words how the model was made and is asked."""
        raise NotImplementedError

    def further(self) -> list[str]:
        """Lines at the end of the page."""
        return []

    def arguments(self) -> dict[str, Any]:
        """Training arguments that shape nothing, but for the number type on a GPU."""
        return {"use_cpu": True} if self.device == "cpu" else {}

    def extend(self, seed: int, setting: Setting, candidate: Candidate, until: int, folder: Path, every: int) -> Path:
        """Train under a scheme for `until` steps; checkpoints lie in the run folder, one every `every` steps."""
        length = setting.factor * self.shape.original
        batch = setting.rows * length
        spec = TrainSpec(
            stages=tuple(
                Stage(text, length // part, batch * n)
                for (text, part), n in zip(candidate.stages, split(until, len(candidate.stages)), strict=True)
            ),
            batch_tokens=batch,
            learning_rate=setting.learning_rate,
            weight_decay=self.weight_decay,
            warmup_steps=0,  # each of several stages would take its own
            schedule="constant",
            seed=seed,
        )
        return train_model(
            self.model(seed),
            self.data(seed, setting),
            folder,
            spec,
            arguments=self.arguments() | {"per_device_train_batch_size": self.rows_at_once, "logging_steps": every},
            cache=self.folder / "tokens" / str(os.getpid()),  # two processes would make the same at once
            resume=True,
            save_every=every,
            keep=math.ceil(until / every),
        )

    def curve(
        self, seed: int, setting: Setting, candidate: Candidate, steps: Sequence[int], folder: Path, *, far: bool
    ) -> list[dict[str, Any]]:
        """Train, and ask after each of `steps` at the new length; with `far`, once at the old and at twice the new."""
        folder.parent.mkdir(parents=True, exist_ok=True)
        points = []
        trained = [step for step in steps if step]
        single = len(candidate.stages) == 1
        if single and trained:
            self.extend(seed, setting, candidate, trained[-1], folder, math.gcd(*trained))
        for step in steps:
            if not step:
                model, _ = load_model(self.model(seed), dtype="float32")
                if candidate.stages[-1][0] is not None:
                    apply_scheme(model, candidate.stages[-1][0])
            elif single:
                model, _ = load_model(folder / "stage-1" / f"checkpoint-{step}", dtype="float32")
            else:  # stages share out the steps there are: another number of steps is another run
                own = folder.with_name(f"{folder.name}-{step}")
                model, _ = load_model(self.extend(seed, setting, candidate, step, own, step), dtype="float32")
                shutil.rmtree(own)
            model.to(self.device)
            length = setting.factor * self.shape.original
            lengths = [length]
            if far and step == setting.primary:
                lengths = [self.shape.original, length, 2 * length]
            share = 1.0 if step == setting.primary else 0.5
            points += [{"step": step, "length": n, "bands": self.score(model, seed, n, share)} for n in lengths]
        shutil.rmtree(folder, ignore_errors=True)
        return points


def split(steps: int, parts: int) -> list[int]:
    """Share out steps as evenly as whole numbers go, at least one each; what is left over goes to the last."""
    if steps < parts:
        msg = f"{steps} steps are fewer than {parts} stages"
        raise ValueError(msg)
    return [steps // parts + (i >= parts - steps % parts) for i in range(parts)]


class SmallBed(Bed):
    """A model of 357 thousand parameters for every seed, trained from scratch at 64 tokens until it retrieves."""

    described = "a model small enough for two cores"
    limits = (
        "Two layers and four heads are not thirty-two of each: a set of four bases is a coarse sample of a range.",
        "The paper's rule for peaks was fitted at 128k tokens and has no exact counterpart at this length:"
        " `peak-valley` here counts all local extrema, with tolerance 0, from distance L/256 on. `--full` adds two"
        " other readings.",
        "Retrieval of made-up keys is one skill. Perplexity of the made-up text would rank nothing.",
    )
    rows_at_once = 2

    def __init__(self, folder: Path, device: str, own: OwnTraining = OwnTraining(), questions: int = 2048) -> None:
        super().__init__(folder, device)
        self.own, self.questions = own, questions
        self.shape = Shape(own.heads, own.heads, own.hidden // own.heads, own.base, own.length)

    def describe(self) -> dict[str, Any]:
        """Say how the models are made, and how many questions they get."""
        return {"own": asdict(self.own), "questions": self.questions}

    def method(self) -> str:
        """Say in words how the model was made and is asked."""
        own = self.own
        return (
            f"For every seed a Llama of {own.layers} layers and {own.heads} heads of {self.shape.head_dim} channels"
            f" (base {own.base:g}) is trained from scratch at {own.length} tokens until it retrieves: in a Markov text"
            f" {KEYS} keys are bound to {VALUES} values, and a key that comes again is followed by its value; every"
            " second row is random tokens, repeated. A question is right where the right one of the values is the"
            f" most likely; by chance one of {VALUES} is. The last quarter of a sequence asks, as often in each band"
            " of distance."
        )

    def further(self) -> list[str]:
        """Say how to ask the same of a real model."""
        return [
            "## With a real model",
            "",
            "The same comparison of a real model on real text, asked by the suite `recall`, is written for a GPU. It"
            " was tested on a CPU with a model of random weights, and no figure here comes from it:",
            "",
            "```sh",
            "python studies/extension.py --model SmolLM2-135M --data texts/ --factor 4 --device cuda"
            " --processes 1 -o DIR",
            "```",
            "",
        ]

    def arguments(self) -> dict[str, Any]:
        """All in float32."""
        return super().arguments() | {"bf16": False}

    def model(self, seed: int) -> Path:
        """Return the folder of the model of a seed."""
        return self.folder / "models" / f"seed-{seed}"

    def data(self, seed: int, setting: Setting) -> list[Path]:
        """Documents of the new length: more than the steps take, so that none comes twice."""
        path = self.folder / "text" / f"seed-{seed}-{setting.name}.jsonl"
        if not path.exists():
            n = 2 * setting.rows * setting.steps[-1] + 64
            length = setting.factor * self.shape.original
            write_documents(path, training_rows(n, length, seed, np.random.default_rng([seed, 2, length])))
        return [path]

    def questions_of(self, seed: int, length: int) -> Questions:
        """Return the questions of a seed at a length, the same for all schemes."""
        n = max(self.questions * 32 // length, 1)
        return make_questions(n, length, seed, np.random.default_rng([seed, 3, length]))

    def score(self, model: Any, seed: int, length: int, share: float = 1.0) -> Bands:
        """Right answers: of all values, the right one is the most likely after its key."""
        questions = self.questions_of(seed, length)
        return score(Reader(model), questions.first(max(round(share * len(questions.ids)), 1)))

    def train_own(self, seed: int, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
        """Train the model of a seed until it retrieves, or all rounds are over; returns how far it came."""
        own, work = self.own, self.folder / "own" / f"seed-{seed}"
        last = work / "start"
        if not last.exists():
            torch.manual_seed(seed)
            self._start().save_pretrained(last)
            make_tokenizer().save_pretrained(last)
        found, steps, falling = 0.0, 0, False
        for number in range(own.rounds):
            n = own.later_steps if number else own.first_steps
            text = work / f"text-{number}.jsonl"
            if not text.exists():
                random = np.random.default_rng([seed, 1, number])
                write_documents(text, training_rows(own.rows * n, own.length, seed, random))
            spec = TrainSpec(
                stages=(Stage(None, own.length, own.rows * own.length * n),),
                batch_tokens=own.rows * own.length,
                learning_rate=own.learning_rate,
                weight_decay=self.weight_decay,
                warmup_steps=20,
                schedule="linear" if falling else "constant_with_warmup",
                seed=seed + number,
            )
            arguments = self.arguments() | {"per_device_train_batch_size": own.rows, "logging_steps": 50}
            last = train_model(last, [text], work / f"round-{number}", spec, arguments=arguments, resume=True)
            steps += n
            model, _ = load_model(last, dtype="float32")
            found = accuracy(self.score(model.to(self.device), seed, own.length))
            tell(f"seed {seed}: accuracy {found:.3f} at {own.length} tokens after {steps} steps")
            if falling and found >= own.retrieves:
                shutil.copytree(last, self.model(seed), ignore=shutil.ignore_patterns("optimizer*", "*.pth", "*.pt"))
                shutil.rmtree(work)
                break
            falling = falling or found >= own.nearly
        return {"seed": seed, "steps": steps, "accuracy": found, "retrieves": found >= own.retrieves}

    def _start(self) -> Any:
        own = self.own
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=VOCABULARY,
                hidden_size=own.hidden,
                intermediate_size=own.feed_forward,
                num_hidden_layers=own.layers,
                num_attention_heads=own.heads,
                max_position_embeddings=own.length,
                rope_parameters={"rope_type": "default", "rope_theta": own.base},
                tie_word_embeddings=True,
                initializer_range=0.08,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=0,
            )
        )


def score(reader: Reader, questions: Questions) -> Bands:
    """Ask questions; an answer is right if, of all values, the right one is the most likely."""
    length = questions.ids.shape[1]
    values = range(FIRST_VALUE, FIRST_VALUE + VALUES)

    def ask(rows: Sequence[int]) -> list[dict[str, Any]]:
        ids = torch.from_numpy(questions.ids[list(rows)])
        return [{"said": said} for said in reader.most_likely(ids, questions.last, values).numpy()]

    every = list(range(len(questions.ids)))
    said = np.stack([found["said"] for batch in reader.in_batches(every, length, ask) for found in batch])
    places = questions.places + 1 - (length - questions.last)
    return by_band(questions, np.take_along_axis(said, places, 1) == questions.answers())


class TextBed(Bed):
    """A real model and real text; its questions are those of the suite recall."""

    described = "a real model"
    weight_decay = 0.0

    def __init__(
        self, folder: Path, device: str, model: str, text: Sequence[Path], contexts: int = 20, most_pairs: int = 32
    ) -> None:
        super().__init__(folder, device)
        self.name, self.text, self.contexts, self.most_pairs = model, list(text), contexts, most_pairs
        loaded, self.tokenizer = load_model(model, dtype="float32", keep_unpacked=True)
        config = ModelConfig.of(loaded.config.to_dict(), model)
        own = config.shape
        head_dim = own.head_dim or config.content["hidden_size"] // own.heads
        self.shape = Shape(own.heads, own.kv_heads, head_dim, config.base, config.max_position_embeddings)

    def describe(self) -> dict[str, Any]:
        """Say which model and text."""
        return {"model": self.name, "data": [path.name for path in self.text], "contexts": self.contexts}

    def method(self) -> str:
        """Say in words what is asked."""
        return (
            f"The model is {Path(self.name).name}, its text {', '.join(path.name for path in self.text)}. Seeds draw"
            " the order of the text, and the questions, which are those of the suite `recall`."
        )

    def model(self, seed: int) -> str:
        """Return the model, the same for all seeds: a seed draws the order of the text and the questions."""
        return self.name

    def data(self, seed: int, setting: Setting) -> list[Path]:
        """Return the text as it is."""
        return self.text

    def score(self, model: Any, seed: int, length: int, share: float = 1.0) -> Bands:
        """Right answers of the suite recall in eight equal bands of distance."""
        pairs = min(self.most_pairs, length // 32)
        found = evaluate(
            model,
            self.tokenizer,
            "recall",
            lengths=[length],
            limit=max(round(share * self.contexts), 1),
            pairs=pairs,
            seed=seed,
        )
        own = found.rows[0]["by_distance"]
        bands = [[0, 0] for _ in range(recall.BANDS)]  # one without questions is not among those of the row
        for last, share, n in zip(own["to"], own["accuracy"], own["n"], strict=True):
            bands[round(last * recall.BANDS / length) - 1] = [round(share * n), n]
        return bands
