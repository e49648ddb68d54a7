"""What a run takes, before anything is loaded: parameters, memory of each device by part, operations, hours.

Activations are not guessed at: one layer and the loss run forward and backward on tensors without memory
(torch's FakeTensorMode), and what would be alive is counted.
"""

import copy
import os
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ropesearch.core import checks
from ropesearch.core.errors import ParameterError
from ropesearch.core.machine import readable_size
from ropesearch.core.model_config import GLOBAL
from ropesearch.core.model_source import ModelSource
from ropesearch.model.apply import find_decoder

from . import models
from .losses import has_torch_loss, torch_loss
from .spec import Stage, TrainSpec


@dataclass(frozen=True)
class Gpu:
    """A GPU by its data sheet: memory in bytes, and dense bfloat16 operations a second."""

    memory: float
    flops: float


GPUS: Mapping[str, Gpu] = {
    "a100-40": Gpu(40e9, 312e12),
    "a100-80": Gpu(80e9, 312e12),
    "h100": Gpu(80e9, 989e12),
    "h200": Gpu(141e9, 989e12),
    "b200": Gpu(180e9, 2250e12),
    "l40s": Gpu(48e9, 362e12),
    "rtx4090": Gpu(24e9, 165e12),
}
"""By NVIDIA's data sheets, dense, SXM where there are several."""

STEP = 256
"""The length that would fit is found to a multiple of this."""
TILE = 4096
"""Tokens that TRL's loss takes at once."""
FIXED = {True: 1.5e9, False: 0.0}
"""Bytes that a process takes beside tensors, on a GPU (context, libraries) and on a CPU, where none are counted."""


@dataclass(frozen=True)
class Plan:
    """What a run takes.

    Attributes
    ----------
    parameters : int
        All of the model's.
    length : int
        Tokens in a row of the longest stage, for which the memory is.
    memory : dict
        Bytes on each device, by part: weights, gradients, optimizer, activations that are kept, what one layer at work
        takes beside them, what the loss takes, tables of cosines and sines, and what no tensor takes.
    available : float or None
        Bytes that a device has, where that is known.
    longest : int or None
        The longest row that would fit, in tokens; None if it is not known what a device has, or none fits.
    flops : float
        Operations of the whole run, without what is computed twice.
    hours : float or None
        For the named GPU at the stated utilization.
    """

    parameters: int
    length: int
    memory: dict[str, float]
    available: float | None
    longest: int | None
    flops: float
    hours: float | None

    @property
    def total(self) -> float:
        """Bytes on each device."""
        return total(self.memory)

    @property
    def fits(self) -> bool:
        """Whether it fits, as far as that is known."""
        return self.available is None or self.total <= self.available

    def to_dict(self) -> dict[str, Any]:
        """Return everything, with the total."""
        return asdict(self) | {"total": self.total, "fits": self.fits}


def total(memory: Mapping[str, float]) -> float:
    """Bytes of all parts together; the loss is computed while no layer runs backward, and the other way round."""
    return sum(memory.values()) - min(memory["layer"], memory["logits"])


def plan_run(
    model: str | os.PathLike[str] | ModelSource,
    spec: TrainSpec,
    *,
    gpu: str | None = None,
    devices: int = 1,
    sharded: bool | None = None,
    sequence_parallel: int = 1,
    rows: int = 1,
    checkpointed: bool | None = None,
    utilization: float = 0.4,
    available: float | None = None,
) -> Plan:
    """Say what a run takes, before anything is loaded.

    Parameters
    ----------
    model : path-like, str or ModelSource
        As for `train_model`; of a model on the hub, all but the weights is fetched.
    spec : TrainSpec
    gpu : str, optional
        A name of `GPUS`; a CPU, in float32, if left out.
    devices : int
        How many.
    sharded : bool, optional
        Whether weights, gradients and optimizer are spread over the devices (FSDP2); where there are several, they are.
    sequence_parallel : int
        Devices that share each row (`cp_size` or `sp_size`).
    rows : int
        Rows on a device at a time.
    checkpointed : bool, optional
        Whether activations are computed again; as `train_model` does by itself if left out.
    utilization : float
        Share of the GPU's operations that the model makes use of.
    available : float, optional
        Bytes that a device has; those of the GPU if left out.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        If an option is out of range, or the model is of a kind that cannot be planned for.
    """
    found = None if gpu is None else GPUS[checks.choice("gpu", gpu, GPUS)]
    checks.integer("devices", devices, 1)
    checks.integer("sequence_parallel", sequence_parallel, 1, devices)
    checks.number("utilization", utilization, "a number above 0 and at most 1", above=0.0)
    if utilization > 1:
        raise ParameterError("utilization", utilization, "a number above 0 and at most 1")
    available = available if available is not None or found is None else found.memory
    stage = max(spec.stages, key=lambda stage: stage.length)
    costs = _Costs(
        models.stock_config(ModelSource.find(model)),
        stage,
        bf16=found is not None,
        shards=devices if (devices > 1 if sharded is None else sharded) else 1,
        split=sequence_parallel,
        rows=rows,
        checkpointed=checkpointed,
        accumulates=spec.rows_per_step(stage) * sequence_parallel > rows * devices,
    )
    flops = sum(spec.steps(s) * spec.batch_tokens * costs.flops_per_token(s.length) for s in spec.stages)
    memory = costs.memory(stage.length)
    fits = available is not None and total(memory) <= available
    longest = None if available is None else stage.length if fits else costs.longest(available, stage.length)
    hours = None if found is None else flops / (found.flops * utilization * devices) / 3600
    return Plan(costs.parameters, stage.length, memory, available, longest, flops, hours)


def require_fit(plan: Plan) -> None:
    """Raise MemoryError, with the length that would fit, if a run certainly does not: the plan errs by up to 20 %."""
    if plan.available is None or plan.total <= 1.2 * plan.available:
        return
    fitting = f"{plan.longest} tokens would fit" if plan.longest else "no length would fit"
    msg = f"rows of {plan.length} tokens need about {readable_size(plan.total)} on each device, and "
    msg += f"{readable_size(plan.available)} is free: {fitting}"
    raise MemoryError(msg)


class _Costs:
    """Memory and operations of one model, by the length of a row."""

    def __init__(
        self,
        config: Any,
        stage: Stage,
        *,
        bf16: bool,
        shards: int,
        split: int,
        rows: int,
        checkpointed: bool | None,
        accumulates: bool,
    ) -> None:
        self.config, self.bf16, self.shards = config, bf16, shards
        self.split, self.rows, self.checkpointed, self.accumulates = split, rows, checkpointed, accumulates
        whole = models.bare_model(config)
        self.scheme = models.scheme_of_one_layer(config, stage.scheme)  # read once, as it may be a file
        self.parameters = sum(p.numel() for p in whole.parameters())
        self.hidden = whole.get_output_embeddings().weight.shape[1]
        self.head = whole.get_output_embeddings().weight.numel()
        embedding = whole.get_input_embeddings().weight
        tied = embedding is whole.get_output_embeddings().weight
        self.multiplied = self.parameters - (0 if tied else embedding.numel())
        decoder = find_decoder(whole)
        self.layers = len(decoder.layers)
        self.layer = sum(p.numel() for p in decoder.layers[0].parameters())
        # Of all query heads together.
        self.width = decoder.config.num_attention_heads * decoder.layers[0].self_attn.head_dim

    def flops_per_token(self, length: int) -> float:
        """6 for each weight, and causal attention: 6 · layers · width · length, forward and backward."""
        per_weight, attention = self.multiplied, self.layers * self.width * length
        return float(6 * (per_weight + attention))

    def memory(self, length: int) -> dict[str, float]:
        """Bytes on a device, by part."""
        tokens = -(-length // self.split) * self.rows
        size = 2 if self.bf16 and self.shards > 1 else 4  # of the residual stream: FSDP2 hands on bfloat16
        kept, peak, tables = self._layer(tokens)
        checkpointed = self.checkpointed
        if checkpointed is None:
            checkpointed = self.bf16 or length >= models.CHECKPOINTED_FROM
        stream = tokens * self.hidden * size
        activations = (self.layers + 1) * stream if checkpointed else self.layers * kept + stream
        layer = peak if checkpointed else peak - kept
        gathered = 0.0
        if self.shards > 1:  # the layer at work, the next one, and the head
            gathered = (2 * self.layer + self.head) * (2 if self.bf16 else 4)
        memory = {
            "weights": 4.0 * self.parameters / self.shards + gathered,
            "gradients": 4.0 * self.parameters / self.shards,
            "optimizer": 8.0 * self.parameters / self.shards,
            "activations": float(activations),
            "layer": float(layer),
            "logits": float(self._loss(tokens)),
            "tables": float(tables),
            "fixed": FIXED[self.bf16],
        }
        if not self.accumulates:
            # Gradients come while activations go: those of the head beside all activations, or all beside one layer.
            head = 4.0 * self.head / self.shards
            if activations + max(layer, memory["logits"]) + head >= memory["gradients"] + layer:
                memory["gradients"] = head
            else:
                memory["activations"] = memory["logits"] = 0.0
        return memory

    def longest(self, available: float, most: int) -> int | None:
        """The longest row below `most`, which does not fit, that does; None if none does."""
        low, high = 0, -(-most // STEP)
        while high - low > 1:
            middle = (low + high) // 2
            if total(self.memory(middle * STEP)) <= available:
                low = middle
            else:
                high = middle
        return low * STEP or None

    def _layer(self, tokens: int) -> tuple[int, int, int]:
        """Bytes that one layer keeps for its backward pass, the most that are alive in it, and those of the tables."""
        from transformers import AutoModelForCausalLM

        config = copy.deepcopy(self.config)
        config.num_hidden_layers = 1
        by_type = GLOBAL in (config.rope_parameters or {})  # each type of layer has a rope
        if getattr(config, "layer_types", None):
            config.layer_types = [GLOBAL] if by_type else config.layer_types[:1]
        with FakeTensorMode(allow_non_fake_inputs=True):
            model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
            models.put_scheme(model, self.scheme, tokens)
            decoder = find_decoder(model)
            layer: Any = decoder.layers[0]
            layer.train()
            _drop_gradients(layer)
            x = torch.empty(1, tokens, self.hidden, requires_grad=True)
            with _Alive() as alive:
                tables = decoder.rotary_emb(x, torch.arange(tokens)[None], *[GLOBAL] * by_type)
            table_bytes = alive.now
            with _Alive() as alive, _autocast(self.bf16):
                y = layer(x, position_embeddings=tables, attention_mask=None)
                y = y[0] if isinstance(y, tuple) else y
            kept = alive.now
            with alive:
                y.backward(torch.empty_like(y))
        return kept, alive.most, table_bytes

    def _loss(self, tokens: int) -> float:
        """Bytes alive in the loss at most, beside hidden states and the gradient of the head; linear in long rows."""
        if tokens <= 2 * TILE:
            return self._loss_of(tokens)
        one, two = self._loss_of(TILE), self._loss_of(2 * TILE)
        return two + (two - one) * (tokens / TILE - 2)

    def _loss_of(self, tokens: int) -> int:
        with FakeTensorMode(allow_non_fake_inputs=True):
            head = torch.nn.Parameter(torch.empty(self.head // self.hidden, self.hidden))
            _drop_gradients(head)
            x = torch.empty(tokens, self.hidden, requires_grad=True)
            labels = torch.zeros(tokens, dtype=torch.long)
            with _Alive() as alive, _autocast(self.bf16):
                _log_probs(x, head, labels, self.bf16).sum().backward()
        return int(max(alive.most - 4 * self.head, 0))


def _log_probs(hidden: Any, head: Any, labels: Any, on_gpu: bool) -> Any:
    """Compute the loss as a run does; TRL's Triton kernels count as the torch operations that they stand for."""
    if not on_gpu and has_torch_loss(torch.device("cpu")):
        return torch_loss(hidden, head, labels, per_token=False)
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as WIDTH

    return ChunkedLogProbFunction.apply(hidden, head, None, labels, 1.0, WIDTH, None, 1.0, ("entropy", "is_top1"))[0]


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of tensors that are alive, of those made since it began."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.most = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {id(t.untyped_storage()) for t in tree_leaves((args, kwargs)) if isinstance(t, torch.Tensor)}
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if id(storage) not in given and id(storage) not in self._known:
                    self._count(storage)
        return result

    def _count(self, storage: Any) -> None:
        key, size = id(storage), storage.nbytes()

        def gone(_: Any) -> None:
            self.now -= size
            del self._known[key]

        self._known[key] = weakref.ref(storage, gone)
        self.now += size
        self.most = max(self.most, self.now)


def _autocast(bf16: bool) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16)


def _drop_gradients(module: Any) -> None:
    """Let a gradient of a weight go as soon as it is there: gradients are counted by themselves."""
    for weight in [module] if isinstance(module, torch.nn.Parameter) else module.parameters():
        weight.register_post_accumulate_grad_hook(lambda weight: setattr(weight, "grad", None))
