"""Llama and its relatives with a RoPE base of its own for every KV head (HARPE, arXiv:2412.07171).

`ropesearch apply` copies this file into every checkpoint that it writes, where `trust_remote_code=True` loads it. It
needs only torch and transformers. Shapes: B sequences, S tokens, L layers, H query heads, K KV heads, G = H / K query
heads to a KV head, D channels per head, of which the first R rotate (all, in most families).
"""

import copy
import importlib.util
import math
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import nn

if int(transformers.__version__.partition(".")[0]) < 5:  # whose configs and rotary embeddings are others
    _msg = f"modeling_harpe.py needs transformers 5.0 or newer, not {transformers.__version__}"
    raise ImportError(_msg)

from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, RotaryEmbeddingConfigMixin
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

# Stock classes raise on this unknown type, but would ignore extra keys: never register it.
ROPE_TYPE = "harpe"
# Rules of a scaled model that can be applied to every base; others change with the length of the sequence.
KEPT_RULES = ("linear", "llama3", "yarn")
PART = "partial_rotary_factor"
"""Key of the share of each head that rotates, beside the rule."""
GLOBAL = "full_attention"
"""The layers that get the bases, in families with a rope for each type of layer; others, with a window, keep theirs."""
# Angles that are in memory at once while tables are made: 4 MB in float32.
ANGLES_AT_ONCE = 2**20


class PerHeadConfig:
    """What a family's config gains: `rope_parameters` = {"rope_type": "harpe", "bases": [one per KV head], ...}.

    `bases` may also be a list of such lists, one for each layer.

    `scaling` in it, if there, is the rule of a scaled model, as transformers writes it, that is applied to every base.

    `rope_theta` records the base that the model had before; nothing here reads it. In families with a rope for each
    type of layer, all this stands under "full_attention". A file says the same under `rope_scaling` once more, for
    transformers 4: it does not know `rope_parameters`, and its stock classes would load the model with a base of 10000.
    So they raise on the unknown type.
    """

    def convert_rope_params_to_dict(self, *args, **kwargs):
        """Read the file as transformers does, without what `to_dict` adds to it."""
        others = super().convert_rope_params_to_dict(*args, **kwargs)
        _rope_with_bases(self).pop("type", None)
        return others

    def validate_rope(self, *args, **kwargs):
        """Check the rope as transformers does for all models; Phi-3 by itself takes no rules but its own."""
        RotaryEmbeddingConfigMixin.validate_rope(self, *args, **kwargs)

    def validate(self):
        """Check the other values as the stock config does, which does so before it is saved, and the rope as above."""
        with _stock_rope(self):
            super().validate()
        self.validate_rope()

    def _validate_harpe_rope_parameters(self, rope_parameters, ignore_keys=None):
        # transformers finds this method by the name of the rope type.
        bases = rope_parameters.get("bases")
        rows = bases if _by_layer(bases) else [bases]
        for row in rows:
            if not isinstance(row, list) or len(row) != self.num_key_value_heads:
                msg = f"rope_parameters must hold 'bases', one per KV head: {self.num_key_value_heads}, not {row!r}"
                raise ValueError(msg)
        if rows is bases and len(rows) != self.num_hidden_layers:
            msg = f"rope_parameters must hold 'bases' of {self.num_hidden_layers} layers, not of {len(rows)}"
            raise ValueError(msg)
        rule = rope_parameters.get("scaling")
        if rule is not None and (not isinstance(rule, dict) or rule.get("rope_type") not in KEPT_RULES):
            msg = f"scaling in rope_parameters must be a rule of rope_type {', '.join(KEPT_RULES)}, not {rule!r}"
            raise ValueError(msg)
        for base in (base for row in rows for base in row):
            if isinstance(base, bool) or not isinstance(base, int | float) or not (math.isfinite(base) and base > 1):
                msg = f"every value of bases must be a finite number above 1, not {base!r}"
                raise ValueError(msg)

    def to_dict(self):
        """Add the class names of this file to the values, so that a saved model loads from its own copy."""
        values = super().to_dict()
        if values.get("rope_parameters"):
            values["rope_scaling"] = {"type": ROPE_TYPE} | _rope_with_bases(self)
        return _with_our_names(values, type(self), family_of(self).models)


class OuterConfig:
    """What the config of a model of text and images gains, if it would take that of its language model for a stock one.

    Other such configs find the right class by its model type.
    """

    def to_dict(self):
        """Do as `PerHeadConfig.to_dict`."""
        return _with_our_names(super().to_dict(), type(self), OUTER[type(self).model_type])


def _with_our_names(values, config, models):
    """Add the classes of this file to the values of a config; `models` are by Auto class."""
    classes = {"AutoConfig": config} | models
    values["auto_map"] = {auto: f"modeling_harpe.{ours.__name__}" for auto, ours in classes.items()}
    # A stock model that got bases in memory would save its stock class name.
    names = {ours.__name__.removeprefix("Harpe"): ours.__name__ for ours in models.values()}
    if values.get("architectures"):
        values["architectures"] = [names.get(name, name) for name in values["architectures"]]
    return values


class PerHeadRope(nn.Module):
    """Cosines and sines of every position, for every KV head: one set of bases for all layers, or one for each."""

    def __init__(self, config):
        super().__init__()
        rope = _rope_with_bases(config)
        if rope.get("rope_type") != ROPE_TYPE:
            msg = f"a {type(config).__name__} needs rope_parameters of rope_type {ROPE_TYPE!r} with 'bases'"
            raise ValueError(msg)
        config.validate_rope()  # transformers does so only for a config that it loads
        # Not a buffer: `.to(bfloat16)` would round it, and from_pretrained, which first builds models without memory,
        # would fill it with garbage.
        others = {} if rope is config.rope_parameters else set(config.layer_types) - {GLOBAL}
        # By type of layer, the factor on cosines and sines, and frequencies: (K, R/2), or (L, K, R/2) of layers with
        # bases of their own, or (1, R/2) of a type without bases.
        self._by_type = {kind: _frequencies(config, config.rope_parameters[kind]) for kind in others}
        self._by_type[GLOBAL] = _frequencies(config, rope)
        self._in_float = family_of(config).rotates_in_float

    @property
    def _inv_freq(self):
        """Frequencies of every base, (K, R/2) or (L, K, R/2)."""
        return self._by_type[GLOBAL][0]

    @property
    def attention_scaling(self):
        """The factor on cosines and sines, as in stock models."""
        return self._by_type[GLOBAL][1]

    def forward(self, x, position_ids, layer_type=GLOBAL):
        """Compute tables for `position_ids`, (B, S) or (1, S): two tensors (B or 1, S, K, R/2).

        They are in the dtype of `x`, or in float32 in families that rotate in it. Where layers differ, each makes its
        own out of what this returns. Layers of a type without bases have one table for all heads: (B or 1, S, 1, R/2).
        """
        dtype = torch.float if self._in_float else x.dtype
        if self._by_type[layer_type][0].dim() > 2:
            return TablesByLayer(self, position_ids, dtype)
        return self.tables(position_ids, dtype, x.device, layer_type)

    @torch.no_grad()
    def tables(self, position_ids, dtype, device, layer_type=GLOBAL, layer=None):
        """Compute the tables of all layers of a type, or where they differ those of one."""
        inv_freq, scale = self._by_type[layer_type]
        if inv_freq.device != device:
            inv_freq = inv_freq.to(device)
            self._by_type[layer_type] = inv_freq, scale
        if layer is not None:
            inv_freq = inv_freq[layer]
        positions = position_ids[..., None, None].to(device, torch.float)
        n = positions.numel() * inv_freq.numel()
        if torch.compiler.is_compiling() or n <= ANGLES_AT_ONCE:  # compiled, no angles are kept
            return _cos_and_sin(positions * inv_freq, scale, dtype)
        # Angles are float32, and tables often half of that: all at once, they would be most of the memory.
        shape, length = (*position_ids.shape, *inv_freq.shape), position_ids.shape[1]
        cos, sin = (torch.empty(shape, dtype=dtype, device=device) for _ in range(2))
        step = max(1, length * ANGLES_AT_ONCE // n)
        for first in range(0, length, step):
            part = slice(first, first + step)
            cos[:, part], sin[:, part] = _cos_and_sin(positions[:, part] * inv_freq, scale, dtype)
        return cos, sin


class TablesByLayer:
    """What layers with bases of their own are given in place of tables; each makes its own when it runs.

    So the tables of one layer are in memory at a time. Frequencies do not come this way: FSDP lowers the precision of
    all float tensors that a layer is given.
    """

    def __init__(self, rope, position_ids, dtype):
        self._rope, self._position_ids, self._dtype = rope, position_ids, dtype

    def of(self, layer, device):
        """Tables of one layer, two tensors (B or 1, S, K, R/2)."""
        return self._rope.tables(self._position_ids, self._dtype, device, layer=layer)


def _cos_and_sin(angles, scale, dtype):
    return (angles.cos() * scale).to(dtype), (angles.sin() * scale).to(dtype)


def _by_layer(bases):
    """Whether these are lists of bases, one for each layer."""
    return isinstance(bases, list) and any(isinstance(row, list) for row in bases)


def _rope_with_bases(config):
    """What a config says of the layers that have or get bases."""
    rope = config.rope_parameters or {}
    return rope.get(GLOBAL, rope)


def _frequencies(config, rope, bases=None):
    """Return the frequencies of every base, (K, R/2) or (L, K, R/2), and the factor on cosines and sines.

    A stock rope, of layers that keep theirs, has one base. The same operations as in transformers, in the same order,
    in float32 on the CPU: with the model's own base the frequencies are equal to the last bit.
    """
    rule = rope.get("scaling")
    bases = bases or rope.get("bases")
    if bases is None:
        bases, rule = [rope["rope_theta"]], None if rope["rope_type"] == "default" else rope
    if _by_layer(bases):
        of_layers = [_frequencies(config, rope, row) for row in bases]
        return torch.stack([inv_freq for inv_freq, _ in of_layers]), of_layers[0][1]
    if rule is None:
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        turning = int(head_dim * rope.get(PART, 1.0))
        exponents = torch.arange(0, turning, 2, dtype=torch.float, device="cpu") / turning
        return torch.stack([1.0 / (base**exponents) for base in bases]), 1.0
    rows, factor = [], 1.0
    with torch.device("cpu"):
        for base in bases:
            with_one = copy.copy(config)
            with_one.rope_parameters = {**rule, "rope_theta": base}
            if GLOBAL in config.rope_parameters:
                with_one.rope_parameters.pop("truncate", None)  # which transformers overlooks in a rope by layer type
            row, factor = ROPE_INIT_FUNCTIONS[rule["rope_type"]](with_one, "cpu")
            rows.append(row)
    return torch.stack(rows), factor


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate the channel pairs (i, i + R/2) of `x`, (..., D), by tables that broadcast to (..., R/2), and no others."""
    # As few operations as can be: each costs more than its arithmetic where one token is decoded at a time.
    half, rest = cos.shape[-1], ()
    if x.shape[-1] == 2 * half:
        a, b = x.chunk(2, dim=-1)
    else:
        a, b, *rest = x.split((half, half, x.shape[-1] - 2 * half), dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin, *rest), dim=-1).to(x.dtype)


def rotate_neighbours(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Do as `rotate` with the channel pairs (2i, 2i + 1)."""
    turning = 2 * cos.shape[-1]
    a, b = x[..., 0:turning:2], x[..., 1:turning:2]
    turned = torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-1).flatten(-2)
    return torch.cat((turned, x[..., turning:]), dim=-1).to(x.dtype)


class PerHeadAttention:
    """The forward pass of all families: each KV head and the query heads that share it have their own tables.

    What some families do otherwise is in the methods below it, which the classes after this one override.
    """

    _rotate = staticmethod(rotate)

    def forward(self, hidden_states, position_embeddings=None, attention_mask=None, past_key_values=None, **kwargs):
        """Return what the stock attention returns; `position_embeddings` comes from `PerHeadRope`."""
        shape = (*hidden_states.shape[:-1], -1, self.head_dim)
        query, key, value = self._projected(hidden_states)
        query, key = self._split(query, key, shape)
        value = value.view(shape).transpose(1, 2)  # (B, K, S, D)
        if isinstance(position_embeddings, TablesByLayer):
            position_embeddings = position_embeddings.of(self.layer_idx, hidden_states.device)
        # Before heads and positions are transposed, so that the attention gets the memory layout of stock models.
        query, key = self._turned(query, key, *position_embeddings)
        query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, H, S, D), (B, K, S, D)

        if past_key_values is not None:
            # The first 5.x releases pass the position in a static cache along; later ones keep it in the cache.
            place = kwargs.pop("cache_position", None)
            extra = () if place is None else ({"cache_position": place},)
            key, value = past_key_values.update(key, value, self.layer_idx, *extra)

        name = self.config._attn_implementation
        if name == "sdpa" and attention_mask is None and past_key_values is not None:
            _refuse_packing(kwargs.get("position_ids"))
        # In this form, as transformers' own models have it: vLLM reads the source for it before it takes a model.
        attend = self.family.eager
        if name not in (None, "eager"):
            attend = ALL_ATTENTION_FUNCTIONS[name]
        output, weights = attend(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self._window(),
            **self._more_for_attention(),
            **kwargs,
        )
        output = output.reshape(*hidden_states.shape[:-1], -1).contiguous()
        return self._finished(output), weights

    def _projected(self, hidden_states):
        """Queries (B, S, H·D), keys and values (B, S, K·D)."""
        return self.q_proj(hidden_states), self.k_proj(hidden_states), self.v_proj(hidden_states)

    def _split(self, query, key, shape):
        """Queries (B, S, H, D) and keys (B, S, K, D) of what the projections give."""
        return query.view(shape), key.view(shape)

    def _turned(self, query, key, cos, sin):
        """Rotate queries and keys by tables (B or 1, S, K, R/2)."""
        if cos.shape[2] not in (1, key.shape[2]):  # tensor parallelism gave this device some of the KV heads
            heads = key.shape[2]
            first = _first_head(self, heads, cos.shape[2])
            cos, sin = cos[:, :, first : first + heads], sin[:, :, first : first + heads]
        kv_heads = cos.shape[2]
        groups = query.view(*query.shape[:2], kv_heads, -1, query.shape[-1])  # (B, S, K, G, D)
        query = self._rotate(groups, cos.unsqueeze(3), sin.unsqueeze(3)).flatten(2, 3)
        return query, self._rotate(key, cos, sin)

    def _window(self):
        """Tokens that the layer looks back over, or None; the attention functions that make no masks are told."""
        return None

    def _more_for_attention(self):
        return {}

    def _finished(self, output):
        return self.o_proj(output)


def _first_head(attention, heads, kv_heads):
    """Return the first of the KV heads that tensor parallelism gave this device, of all the heads of a layer."""
    projection = attention.k_proj  # one projection for all is not split: each device has all of what it gives
    rank, size = getattr(projection, "tp_rank", None), getattr(projection, "tp_size", None)  # of vLLM's layers
    if rank is None:
        mesh = getattr(getattr(projection, "weight", None), "device_mesh", None)  # of transformers' tensors
        if mesh is None:
            msg = f"{heads} KV heads, but bases for {kv_heads}: nothing says which of them this device has"
            raise ValueError(msg)
        mesh = mesh["tp"] if mesh.ndim > 1 else mesh
        rank, size = mesh.get_local_rank(), mesh.size()
    return rank * kv_heads // size


class FusedProjection:
    """One projection gives queries, keys and values."""

    def _projected(self, hidden_states):
        of_keys = self.config.num_key_value_heads * self.head_dim
        of_queries = self.config.num_attention_heads * self.head_dim
        return self.qkv_proj(hidden_states).split((of_queries, of_keys, of_keys), dim=-1)


class WindowOfModel:
    """The config says the window for all layers."""

    def _window(self):
        return self.config.sliding_window


class WindowOfLayer:
    """Each layer has a window or none."""

    def _window(self):
        return self.sliding_window


class WindowInMaskAlone:
    """Some layers have a window, and the stock model tells the attention functions nothing of it."""

    def _window_of_mask(self):
        return getattr(self, "sliding_window", None)


class NormOfHeads:
    """Queries and keys are normalised head by head."""

    def _split(self, query, key, shape):
        return self.q_norm(query.view(shape)), self.k_norm(key.view(shape))


class LayerNormOfHeads:
    """Queries and keys may be normalised head by head, if the config says so."""

    def _split(self, query, key, shape):
        query, key = query.view(shape), key.view(shape)
        return (self.q_layernorm(query), self.k_layernorm(key)) if self.qk_layernorm else (query, key)


class NormOfEachHead:
    """Queries and keys may be normalised, by weights of each head, if the config says so."""

    def _split(self, query, key, shape):
        query, key = query.view(shape), key.view(shape)
        if self.qk_layernorm:
            norms = self.q_layernorm, self.k_layernorm
            query, key = (norm(x.transpose(1, 2)).transpose(1, 2) for norm, x in zip(norms, (query, key), strict=True))
        return query, key


class NormBeforeHeads:
    """Queries and keys are normalised over all heads together."""

    def _split(self, query, key, shape):
        return self.q_norm(query).view(shape), self.k_norm(key).view(shape)


class LayersWithoutRope:
    """Some layers do not rotate, and stay so."""

    def _turned(self, query, key, cos, sin):
        return super()._turned(query, key, cos, sin) if self.use_rope else (query, key)


class CappedScores:
    """Scores are capped before the softmax, by the attention functions that can."""

    def _more_for_attention(self):
        return {"softcap": self.attn_logit_softcapping}


class NeighboursRotate:
    """Channels next to each other rotate together."""

    _rotate = staticmethod(rotate_neighbours)


class DenseAtTheEnd:
    """The last projection has another name."""

    def _finished(self, output):
        return self.dense(output)


class DropoutAtTheEnd:
    """There is a dropout behind the last projection."""

    def _finished(self, output):
        return nn.functional.dropout(super()._finished(output), p=self.residual_dropout, training=self.training)


def _refuse_packing(position_ids):
    """Raise ValueError for packed sequences beside a cache, with which transformers does not look for them.

    Each would see those before it. Padded batches have a mask, and a compiled model cannot look at values.
    """
    if position_ids is None or position_ids.shape[-1] == 1 or torch.compiler.is_compiling() or position_ids.is_meta:
        return
    if (position_ids[..., 1:] < position_ids[..., :-1]).any():
        msg = "position_ids start again in the middle: packed sequences need use_cache=False to be kept apart"
        raise ValueError(msg)


@contextmanager
def _stock_rope(config):
    """Let a config with bases have a rope that stock code can read."""
    own, rope = config.rope_parameters, _rope_with_bases(config)
    plain = {key: rope[key] for key in ("rope_theta", PART) if key in rope} | {"rope_type": "default"}
    config.rope_parameters = plain if rope is own else {**own, GLOBAL: plain}
    try:
        yield
    finally:
        config.rope_parameters = own


class PerHeadModel:
    """A stock model whose layers rotate each KV head by its own base."""

    def __init__(self, config):
        # The stock constructor makes the layers, but raises on an unknown rope type.
        with _stock_rope(config):
            super().__init__(config)
        put_bases(self.base_model, config)


@dataclass(frozen=True)
class Family:
    """The classes of one family, stock and ours, and how its rotary embedding differs from Llama's.

    `models` has our models by the Auto class that loads them, as far as transformers has such a model.
    """

    stock_attention: Any
    eager: Any
    config: Any
    attention: Any
    models: dict[str, Any]
    rotates_in_float: bool

    @property
    def neighbours_rotate(self) -> bool:
        """Whether channels next to each other rotate together, not those half a head apart."""
        return self.attention._rotate is rotate_neighbours


FAMILIES: dict[str, Family] = {}
"""By the stock model type."""
OUTER: dict[str, dict[str, Any]] = {}
"""By our model type, our models of text and images whose configs are OuterConfigs, by Auto class."""
MODELS = {
    "AutoModel": "Model",
    "AutoModelForCausalLM": "ForCausalLM",
    "AutoModelForSequenceClassification": "ForSequenceClassification",
    "AutoModelForTokenClassification": "ForTokenClassification",
    "AutoModelForQuestionAnswering": "ForQuestionAnswering",
}
"""The models of a family that can carry bases: Auto class, and how the names of the classes end."""


def _add_family(
    model_type: str, stock: str, *differences: type, rotates_in_float: bool = False, by_layer_type: bool = False
) -> None:
    """Make our classes for a family whose stock classes begin with `stock`; its attention gets the differences.

    With `by_layer_type`, each type of layer has a rope. The classes stand in this module, as HarpeLlamaConfig and so
    on, where a checkpoint's auto_map looks for them.
    """
    package = f"transformers.models.{model_type.removesuffix('_text')}"
    if importlib.util.find_spec(package) is None:
        return  # of a later transformers
    module = importlib.import_module(f"{package}.modeling_{model_type.removesuffix('_text')}")

    def find(suffix: str) -> Any:
        """A stock class; some have a namesake for text and images together."""
        return getattr(module, f"{stock}Text{suffix}", None) or getattr(module, f"{stock}{suffix}", None)

    one_rope = by_layer_type and GLOBAL not in find("Config")().rope_parameters
    if one_rope or not hasattr(module, "eager_attention_forward"):
        return  # of an earlier one, with one rope for all layers or another form of attention
    config = _ours(find("Config"), PerHeadConfig, model_type=f"harpe_{model_type}")
    attention = _ours(find("Attention"), *differences, PerHeadAttention)
    models = {}
    for auto, suffix in MODELS.items():
        old = find(suffix)
        if old is not None:
            # Other heads ask AutoModel for the model below them.
            bases = (PerHeadModel,) if suffix in ("Model", "ForCausalLM") else ()
            models[auto] = _ours(old, *bases, config_class=config)
    stock_attention = find("Attention")
    family = Family(stock_attention, module.eager_attention_forward, config, attention, models, rotates_in_float)
    attention.family = FAMILIES[model_type] = family
    _make_known(model_type, config, models)


def _add_outer(model_type: str, text: str, stock: str) -> None:
    """Make our classes for models of text and images around one of the family `text`; stock ones begin with `stock`."""
    suffixes = ("Config", "Model", "ForConditionalGeneration", "ForSequenceClassification")
    stock_config, *stock_models = (getattr(transformers, f"{stock}{suffix}", None) for suffix in suffixes)
    parts = getattr(stock_config, "sub_configs_defaults", None)
    if not parts or text not in FAMILIES or None in stock_models:
        return  # of another transformers
    parts = {**parts, "text_config": FAMILIES[text].config}
    config = _ours(stock_config, OuterConfig, model_type=f"harpe_{model_type}", sub_configs_defaults=parts)
    base, generating, classifying = (_ours(old, config_class=config) for old in stock_models)
    models = {"AutoModel": base, "AutoModelForImageTextToText": generating, "AutoModelForCausalLM": generating}
    OUTER[config.model_type] = models | {"AutoModelForSequenceClassification": classifying}
    _make_known(model_type, config, OUTER[config.model_type])


def _ours(old: Any, *bases: type, **attributes: Any) -> Any:
    """Make a class of this module out of a stock one."""
    name = f"Harpe{old.__name__}"
    attributes |= {"__module__": __name__, "__doc__": f"{old.__name__} with a base per KV head."}
    globals()[name] = type(name, (*bases, old), attributes)
    return globals()[name]


def _make_known(model_type: str, config: Any, models: dict[str, Any]) -> None:
    """Make transformers save a copy of this file beside the weights, and find the base model of a config."""
    config.register_for_auto_class()
    for auto, model in reversed(models.items()):  # a class keeps the last
        model.register_for_auto_class(auto)
    transformers.AutoModel.register(config, models["AutoModel"], exist_ok=True)
    # Mixtures of experts, and others, have other weights in memory than in files.
    conversion = get_checkpoint_conversion_mapping(model_type)
    if conversion is not None:
        register_checkpoint_conversion_mapping(config.model_type, conversion, overwrite=True)


_add_family("llama", "Llama")
_add_family("mistral", "Mistral", WindowOfModel)
_add_family("ministral", "Ministral", WindowOfLayer)
_add_family("mixtral", "Mixtral", WindowOfModel)
_add_family("qwen2", "Qwen2", WindowOfLayer)
_add_family("qwen2_moe", "Qwen2Moe", WindowInMaskAlone)
_add_family("qwen3", "Qwen3", WindowOfLayer, NormOfHeads)
_add_family("qwen3_moe", "Qwen3Moe", WindowOfLayer, NormOfHeads)
_add_family("gemma", "Gemma")
_add_family("gemma2", "Gemma2", WindowOfLayer, CappedScores)
_add_family("gemma3_text", "Gemma3", WindowOfLayer, NormOfHeads, by_layer_type=True)
_add_family("glm", "Glm", NeighboursRotate)
_add_family("glm4", "Glm4", NeighboursRotate)
_add_family("granite", "Granite")
_add_family("olmo2", "Olmo2", NormBeforeHeads, rotates_in_float=True)
_add_family("olmo3", "Olmo3", WindowOfLayer, NormBeforeHeads, rotates_in_float=True, by_layer_type=True)
_add_family("nemotron", "Nemotron")
_add_family("phi", "Phi", LayerNormOfHeads, DenseAtTheEnd)
_add_family("phi3", "Phi3", FusedProjection, WindowOfModel)
_add_family("smollm3", "SmolLM3", WindowOfLayer, LayersWithoutRope)
_add_family("stablelm", "StableLm", NormOfEachHead)
_add_family("starcoder2", "Starcoder2", WindowOfModel, DropoutAtTheEnd)


_add_outer("gemma3", "gemma3_text", "Gemma3")


def family_of(config: Any) -> Family:
    """Return the family of a config, stock or ours; raise ValueError if this version of transformers has none."""
    model_type = config.model_type.removeprefix("harpe_")
    if model_type not in FAMILIES:
        msg = f"models of type {model_type} need another version of transformers than {transformers.__version__}"
        raise ValueError(msg)
    return FAMILIES[model_type]


def model_class(config: Any) -> Any:
    """Return our class for the models that a config, stock or ours, says it belongs to; a causal one by default."""
    models = family_of(config).models
    named = [name.removeprefix("Harpe") for name in getattr(config, "architectures", None) or ()]
    known = {ours.__name__.removeprefix("Harpe"): ours for ours in models.values() if ours is not models["AutoModel"]}
    return next((known[name] for name in named if name in known), models["AutoModelForCausalLM"])


def with_bases(config: Any, bases: Iterable[Any], *, keep_rule: bool = False) -> Any:
    """Copy a stock config as this file's class for it, with one base per KV head; raise ValueError if invalid.

    `bases` are those of all layers, or a list or tuple of them for each layer.

    `keep_rule` applies the rule of a scaled model to every base; without, it is dropped.
    """
    result = copy.deepcopy(config)
    result.__class__ = family_of(config).config
    result.__dict__.pop("model_type", None)  # set from a file, it would hide that of the class
    own = _rope_with_bases(config)
    rope = {"rope_type": ROPE_TYPE, "rope_theta": own["rope_theta"]}
    rope["bases"] = [list(row) if isinstance(row, list | tuple) else row for row in bases]
    if PART in own:
        rope[PART] = own[PART]
    if keep_rule and own["rope_type"] != "default":
        rope["scaling"] = {key: value for key, value in own.items() if key != "rope_theta"}
    by_type = own is not config.rope_parameters
    result.rope_parameters = {**config.rope_parameters, GLOBAL: rope} if by_type else rope
    result.validate_rope()
    return result


def outer_copy(config: Any) -> Any:
    """Copy, one level deep, the config of a model around another that gets bases, as one that can hold them.

    Raise ValueError if that cannot be.
    """
    result = copy.copy(config)
    if f"harpe_{config.model_type}" not in OUTER:
        if any(getattr(part, "model_type", None) in FAMILIES for part in config.sub_configs.values()):
            msg = f"a {type(config).__name__} would read the config of its language model as a stock one, without bases"
            raise ValueError(msg)
    else:
        result.__class__ = OUTER[f"harpe_{config.model_type}"]["AutoModel"].config_class
        result.__dict__.pop("model_type", None)
    return result


def put_bases(model: Any, config: Any) -> Callable[[], None]:
    """Make the layers of a stock base model, such as a LlamaModel, rotate by the bases of `config`.

    Weights stay: attention modules change their class, and the rotary embedding is replaced.

    Returns
    -------
    callable
        Restores classes and rotary embedding, and nothing else.
    """
    family = family_of(config)
    stock, per_head = family.stock_attention, family.attention
    attentions, rotary = [layer.self_attn for layer in model.layers], model.rotary_emb
    for attention in attentions:
        # A forward set on the instance would take precedence over that of the new class.
        forward = vars(attention).get("_old_forward" if hasattr(attention, "_hf_hook") else "forward")
        if type(attention) is not stock or not (forward is None or _is_bound(forward, stock)):
            msg = f"the attention of this model is a {type(attention).__name__} that other code has changed"
            raise TypeError(msg)

    def put(new_rotary: Any, old: Any, new: Any) -> None:
        model.rotary_emb = new_rotary
        for attention in attentions:
            attention.__class__ = new
            # Accelerate's hooks, for models spread over devices, call a forward that they found in the class and put on
            # the instance. It stays there when they go, and they may come and go at any time.
            for name in ("forward", "_old_forward"):
                if _is_bound(vars(attention).get(name), old):
                    setattr(attention, name, new.forward.__get__(attention))

    put(PerHeadRope(config), stock, per_head)
    return lambda: put(rotary, per_head, stock)


def _is_bound(method: Any, of: Any) -> bool:
    """Whether this is the forward method of the class `of`, bound to an instance."""
    return getattr(method, "__func__", None) is of.forward
