"""The figures of every head: slopes, correlations, errors; over the distances at which they are taken."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from ropesearch.core.arrays import Counts, Floats

if TYPE_CHECKING:
    from .data import Decay

QUANTILES = {"5 %": 0.05, "50 %": 0.5, "95 %": 0.95}

NAMES = {
    "slope": "slope",
    "unit_waveform": "unit waveform",
    "minus_log": "−log m",
    "curve": "model curve",
    "agreement": "agreement of texts",
    "sink_mass": "mass on first keys",
}
CHANGE_NAMES = {
    "slope": "slope",
    "predicted_slope": "predicted slope",
    "verified_slope": "slope with bases",
    "prediction": "correlation with prediction",
    "no_change": "correlation with old curve",
    "change_error": "prediction error",
}
"""What tables call the figures of a decay, as measured and with other bases."""


def compute_figures(decay: "Decay") -> dict[str, Floats]:
    """Return the figures of every head by name, float64, shape (L, H) each; NaN where a curve is constant.

    All are taken at `fit_distances`.

    - Always: `slope`, of the least-squares line over log10 m, in nats per decade; the correlation of the score with
      the unit waveform (`unit_waveform`), with −log m (`minus_log`) and with the model curve (`curve`); the lowest
      correlation between two parts (`agreement`); in logits, the median standard error (`standard_error`) and the
      root mean square of the score about its mean (`spread`).
    - With bases: `predicted_slope`.
    - With bases that were verified: `verified_slope`; the correlation of the new score with the predicted curve
      (`prediction`) and with the old score (`no_change`); the root mean square of measured change minus predicted
      change, over that of the measured change (`change_error`).
    - With the softmax: `sink_mass`; `mass_slope`, the slope of log10 of the mass over log10 m.
    """
    at = decay.fit_distances
    log_m = np.log10(at)
    score, curve = (x[..., at].astype(np.float64) for x in (decay.score, decay.curve))
    unit = np.repeat(decay.unit_waveforms()[..., at], decay.group, axis=-2)
    compared = at[at <= decay.agreement_to]
    parts = decay.parts[..., compared].astype(np.float64)
    pairs_of_parts = [(a, b) for b in range(len(parts)) for a in range(b)]
    figures = {
        "slope": _slope(log_m, score),
        "unit_waveform": _correlation(score, unit),
        "minus_log": _correlation(score, -log_m),
        "curve": _correlation(score, curve),
        "agreement": np.min([_correlation(parts[a], parts[b]) for a, b in pairs_of_parts], axis=0),
        "standard_error": np.median(decay.standard_error[..., at], axis=-1).astype(np.float64),
        "spread": score.std(axis=-1),
    }
    if decay.prediction is not None:
        predicted = decay.prediction[..., at].astype(np.float64)
        figures["predicted_slope"] = _slope(log_m, predicted)
        if decay.verified is not None:
            verified = decay.verified[..., at].astype(np.float64)
            change = verified - score
            missed = (predicted - curve) - change
            figures["verified_slope"] = _slope(log_m, verified)
            figures["prediction"] = _correlation(verified, predicted)
            figures["no_change"] = _correlation(verified, score)
            figures["change_error"] = _ratio(_rms(missed), _rms(change))
    if decay.mass is not None and decay.sink_mass is not None:
        figures["sink_mass"] = decay.sink_mass.astype(np.float64)
        mass = decay.mass[..., at].astype(np.float64)
        figures["mass_slope"] = _slope(log_m, np.log10(np.maximum(mass, np.finfo(np.float32).tiny)))
    return figures


def summarize(figures: Mapping[str, Floats]) -> dict[str, dict[str, float | None]]:
    """Return the 5 %, 50 % and 95 % quantiles of every figure, over all heads that have it."""
    return {name: dict(zip(QUANTILES, _quantiles(values), strict=True)) for name, values in figures.items()}


def mean_slopes(decay: "Decay") -> Floats:
    """Return the slope of each KV head, averaged over layers and the query heads that share it, shape (K,)."""
    means: Floats = slopes_by_layer(decay).mean(axis=0)
    return means


def slopes_by_layer(decay: "Decay") -> Floats:
    """Return the slope of each KV head in each layer, averaged over the query heads that share it, shape (L, K)."""
    slopes = decay.figures["slope"]
    means: Floats = slopes.reshape(len(slopes), decay.model["kv_heads"], decay.group).mean(axis=2)
    return means


def order_of(slopes: Floats) -> Counts:
    """Return the KV heads from the steepest slope on, along the last axis; among equal ones the lower comes first."""
    order: Counts = np.argsort(slopes, axis=-1, kind="stable")
    return order


def differing_layers(decay: "Decay") -> tuple[int, ...]:
    """Return the layers whose KV heads come in another order, by slope, than by their means over the layers."""
    differ = (order_of(slopes_by_layer(decay)) != order_of(mean_slopes(decay))).any(axis=1)
    return tuple(layer for layer, other in zip(decay.layers, differ, strict=True) if other)


def slope_errors(decay: "Decay") -> Floats:
    """Return the standard errors of those means, between layers, shape (K,); NaN for a single layer."""
    by_layer = slopes_by_layer(decay)
    if len(by_layer) == 1:
        return np.full(by_layer.shape[1], np.nan)
    errors: Floats = by_layer.std(axis=0, ddof=1) / np.sqrt(len(by_layer))
    return errors


def null_for_nan(value: float) -> float | None:
    """Return a figure as a JSON file holds it."""
    return value if np.isfinite(value) else None


def _slope(x: Floats, y: Floats) -> Floats:
    """Slope of the least-squares line through y over x, along the last axis."""
    x = x - x.mean()
    slope: Floats = (y @ x) / (x @ x)
    return slope


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's correlation along the last axis; NaN where one of the two is constant."""
    a, b = (v - v.mean(axis=-1, keepdims=True) for v in (a, b))
    return _ratio((a * b).sum(axis=-1), np.sqrt((a * a).sum(axis=-1) * (b * b).sum(axis=-1)))


def _rms(values: Floats) -> Floats:
    result: Floats = np.sqrt((values * values).mean(axis=-1))
    return result


def _ratio(a: Floats, b: Floats) -> Floats:
    result: Floats = np.divide(a, b, out=np.full(np.broadcast(a, b).shape, np.nan), where=b > 0)
    return result


def _quantiles(values: Floats) -> list[float | None]:
    known = values[~np.isnan(values)]
    if not known.size:
        return [None] * len(QUANTILES)
    return [float(q) for q in np.quantile(known, list(QUANTILES.values()))]
