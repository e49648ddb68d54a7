"""Train a model in stages, in one run folder that a crash cannot break."""

import copy
import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ropesearch._version import __version__
from ropesearch.core import checks
from ropesearch.core.errors import InputError, first_line, require_extra
from ropesearch.core.machine import available_memory
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.model_source import ModelSource
from ropesearch.core.progress import Progress

from .arguments import SPEC_KEYS, checked_keys, make_config, shaping
from .data import Rows, TokenFile, cache_place, make_rows, prepare_tokens, tokens_digest
from .folder import RunFolder
from .sources import find_sources
from .spec import Stage, TrainSpec

if TYPE_CHECKING:
    from .trainer import StageTrainer

CHECKPOINTING = ("activation_checkpointing", "gradient_checkpointing", "bf16")
PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets")


def train_model(
    model: str | os.PathLike[str],
    data: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    spec: TrainSpec,
    *,
    arguments: Mapping[str, Any] | None = None,
    resume: bool = False,
    cache: str | os.PathLike[str] | None = None,
    save_every: int = 100,
    keep: int = 2,
    progress: Progress | None = None,
    note: Callable[[str], None] | None = None,
) -> Path:
    """Pretrain a model further, on text packed into rows, in one or several stages.

    A front of TRL's SFTTrainer, whose loss needs no logits of all tokens at once. Every stage starts from the weights
    of the one before, under its own position scheme, with a new optimizer and its own warm-up. On a GPU it computes
    in bfloat16 and recomputes activations; weights and optimizer are float32.

    Parameters
    ----------
    model : path-like or str
        As for `load_model`, with a tokenizer.
    data : sequence of path-like or str
        Files or folders of text, or data sets on the hub, such as org/name or org/name:config; each is a source.
    output : path-like
        The run folder.
    spec : TrainSpec
        What shapes the result, beside model and data.
    arguments : mapping, optional
        Further training arguments of transformers or TRL, such as `report_to` or `fsdp_config`.
    resume : bool
        Go on with the run in the folder, if there is one: its losses are those of a run that never stopped, to the
        bit on a CPU.
    cache : path-like, optional
        Folder of tokens that several runs share; the run folder if left out.
    save_every : int
        Steps between checkpoints; the last step of a stage is always saved.
    keep : int
        Checkpoints of each stage that are kept.
    progress, note : callable, optional
        Told where the work stands, and in one line what the user might not expect.

    Returns
    -------
    Path
        The last checkpoint, a model's folder as transformers saves it.

    Raises
    ------
    ValueError
        If the model, the data, a scheme or an argument cannot be used, or the folder is of another run.
    OSError
        If the run folder exists and `resume` is false, or it cannot be written, or the hub cannot be reached.
    MemoryError
        If the model does not fit in memory.
    DivergenceError
        If a loss is not finite; the last checkpoint stays.
    ImportError
        If the extra `train` is not installed.
    """
    require_extra("training", "train", "torch", "transformers", "accelerate", "datasets", "trl")
    checks.integer("save_every", save_every, 1)
    checks.integer("keep", keep, 1)
    arguments = checked_keys(arguments or {})
    source, sources = ModelSource.find(model), find_sources(data)

    import torch
    from accelerate import PartialState

    from ropesearch.model.tokenizer import load_tokenizer

    from . import models

    if not torch.accelerator.is_available():
        # Told to use the CPU, transformers would start no DeepSpeed; that finds out for itself, but for the backend.
        arguments |= {"ddp_backend": "gloo"} if _by_deepspeed(arguments) else {"use_cpu": True}
    # Sets up processes and devices as transformers does, and checks the arguments before anything is written.
    others = {key: value for key, value in arguments.items() if key not in (*SPEC_KEYS, *CHECKPOINTING)}
    make_config(others, output_dir=os.fspath(output), activation_checkpointing=False, bf16=False)
    state = PartialState()
    tokenizer = load_tokenizer(source, required=True)
    digest = tokens_digest(sources, tokenizer, spec.text_key, spec.source_key)
    settings = {
        "spec": spec.to_dict(),
        "schemes": [models.scheme_bases(source, stage.scheme) for stage in spec.stages],
        "model": models.identity(source),
        "data": {"sources": [source.name for source in sources], "digest": digest},
        "arguments": shaping(arguments),
        "made_by": {"ropesearch": __version__, **{name: version(name) for name in PACKAGES}},
    }
    run = _Run(RunFolder(Path(output)), spec, arguments, save_every, keep, progress, note or (lambda _: None))
    for number, stage in enumerate(spec.stages):
        models.check_scheme(source, stage.scheme, stage.length)
        _check_parts(spec, stage, source.config())
        run.require_fit(source, number)
        run.rows_at_once(number)

    place = cache_place(cache or run.folder.path / "tokens", digest)
    with ExitStack() as stack:
        if state.is_main_process:
            is_new = not os.path.lexists(output)
            RunFolder.start(output, settings, resume=resume)
            stack.enter_context(run.folder.held())
            try:
                if not place.exists():
                    # The run folder is there; had it vanished, it must not be made anew.
                    place.parent.mkdir(parents=cache is not None, exist_ok=True)
                    prepare_tokens(
                        sources,
                        tokenizer,
                        place,
                        digest,
                        text_key=spec.text_key,
                        source_key=spec.source_key,
                        vocabulary=source.config().vocab_size,
                        progress=progress,
                    )
                run.prepare_rows(TokenFile.open(place))
            except BaseException as error:
                if is_new:  # a run that has not begun leaves nothing
                    shutil.rmtree(run.folder.path, ignore_errors=True)
                if isinstance(error, OSError) and error.errno == errno.ENOSPC:  # which does not say where
                    msg = f"there is no space for the tokens in {place.parent}"
                    raise OSError(msg) from None
                raise
        else:
            for path in (place, *map(run.folder.order, range(len(spec.stages)))):
                _wait_for(path)
        state.wait_for_everyone()
        return run.train(source, tokenizer, TokenFile.open(place))


def _wait_for(path: Path) -> None:
    """Wait until the main process has written a file: it may take longer than a collective operation is given."""
    while not path.exists():
        time.sleep(0.5)


class _Run:
    """The stages of one run, from wherever it stands."""

    def __init__(
        self,
        folder: RunFolder,
        spec: TrainSpec,
        arguments: dict[str, Any],
        save_every: int,
        keep: int,
        progress: Progress | None,
        note: Callable[[str], None],
    ) -> None:
        self.folder, self.spec, self.arguments = folder, spec, arguments
        self.save_every, self.keep, self.progress, self.note = save_every, keep, progress, note
        self.total = sum(spec.steps(stage) for stage in spec.stages)

    def train(self, source: ModelSource, tokenizer: Any, file: TokenFile) -> Path:
        from accelerate import PartialState

        spec, folder, main = self.spec, self.folder, PartialState().is_main_process
        weights: ModelSource | Path = source
        before = begun = 0
        for number, stage in enumerate(spec.stages):
            if main:
                folder.clean(number)
                folder.keep_last(number, self.keep)
            done = folder.checkpoint(number)
            if done is None or done[1] < spec.steps(stage):
                if begun and _by_deepspeed(self.arguments):  # which sets itself up, for one batch size, once
                    msg = f"stage {begun} is done; with DeepSpeed each stage takes a launch of its own: "
                    msg += "the same command with `resume=True` goes on"
                    raise OSError(msg)
                begun = number + 1
                if main:
                    folder.forget_after(before + (done[1] if done else 0))
                PartialState().wait_for_everyone()
                rows = Rows.load(folder.order(number))
                trainer = self._trainer(
                    source, weights, tokenizer, file, rows, number, before, done=done[1] if done else 0
                )
                self._run_stage(trainer, str(done[0]) if done else None)
                done = folder.checkpoint(number)
                assert done is not None  # the last step is always saved
            weights = done[0]
            before += spec.steps(stage)
        assert isinstance(weights, Path)  # there is at least one stage
        return weights

    def prepare_rows(self, file: TokenFile) -> None:
        """Write the order of the data of every stage, in the main process."""
        for number in range(len(self.spec.stages)):
            path = self.folder.order(number)
            if not path.exists():
                rows = make_rows(file, self.spec, number)
                rows.save(path)
                if rows.passes > 1:
                    size = int(file.starts[-1])
                    self.note(f"stage {number + 1} goes through the data {rows.passes:.1f} times: it has {size} tokens")

    def _trainer(
        self,
        source: ModelSource,
        weights: ModelSource | Path,
        tokenizer: Any,
        file: TokenFile,
        rows: Rows,
        number: int,
        before: int,
        *,
        done: int,
    ) -> "StageTrainer":
        from . import models
        from .trainer import StageTrainer

        spec = self.spec
        stage = spec.stages[number]
        self.folder.check_there()
        args = self._config(number)  # before the model: it sets up the devices that the model is loaded for
        order: Sequence[int] = range(len(rows))
        if (parts := _parts("SP")) > 1:
            # What shards rows for Ulysses cannot skip those that are done: it begins with the first of the next step.
            args.ignore_data_skip = True
            groups = args.world_size // parts
            order = order_for_parts(
                len(rows), done * spec.rows_per_step(stage), parts, groups, args.per_device_train_batch_size
            )
        # The weights of the stage before under the configuration from before it: a stage's scheme is put once.
        config = None if weights is source else models.stock_config(source)
        loaded = models.load_for_training(weights, config, **(self.arguments.get("model_init_kwargs") or {}))
        models.put_scheme(loaded, stage.scheme, stage.length)
        self._note_liger(loaded)
        try:
            return StageTrainer(
                loaded,
                args,
                tokenizer=copy.deepcopy(tokenizer),
                file=file,
                rows=rows,
                order=order,
                folder=self.folder,
                number=number,
                mask_documents=spec.mask_documents,
                keep=self.keep,
                before=before,
                log_line=lambda line: self._log(number, before, line),
                step_done=lambda step: self._tell(number, before + step),
            )
        except (ValueError, ImportError) as error:  # such as a logger that is not installed
            msg = f"training arguments: {first_line(error)}"
            raise InputError(msg) from None

    def require_fit(self, source: ModelSource, number: int) -> None:
        """Refuse, before the weights are loaded, what certainly does not fit, with the length that would."""
        import torch
        from accelerate import PartialState

        from .plan import plan_run, require_fit

        processes = PartialState().num_processes
        on_gpu = torch.cuda.is_available() and not self.arguments.get("use_cpu")
        free = torch.cuda.mem_get_info()[0] if on_gpu else available_memory()
        if free is None:
            return
        stage = self.spec.stages[number]
        require_fit(
            plan_run(
                source,
                replace(self.spec, stages=(stage,)),
                gpu="h100" if on_gpu else None,  # only that it computes in bfloat16; the memory is this device's
                devices=processes,
                sharded=_shards_itself(self.arguments) or _by_deepspeed(self.arguments),
                sequence_parallel=_processes_to_a_row(),
                rows=self.arguments.get("per_device_train_batch_size", 1),
                checkpointed=self.arguments.get("activation_checkpointing"),
                available=free if on_gpu else free / processes,
            )
        )

    def rows_at_once(self, number: int) -> tuple[int, int]:
        """Rows of a device at a time, and how often it takes them for one step; raises ValueError if it is uneven."""
        from accelerate import PartialState

        per_device = checks.integer(
            "per_device_train_batch_size", self.arguments.get("per_device_train_batch_size", 1), 1
        )
        replicas = PartialState().num_processes // _processes_to_a_row()
        stage = self.spec.stages[number]
        rows = self.spec.rows_per_step(stage)
        if rows % (per_device * replicas):
            msg = (
                f"a step of {self.spec.batch_tokens} tokens has {rows} rows of {stage.length}, which do not go evenly "
            )
            msg += f"into {replicas} processes with {per_device} rows at a time"
            raise InputError(msg)
        return per_device, rows // (per_device * replicas)

    def _config(self, number: int) -> Any:
        import torch

        from . import models

        spec = self.spec
        stage = spec.stages[number]
        on_gpu = torch.cuda.is_available() and not self.arguments.get("use_cpu")
        given = {key: value for key, value in self.arguments.items() if key not in SPEC_KEYS}
        given.pop("per_device_train_batch_size", None)
        given.pop("model_init_kwargs", None)
        per_device, accumulation = self.rows_at_once(number)
        defaults = {
            "bf16": on_gpu and torch.cuda.is_bf16_supported(),
            "activation_checkpointing": on_gpu or stage.length >= models.CHECKPOINTED_FROM,
            "logging_steps": 1,
            "report_to": "none",
            "dataloader_pin_memory": on_gpu,
        }
        if "gradient_checkpointing" in given:
            given.setdefault("activation_checkpointing", given.pop("gradient_checkpointing"))
        if given.get("fp16"):
            defaults["bf16"] = False
        if _shards_itself(self.arguments):
            # FSDP recomputes activations by itself; both together would gather every layer once more.
            defaults["activation_checkpointing"] = False
        own = {key: value for key, value in defaults.items() if key not in given}
        return make_config(
            given,
            **own,
            output_dir=str(self.folder.stage(number)),
            max_steps=spec.steps(stage),
            per_device_train_batch_size=per_device,
            gradient_accumulation_steps=accumulation,
            **{key: getattr(spec, option) for key, option in SPEC_KEYS.items()},
            max_length=None,
            packing=False,
            dataset_kwargs={"skip_prepare_dataset": True},
            remove_unused_columns=False,
            train_sampling_strategy="sequential",
            save_strategy="steps",
            save_steps=self.save_every,
            save_total_limit=None,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
        )

    def _run_stage(self, trainer: "StageTrainer", checkpoint: str | None) -> None:
        import torch

        try:
            trainer.train(resume_from_checkpoint=checkpoint)
        except torch.cuda.OutOfMemoryError as error:
            msg = f"training does not fit in the memory of the device: {str(error).splitlines()[0]}"
            raise MemoryError(msg) from None
        finally:
            trainer.accelerator.free_memory()

    def _log(self, number: int, before: int, line: dict[str, Any]) -> None:
        from accelerate import PartialState

        if not PartialState().is_main_process:
            return
        step = line.pop("stage_step")
        tokens = line.pop("tokens_per_step") * (before + step)
        head = {"step": before + step, "stage": number + 1, "length": self.spec.stages[number].length, "tokens": tokens}
        with self.folder.metrics.open("a") as file:
            file.write(json.dumps(head | line) + "\n")

    def _tell(self, number: int, step: int) -> None:
        if self.progress is not None:
            self.progress(f"training, stage {number + 1} of {len(self.spec.stages)}", step, self.total)

    def _note_liger(self, model: Any) -> None:
        if self.arguments.get("use_liger_kernel") and model.config.model_type.startswith("harpe_"):
            stock = model.config.model_type.removeprefix("harpe_")
            self.note(f"Liger does not know the model type {model.config.model_type}, only {stock}: it changes nothing")


def _parts(kind: str) -> int:
    """How many processes share a row (CP, SP) or a layer (TP), by accelerate's ParallelismConfig."""
    if os.environ.get("ACCELERATE_USE_PARALLELISM_CONFIG", "false").lower() != "true":
        return 1
    return max(int(os.environ.get(f"PARALLELISM_CONFIG_{kind}_SIZE", "1")), 1)


def _processes_to_a_row() -> int:
    return _parts("TP") * _parts("CP") * _parts("SP")


def order_for_parts(rows: int, first: int, parts: int, groups: int, at_once: int) -> list[int]:
    """Order of a data set from which groups of `parts` processes train on the rows in turn, beginning with `first`.

    Every process reads `at_once` rows of its own, and those of a group are then trained on one process's after the
    other's: where there are several groups, the rows of a step would not be those that come next.
    """
    import numpy as np

    rounds = -(-rows // (parts * groups * at_once))
    wanted = np.resize((np.arange(rows) + first) % rows, (rounds, parts, groups, at_once))
    read: list[int] = wanted.transpose(0, 2, 1, 3).ravel().tolist()
    return read


def _check_parts(spec: TrainSpec, stage: Stage, config: ModelConfig) -> None:
    """Raise ValueError where the processes that are to share a row cannot."""
    context, sequence = _parts("CP"), _parts("SP")
    if context * sequence == 1:
        return
    if spec.mask_documents:
        msg = "`mask_documents=True` does not go with cp_size or sp_size: parts of a row see all that is before them"
        raise InputError(msg)
    if stage.length % (2 * context if context > 1 else sequence):
        msg = f"a row of {stage.length} tokens cannot be split evenly by cp_size or sp_size {context * sequence}"
        raise InputError(msg)
    heads, kv_heads = config.shape.heads, config.shape.kv_heads
    if heads % sequence or (kv_heads % sequence and sequence % kv_heads):
        msg = f"sp_size {sequence} does not divide the heads of the model: {heads}, and {kv_heads} KV heads"
        raise InputError(msg)


def _shards_itself(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("fsdp")) or os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"


def _by_deepspeed(arguments: Mapping[str, Any]) -> bool:
    return bool(arguments.get("deepspeed")) or os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true"
