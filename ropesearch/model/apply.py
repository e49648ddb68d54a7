"""A base set or a position scheme in a model that is in memory."""

import copy
from collections.abc import Callable, Mapping
from functools import partial
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
        self._undo: list[Callable[[], None]] = []

    def remove(self) -> None:
        """Restore the model's own rotary embedding and attention, and what its config says of them.

        What else has changed meanwhile stays, such as the size of the vocabulary. A second call does nothing.
        """
        while self._undo:
            self._undo.pop()()

    def __enter__(self) -> "AppliedBases":
        """Return the handle itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Remove the bases or the scheme."""
        self.remove()


def apply_bases(model: "nn.Module", base_set: BaseSet, *, scaling: str | None = None) -> AppliedBases:
    """Make a transformers model in memory rotate each KV head by its own base.

    No weights and no other models change. While the bases are applied, `model.save_pretrained` writes a checkpoint with
    bases, as `apply_to_checkpoint` does; a model around the one that they were given to raises when it is saved.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one, such as a peft.PeftModel
        Of a type that docs/models.md lists.
    base_set : BaseSet
        Made for the model's heads, KV heads and head_dim, and for its number of layers where these differ.
    scaling : {"replace", "keep"}, optional
        What becomes of the rule of a scaled model, such as Llama 3.1's: it is dropped, which is closest to HARPE, or
        applied to every base. Such a model is refused without either. `keep` is possible for linear, llama3 and yarn.

    Returns
    -------
    AppliedBases
        `remove()`, or the end of a `with` block, restores the model.

    Raises
    ------
    ValueError
        If the model has another type, already carries bases, scales its rotary embedding and `scaling` is not given,
        has an attention that other code has changed, or does not fit the base set.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.

    References
    ----------
    HARPE, arXiv:2412.07171, section 3.2; where heads share keys, one base per KV head.
    """
    if not isinstance(base_set, BaseSet):
        raise ArgumentTypeError("base_set", base_set, "a BaseSet")
    return put_rope(model, base_set, None, scaling)


def apply_scheme(
    model: "nn.Module",
    scheme: Scheme | str,
    *,
    max_position_embeddings: int | None = None,
    scaling: str | None = None,
) -> AppliedBases:
    """Let a transformers model in memory rotate by a position scheme, such as YaRN.

    No weight changes, and no other model. A rule that transformers has is put in as transformers does it: a config with
    other `rope_parameters`, and a rotary embedding of the model's own class made from it; `model.save_pretrained` then
    writes a stock checkpoint. `uniform`, `table2` and `harpe` give every KV head a base, as `apply_bases` does.

    Parameters
    ----------
    model : transformers.PreTrainedModel, or a module around one, such as a peft.PeftModel
        Of a type that docs/models.md lists.
    scheme : str or Scheme
        A text as `parse_scheme` reads it: the trained length, base, head_dim and number of KV heads are the model's
        where it does not say them. A Scheme is taken as it is, with the head_dim of the model.
    max_position_embeddings : int, optional
        What the model's config then says, in tokens. If left out, it is the length that the scheme extends to
        (the trained length times the factor, the stage's, LongRoPE's longest), and for one that names none the model's.
        That of `dynamic` is always the trained length, which transformers' rule reads there.
    scaling : {"replace", "keep"}, optional
        As for `apply_bases`; `keep` is for schemes with a base per KV head.

    Returns
    -------
    AppliedBases
        `remove()`, or the end of a `with` block over it, gives the model back as it was; `change` says which rule and
        which length were taken. Of several on one model, the last is removed first.

    Raises
    ------
    ValueError
        If there is no such scheme, its file cannot be read, no config holds it (`self-extend`), or it does not fit the
        model; or if the model is of another type, carries bases already, or scales its rotary embedding and `scaling`
        is not given.
    ImportError
        If torch or transformers is not installed; the message names the extra that brings them.
    """
    if not isinstance(scheme, Scheme | str):
        raise ParameterError("scheme", scheme, "a text such as 'yarn:32', or a Scheme")
    return put_rope(model, scheme, max_position_embeddings, scaling)


def put_rope(
    model: "nn.Module", wanted: Wanted, max_position_embeddings: int | None, scaling: str | None = None
) -> AppliedBases:
    """Do what `apply_bases` and `apply_scheme` do, for whatever of the two is wanted."""
    decoder = find_decoder(model, "bases" if isinstance(wanted, BaseSet) else "a scheme")
    model_type = decoder.config.model_type
    stock = ModelConfig.of(decoder.config.to_dict(), type(model).__name__)
    applied = AppliedBases(rope_change(wanted, stock, max_position_embeddings, scaling))
    try:
        applied._undo.append(_put_configs(model, model_type, applied.change))
        if applied.change.base_set is not None:
            applied._undo.append(modeling_harpe.put_bases(decoder, decoder.config))
        else:
            applied._undo.append(_put_rotary(decoder))
    except (TypeError, ValueError, ArithmeticError, RuntimeError) as error:  # the last two: a rule beyond 64 bits
        applied.remove()
        raise InputError(first_line(error)) from None
    if model is decoder:
        applied._undo.append(_refuse_to_save_around(decoder))
    return applied


def _put_configs(model: "nn.Module", model_type: str, change: RopeChange) -> Callable[[], None]:
    """Give the change to the config of every module that has one of the type; return what takes it back.

    Modules usually share one config, perhaps with another model, so that it is never changed itself. A model of text
    and images has that of its language model inside its own.
    """
    changed: dict[int, Any] = {}  # by the identity of the old one

    def change_of(own: Any) -> Any:
        if id(own) not in changed:
            if getattr(own, "model_type", None) == model_type:
                changed[id(own)] = change.config(own)
            else:
                inner = {name: vars(own).get(name) for name in getattr(own, "sub_configs", ())}
                inner = {name: c for name, c in inner.items() if getattr(c, "model_type", None) == model_type}
                outer_copy = copy.copy if change.base_set is None else modeling_harpe.outer_copy
                changed[id(own)] = outer_copy(own) if inner else own
                for name, config in inner.items():
                    setattr(changed[id(own)], name, change_of(config))
        return changed[id(own)]

    owners = [(module, vars(module)["config"]) for module in model.modules() if "config" in vars(module)]
    # Whatever raises does so here, before any module has another config.
    old = [(m, own, copy.deepcopy(vars(change_of(own)))) for m, own in owners if change_of(own) is not own]
    for module, own, _ in old:
        module.config = change_of(own)

    def undo() -> None:
        restored: dict[int, Any] = {}
        for module, own, before in old:
            now: Any = module.config
            if id(now) not in restored:
                restored[id(now)] = _with_later(own, before, vars(now))
            module.config = restored[id(now)]

    return undo


def _with_later(own: Any, before: Mapping[str, Any], now: Mapping[str, Any]) -> Any:
    """Return a config, or a copy of it with what has changed from `before` to `now`, its rope aside."""
    later: dict[str, Any] = {}
    for name, value in now.items():
        if name in getattr(own, "sub_configs", ()) and name in before and name in vars(own) and value is not None:
            inner = _with_later(vars(own)[name], vars(before[name]), vars(value))
            later |= {} if inner is vars(own)[name] else {name: inner}
        elif name != "rope_parameters" and (name not in before or before[name] != value):
            later[name] = value
    if not later:
        return own
    result = copy.copy(own)
    for name, value in later.items():
        setattr(result, name, value)
    return result


def _put_rotary(decoder: "PreTrainedModel") -> Callable[[], None]:
    """Give a decoder the rotary embedding that its config asks for; return what takes it back."""
    own = decoder.rotary_emb
    decoder.rotary_emb = _stock_rotary(decoder)

    def undo() -> None:
        decoder.rotary_emb = own

    return undo


def _refuse_to_save_around(decoder: "PreTrainedModel") -> Callable[[], None]:
    """Let a model around this decoder raise when it is saved, since its config knows nothing of the change."""
    refuse = partial(_refuse_inside, f"{decoder.base_model_prefix}.")
    remove: Callable[[], None] = decoder.register_state_dict_pre_hook(refuse).remove
    return remove


def _refuse_inside(place: str, module: Any, prefix: str, keep_vars: bool) -> None:
    """Raise InputError where the weights of a model are asked for that has the module in the place of its decoder."""
    # Adapters of PEFT around a decoder have a name like it, and save no config of a model.
    if prefix.replace("base_model.model.", "").endswith(place):
        msg = f"the bases or the scheme were given to the {type(module).__name__} alone, and the config of the model "
        msg += "around it does not hold them: give them to the whole model before it is saved"
        raise InputError(msg)


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
