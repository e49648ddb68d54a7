"""TRL's SFTTrainer with rows packed by us, checkpoints that are whole or ignored, and losses by position."""

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError
from transformers import PrinterCallback, ProgressCallback, TrainerCallback
from trl import SFTTrainer

from ropesearch.core.files import write_whole
from ropesearch.core.machine import readable_size

from .data import Rows, TokenFile
from .folder import COMPLETE, RunFolder
from .losses import LossByPosition, has_torch_loss, put_torch_loss

LOGGED = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy")
"""What is kept of what the trainer logs."""


class DivergenceError(ArithmeticError):
    """The loss of a step is not finite."""


class Collator:
    """Rows by their numbers into a batch; B rows, S tokens in each.

    With `mask_documents`, positions restart in every piece of a document: from that transformers sees, as long as no
    attention mask is given, that pieces do not attend to each other. The first token of a piece is then no label.
    """

    def __init__(self, file: TokenFile, rows: Rows, *, mask_documents: bool) -> None:
        self.file, self.rows, self.mask_documents = file, rows, mask_documents

    def __call__(self, examples: Sequence[dict[str, int]]) -> dict[str, Any]:
        """Make the batch: input_ids, labels and position_ids of shape (B, S), and a list of the rows' numbers."""
        numbers = [example["row"] for example in examples]
        ids = torch.stack([torch.from_numpy(self.rows.tokens(self.file, number)) for number in numbers])
        labels = ids.clone()
        if self.mask_documents:
            positions = torch.empty_like(ids)
            for i, number in enumerate(numbers):
                sizes = torch.from_numpy(self.rows.pieces(number)[1])
                begins = sizes.cumsum(0) - sizes
                positions[i] = torch.arange(ids.shape[1]) - begins.repeat_interleave(sizes)
                labels[i, begins] = -100
        else:
            positions = torch.arange(ids.shape[1]).expand_as(ids).clone()
        # Numbers as a list: Ulysses, which shards tensors along the row, hands on anything else as it is.
        return {"input_ids": ids, "labels": labels, "position_ids": positions, "row": numbers}


POSITIONS_EVERY = 4
"""Steps between those whose losses are taken token by token, where that costs time."""


class StageTrainer(SFTTrainer):
    """SFTTrainer over packed rows. The loop, the loss and the optimizer are theirs."""

    def __init__(
        self,
        model: Any,
        args: Any,
        *,
        tokenizer: Any,
        file: TokenFile,
        rows: Rows,
        order: Sequence[int],
        folder: RunFolder,
        number: int,
        mask_documents: bool,
        keep: int,
        before: int,
        log_line: Callable[[dict[str, Any]], None],
        step_done: Callable[[int], None],
    ) -> None:
        collator = Collator(file, rows, mask_documents=mask_documents)
        super().__init__(
            model,
            args,
            data_collator=collator,
            train_dataset=Dataset.from_dict({"row": list(order)}),
            processing_class=tokenizer,
            callbacks=[_Steps(step_done)],
        )
        self.remove_callback(PrinterCallback)  # stdout is for results
        self.remove_callback(ProgressCallback)
        self.file, self.rows, self.folder, self.number = file, rows, folder, number
        self.keep, self.before, self.log_line = keep, before, log_line
        self.positions = LossByPosition(rows.length, self.args.device)
        parts = self.get_sp_size()
        # Tokens of a row that a device predicts: all but the first, or of its part of the row those one further.
        self.predicted = rows.length // parts if parts > 1 else rows.length - 1
        self.torch_loss = has_torch_loss(self.args.device)
        if self.torch_loss:
            put_torch_loss(self.model, lambda: self.state.global_step % POSITIONS_EVERY == 0)
        self._seen: Any = None
        self.model.register_forward_hook(self._see)

    def _see(self, module: Any, inputs: Any, output: Any) -> None:
        self._seen = output

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        """Compute TRL's loss, and stop where it is not finite."""
        numbers = inputs.pop("row", None)
        loss = super().compute_loss(model, inputs, *args, **options)
        seen, self._seen = self._seen, None
        if seen is not None and seen.log_probs.shape == (len(inputs["input_ids"]), self.predicted):
            # The first token of a row is at position 0, that of a later part of one, under Ulysses, is not.
            self.positions.add(seen.log_probs.detach(), seen.label_mask, int(inputs["position_ids"][0, 0]))
        if not torch.isfinite(loss):
            self._stop(seen, numbers)
        if (parts := self.get_sp_size()) > 1:
            # Each process of a row computes the loss of the whole row and sends back its gradient: their sum is
            # `parts` times that of the row, which would be clipped as such. The value stays.
            loss = loss.detach() + (loss - loss.detach()) / parts
        return loss

    def _stop(self, seen: Any, numbers: Any) -> None:
        where = ""
        if numbers is not None:
            rows = list(numbers)
            if seen is not None and seen.log_probs.ndim:
                bad = (~seen.log_probs.isfinite()).any(1).tolist()
                rows = [row for row, is_bad in zip(rows, bad, strict=False) if is_bad] or rows
            names = list(dict.fromkeys(self.file.document_name(d) for d in self.rows.documents(self.file, rows[0])))
            where = f", in {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        self._diverged(f"the loss is not finite at step {self.before + self.state.global_step + 1}{where}")

    def _diverged(self, what: str) -> None:
        last = self.folder.checkpoint(self.number) or (self.folder.checkpoint(self.number - 1) if self.number else None)
        good = f"the last good checkpoint is {last[0]}" if last else "there is no checkpoint yet"
        msg = f"{what}; {good}"
        raise DivergenceError(msg)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Write a line of metrics beside what the loggers of the user get."""
        training = "loss" in logs
        if self.torch_loss:  # which knows nothing of entropy and accuracy
            self._metrics["train"].pop("entropy", None)
            self._metrics["train"].pop("mean_token_accuracy", None)
        super().log(logs, start_time)
        if not training:
            return
        by_position = self.positions.take(lambda sums: self.accelerator.reduce(sums, "sum"))
        step = self.state.global_step
        norm = logs.get("grad_norm", 0.0)
        if not math.isfinite(norm):
            self._diverged(f"the gradients are not finite at step {self.before + step}")
        tokens = self.rows.length * self.get_total_train_batch_size(self.args)
        self.log_line(
            {
                "stage_step": step,
                "tokens_per_step": tokens,
                **{key: logs[key] for key in LOGGED if key in logs},
                **({"loss_by_position": by_position} if by_position else {}),
            }
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as transformers does, then mark the checkpoint as complete: a crash before that leaves no mark."""
        step = self.state.global_step
        target = Path(self.args.output_dir) / f"checkpoint-{step}"
        self.folder.check_there()
        self._require_room(target)
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            if not _is_of_the_disk(error) and shutil.disk_usage(target.parent).free > 2**24:
                raise
            shutil.rmtree(target, ignore_errors=True)
            msg = f"there is no space for the checkpoint {target}, or it cannot be written ({error}){self._kept()}"
            raise OSError(msg) from None
        state = PartialState()
        state.wait_for_everyone()
        if state.is_main_process:
            write_whole(target / COMPLETE, json.dumps({"step": step, "run_step": self.before + step}) + "\n")
            self.folder.keep_last(self.number, self.keep)

    def _require_room(self, target: Path) -> None:
        """A checkpoint takes what its parameters and the two moments of each do: known before it is written."""
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        need = (20 if self.is_deepspeed_enabled else 12) * trained  # DeepSpeed writes weights twice more
        free = shutil.disk_usage(target.parent if target.parent.exists() else self.folder.path).free
        if need > free:
            msg = f"there is no space for the checkpoint {target}: it needs {readable_size(need)}, and "
            msg += f"{readable_size(free)} is free{self._kept()}"
            raise OSError(msg)

    def _kept(self) -> str:
        """What a message about a lost checkpoint says of the last one."""
        last = self.folder.checkpoint(self.number)
        return f"; {last[0]} is whole" if last else ""


def _is_of_the_disk(error: Exception) -> bool:
    """Whether what stopped a save is a write that failed; torch says so with a RuntimeError."""
    if isinstance(error, RuntimeError):
        return any(word in str(error) for word in ("iostream", "inline_container", "PytorchStreamWriter"))
    return isinstance(error, OSError | SafetensorError)


class _Steps(TrainerCallback):
    """Log wherever a checkpoint is saved, so that a resumed run logs the same means; tell how far it is."""

    def __init__(self, step_done: Callable[[int], None]) -> None:
        self.step_done = step_done

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        if control.should_save:
            control.should_log = True
        self.step_done(state.global_step)
        return control
