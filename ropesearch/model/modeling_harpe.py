"""Llama, Mistral, Qwen2 and Qwen3 with a RoPE base of its own for every KV head (HARPE, arXiv:2412.07171).

`ropesearch apply` puts a copy of this file into every checkpoint that it writes, and `trust_remote_code=True` loads it
from there: it needs torch and transformers, and nothing else. Shapes: B sequences, S tokens, H query heads, K KV
heads, G = H / K query heads to a KV head, D channels per head.
"""

import copy
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaModel,
    MistralConfig,
    MistralForCausalLM,
    MistralModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Model,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3Model,
)
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaAttention, eager_attention_forward
from transformers.models.mistral.modeling_mistral import MistralAttention
from transformers.models.qwen2.modeling_qwen2 import Qwen2Attention
from transformers.models.qwen3.modeling_qwen3 import Qwen3Attention

# A stock class does not know this type and raises, where it would ignore mere extra keys: never register it.
ROPE_TYPE = "harpe"


class PerHeadConfig:
    """What a family's config gains: `rope_parameters` = {"rope_type": "harpe", "bases": [one per KV head], ...}.

    `rope_theta` stays in it as the base that the model had before; nothing here reads it.
    """

    # Tensor parallelism would give a device some of the KV heads, and the tables of all of them.
    base_model_tp_plan = None

    def _validate_harpe_rope_parameters(self, rope_parameters, ignore_keys=None):
        # transformers calls this by the name of the rope type.
        bases = rope_parameters.get("bases")
        if not isinstance(bases, list) or len(bases) != self.num_key_value_heads:
            msg = f"rope_parameters must hold 'bases', one per KV head: {self.num_key_value_heads}, not {bases!r}"
            raise ValueError(msg)
        for base in bases:
            if isinstance(base, bool) or not isinstance(base, int | float) or not (math.isfinite(base) and base > 1):
                msg = f"every one of the bases must be a finite number above 1, not {base!r}"
                raise ValueError(msg)

    def to_dict(self):
        """Name the classes of this file beside the values, so that whatever is saved can be loaded from its copy."""
        family = type(self).__name__.removesuffix("Config")
        classes = {"AutoConfig": "Config", "AutoModel": "Model", "AutoModelForCausalLM": "ForCausalLM"}
        values = super().to_dict()
        values["auto_map"] = {auto: f"modeling_harpe.{family}{suffix}" for auto, suffix in classes.items()}
        # A stock model that was given bases in memory saves itself under its stock name.
        ours = {f"{family}{suffix}" for suffix in classes.values()}
        for i, name in enumerate(values.get("architectures") or []):
            values["architectures"][i] = f"Harpe{name}" if f"Harpe{name}" in ours else name
        return values


class PerHeadRope(nn.Module):
    """Cosines and sines of every position, for every KV head."""

    def __init__(self, config):
        super().__init__()
        rope = config.rope_parameters
        if rope["rope_type"] != ROPE_TYPE:
            msg = f"a {type(config).__name__} needs rope_parameters of rope_type {ROPE_TYPE!r} with 'bases'"
            raise ValueError(msg)
        config.validate_rope()  # which transformers does for a config that it loads, and not for one made by hand
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        # The operations of transformers in its order, in float32 and on the CPU: with the model's own base the
        # frequencies are its own to the last bit. Not a buffer: `.to(bfloat16)` would round it, and from_pretrained,
        # which builds models without memory first, would fill it with whatever is there.
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float, device="cpu") / head_dim
        self._inv_freq = torch.stack([1.0 / (base**exponents) for base in rope["bases"]])  # (K, D/2)

    @torch.no_grad()
    def forward(self, x, position_ids):
        """Tables for `position_ids`, (B, S) or (1, S): two tensors of (B or 1, S, K, D/2), in the dtype of `x`."""
        if self._inv_freq.device != x.device:
            self._inv_freq = self._inv_freq.to(x.device)
        angles = position_ids[..., None, None].to(x.device, torch.float) * self._inv_freq
        return angles.cos().to(x.dtype), angles.sin().to(x.dtype)


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (i, i + D/2) of `x`, (..., D), by tables that broadcast to (..., D/2)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class PerHeadAttention:
    """The forward pass of all families: each KV head, and the query heads that share it, turn by their own tables."""

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        """Give what the stock attention gives; `position_embeddings` comes from `PerHeadRope`."""
        cos, sin = position_embeddings  # (B or 1, S, K, D/2)
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key = self._normalized(self.q_proj(hidden_states).view(shape), self.k_proj(hidden_states).view(shape))
        value = self.v_proj(hidden_states).view(shape).transpose(1, 2)  # (B, K, S, D)

        kv_heads = cos.shape[2]
        if key.shape[2] != kv_heads:
            msg = f"{key.shape[2]} KV heads and bases for {kv_heads}: a layer cannot be split over devices"
            raise ValueError(msg)
        # Before heads and positions change places, so that what goes to the attention lies in memory as stock's does.
        groups = query.unflatten(2, (kv_heads, -1))  # (B, S, K, G, D)
        query = rotate(groups, cos.unsqueeze(3), sin.unsqueeze(3)).flatten(2, 3).transpose(1, 2)  # (B, H, S, D)
        key = rotate(key, cos, sin).transpose(1, 2)  # (B, K, S, D)

        if past_key_values is not None:
            # The first 5.x hand the place in a static cache along, later ones keep it in the cache.
            place = kwargs.pop("cache_position", None)
            extra = () if place is None else ({"cache_position": place},)
            key, value = past_key_values.update(key, value, self.layer_idx, *extra)

        name = self.config._attn_implementation
        attend = eager_attention_forward if name in (None, "eager") else ALL_ATTENTION_FUNCTIONS[name]
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self._window(),
            **kwargs,
        )
        return self.o_proj(output.reshape(*hidden_states.shape[:-1], -1).contiguous()), weights

    def _normalized(self, query, key):
        return query, key

    def _window(self):
        return None


class PerHeadModel:
    """A stock model whose layers rotate each KV head by its own base."""

    def __init__(self, config):
        own = config.rope_parameters
        # The stock constructor makes the layers, and raises over a rope type that it does not know.
        config.rope_parameters = {"rope_type": "default", "rope_theta": own["rope_theta"]}
        try:
            super().__init__(config)
        finally:
            config.rope_parameters = own
        put_bases(self.base_model, config)


class HarpeLlamaConfig(PerHeadConfig, LlamaConfig):
    """Llama's config with a base per KV head."""

    model_type = "harpe_llama"


class HarpeLlamaAttention(PerHeadAttention, LlamaAttention):
    """Llama's attention with a base per KV head."""


class HarpeLlamaModel(PerHeadModel, LlamaModel):
    """Llama with a base per KV head."""

    config_class = HarpeLlamaConfig


class HarpeLlamaForCausalLM(PerHeadModel, LlamaForCausalLM):
    """Llama with a base per KV head, and its language model's head."""

    config_class = HarpeLlamaConfig


class HarpeMistralConfig(PerHeadConfig, MistralConfig):
    """Mistral's config with a base per KV head."""

    model_type = "harpe_mistral"


class HarpeMistralAttention(PerHeadAttention, MistralAttention):
    """Mistral's attention with a base per KV head; the window is the model's."""

    def _window(self):
        return self.config.sliding_window


class HarpeMistralModel(PerHeadModel, MistralModel):
    """Mistral with a base per KV head."""

    config_class = HarpeMistralConfig


class HarpeMistralForCausalLM(PerHeadModel, MistralForCausalLM):
    """Mistral with a base per KV head, and its language model's head."""

    config_class = HarpeMistralConfig


class HarpeQwen2Config(PerHeadConfig, Qwen2Config):
    """Qwen2's config with a base per KV head."""

    model_type = "harpe_qwen2"


class HarpeQwen2Attention(PerHeadAttention, Qwen2Attention):
    """Qwen2's attention with a base per KV head; the window is the layer's."""

    def _window(self):
        return self.sliding_window


class HarpeQwen2Model(PerHeadModel, Qwen2Model):
    """Qwen2 with a base per KV head."""

    config_class = HarpeQwen2Config


class HarpeQwen2ForCausalLM(PerHeadModel, Qwen2ForCausalLM):
    """Qwen2 with a base per KV head, and its language model's head."""

    config_class = HarpeQwen2Config


class HarpeQwen3Config(PerHeadConfig, Qwen3Config):
    """Qwen3's config with a base per KV head."""

    model_type = "harpe_qwen3"


class HarpeQwen3Attention(PerHeadAttention, Qwen3Attention):
    """Qwen3's attention with a base per KV head; queries and keys are normalised before they turn."""

    def _normalized(self, query, key):
        return self.q_norm(query), self.k_norm(key)

    def _window(self):
        return self.sliding_window


class HarpeQwen3Model(PerHeadModel, Qwen3Model):
    """Qwen3 with a base per KV head."""

    config_class = HarpeQwen3Config


class HarpeQwen3ForCausalLM(PerHeadModel, Qwen3ForCausalLM):
    """Qwen3 with a base per KV head, and its language model's head."""

    config_class = HarpeQwen3Config


# By the stock model type: config, stock attention, attention, model, causal language model.
FAMILIES: dict[str, tuple[Any, ...]] = {
    "llama": (HarpeLlamaConfig, LlamaAttention, HarpeLlamaAttention, HarpeLlamaModel, HarpeLlamaForCausalLM),
    "mistral": (
        HarpeMistralConfig,
        MistralAttention,
        HarpeMistralAttention,
        HarpeMistralModel,
        HarpeMistralForCausalLM,
    ),
    "qwen2": (HarpeQwen2Config, Qwen2Attention, HarpeQwen2Attention, HarpeQwen2Model, HarpeQwen2ForCausalLM),
    "qwen3": (HarpeQwen3Config, Qwen3Attention, HarpeQwen3Attention, HarpeQwen3Model, HarpeQwen3ForCausalLM),
}

for _config, _, _, _model, _causal_lm in FAMILIES.values():
    # save_pretrained then copies this file beside the weights.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _causal_lm.register_for_auto_class("AutoModelForCausalLM")


def with_bases(config: Any, bases: Iterable[float]) -> Any:
    """Copy of a stock config, of this file's class for it and with one base per KV head; raises ValueError."""
    result = copy.deepcopy(config)
    result.__class__ = FAMILIES[config.model_type][0]
    result.__dict__.pop("model_type", None)  # what a file said, in the way of what the class says
    rope_theta = config.rope_parameters["rope_theta"]
    result.rope_parameters = {"rope_type": ROPE_TYPE, "rope_theta": rope_theta, "bases": list(bases)}
    result.validate_rope()
    return result


def put_bases(model: Any, config: Any) -> list[tuple[Any, str, Any]]:
    """Let the layers of a stock base model, such as a LlamaModel, rotate by the bases of `config`.

    No weight is touched: attention modules change their class, and the rotary embedding is replaced.

    Returns
    -------
    list of (object, attribute name, old value)
        What puts everything back, once set in reverse order.
    """
    _, stock, per_head, _, _ = FAMILIES[config.model_type.removeprefix("harpe_")]
    attentions = [layer.self_attn for layer in model.layers]
    for attention in attentions:
        # A forward of the instance goes before that of the class, and would stay the stock one.
        if type(attention) is not stock or ("forward" in vars(attention) and not hasattr(attention, "_hf_hook")):
            msg = f"the attention of this model is a {type(attention).__name__} that other code has changed"
            raise TypeError(msg)
    undo: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        undo.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    put(model, "rotary_emb", PerHeadRope(config))
    for attention in attentions:
        put(attention, "__class__", per_head)
        if "_old_forward" in vars(attention):  # accelerate's hooks, for a model spread over devices, call this one
            put(attention, "_old_forward", per_head.forward.__get__(attention))
    return undo
