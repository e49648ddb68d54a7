"""Self-Extend in a model in memory: no weight changes, and no config can hold it.

Queries and keys arrive at the attention rotated by their own positions. Those of distant pairs are turned on from there
to the positions of their groups, so that model and cache stay as they are.
"""

import re
from typing import TYPE_CHECKING, Any

from ropesearch.core.arrays import Floats
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig
from ropesearch.model.apply import find_decoder
from ropesearch.model.change import check_model
from ropesearch.model.modeling_harpe import FAMILIES
from ropesearch.schemes.rules import SelfExtend

if TYPE_CHECKING:
    import torch
    from torch import nn

SCORES_AT_ONCE = 2**26
"""Scores that are held at once: a block of queries against all keys."""


class AppliedSelfExtend:
    """Self-Extend in a model, until `remove`, or to the end of a `with` block."""

    def __init__(self, model: Any) -> None:
        self._model, self._before = model, model.config._attn_implementation

    def remove(self) -> None:
        """Give the model its own attention again."""
        self._model.set_attn_implementation(self._before)

    def __enter__(self) -> "AppliedSelfExtend":
        """Return the handle itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Remove the scheme."""
        self.remove()


def apply_self_extend(model: "nn.Module", scheme: SelfExtend) -> AppliedSelfExtend:
    """Let a model in memory see distances beyond a window in groups, exactly as in the paper.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        Of a type that takes schemes, with plain RoPE and full attention.
    scheme : SelfExtend
        Window and group, in tokens.

    Returns
    -------
    AppliedSelfExtend

    Raises
    ------
    ValueError
        If the model takes no scheme, or some of its layers see a window only.

    References
    ----------
    Jin et al., arXiv:2401.01325, section 3.
    """
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    config = ModelConfig.of(find_decoder(model, "a scheme").config.to_dict(), type(model).__name__)
    check_model(config, scheme.name, "a scheme")
    scheme.check_fit(config)
    own: Any = model
    kinds = getattr(own.config, "layer_types", None) or []
    if "sliding_attention" in kinds or (not kinds and getattr(own.config, "sliding_window", None)):
        msg = f"{config.name} has layers that see a window only, and {scheme.name} is for full attention"
        raise InputError(msg)
    if not all(getattr(own.config, "no_rope_layers", None) or [True]):
        msg = f"{config.name} has layers without positions, which {scheme.name} would give some"
        raise InputError(msg)
    family = FAMILIES.get(str(config.model_type))  # none in a transformers that has it in another form
    if config.rotated_share != 1 or (family is not None and family.neighbours_rotate):
        msg = f"{config.name} rotates a part of each head, or pairs of neighbouring channels, and {scheme.name} is for "
        msg += "models that rotate whole heads, in pairs of halves"
        raise InputError(msg)
    applied = AppliedSelfExtend(own)
    name = "ropesearch_" + re.sub(r"\W", "_", scheme.name)  # a colon or a slash would mean a name on the hub
    ALL_ATTENTION_FUNCTIONS.register(name, _attention(scheme))
    ALL_MASK_ATTENTION_FUNCTIONS.register(name, sdpa_mask)
    own.set_attn_implementation(name)
    return applied


def _attention(scheme: SelfExtend) -> Any:
    theta = scheme.inv_freq()[0]

    def attend(
        module: "nn.Module",
        query: "torch.Tensor",  # (B, H, Q, D)
        key: "torch.Tensor",  # (B, K, S, D)
        value: "torch.Tensor",
        attention_mask: "torch.Tensor | None",  # (B, 1, Q, S), true where a query sees a key
        scaling: float | None = None,
        softcap: float | None = None,
        **_: Any,
    ) -> "tuple[torch.Tensor, None]":
        import torch

        n_queries, n_keys = query.shape[2], key.shape[2]
        places = torch.arange(n_keys, device=key.device)[None]  # (B or 1, S)
        if attention_mask is not None:
            # Padding before a text is what its last token does not see.
            padding = (~attention_mask[:, 0, -1]).long().cumprod(-1).sum(-1, keepdim=True)
            places = (places - padding).clamp(min=0)
        groups = query.shape[1] // key.shape[1]
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        of_queries = places[:, n_keys - n_queries :]
        shift = scheme.window - scheme.window // scheme.group
        far_query = turned(query, of_queries // scheme.group + shift - of_queries, theta)
        far_key = turned(key, places // scheme.group - places, theta)
        near_key, far_key, value = (x.repeat_interleave(groups, 1) for x in (key, far_key, value))
        block = max(1, SCORES_AT_ONCE // (query.shape[0] * query.shape[1] * n_keys))
        out = torch.empty_like(query)
        for start in range(0, n_queries, block):
            own = slice(start, start + block)
            distance = of_queries[:, own, None] - places[:, None, :]  # (B or 1, q, S)
            near = query[:, :, own] @ near_key.transpose(2, 3)
            far = far_query[:, :, own] @ far_key.transpose(2, 3)
            scores = torch.where((distance < scheme.window)[:, None], near, far) * scale
            if softcap is not None:
                scores = softcap * (scores / softcap).tanh()
            seen = (distance >= 0)[:, None] if attention_mask is None else attention_mask[:, :, own]
            weights = scores.masked_fill(~seen, torch.finfo(scores.dtype).min).softmax(-1, torch.float32)
            out[:, :, own] = weights.to(value.dtype) @ value
        return out.transpose(1, 2).contiguous(), None

    return attend


def turned(x: "torch.Tensor", by: "torch.Tensor", theta: Floats) -> "torch.Tensor":
    """Rotate `x`, (B, H, S, D), by `by` positions, (B or 1, S)."""
    import torch

    # Angles in float64: a rotation over 100 000 positions and the model's own back again must leave nothing.
    angles = by[:, None, :, None].double() * torch.from_numpy(theta).to(by.device)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)
