"""A base set in a model that is in memory, and what is asked of a model before it gets one."""

from collections.abc import Mapping
from types import TracebackType
from typing import Any

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError, require_extra
from ropesearch.core.model_config import MODEL_TYPES, SUPPORTED, model_shape


class AppliedBases:
    """Bases that a model in memory rotates by, until `remove`, or to the end of a `with` block."""

    def __init__(self) -> None:
        self._old: list[tuple[Any, str, Any]] = []

    def remove(self) -> None:
        """Give the model its own rotary embedding, attention and config back; doing it again does nothing."""
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


def apply_bases(model: Any, base_set: BaseSet) -> AppliedBases:
    """Let a transformers model in memory rotate each KV head by its own base.

    No weight changes, and no other model. While the bases are applied, `model.save_pretrained` writes a checkpoint
    that carries them, as `apply_to_checkpoint` does.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one, such as a peft.PeftModel
        Of type llama, mistral, qwen2 or qwen3.
    base_set : BaseSet
        Made for the model's heads, KV heads and head_dim.

    Returns
    -------
    AppliedBases
        `remove()`, or the end of a `with` block over it, gives the model back as it was.

    Raises
    ------
    ValueError
        If the model is of another type, carries bases already, scales its rotary embedding, has an attention that
        other code has changed, or does not fit the base set.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.

    References
    ----------
    HARPE, arXiv:2412.07171, section 3.2; one base per KV head where heads share keys.
    """
    if not isinstance(base_set, BaseSet):
        raise ParameterError("base_set", base_set, "a BaseSet")
    require_torch("apply_bases")
    from . import modeling_harpe

    name = type(model).__name__
    base_model = find_decoder(model)
    model_type = base_model.config.model_type
    check_fit(base_set, base_model.config.to_dict(), name)

    applied = AppliedBases()
    configs: dict[int, Any] = {}
    try:
        for module in model.modules():  # they share one config as a rule, and perhaps with another model
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


def find_decoder(model: Any) -> Any:
    """The one module in a model that has the layers and the rotary embedding, such as a LlamaModel."""
    decoders = [module for module in model.modules() if {"rotary_emb", "layers"} <= module._modules.keys()]
    if len(decoders) != 1:
        raise InputError(
            _unsupported(type(model).__name__, getattr(getattr(model, "config", None), "model_type", None))
        )
    return decoders[0]


def check_fit(base_set: BaseSet, config: Mapping[str, Any], name: str) -> None:
    """Raise InputError unless a model can take the bases; `config` is the content of its config.json."""
    model_type = config.get("model_type")
    if model_type in MODEL_TYPES:
        msg = f"{name} carries bases already ({model_type}): apply to the model that it was made from"
        raise InputError(msg)
    if model_type not in SUPPORTED:
        raise InputError(_unsupported(name, model_type))
    rule = _rope_rule(config)
    if rule != "default":
        msg = f"{name} scales its rotary embedding by the rule {rule!r}, which bases of its heads would undo in "
        msg += "silence: only models with the plain rule, 'default', can take them"
        raise InputError(msg)
    try:
        shape = model_shape(config)
    except InputError as error:
        msg = f"{name}: {error}"
        raise InputError(msg) from None
    if base_set.kv_heads == base_set.heads == shape.heads != shape.kv_heads:
        msg = f"the base set has one base per query head ({base_set.heads}), and the query heads of {name} share "
        msg += f"{shape.kv_heads} KV heads: it must have one per KV head (search with `kv_heads={shape.kv_heads}`)"
        raise InputError(msg)
    given = (base_set.heads, base_set.kv_heads, base_set.head_dim)
    if given != (shape.heads, shape.kv_heads, shape.head_dim):
        sides = ["{} heads, {} KV heads and head_dim {}".format(*side) for side in (given, vars(shape).values())]
        msg = f"the base set is for {sides[0]}, and {name} has {sides[1]}"
        raise InputError(msg)


def _rope_rule(config: Mapping[str, Any]) -> str:
    """Name of the rule that makes a model's frequencies, wherever the versions of transformers have put it."""
    rule = config.get("rope_scaling") or config.get("rope_parameters") or {}
    if not isinstance(rule, Mapping):
        return str(rule)
    if any(isinstance(value, Mapping) for value in rule.values()):
        return "one for each type of layer"
    return str(rule.get("rope_type", rule.get("type", "default")))


def require_torch(purpose: str) -> None:
    """Raise MissingExtraError where torch or transformers is not installed."""
    require_extra(purpose, "torch", "torch", "transformers")


def _unsupported(name: str, model_type: Any) -> str:
    return f"{name} is a model of type {model_type}, and bases can be given to {', '.join(SUPPORTED)}"
