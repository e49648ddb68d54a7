"""What a base set or a position scheme makes of a model's config, and which models can take one."""

import copy
from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import Any

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError, shown
from ropesearch.core.model_config import (
    BY_LAYER_TYPE,
    KEPT_RULES,
    MODEL_TYPES,
    PART,
    ROTATED_SHARES,
    SCALING,
    SUPPORTED,
    ModelConfig,
)
from ropesearch.schemes.grammar import parse_scheme
from ropesearch.schemes.rules import HeadBases, MultiScale, Scheme, SelfExtend

Wanted = BaseSet | Scheme | str
"""What a model can be given: a base set, a scheme, or the text of one."""

# What of a config.json says how queries and keys turn.
ROPE_KEYS = ("rope_parameters", "rope_scaling", "rope_theta", "original_max_position_embeddings")
# Where some model types keep the trained length of a rule.
BESIDE_THE_RULE = "original_max_position_embeddings"


@dataclass(frozen=True)
class RopeChange:
    """What a base set or a position scheme makes of a model's config.

    Attributes
    ----------
    name : str
        The scheme's text, with all that it took from the model, or "a base set".
    rope_parameters : mapping or None
        The rule as transformers has it; None where every KV head gets its own base.
    base_set : BaseSet or None
        The bases of the KV heads, or None.
    max_position_embeddings : int or None
        What the config then says, in tokens; None where it goes on saying nothing.
    length_from : str
        Where that comes from.
    scaling : str or None
        What became of the rule of a scaled model: 'replace' where it was dropped, 'keep' where it is applied to every
        base; None for other models.
    left_behind : tuple of str
        A line for each way in which the model names code of its own that a copy of it does not have.
    """

    name: str
    rope_parameters: Mapping[str, Any] | None
    base_set: BaseSet | None
    max_position_embeddings: int | None
    length_from: str
    scaling: str | None = None
    left_behind: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Say in one line which rule it is, which length was taken, and from where."""
        if self.rope_parameters is None:
            rule = f"rope_type harpe, {self.base_set.kv_heads if self.base_set else 0} bases"
            rule += f" in each of {self.base_set.layers} layers" if self.base_set and self.base_set.layers else ""
            rule += ", each scaled by the model's own rule" if self.scaling == "keep" else ""
        else:
            values = {key: value for key, value in self.rope_parameters.items() if not isinstance(value, list)}
            rule = ", ".join(f"{key} {_brief(value)}" for key, value in values.items())
        return f"{self.name}: {rule}; max_position_embeddings {self.max_position_embeddings}, {self.length_from}"

    def config(self, stock: Any) -> Any:
        """Copy of a stock config of transformers with the change in it."""
        from . import modeling_harpe

        if self.base_set is not None:
            changed = modeling_harpe.with_bases(stock, self.base_set.bases, keep_rule=self.scaling == "keep")
        else:
            changed = copy.deepcopy(stock)
            changed.rope_parameters = copy.deepcopy(self.rope_parameters)
            # transformers prefers one that stands beside the rule to the rule's own.
            vars(changed).pop(BESIDE_THE_RULE, None)
            if hasattr(changed, BESIDE_THE_RULE) and BESIDE_THE_RULE in changed.rope_parameters:  # a class's default
                changed.original_max_position_embeddings = changed.rope_parameters[BESIDE_THE_RULE]
        if self.max_position_embeddings is not None:
            changed.max_position_embeddings = self.max_position_embeddings
        return changed

    def stock_content(self, content: Mapping[str, Any]) -> dict[str, Any]:
        """What a config.json then holds, where transformers has the rule.

        The rule stands there twice: as transformers 5 writes it, and under the names that it had before, which
        transformers 5 reads too, to the same effect.
        """
        rule = dict(self.rope_parameters or {})
        theta = rule["rope_theta"]
        old = {key: value for key, value in rule.items() if key != "rope_theta"}
        # Code of the model's own is not copied, and the stock classes are meant.
        kept = {key: value for key, value in content.items() if key not in (*ROPE_KEYS, "auto_map")}
        kept |= {"max_position_embeddings": self.max_position_embeddings, "rope_parameters": rule, "rope_theta": theta}
        if rule["rope_type"] != "default":
            kept["rope_scaling"] = old
        if rule["rope_type"] == "longrope":
            kept[BESIDE_THE_RULE] = rule[BESIDE_THE_RULE]
        return kept


def rope_change(
    wanted: Wanted, model: ModelConfig, max_position_embeddings: int | None = None, scaling: str | None = None
) -> RopeChange:
    """Change that a base set, a scheme or the text of one makes of a model; InputError where it can take none."""
    if max_position_embeddings is not None:
        checks.integer("max_position_embeddings", max_position_embeddings, 1)
    done = None if model.rope_rule == "default" else scaling
    if isinstance(wanted, BaseSet):
        check_fit(wanted, model, scaling)
        return RopeChange("a base set", None, wanted, *_length(None, model, max_position_embeddings), done)
    if not isinstance(wanted, Scheme | str):
        raise ParameterError("scheme", wanted, "a text such as 'yarn:32', or a Scheme")
    check_model(model, wanted if isinstance(wanted, str) else wanted.name, "a scheme", scaling)
    scheme = _read(wanted, model)
    scheme.check_fit(model)
    if isinstance(scheme, SelfExtend):
        msg = "self-extend changes distances, which no config holds: no checkpoint can carry it, "
        msg += "but `ropesearch evaluate` can put it into a model in memory"
        raise InputError(msg)
    if isinstance(scheme, MultiScale):
        msg = "ms-poe divides the positions of every KV head, which no config holds: it cannot be put into a model"
        raise InputError(msg)
    length, length_from = _length(scheme, model, max_position_embeddings)
    if isinstance(scheme, HeadBases):
        return RopeChange(scheme.name, None, scheme.base_set(model.heads), length, length_from, done)
    if model.by_layer_type:
        msg = f"{model.name} has a rotary embedding for each type of layer, of which {scheme.name} would change one: "
        msg += "it takes only bases of KV heads, for the layers that see the whole text"
        raise InputError(msg)
    if done == "keep":
        msg = f"{scheme.name} is a rule itself and needs `scaling=replace`: `scaling=keep` is for bases of KV heads"
        raise InputError(msg)
    rule = scheme.rope_parameters()
    if rule is None:
        msg = f"{scheme.name} has an attention factor for each of two ranges, and transformers has no such rule"
        raise InputError(msg)
    if model.rules is not None and rule["rope_type"] not in model.rules:
        msg = f"{scheme.name} is of rope_type {rule['rope_type']}, and {model.name}, of type {model.model_type}, "
        msg += f"knows only {' and '.join(model.rules)}"
        raise InputError(msg)
    if model.model_type in ROTATED_SHARES:
        rule[PART] = model.rotated_share
    if rule["rope_type"] == "dynamic":
        if max_position_embeddings not in (None, scheme.original):
            hint = f"{scheme.original} for {scheme.name}, since the rule takes its trained length from there"
            raise ParameterError("max_position_embeddings", max_position_embeddings, hint)
        length, length_from = scheme.original, "the trained length, which the rule takes from there"
    return RopeChange(scheme.name, rule, None, length, length_from, done)


def _brief(value: object) -> str:
    """Value as the line about a change shows it: a text bare, a number to six digits where it is not whole."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.6g}"
    return value if isinstance(value, str) else shown(value)


def _read(wanted: Scheme | str, model: ModelConfig) -> Scheme:
    if isinstance(wanted, Scheme):
        return wanted
    try:
        return parse_scheme(wanted, model=model)
    except OSError as error:  # of the scheme's file: wrong input, not a wrong environment
        msg = f"{error.filename} cannot be read: {error.strerror or error}"
        raise InputError(msg) from None


def _length(scheme: Scheme | None, model: ModelConfig, asked: int | None) -> tuple[int | None, str]:
    """Return max_position_embeddings, and where it comes from."""
    if asked is not None:
        return asked, "as asked"
    if scheme is not None and scheme.target_length is not None:
        return scheme.target_length, "the length of the scheme"
    return model.max_position_embeddings, "the model's own"


def check_model(
    model: ModelConfig, what: str = "a base per head", kind: str = "bases", scaling: str | None = None
) -> None:
    """Raise InputError unless bases and schemes can be given to the model, with `scaling` if it is a scaled one."""
    if scaling is not None:
        checks.choice("scaling", scaling, SCALING)
    name, model_type, rule = model.name, model.model_type, model.rope_rule
    if model_type in MODEL_TYPES:
        msg = f"{name} already carries bases ({model_type}), which {what} would silently undo: "
        msg += "apply it to the model that it was made from"
        raise InputError(msg)
    if model.three_positions:
        msg = f"{name} has three positions for each token, in time, height and width (mrope): {kind} are for one"
        raise InputError(msg)
    if model_type not in SUPPORTED and model.inner_type in SUPPORTED:
        msg = f"{name} is a model of type {model_type} around one of type {model.inner_type}: load it in Python, give "
        msg += f"it {kind} with apply_bases or apply_scheme, and save it"
        raise InputError(msg)
    if model_type not in SUPPORTED:
        raise InputError(unsupported(name, model_type, kind))
    if rule == BY_LAYER_TYPE:
        msg = f"{name} has a rotary embedding for each type of layer, and {what} would be given to all"
        raise InputError(msg)
    if model.by_layer_type and not model.rotating_layers:
        msg = f"{name} has no layer that sees the whole text, and only those get bases where each type of layer has a "
        msg += "rotary embedding of its own"
        raise InputError(msg)
    changing = [rule for rule in model.other_rules if rule not in ("default", *KEPT_RULES)]
    if changing:
        msg = f"{name} has layers that keep their own rotary embedding, of the rule {changing[0]!r}; it can be only "
        msg += f"default, {', '.join(KEPT_RULES)}"
        raise InputError(msg)
    if rule == "default":
        return
    can_keep = rule in KEPT_RULES
    if scaling is None:
        msg = f"{name} scales its rotary embedding by the rule {rule!r}, which {what} would silently undo: give "
        msg += "`scaling=replace` to drop the rule" + can_keep * ", or `scaling=keep` to apply it to every base"
        raise InputError(msg)
    if scaling == "keep" and not can_keep:
        msg = f"the rule {rule!r} of {name} changes with the length and cannot be applied to every base: only "
        msg += f"{', '.join(KEPT_RULES)} can, and `scaling=replace` drops the rule"
        raise InputError(msg)


def check_fit(base_set: BaseSet, config: ModelConfig, scaling: str | None = None) -> None:
    """Raise InputError unless the model of this config can take the bases."""
    check_model(config, scaling=scaling)
    name, shape = config.name, config.shape
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
    if base_set.layers not in (None, config.num_hidden_layers):
        msg = f"the base set has bases for {base_set.layers} layers, and {name} has {config.num_hidden_layers}"
        raise InputError(msg)


def unsupported(name: str, model_type: Any, kind: str = "bases") -> str:
    """Line that refuses a model of another type."""
    return f"{name} is a model of type {model_type}; only {', '.join(SUPPORTED)} can take {kind}"
