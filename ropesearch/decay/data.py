"""What was measured of a model's attention over distance, and what it predicts for other bases."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core import checks
from ropesearch.core.arrays import Complexes, Counts, Curves, Distances, Floats
from ropesearch.core.base_set import BaseSet, has_layers
from ropesearch.core.errors import ArgumentTypeError, InputError, ParameterError
from ropesearch.core.frames import as_dataframe
from ropesearch.core.model_config import KEPT_RULES, MOST_LAYERS, SCALING
from ropesearch.core.rope import scaled_inv_freq
from ropesearch.curves.waveforms import waveform_of

from .figures import compute_figures, differing_layers, mean_slopes, slope_errors, slopes_by_layer, summarize
from .file import decay_json, read_fields, write_decay

if TYPE_CHECKING:
    from pandas import DataFrame

FIT_POINTS = 60
DISTANCES_AT_ONCE = 2**14
"""For the model curve: that of a million distances would need gigabytes at once."""


@dataclass(frozen=True, eq=False)  # arrays have no one truth of ==
class Decay:
    """Measured attention by distance, for L layers of H query heads and K KV heads, at distances m = 0 … M.

    The score at m is the mean of q_i·k_j/√d after rotation and before the softmax, over all pairs i − j = m with
    j ≥ 4, in logits (nats). M is half the length of the texts. Two decays are equal only if they are the same object.

    Attributes
    ----------
    model : mapping
        The model: `name`, model_type, num_hidden_layers, hidden_size, vocab_size, heads, kv_heads, head_dim, base,
        bases (None if it carries none), max_position_embeddings, dtype; of a scaled model its rule as transformers
        writes it, `rope`, its `attention_factor`, and what becomes of the rule under `bases`, `scaling`.
    texts : tuple of mapping
        For each passage read: `name` of its text, `tokens` in the whole text, and `from`, the first token read.
    length : int
        Tokens read of each text.
    layers : tuple of int
        The layers measured, counted from 0.
    inv_freq : ndarray of float64, shape (K, d/2), or (L, K, d/2) where layers differ
        The model's own frequencies, in radians per token.
    coefficients : ndarray of complex128, shape (L, H, d/2)
        c_f = mean(q_f)·conj(mean(k_f)) of queries and keys before rotation, as complex numbers by frequency.
    pairs : ndarray of int64, shape (M + 1,)
        The number of pairs behind each point.
    score, standard_error : ndarray of float32, shape (L, H, M + 1)
        The mean, and its standard error over 16 blocks of query positions in each text.
    parts : ndarray of float32, shape (P, L, H, M + 1)
        The score by text; for a single text, by the first and second half of its queries. NaN where there is no pair.
    agreement_to : int
        The last distance at which the parts are compared.
    bases : tuple of float, length K, or a tuple of such for each layer of the model, or None
        The bases to predict for.
    verified : ndarray of float32, shape (L, H, M + 1), or None
        The score measured with `bases` in the model.
    mass : ndarray of float32, shape (L, H, M + 1), or None
        The mean share of a query's attention, after the softmax, that the key at distance m gets; the first four keys
        are taken out and the rest is scaled to 1.
    sink_mass : ndarray of float32, shape (L, H), or None
        The mean share that those four keys get.
    made_by : mapping
        Versions and device.

    References
    ----------
    Su et al., arXiv:2104.09864, section 3.4.3, on the decay; Xiao et al., arXiv:2309.17453, on attention sinks.
    """

    model: Mapping[str, Any]
    texts: tuple[Mapping[str, Any], ...]
    length: int
    layers: tuple[int, ...]
    inv_freq: Floats
    coefficients: Complexes
    pairs: Counts
    score: Curves
    standard_error: Curves
    parts: Curves
    agreement_to: int
    bases: tuple[Any, ...] | None = None
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
        """Query heads per KV head, H / K."""
        return int(self.model["heads"] // self.model["kv_heads"])

    @cached_property
    def fit_distances(self) -> Distances:
        """60 distances from 1 to M, evenly spaced in their logarithm, rounded, without repeats."""
        return np.unique(np.rint(np.geomspace(1, self.max_distance, FIT_POINTS)).astype(np.int64))

    @cached_property
    def curve(self) -> Curves:
        """The model curve, Re Σ_f c_f e^{imθ_f}/√d, float32, shape (L, H, M + 1)."""
        return self._model_curve(self.inv_freq)

    @cached_property
    def prediction(self) -> Curves | None:
        """`predict(bases)`, or None if there are no bases to predict for."""
        return None if self.bases is None else self.predict(self.bases, scaling=self.model.get("scaling"))

    def predict(self, bases: Any, *, scaling: str | None = None) -> Curves:
        """Return the model curve with other bases, without running the model.

        Parameters
        ----------
        bases : BaseSet or sequence of float, length K, or a sequence of such for each layer of the model
            One per KV head.
        scaling : {"replace", "keep"}, optional
            What becomes of the rule of a scaled model, its attention factor included: it is dropped, or applied to
            every base. Needed for such a model, and without meaning for others.

        Returns
        -------
        ndarray of float32, shape (L, H, M + 1)

        Raises
        ------
        ValueError
            If the number of bases is not that of the KV heads, a base set is for other heads or layers, or `scaling` is
            missing or not possible.
        """
        if scaling is not None:
            checks.choice("scaling", scaling, SCALING)
        values, rule = self.fitting_bases(bases), self.model.get("rope") or {}
        if rule and (scaling is None or (scaling == "keep" and rule["rope_type"] not in KEPT_RULES)):
            hint = "'replace', to drop the rule {!r} of the model, or for {}, 'keep'"
            raise ParameterError("scaling", scaling, hint.format(rule["rope_type"], ", ".join(KEPT_RULES)))
        if has_layers(values):
            values = tuple(values[layer] for layer in self.layers)
        theta, factor = scaled_inv_freq(values, self.model["head_dim"], rule if scaling == "keep" else {})
        staying = self.coefficients.shape[-1] - theta.shape[-1]
        theta = np.pad(theta, [(0, 0)] * (theta.ndim - 1) + [(0, staying)])
        return self._model_curve(theta, (factor / self.model.get("attention_factor", 1.0)) ** 2)

    def _model_curve(self, theta: Floats, factor: float = 1.0) -> Curves:
        """The model curve at the frequencies `theta`, (K, d/2), or (L, K, d/2) where layers differ.

        `factor` is on the channels that rotate.
        """
        n_layers, heads, half = self.coefficients.shape
        factors = np.where(np.arange(half) < self.model["head_dim"] // 2, factor, 1.0) / np.sqrt(2 * half)
        out = np.empty((n_layers, heads, self.max_distance + 1), np.float32)
        rows = [(slice(None), theta)] if theta.ndim == 2 else [(slice(i, i + 1), own) for i, own in enumerate(theta)]
        for layers, of_layers in rows:
            for kv_head, frequencies in enumerate(of_layers):
                of_group = slice(kv_head * self.group, (kv_head + 1) * self.group)
                c = self.coefficients[layers, of_group] * factors
                for first in range(0, self.max_distance + 1, DISTANCES_AT_ONCE):
                    m = np.arange(first, min(first + DISTANCES_AT_ONCE, self.max_distance + 1))
                    turns = m * frequencies[:, None]  # (d/2, distances)
                    out[layers, of_group, m] = c.real @ np.cos(turns) - c.imag @ np.sin(turns)
        return out

    def unit_waveforms(self) -> Floats:
        """Return A_b(m) at the model's own frequencies, in logits, shape (K, M + 1), or (L, …) where layers differ."""
        turning = self.inv_freq[..., : self.model["head_dim"] // 2]
        each = turning.reshape(-1, turning.shape[-1])
        curves = np.array([waveform_of(theta, 0, self.max_distance) for theta in each])
        return curves.reshape(*self.inv_freq.shape[:-1], -1)

    def fitting_bases(self, bases: Any) -> tuple[Any, ...]:
        """Return the bases of a base set or a sequence, one per KV head of this model, or those of each layer.

        Raises
        ------
        ValueError
            As `predict`.
        """
        if isinstance(bases, str) or not isinstance(bases, Iterable):
            raise ArgumentTypeError("bases", bases, "a BaseSet or a list of bases")
        if not isinstance(bases, BaseSet):
            bases = tuple(bases)
            if has_layers(bases):
                bases = BaseSet.of(bases, heads=self.model["heads"], head_dim=self.model["head_dim"])
        if isinstance(bases, BaseSet):
            self.check_heads(bases.heads, bases.kv_heads, bases.head_dim)
            if bases.layers is not None and bases.layers != (n_layers := self.count_layers()):
                msg = f"the bases are for {bases.layers} layers; the decay was measured on {self.model['name']}, which "
                msg += f"has {n_layers}"
                raise InputError(msg)
            return bases.bases
        values = tuple(checks.base("every one of bases", base) for base in bases)
        if len(values) != self.model["kv_heads"]:
            raise ParameterError("bases", list(values), f"one per KV head: {self.model['kv_heads']}")
        return values

    def count_layers(self) -> int:
        """Return the number of layers of the model; ValueError if `model` does not say it, or not one that can be."""
        n_layers = self.model.get("num_hidden_layers")
        return checks.integer("num_hidden_layers of the decay", n_layers, self.layers[-1] + 1, MOST_LAYERS)

    def check_heads(self, heads: int, kv_heads: int, head_dim: int) -> None:
        """Raise ValueError unless the measured model has these heads."""
        own = tuple(self.model[key] for key in ("heads", "kv_heads", "head_dim"))
        if (heads, kv_heads, head_dim) != own:
            theirs, ours = (
                "{} heads, {} KV heads and head_dim {}".format(*shape) for shape in ((heads, kv_heads, head_dim), own)
            )
            msg = f"the bases are for {theirs}; the decay was measured on {self.model['name']}, which has {ours}"
            raise InputError(msg)

    @cached_property
    def figures(self) -> dict[str, Floats]:
        """The figures of every head, float64, shape (L, H) each; see `compute_figures` in `decay/figures.py`."""
        return compute_figures(self)

    def summary(self) -> dict[str, dict[str, float | None]]:
        """Return the 5 %, 50 % and 95 % quantiles of every figure, over all heads."""
        return summarize(self.figures)

    def kv_head_slopes(self) -> Floats:
        """Return the slope of each KV head, averaged over layers and the query heads that share it, shape (K,)."""
        return mean_slopes(self)

    def kv_head_slopes_by_layer(self) -> Floats:
        """Return the slope of each KV head in each layer, averaged over the query heads that share it, shape (L, K)."""
        return slopes_by_layer(self)

    def differing_layers(self) -> tuple[int, ...]:
        """Return the layers whose KV heads come in another order, by slope, than by their means over the layers."""
        return differing_layers(self)

    def kv_head_slope_errors(self) -> Floats:
        """Return the standard errors of those means, between layers, shape (K,); NaN for a single layer."""
        return slope_errors(self)

    def to_dataframe(self) -> "DataFrame":
        """Return one row per head as a pandas data frame: layer, head, kv_head and the figures of `figures`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        heads = range(self.model["heads"])
        rows = [
            (layer, head, head // self.group, *(float(values[row, head]) for values in self.figures.values()))
            for row, layer in enumerate(self.layers)
            for head in heads
        ]
        return as_dataframe(["layer", "head", "kv_head", *self.figures], rows)

    def to_json(self, arrays: Mapping[str, str] | None = None) -> str:
        """Return the text of the decay file; `arrays` says which file holds the arrays."""
        return decay_json(self, arrays)

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the decay file, `path`, and beside it a .npz file with its arrays, which it names.

        Both are there in the end, or neither. An existing pair is replaced as a whole.

        Returns
        -------
        Path
            The file of the arrays.

        Raises
        ------
        ValueError
            If the suffix is not .json.
        OSError
            If a file cannot be written, or exists and `overwrite` is false.
        """
        return write_decay(self, path, overwrite=overwrite)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Decay":
        """Read a decay file and the arrays beside it.

        Raises
        ------
        OSError
            If the file does not exist or cannot be read.
        ValueError
            If it is not a decay file, or the arrays are not those written with it; the message says why.
        """
        return cls(**read_fields(path))
