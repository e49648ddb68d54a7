"""Queries and keys of a model's layers, taken while it runs.

A hook hands over the queries and keys of one layer as soon as its attention has run, and lets them go before the next.

Shapes: S tokens, H query heads, K KV heads, D channels per head.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core.arrays import Floats
from ropesearch.core.model_config import GLOBAL

if TYPE_CHECKING:
    import torch
    from torch.utils.hooks import RemovableHandle


@dataclass(frozen=True, eq=False)
class CapturedLayer:
    """Queries, (S, H, D), and keys, (S, K, D), of one layer, before and after rotation.

    Channels i and i + D/2 rotate together, or stay.
    `row` counts the captured layers from 0. A product of query and key is multiplied by `scaling`, and before the
    softmax capped at `cap`, if that is not None. A query sees the last `window` keys, its own included, or all of them
    (None).
    """

    row: int
    query: "torch.Tensor"
    key: "torch.Tensor"
    rotated_query: "torch.Tensor"
    rotated_key: "torch.Tensor"
    scaling: float
    window: int | None
    cap: float | None


def capture_layers(
    decoder: Any,
    ids: "torch.Tensor",
    layers: Sequence[int],
    take: Callable[[CapturedLayer], None],
    report: Callable[[], None],
) -> None:
    """Run a decoder over one passage, (S,), hand `layers`, in ascending order, to `take` one by one, and report each.

    No layer runs after the last of them.
    """
    import torch

    with ExitStack() as hooks:
        for row, layer in enumerate(layers):
            for hook in _AttentionCapture(row, decoder.layers[layer].self_attn, take, report).attach():
                hooks.callback(hook.remove)
        hooks.callback(decoder.layers[layers[-1]].self_attn.register_forward_hook(_stop).remove)
        with torch.no_grad(), suppress(_AllCapturedError):
            decoder(input_ids=ids[None].to(device_of(decoder)), use_cache=False)


def device_of(decoder: Any) -> "torch.device":
    """Where a decoder runs; accelerate says so where it keeps weights elsewhere until they are needed."""
    import torch

    embeddings = decoder.embed_tokens
    device = getattr(getattr(embeddings, "_hf_hook", None), "execution_device", None)
    return embeddings.weight.device if device is None else torch.device(device)


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Run a model as in use, without dropout."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def read_frequencies(decoder: Any, kv_heads: int, layers: Sequence[int]) -> tuple[Floats, float]:
    """Return the frequencies of every KV head and the factor on cosine and sine.

    The frequencies are (K, D/2), or those of `layers`, (L, K, D/2), where layers differ; 0 for channels that stay.
    """
    rotary = decoder.rotary_emb
    if hasattr(rotary, "_inv_freq"):  # ours
        theta, scale = rotary._inv_freq.double().cpu().numpy(), rotary.attention_scaling
        theta = theta[list(layers)] if theta.ndim > 2 else theta
    else:
        prefix = "" if hasattr(rotary, "inv_freq") else f"{GLOBAL}_"  # the latter where each type of layer has a rope
        own = getattr(rotary, f"{prefix}inv_freq")
        if own.is_meta:  # kept elsewhere by accelerate, as weights are
            own = getattr(type(rotary)(decoder.config), f"{prefix}inv_freq")
        theta, scale = own.double().cpu().numpy(), getattr(rotary, f"{prefix}attention_scaling")
        theta = np.tile(theta, (kv_heads, 1))
    staying = decoder.layers[layers[0]].self_attn.head_dim // 2 - theta.shape[-1]
    return np.pad(theta, [(0, 0)] * (theta.ndim - 1) + [(0, staying)]), float(scale)


class _AllCapturedError(Exception):
    """The last layer that is wanted has been captured."""


def _stop(*_: Any) -> None:
    raise _AllCapturedError


class _AttentionCapture:
    """Hooks on the attention of one layer: they see what it gets, and its end."""

    def __init__(
        self, row: int, attention: Any, take: Callable[[CapturedLayer], None], report: Callable[[], None]
    ) -> None:
        from ropesearch.model.modeling_harpe import family_of

        self._row = row
        self._attention = attention
        family = family_of(attention.config)
        self._family: Any = family.attention  # whose methods know stock attention too
        self._neighbours_rotate = family.neighbours_rotate
        self._take = take
        self._report = report
        self._seen: dict[str, Any] = {}

    def attach(self) -> "list[RemovableHandle]":
        return [
            self._attention.register_forward_pre_hook(self._see, with_kwargs=True),
            self._attention.register_forward_hook(self._hand_over),
        ]

    def _see(self, module: Any, inputs: Any, named: Any) -> None:
        self._seen["hidden"] = named["hidden_states"] if "hidden_states" in named else inputs[0]
        self._seen["tables"] = named["position_embeddings"] if "position_embeddings" in named else inputs[1]

    def _hand_over(self, module: Any, inputs: Any, output: Any) -> None:
        from torch.nn import functional

        from ropesearch.model.modeling_harpe import rotate

        attention, family, hidden = self._attention, self._family, self._seen.pop("hidden")
        # Once more what the layer has made of them, since families differ in what lies between.
        query, key, _ = family._projected(attention, hidden)
        query, key = family._split(attention, query, key, (*hidden.shape[:-1], -1, attention.head_dim))
        cos, sin = self._cos_and_sin(hidden.device)
        turning = 2 * cos.shape[-1]
        query, key = self._paired(query[0], turning), self._paired(key[0], turning)  # (S, H, D), (S, K, D)
        staying = (0, (attention.head_dim - turning) // 2)
        cos, sin = functional.pad(cos, staying, value=1.0), functional.pad(sin, staying)
        # In the dtype of the model: what is measured is what the model does.
        rotated_key = rotate(key, cos, sin)
        if cos.shape[1] > 1:
            group = query.shape[1] // key.shape[1]
            cos, sin = (table.repeat_interleave(group, dim=1) for table in (cos, sin))
        rotated = rotate(query, cos, sin), rotated_key
        window: int | None = getattr(family, "_window_of_mask", family._window)(attention)
        cap: float | None = family._more_for_attention(attention).get("softcap")
        self._take(CapturedLayer(self._row, query, key, *rotated, attention.scaling, window, cap))
        self._report()

    def _cos_and_sin(self, device: "torch.device") -> "tuple[torch.Tensor, torch.Tensor]":
        """Tables of this layer, (S, 1 or K, R/2)."""
        from ropesearch.model.modeling_harpe import TablesByLayer

        tables = self._seen.pop("tables")
        if isinstance(tables, TablesByLayer):
            tables = tables.of(self._attention.layer_idx, device)  # type: ignore[no-untyped-call]
        cos, sin = tables
        if cos.dim() == 3:  # stock: (1, S, R), the second half of the channels like the first
            half = cos.shape[-1] // 2
            cos, sin = cos[..., None, :half], sin[..., None, :half]
        return cos[0], sin[0]

    def _paired(self, x: "torch.Tensor", turning: int) -> "torch.Tensor":
        """Queries or keys with their channels in an order in which i and i + D/2 rotate together, or both stay."""
        import torch

        if self._neighbours_rotate:
            first, second = x[..., 0:turning:2], x[..., 1:turning:2]
        else:
            first, second = x[..., :turning].chunk(2, dim=-1)
        stay, stay_too = x[..., turning:].chunk(2, dim=-1)
        return torch.cat((first, stay, second, stay_too), dim=-1)
