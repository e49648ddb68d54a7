"""How the attention of a real model's heads decays over distance: what was measured, and the files that carry it."""

import io
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Curves, Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.files import check_output, read_versioned, write_whole
from ropesearch.core.model_config import ModelConfig
from ropesearch.core.rope import inv_freq
from ropesearch.curves.waveforms import waveform_of

FORMAT = "ropesearch.decay"
VERSION = 1

SINKS = 4
"""The first keys of a text, which draw attention whatever they say; they count nowhere but in `sink_mass`."""
BLOCKS = 16
"""Blocks of query positions in each text, between which the standard error is taken."""
FIT_POINTS = 60


# Arrays of the .npz file by the attribute that they fill.
_ARRAYS = (
    "inv_freq",
    "coefficients",
    "pairs",
    "score",
    "standard_error",
    "parts",
    "verified",
    "mass",
    "sink_mass",
)
_OPTIONAL = ("verified", "mass", "sink_mass")
_KEYS = ("model", "texts", "length", "layers", "agreement_to", "bases", "made_by")


@dataclass(frozen=True)
class Decay:
    """Measured attention by distance, for L layers with H query heads and K KV heads each, distances m = 0 … M.

    The score at m is the mean of q_i·k_j/√d after rotation, before the softmax, over all pairs i − j = m with j ≥ 4,
    in logits (nats). M is half the length of the texts.

    Attributes
    ----------
    model : mapping
        What the model is: `name`, model_type, num_hidden_layers, hidden_size, vocab_size, heads, kv_heads, head_dim,
        base, max_position_embeddings, dtype.
    texts : tuple of mapping
        `name` and `tokens` of each text, and `from`, the first of its tokens that was read.
    length : int
        Tokens that were read of each text.
    layers : tuple of int
        The layers measured, from 0.
    inv_freq : ndarray of float64, shape (K, d/2)
        The model's own frequencies, in radians per token.
    coefficients : ndarray of complex128, shape (L, H, d/2)
        c_f = mean(q_f)·conj(mean(k_f)) of queries and keys before rotation, as complex numbers by frequency.
    pairs : ndarray of int64, shape (M + 1,)
        How many pairs stand behind each point.
    score, standard_error : ndarray of float32, shape (L, H, M + 1)
        The mean, and its standard error over 16 blocks of query positions in each text.
    parts : ndarray of float32, shape (P, L, H, M + 1)
        The score by text; with one text, by the first and the second half of its queries. NaN where there is no pair.
    agreement_to : int
        The last distance at which the parts are compared.
    bases : tuple of float, length K, or None
        The bases that a prediction is asked for.
    verified : ndarray of float32, shape (L, H, M + 1), or None
        The score measured with `bases` in the model.
    mass : ndarray of float32, shape (L, H, M + 1), or None
        The mean share of its query's attention that a key at distance m gets, after the softmax, the first four keys
        taken out and the rest scaled to 1.
    sink_mass : ndarray of float32, shape (L, H), or None
        The mean share that those four keys get.
    made_by : mapping
        Versions, and the device.

    References
    ----------
    Su et al., arXiv:2104.09864, section 3.4.3, for the decay that is looked for; Xiao et al., arXiv:2309.17453, for
    attention sinks.
    """

    model: Mapping[str, Any]
    texts: tuple[Mapping[str, Any], ...]
    length: int
    layers: tuple[int, ...]
    inv_freq: Floats
    coefficients: npt.NDArray[np.complex128]
    pairs: npt.NDArray[np.int64]
    score: Curves
    standard_error: Curves
    parts: Curves
    agreement_to: int
    bases: tuple[float, ...] | None = None
    verified: Curves | None = None
    mass: Curves | None = None
    sink_mass: Curves | None = None
    made_by: Mapping[str, Any] = field(default_factory=dict)

    @property
    def max_distance(self) -> int:
        """The last distance, M."""
        return self.pairs.size - 1

    @property
    def group(self) -> int:
        """Query heads to a KV head, H / K."""
        return int(self.model["heads"] // self.model["kv_heads"])

    @cached_property
    def fit_distances(self) -> npt.NDArray[np.int64]:
        """60 distances from 1 to M, evenly spaced in their logarithm, rounded, and each of them once."""
        return np.unique(np.rint(np.geomspace(1, self.max_distance, FIT_POINTS)).astype(np.int64))

    @cached_property
    def curve(self) -> Curves:
        """The model curve, Re Σ_f c_f e^{imθ_f}/√d, float32, shape (L, H, M + 1)."""
        return self._curve(self.inv_freq)

    @cached_property
    def prediction(self) -> Curves | None:
        """`predict(bases)` of the bases that a prediction is asked for, or None."""
        return None if self.bases is None else self.predict(self.bases)

    def predict(self, bases: Any) -> Curves:
        """Return the model curve with other bases, without running the model.

        Parameters
        ----------
        bases : BaseSet or sequence of float, length K
            One per KV head.

        Returns
        -------
        ndarray of float32, shape (L, H, M + 1)

        Raises
        ------
        ValueError
            If there are not as many bases as KV heads, or a base set is for other heads.
        """
        return self._curve(inv_freq(self.fitting_bases(bases), self.model["head_dim"]))

    def fitting_bases(self, bases: Any) -> tuple[float, ...]:
        """Return the bases of a base set or a sequence, one per KV head of this model; raises ValueError."""
        if isinstance(bases, BaseSet):
            self.check_heads(bases.heads, bases.kv_heads, bases.head_dim)
            return bases.bases
        values = tuple(checks.base("every one of bases", base) for base in bases)
        if len(values) != self.model["kv_heads"]:
            raise ParameterError("bases", list(values), f"one per KV head: {self.model['kv_heads']}")
        return values

    def check_heads(self, heads: int, kv_heads: int, head_dim: int) -> None:
        """Raise ValueError unless the model measured has these heads."""
        own = tuple(self.model[key] for key in ("heads", "kv_heads", "head_dim"))
        if (heads, kv_heads, head_dim) != own:
            sides = [
                "{} heads, {} KV heads and head_dim {}".format(*side) for side in ((heads, kv_heads, head_dim), own)
            ]
            msg = f"the bases are for {sides[0]}, and the decay was measured on {self.model['name']}, of {sides[1]}"
            raise InputError(msg)

    def unit_waveforms(self) -> Floats:
        """Return A_b(m) by the model's own frequencies, in logits, shape (K, M + 1)."""
        return np.array([waveform_of(theta, 0, self.max_distance) for theta in self.inv_freq])

    @cached_property
    def figures(self) -> dict[str, Floats]:
        """Figures of every head, float64, shape (L, H) each; NaN where a curve is constant.

        Over `fit_distances`: `slope`, of the least-squares line over log10 m, in nats per decade; the correlations of
        the score with the unit waveform (`unit_waveform`), with −log m (`minus_log`) and with the model curve
        (`curve`); the lowest correlation between two parts (`agreement`); the median standard error
        (`standard_error`) and the score's root mean square about its mean (`spread`), in logits. With bases:
        `predicted_slope`. Where they were verified: `verified_slope`; the correlation of the
        new score with the predicted curve (`prediction`) and with the old score (`no_change`); the root mean square by
        which the predicted change misses the measured one, over that of the measured one (`change_error`). With the
        softmax: `sink_mass`; `mass_slope`, of log10 of the mass over log10 m.
        """
        at = self.fit_distances
        log_m = np.log10(at)
        score, curve = (x[..., at].astype(np.float64) for x in (self.score, self.curve))
        unit = np.repeat(self.unit_waveforms()[:, at], self.group, axis=0)
        compared = at[at <= self.agreement_to]
        parts = self.parts[..., compared].astype(np.float64)
        pairs_of_parts = [(a, b) for b in range(len(parts)) for a in range(b)]
        found = {
            "slope": _slope(log_m, score),
            "unit_waveform": _correlation(score, unit),
            "minus_log": _correlation(score, -log_m),
            "curve": _correlation(score, curve),
            "agreement": np.min([_correlation(parts[a], parts[b]) for a, b in pairs_of_parts], axis=0),
            "standard_error": np.median(self.standard_error[..., at], axis=-1).astype(np.float64),
            "spread": score.std(axis=-1),
        }
        if self.prediction is not None:
            predicted = self.prediction[..., at].astype(np.float64)
            found["predicted_slope"] = _slope(log_m, predicted)
            if self.verified is not None:
                verified = self.verified[..., at].astype(np.float64)
                change = verified - score
                missed = (predicted - curve) - change
                found["verified_slope"] = _slope(log_m, verified)
                found["prediction"] = _correlation(verified, predicted)
                found["no_change"] = _correlation(verified, score)
                found["change_error"] = _ratio(_rms(missed), _rms(change))
        if self.mass is not None and self.sink_mass is not None:
            found["sink_mass"] = self.sink_mass.astype(np.float64)
            mass = self.mass[..., at].astype(np.float64)
            found["mass_slope"] = _slope(log_m, np.log10(np.maximum(mass, np.finfo(np.float32).tiny)))
        return found

    def kv_head_slopes(self) -> Floats:
        """Return the slope of each KV head, averaged over layers and over the query heads that share it, (K,)."""
        means: Floats = self._kv_head_slopes_by_layer().mean(axis=0)
        return means

    def kv_head_slope_errors(self) -> Floats:
        """Return the standard error of those means, between layers, (K,); NaN for one layer."""
        by_layer = self._kv_head_slopes_by_layer()
        if len(by_layer) == 1:
            return np.full(by_layer.shape[1], np.nan)
        errors: Floats = by_layer.std(axis=0, ddof=1) / np.sqrt(len(by_layer))
        return errors

    def _kv_head_slopes_by_layer(self) -> Floats:
        slopes = self.figures["slope"]
        means: Floats = slopes.reshape(len(slopes), self.model["kv_heads"], self.group).mean(axis=2)
        return means

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the quantiles 5 %, 50 % and 95 % of every figure, over all heads."""
        return {
            name: dict(zip(("5 %", "50 %", "95 %"), _quantiles(values), strict=True))
            for name, values in self.figures.items()
        }

    def to_json(self, arrays: Mapping[str, str] | None = None) -> str:
        """Return the text of the decay file; `arrays` says which file holds the arrays."""
        content = {"format": FORMAT, "version": VERSION} | {key: getattr(self, key) for key in _KEYS[:-1]}
        content |= {
            "distances": [0, self.max_distance],
            "summary": self.summary(),
            "kv_head_slopes": [_plain(x) for x in self.kv_head_slopes().tolist()],
            "kv_head_slope_errors": [_plain(x) for x in self.kv_head_slope_errors().tolist()],
            "heads": [],
            "arrays": dict(arrays or {}),
            "made_by": self.made_by,
        }
        texts = {key: json.dumps(value, allow_nan=False) for key, value in content.items()}
        texts["heads"] = "[\n    " + ",\n    ".join(json.dumps(row, allow_nan=False) for row in self._rows()) + "\n  ]"
        return "{\n" + ",\n".join(f"  {json.dumps(key)}: {text}" for key, text in texts.items()) + "\n}\n"

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write the decay file, `path`, and its arrays beside it, with the suffix .npz; each whole or not at all.

        Raises
        ------
        ValueError
            If the suffix is not .json.
        OSError
            If a file exists and `overwrite` is false, or cannot be written.
        """
        arrays_path = check_decay_path(path, overwrite=overwrite)
        arrays = {name: getattr(self, name) for name in _ARRAYS if getattr(self, name) is not None}
        arrays |= {"distances": np.arange(self.max_distance + 1), "curve": self.curve}
        if self.prediction is not None:
            arrays["prediction"] = self.prediction
        file = io.BytesIO()
        np.savez(file, **arrays)
        content = file.getvalue()
        text = self.to_json({"file": arrays_path.name, "sha256": sha256(content).hexdigest()})
        write_whole(arrays_path, content, overwrite=overwrite)
        try:
            write_whole(path, text, overwrite=overwrite)
        except BaseException:
            arrays_path.unlink()  # of no use alone
            raise

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Decay":
        """Read a decay file and the arrays beside it.

        Raises
        ------
        OSError
            If there is no such file or it cannot be read.
        ValueError
            If it is no decay file, or the arrays are not those that were written with it; the message says why.
        """
        data = Path(path).read_bytes()
        try:
            return cls._from_files(data.decode(), Path(path))
        except ValueError as error:
            msg = f"{path} is not a decay file that can be used: {error}"
            raise InputError(msg) from None

    @classmethod
    def _from_files(cls, text: str, path: Path) -> "Decay":
        content = read_versioned(text, FORMAT, VERSION, (*_KEYS, "arrays"))
        try:
            beside = path.with_name(Path(content["arrays"]["file"]).name)
            digest = content["arrays"]["sha256"]
        except (KeyError, TypeError, ValueError):
            raise InputError("it names no file of arrays, as one that was printed and not saved") from None
        try:
            packed = beside.read_bytes()
        except OSError as error:
            msg = f"its arrays, {beside.name}, cannot be read beside it: {error.strerror or error}"
            raise InputError(msg) from None
        if sha256(packed).hexdigest() != digest:
            msg = f"{beside.name} beside it is not the file that was written with it"
            raise InputError(msg)
        try:
            with np.load(io.BytesIO(packed), allow_pickle=False) as loaded:
                arrays = {name: loaded[name] for name in _ARRAYS if name in loaded or name not in _OPTIONAL}
            facts = {key: content[key] for key in _KEYS}
            for key in ("texts", "layers", "bases"):
                facts[key] = None if facts[key] is None else tuple(facts[key])
            decay = cls(**facts, **arrays)
            decay._check_shapes()
        except (KeyError, TypeError, ValueError, BadZipFile) as error:
            msg = f"its values do not fit together: {error}"
            raise InputError(msg) from None
        return decay

    def _check_shapes(self) -> None:
        heads, kv_heads = self.model["heads"], self.model["kv_heads"]
        half, n = self.model["head_dim"] // 2, (len(self.layers), heads)
        curves = (*n, self.pairs.size)
        expected = {"inv_freq": (kv_heads, half), "coefficients": (*n, half), "parts": (len(self.parts), *curves)}
        expected |= dict.fromkeys(("score", "standard_error", "verified", "mass"), curves) | {"sink_mass": n}
        for name, shape in expected.items():
            array = getattr(self, name)
            if array is not None and array.shape != shape:
                msg = f"{name} has the shape {array.shape} and not {shape}"
                raise ValueError(msg)

    def _curve(self, theta: Floats) -> Curves:
        n_layers, heads, half = self.coefficients.shape
        out = np.empty((n_layers, heads, self.max_distance + 1), np.float32)
        for kv_head, frequencies in enumerate(theta):
            of_group = slice(kv_head * self.group, (kv_head + 1) * self.group)
            c = self.coefficients[:, of_group] / np.sqrt(2 * half)
            turns = np.arange(self.max_distance + 1) * frequencies[:, None]  # (d/2, M + 1)
            out[:, of_group] = c.real @ np.cos(turns) - c.imag @ np.sin(turns)
        return out

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"layer": layer, "head": head, "kv_head": head // self.group}
            | {name: _plain(float(values[row, head])) for name, values in self.figures.items()}
            for row, layer in enumerate(self.layers)
            for head in range(self.model["heads"])
        ]


def check_decay_path(path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Raise what `Decay.save` would end with for this path; returns that of the arrays."""
    checks.choice("the suffix of the decay file", Path(path).suffix, (".json",))
    arrays = Path(path).with_suffix(".npz")
    for file in (path, arrays):
        check_output(file, overwrite=overwrite)
    return arrays


def order_by_decay(base_set: BaseSet, decay: Decay, config: Mapping[str, Any] | ModelConfig | None = None) -> BaseSet:
    """Lay the bases of a set over the KV heads by measured slope: the smallest base to the steepest.

    Beyond the paper, which lays them over the heads in ascending order and gives no reason: whether it makes a better
    model is for training to show.

    Parameters
    ----------
    base_set : BaseSet
    decay : Decay
        Of the model that the set is for; the slopes are averaged over its measured layers and over the query heads
        that share a KV head. Among equal slopes the lower KV head gets the smaller base.
    config : mapping or ModelConfig, optional
        Content of the config.json of the model that the set is for, to be held against that of `decay`.

    Returns
    -------
    BaseSet
        With `order` "measured" in its parameters, and under `order_by` the model, its layers and the slopes.

    Raises
    ------
    ValueError
        If `decay` is of another model or of other heads, or of a model that carries bases already.
    """
    decay.check_heads(base_set.heads, base_set.kv_heads, base_set.head_dim)
    check_order(decay, config)
    slopes = decay.kv_head_slopes()
    place_of = np.empty(base_set.kv_heads, np.int64)  # of the head, in the old order, whose base each KV head gets
    place_of[np.argsort(slopes, kind="stable")] = np.argsort(base_set.bases, kind="stable")
    figures = dict(base_set.coverage_figures)
    if "valleys_on_peaks" in figures:  # the one figure that has a value for each head
        figures["valleys_on_peaks"] = [figures["valleys_on_peaks"][place] for place in place_of]
    order_by = {
        "model": decay.model["name"],
        "layers": list(decay.layers),
        "slopes": slopes.tolist(),
        "standard_errors": [_plain(x) for x in decay.kv_head_slope_errors().tolist()],
    }
    return replace(
        base_set,
        bases=tuple(base_set.bases[place] for place in place_of),
        parameters={**base_set.parameters, "order": "measured", "order_by": order_by},
        coverage_figures=figures,
    )


def check_order(decay: Decay, config: Mapping[str, Any] | ModelConfig | None = None) -> None:
    """Raise ValueError unless a decay can order the bases of the model with this config, as in `order_by_decay`."""
    model = decay.model
    if str(model["model_type"]).startswith("harpe_"):
        msg = f"the decay was measured on {model['name']}, which carries bases already: order by that of the model "
        msg += "before, for a slope is a matter of its base too"
        raise InputError(msg)
    for key, value in {} if config is None else ModelConfig.of(config).identity().items():
        if value is not None and model[key] is not None and value != model[key]:
            msg = f"the decay is of another model: {model['name']} has {key} {model[key]}, and this one {value}"
            raise InputError(msg)
    if np.isnan(decay.kv_head_slopes()).any():
        raise InputError("the decay has KV heads without a slope")


def _slope(x: Floats, y: Floats) -> Floats:
    """Of the least-squares line through y over x, along the last axis."""
    x = x - x.mean()
    slope: Floats = (y @ x) / (x @ x)
    return slope


def _correlation(a: Floats, b: Floats) -> Floats:
    """Pearson's, along the last axis; NaN where one of the two is constant."""
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
    return [float(q) for q in np.quantile(known, (0.05, 0.5, 0.95))] if known.size else [None] * 3


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else value
