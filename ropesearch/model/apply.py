"""A base set or a position scheme in a model that is in memory."""

from types import TracebackType
from typing import TYPE_CHECKING, Any

from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import ArgumentTypeError, InputError, ParameterError, first_line
from ropesearch.core.model_config import ModelConfig
from ropesearch.schemes.rules import Scheme

from . import modeling_harpe
from .change import RopeChange, Wanted, rope_change, unsupported

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


class AppliedBases:
    """Bases or a scheme that a model in memory rotates by, until `remove`, or to the end of a `with` block.

    Attributes
    ----------
    change : RopeChange
        What became of the model's config; as a text, one line that says it.
    """

    def __init__(self, change: RopeChange) -> None:
        self.change = change
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
        """Remove the bases or the scheme."""
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
        raise ArgumentTypeError("base_set", base_set, "a BaseSet")
    return put_rope(model, base_set, None)


def apply_scheme(
    model: "nn.Module", scheme: Scheme | str, *, max_position_embeddings: int | None = None
) -> AppliedBases:
    """Let a transformers model in memory rotate by a position scheme, such as YaRN.

    No weight changes, and no other model. A rule that transformers has is put in as transformers does it: a config with
    other `rope_parameters`, and a rotary embedding of the model's own class made from it; `model.save_pretrained` then
    writes a stock checkpoint. `uniform`, `table2` and `harpe` give every KV head a base, as `apply_bases` does.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one, such as a peft.PeftModel
        Of type llama, mistral, qwen2 or qwen3.
    scheme : str or Scheme
        A text as `parse_scheme` reads it: the trained length, base, head_dim and number of KV heads are the model's
        where it does not say them. A Scheme is taken as it is, with the head_dim of the model.
    max_position_embeddings : int, optional
        What the model's config then says, in tokens. If left out, it is the length that the scheme extends to
        (the trained length times the factor, the stage's, LongRoPE's longest), and for one that names none the model's.
        That of `dynamic` is always the trained length, which transformers' rule reads there.

    Returns
    -------
    AppliedBases
        `remove()`, or the end of a `with` block over it, gives the model back as it was; `change` says which rule and
        which length were taken. Of several on one model, the last is removed first.

    Raises
    ------
    ValueError
        If there is no such scheme, its file cannot be read, no config holds it (`self-extend`), or it does not fit the
        model; or if the model is of another type, carries bases already, or scales its rotary embedding.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    if not isinstance(scheme, Scheme | str):
        raise ParameterError("scheme", scheme, "a text such as 'yarn:32', or a Scheme")
    return put_rope(model, scheme, max_position_embeddings)


def put_rope(model: "nn.Module", wanted: Wanted, max_position_embeddings: int | None) -> AppliedBases:
    """Do what `apply_bases` and `apply_scheme` do, for whatever of the two is wanted."""
    decoder = find_decoder(model, "bases" if isinstance(wanted, BaseSet) else "a scheme")
    model_type = decoder.config.model_type
    stock = ModelConfig.of(decoder.config.to_dict(), type(model).__name__)
    applied = AppliedBases(rope_change(wanted, stock, max_position_embeddings))
    configs: dict[int, Any] = {}
    try:
        for module in model.modules():  # they usually share one config, perhaps with another model
            own = vars(module).get("config")
            if getattr(own, "model_type", None) == model_type:
                if id(own) not in configs:
                    configs[id(own)] = applied.change.config(own)
                applied._old.append((module, "config", own))
                module.config = configs[id(own)]
        if applied.change.base_set is not None:
            applied._old += modeling_harpe.put_bases(decoder, decoder.config)
        else:
            rotary = _stock_rotary(decoder)
            applied._old.append((decoder, "rotary_emb", decoder.rotary_emb))
            decoder.rotary_emb = rotary
    except (TypeError, ArithmeticError, RuntimeError) as error:  # the last two where a rule is beyond 64 bits
        applied.remove()
        raise InputError(first_line(error)) from None
    return applied


def _stock_rotary(decoder: "PreTrainedModel") -> Any:
    """Make a rotary embedding of the model's own class, by its config and on the device of the old one."""
    old: Any = decoder.rotary_emb
    rotary = type(old)(decoder.config).train(old.training)
    device = next((buffer.device for buffer in old.buffers()), None)
    return rotary if device is None or device.type == "meta" else rotary.to(device)


def find_decoder(model: "nn.Module", kind: str = "bases") -> "PreTrainedModel":
    """The one module in a model that has the layers and the rotary embedding, such as a LlamaModel."""
    if not hasattr(model, "modules"):
        hint = "; load_model loads one" if isinstance(model, str) else ""
        raise ArgumentTypeError("model", model, "a transformers model in memory", hint)
    decoders = [module for module in model.modules() if {"rotary_emb", "layers"} <= module._modules.keys()]
    if len(decoders) != 1:
        model_type = getattr(getattr(model, "config", None), "model_type", None)
        raise InputError(unsupported(type(model).__name__, model_type, kind))
    return decoders[0]
