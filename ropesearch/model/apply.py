"""Apply a base set to a model in memory, and check that the model can take it."""

from dataclasses import astuple
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.model_config import MODEL_TYPES, SUPPORTED, ModelConfig

from . import modeling_harpe

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class AppliedBases:
    """Handle for bases applied to a model in memory, until `remove` or the end of a `with` block."""

    def __init__(self) -> None:
        self._old: list[tuple[Any, str, Any]] = []

    def remove(self) -> None:
        """Restore the model's own rotary embedding, attention and config; a second call does nothing."""
        while self._old:
            owner, name, value = self._old.pop()
            setattr(owner, name, value)

    def __enter__(self) -> "AppliedBases":
        """Return the handle itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bases."""
        self.remove()


def apply_bases(model: "nn.Module", base_set: BaseSet) -> AppliedBases:
    """Make a transformers model in memory rotate each KV head by its own base.

    No weights and no other models change. While the bases are applied, `model.save_pretrained` writes a checkpoint with
    bases, as `apply_to_checkpoint` does.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one, such as a peft.PeftModel
        Of type llama, mistral, qwen2 or qwen3.
    base_set : BaseSet
        Made for the model's heads, KV heads and head_dim.

    Returns
    -------
    AppliedBases
        `remove()`, or the end of a `with` block, restores the model.

    Raises
    ------
    ValueError
        If the model has another type, already carries bases, scales its rotary embedding, has an attention that other
        code has changed, or does not fit the base set.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.

    References
    ----------
    HARPE, arXiv:2412.07171, section 3.2; where heads share keys, one base per KV head.
    """
    if not isinstance(base_set, BaseSet):
        raise ParameterError("base_set", base_set, "a BaseSet")
    base_model = find_decoder(model)
    model_type = base_model.config.model_type
    check_fit(base_set, ModelConfig.of(base_model.config.to_dict(), type(model).__name__))

    applied = AppliedBases()
    configs: dict[int, Any] = {}
    try:
        for module in model.modules():  # they usually share one config, perhaps with another model
            own = vars(module).get("config")
            if getattr(own, "model_type", None) == model_type:
                if id(own) not in configs:
                    configs[id(own)] = modeling_harpe.with_bases(own, base_set.bases)
                applied._old.append((module, "config", own))
                module.config = configs[id(own)]
        applied._old += modeling_harpe.put_bases(base_model, base_model.config)
    except TypeError as error:
        applied.remove()
        raise InputError(str(error)) from None
    return applied


def find_decoder(model: "nn.Module") -> "PreTrainedModel":
    """Return the one module of a model that has the layers and the rotary embedding, such as a LlamaModel."""
    decoders = [module for module in model.modules() if {"rotary_emb", "layers"} <= module._modules.keys()]
    if len(decoders) != 1:
        raise InputError(
            _unsupported(type(model).__name__, getattr(getattr(model, "config", None), "model_type", None))
        )
    return decoders[0]


def check_fit(base_set: BaseSet, config: ModelConfig) -> None:
    """Raise InputError unless the model of this config can take the bases."""
    name, model_type = config.name, config.model_type
    if model_type in MODEL_TYPES:
        msg = f"{name} already carries bases ({model_type}): apply them to the model that it was made from"
        raise InputError(msg)
    if model_type not in SUPPORTED:
        raise InputError(_unsupported(name, model_type))
    if config.rope_rule != "default":
        msg = f"{name} scales its rotary embedding by the rule {config.rope_rule!r}, which a base per head would "
        msg += "silently undo: the rule must be 'default'"
        raise InputError(msg)
    shape = config.shape
    if base_set.kv_heads == base_set.heads == shape.heads != shape.kv_heads:
        msg = f"the base set has one base per query head ({base_set.heads}), but the query heads of {name} share "
        msg += f"{shape.kv_heads} KV heads: it must have one per KV head (search with `kv_heads={shape.kv_heads}`)"
        raise InputError(msg)
    given = (base_set.heads, base_set.kv_heads, base_set.head_dim)
    own = astuple(shape)
    if given != own:
        sides = ["{} heads, {} KV heads and head_dim {}".format(*side) for side in (given, own)]
        msg = f"the base set is for {sides[0]}, but {name} has {sides[1]}"
        raise InputError(msg)


def _unsupported(name: str, model_type: Any) -> str:
    return f"{name} is a model of type {model_type}; only {', '.join(SUPPORTED)} can take bases"
