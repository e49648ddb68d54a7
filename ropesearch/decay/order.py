"""Bases laid over the KV heads by what was measured."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError
from ropesearch.core.model_config import ModelConfig

from .data import Decay
from .figures import null_for_nan


def order_by_decay(base_set: BaseSet, decay: Decay, config: Mapping[str, Any] | ModelConfig | None = None) -> BaseSet:
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

    Returns
    -------
    BaseSet
        Its parameters say `order` "measured", and under `order_by` the model, its layers and the slopes.

    Raises
    ------
    ValueError
        If `decay` was measured on another model, on other heads, or on a model that already carries bases.
    """
    checks.instance("base_set", base_set, BaseSet, "a BaseSet")
    checks.instance("decay", decay, Decay, "a Decay")
    decay.check_heads(base_set.heads, base_set.kv_heads, base_set.head_dim)
    check_order(decay, config)
    slopes = decay.kv_head_slopes()
    source = np.empty(base_set.kv_heads, np.int64)  # of each KV head: the head whose base it gets
    source[np.argsort(slopes, kind="stable")] = np.argsort(base_set.bases, kind="stable")
    figures = dict(base_set.coverage_figures)
    if "valleys_on_peaks" in figures:  # the one figure that has a value for each head
        figures["valleys_on_peaks"] = [figures["valleys_on_peaks"][head] for head in source]
    order_by = {
        "model": decay.model["name"],
        "layers": list(decay.layers),
        "slopes": slopes.tolist(),
        "standard_errors": [null_for_nan(x) for x in decay.kv_head_slope_errors().tolist()],
    }
    return replace(
        base_set,
        bases=tuple(base_set.bases[head] for head in source),
        parameters={**base_set.parameters, "order": "measured", "order_by": order_by},
        coverage_figures=figures,
    )


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
