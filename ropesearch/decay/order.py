"""Bases laid over the KV heads by what was measured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.arrays import Counts, Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig

from .data import Decay
from .figures import null_for_nan, order_of


def order_by_decay(
    base_set: BaseSet,
    decay: Decay,
    config: Mapping[str, Any] | ModelConfig | None = None,
    *,
    by_layer: bool = False,
) -> BaseSet:
    """Lay the bases of a set over the KV heads by measured slope: the smallest base to the steepest.

    This goes beyond the paper, which lays them over the heads in ascending order and gives no reason. Only training
    can show whether it makes a better model.

    Parameters
    ----------
    base_set : BaseSet
    decay : Decay
        Measured on the model that the set is for. The slopes are averaged over its layers and over the query heads
        that share a KV head. Among equal slopes, the lower KV head gets the smaller base.
    config : mapping or ModelConfig, optional
        Content of the config.json of the model that the set is for, to check that `decay` was measured on it.
    by_layer : bool
        Whether every layer gets the bases in the order of its own slopes. Layers that were not measured get them in
        the order of the means.

    Returns
    -------
    BaseSet
        Its parameters say `order` "measured", and under `order_by` the model, its layers and the slopes. With
        `by_layer` its layers differ, and it carries no figures of coverage.

    Raises
    ------
    ValueError
        If `decay` was measured on another model, on other heads, or on a model that already carries bases; or if the
        layers of the set differ already.
    """
    bases = checks.instance("base_set", base_set, BaseSet, "a BaseSet").of_all_layers("the order")
    checks.instance("decay", decay, Decay, "a Decay")
    decay.check_heads(base_set.heads, base_set.kv_heads, base_set.head_dim)
    check_order(decay, config)
    slopes = decay.kv_head_slopes()
    order_by = {
        "model": decay.model["name"],
        "layers": list(decay.layers),
        "slopes": slopes.tolist(),
        "standard_errors": [null_for_nan(x) for x in decay.kv_head_slope_errors().tolist()],
    }
    parameters = {**base_set.parameters, "order": "measured", "order_by": order_by}
    if checks.truth("by_layer", by_layer):
        measured = decay.kv_head_slopes_by_layer()
        order_by["slopes_by_layer"] = measured.tolist()
        of_layers = dict(zip(decay.layers, measured, strict=True))
        rows = [of_layers.get(layer, slopes) for layer in range(decay.count_layers())]
        return replace(
            base_set,
            bases=tuple(tuple(bases[head] for head in _sources(bases, row)) for row in rows),
            selection=(base_set.selection,) * len(rows),
            parameters=parameters,
            coverage_figures={},
        )
    source = _sources(bases, slopes)
    figures = dict(base_set.coverage_figures)
    if "valleys_on_peaks" in figures:  # the one figure that has a value for each head
        figures["valleys_on_peaks"] = [figures["valleys_on_peaks"][head] for head in source]
    ordered = tuple(bases[head] for head in source)
    return replace(base_set, bases=ordered, parameters=parameters, coverage_figures=figures)


def _sources(bases: tuple[float, ...], slopes: Floats) -> Counts:
    """Return for each KV head the head whose base it gets."""
    source = np.empty(len(bases), np.int64)
    source[order_of(slopes)] = np.argsort(bases, kind="stable")
    return source


def check_order(decay: Decay, config: Mapping[str, Any] | ModelConfig | None = None) -> None:
    """Raise ValueError unless `decay` can order the bases of the model with this config, as in `order_by_decay`."""
    model = decay.model
    if str(model.get("model_type")).startswith("harpe_"):
        msg = f"the decay was measured on {model['name']}, which carries bases already; slopes depend on the bases, so "
        msg += "order by a decay of the model before it got them"
        raise InputError(msg)
    for key, value in {} if config is None else ModelConfig.of(config).identity().items():
        if value is not None and model.get(key) is not None and value != model[key]:
            msg = f"the decay is of another model: {model['name']} has {key} {model[key]}, this one has {value}"
            raise InputError(msg)
    if np.isnan(decay.kv_head_slopes()).any():
        raise InputError("the decay has KV heads without a slope")
