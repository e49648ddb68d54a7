"""Position schemes: rules that turn positions into angles.

`parse_scheme` makes one from a text such as `yarn:32`. A scheme gives frequencies, an attention factor, the distances
that the model sees, and the resulting waveform. Where Hugging Face transformers has a rule, this is the same rule.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ropesearch.core import checks
from ropesearch.core.arrays import Distances, Floats
from ropesearch.core.base_set import BaseSet
from ropesearch.core.errors import InputError, ParameterError
from ropesearch.core.machine import require_memory
from ropesearch.core.model_config import LongRope, ModelConfig
from ropesearch.core.progress import Progress
from ropesearch.core.rope import inv_freq
from ropesearch.core.spec import COVERED_TO

# Curves need numba, and what puts a scheme into a model must not load it: they are imported where they are computed.
if TYPE_CHECKING:
    from ropesearch.curves.coverage import Coverage

ABF_STAGES = ((1e6, 32768), (2e6, 65536), (5e6, 131072))
"""Multi-stage ABF: the base of each stage, and the length trained with it, in tokens."""

MS_POE_RATIOS = (1.2, 1.8)
"""Ratios of the first and the last head in Ms-PoE, arXiv:2403.04797."""


@dataclass(frozen=True)
class Scheme:
    """A way to turn positions into angles; `parse_scheme` makes one.

    Rows are heads: one row per base for a set of bases, in head order, and otherwise one row that stands for every
    head.

    Attributes
    ----------
    name : str
        The text from which `parse_scheme` makes this scheme, without options that have their default.
    head_dim : int
        Channels per head, even.
    original : int
        Length that the model was trained on before the extension, in tokens.
    bases : tuple of float
        RoPE theta of each row, dimensionless; `inv_freq` may depend on more than these.
    """

    name: str
    head_dim: int
    original: int
    bases: tuple[float, ...]

    @classmethod
    def of(cls, base_set: BaseSet, file: str | None = None) -> "Scheme":
        """Return the heads of a base set as a scheme; raise InputError if its layers differ, of its `file`."""
        return cls(base_set.strategy, base_set.head_dim, 4096, base_set.of_all_layers("a waveform", file))

    @property
    def target_length(self) -> int | None:
        """Length that the scheme extends the context to, in tokens; None where it names none."""
        return None

    def rope_parameters(self) -> dict[str, Any] | None:
        """The same rule as transformers 5 writes it in a model's config; None where transformers has no such rule.

        `dynamic` has its trained length, `original`, not in here but in the config's max_position_embeddings.
        """
        return None if len(self.bases) > 1 else self._rule("default")

    def check_fit(self, model: ModelConfig) -> None:
        """Raise InputError unless the scheme is for the head_dim of a model."""
        if self.head_dim != model.head_dim:
            msg = f"the scheme {self.name} is for head_dim {self.head_dim}, and {model.name} has {model.head_dim}"
            raise InputError(msg)

    def inv_freq(self, length: int | None = None) -> Floats:
        """Return the frequencies of every row.

        Parameters
        ----------
        length : int, optional
            Length of the sequence in tokens, positions 0 … length − 1. Only `dynamic` and `longrope` depend on it.
            By default the length that the scheme extends to: `original` times the factor for `dynamic`, the model's
            max_position_embeddings for `longrope`.

        Returns
        -------
        ndarray of float64, shape (rows, head_dim / 2)
            In radians per token.

        Raises
        ------
        ValueError
            If `length` is not an integer of at least 1.
        """
        return self._frequencies(self._length(length))

    def attention_factor(self, length: int | None = None) -> float:
        """Return the factor on cosines and sines; scores are multiplied by its square.

        Parameters
        ----------
        length : int, optional
            As for `inv_freq`. Only `longrope` may depend on it.

        Returns
        -------
        float
            Dimensionless, 1 for most schemes.

        Raises
        ------
        ValueError
            If `length` is not an integer of at least 1.
        """
        return self._attention_factor(self._length(length))

    def distances(self, m: npt.ArrayLike, *, upper: bool = False) -> Distances:
        """Return distances as the model sees them.

        Parameters
        ----------
        m : array_like of int, any shape
            Query position − key position, in tokens, ≥ 0.
        upper : bool
            With `self-extend` the model sees one of two distances, depending on where query and key fall in their
            groups: return the greater one, not the smaller. The other schemes see the distance itself.

        Returns
        -------
        ndarray of int64, the shape of `m`
            In tokens.

        Raises
        ------
        ValueError
            If `m` holds anything but integers of at least 0.
        """
        given = np.asarray(m)
        if given.dtype.kind not in "iu" or (given.size and given.min() < 0):
            raise ParameterError("m", m, "integers of at least 0")
        return self._distances(given.astype(np.int64), upper)

    def waveforms(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Floats:
        """Compute the pre-softmax attention of an all-ones query and key, by distance, for every row.

        Parameters
        ----------
        max_distance, min_distance : int
            First and last distance, in tokens, both included.
        length : int, optional
            As for `inv_freq`: constant along the curve, and not derived from `max_distance`.
        upper : bool
            As for `distances`.

        Returns
        -------
        ndarray of float64, shape (rows, max_distance - min_distance + 1)
            f²·(2/√d)·Σ_i cos(m'·θ_i) with the attention factor f and the distance m' that the model sees, in logits.

        Raises
        ------
        ValueError
            If an argument is out of range; the message names it and shows its value.
        MemoryError
            If the curves do not fit in memory; the message says how much they need.

        References
        ----------
        Su et al., arXiv:2104.09864, sections 3.4.2-3.4.3, with q = k = 1; see `SCHEMES` for those of each scheme.
        """
        from ropesearch.curves.waveforms import waveform_of

        return self._curves(waveform_of, min_distance, max_distance, length, upper)

    def decay_bounds(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Floats:
        """Compute RoFormer's upper bound on how attention decays, by distance, for every row.

        Parameters
        ----------
        max_distance, min_distance, length, upper
            As for `waveforms`.

        Returns
        -------
        ndarray of float64, shape (rows, max_distance - min_distance + 1)
            ``f²·(2/d)·Σ_j |Σ_{i≤j} e^{i·m'·θ_i}|``, dimensionless; see `waveforms`.

        Raises
        ------
        ValueError, MemoryError
            As for `waveforms`.

        References
        ----------
        Su et al., arXiv:2104.09864, section 3.4.3.
        """
        from ropesearch.curves.waveforms import decay_bound_of

        return self._curves(decay_bound_of, min_distance, max_distance, length, upper)

    def coverage(
        self,
        max_distance: int = COVERED_TO,
        *,
        length: int | None = None,
        upper: bool = False,
        progress: Progress | None = None,
    ) -> "Coverage":
        """How the waveforms of the rows cover the distances 1 … `max_distance`.

        Peaks and valleys count by the defaults of `search_bases`.

        Parameters
        ----------
        max_distance : int
            The last distance, in tokens, included.
        length, upper
            As for `waveforms`.
        progress : callable, optional
            Called as progress("coverage", rows done, rows).

        Returns
        -------
        Coverage

        Raises
        ------
        ValueError
            If an argument is out of range; the message names it and shows its value.
        MemoryError
            If it does not fit in memory; the message says how much it needs.
        """
        from ropesearch.curves.coverage import coverage_of

        last = checks.integer("max_distance", max_distance, 1)
        curve = self.row_waveforms(last, length=length, upper=upper)
        return coverage_of(curve, len(self.bases), last, options={}, progress=progress)

    def row_waveforms(
        self, max_distance: int, *, min_distance: int = 0, length: int | None = None, upper: bool = False
    ) -> Callable[[int], Floats]:
        """Return a function that gives one row of `waveforms`, for whoever need not hold all of them at once."""
        from ropesearch.curves.waveforms import waveform_of

        return self._rows(waveform_of, min_distance, max_distance, length, upper)

    def _curves(
        self,
        curve: Callable[[Floats, int, int], Floats],
        min_distance: Any,
        max_distance: Any,
        length: Any,
        upper: bool,
    ) -> Floats:
        from ropesearch.curves.waveforms import waveform_memory

        first, last = checks.distances(min_distance, max_distance)
        n_rows, n = len(self.bases), last - first + 1
        # The rows, the curve being computed, the distances before and after mapping, and scratch space.
        needed = 8 * n_rows * n + waveform_memory(self.head_dim, n) + 40 * n
        require_memory(needed, f"{n_rows} curve{'s' * (n_rows > 1)} over {n} distances")
        row_of = self._rows(curve, first, last, length, upper)
        out = np.empty((n_rows, n))
        for i, row in enumerate(out):
            row[:] = row_of(i)
        return out

    def _rows(
        self, curve: Callable[[Floats, int, int], Floats], first: int, last: int, length: int | None, upper: bool
    ) -> Callable[[int], Floats]:
        """Return a function that computes one row; what the rows share is computed once."""
        thetas, scale = self.inv_freq(length), self.attention_factor(length) ** 2
        seen = self.distances(np.arange(first, last + 1), upper=upper)
        start, end = int(seen[0]), int(seen[-1])  # no scheme changes the order of distances
        seen -= start
        return lambda i: curve(thetas[i], start, end)[seen] * scale

    def _length(self, length: int | None) -> int:
        if length is None:
            return self.target_length or self.original
        return checks.integer("length", length, 1)

    def _rule(self, rope_type: str, **values: Any) -> dict[str, Any]:
        return {"rope_type": rope_type, "rope_theta": self.bases[0], **values}

    # What a scheme may change in plain rotary position embedding.

    def _frequencies(self, length: int) -> Floats:
        return inv_freq(self.bases, self.head_dim)

    def _attention_factor(self, length: int) -> float:
        return 1.0

    def _distances(self, m: Distances, upper: bool) -> Distances:
        return m


@dataclass(frozen=True)
class MultiStage(Scheme):
    """Adjusted base frequency in a stage of several, each with a length of its own."""

    stage_length: int

    @property
    def target_length(self) -> int:
        """Length that the stage trains with."""
        return self.stage_length


@dataclass(frozen=True)
class HeadBases(Scheme):
    """A base for every KV head (HARPE, arXiv:2412.07171), for models of `heads` query heads, or of any number."""

    heads: int | None = None

    def rope_parameters(self) -> None:
        """None: transformers has one base for all heads."""

    def check_fit(self, model: ModelConfig) -> None:
        """Raise InputError unless the scheme is for the heads and the head_dim of a model."""
        super().check_fit(model)
        if len(self.bases) != model.kv_heads or self.heads not in (None, model.heads):
            heads = "" if self.heads is None else f"{self.heads} heads and "
            msg = f"the scheme {self.name} is for {heads}{len(self.bases)} KV heads, and {model.name} has "
            msg += f"{model.heads} heads and {model.kv_heads} KV heads (uniform takes the model's number)"
            raise InputError(msg)

    def base_set(self, heads: int | None = None) -> BaseSet:
        """The bases as a set, for so many query heads; by default those of the scheme, or else one per base."""
        bases = self._rows_of_layers() or self.bases
        return BaseSet.of(bases, heads=heads or self.heads, head_dim=self.head_dim, strategy=self.name)

    def _rows_of_layers(self) -> tuple[tuple[float, ...], ...]:
        """The bases of each layer, where layers differ."""
        return ()


@dataclass(frozen=True)
class LayerBases(HeadBases):
    """A base for every layer and KV head, of a base-set file whose layers differ.

    `bases` are those of all layers, one after the other. Curves are of one layer, and this has none.
    """

    layers: int = 1

    def check_fit(self, model: ModelConfig) -> None:
        """Raise InputError unless the scheme is for the layers, the heads and the head_dim of a model."""
        HeadBases(self.name, self.head_dim, self.original, self._rows_of_layers()[0], self.heads).check_fit(model)
        if self.layers != model.num_hidden_layers:
            msg = f"the scheme {self.name} is for {self.layers} layers, and {model.name} has {model.num_hidden_layers}"
            raise InputError(msg)

    def _rows_of_layers(self) -> tuple[tuple[float, ...], ...]:
        n = len(self.bases) // self.layers
        return tuple(self.bases[i * n : (i + 1) * n] for i in range(self.layers))

    def _rows(self, *_: Any) -> Callable[[int], Floats]:
        msg = f"{self.name} has bases for each of {self.layers} layers, and a waveform is of one layer's: choose one, "
        msg += "as in harpe:FILE#0"
        raise InputError(msg)


@dataclass(frozen=True)
class MultiScale(Scheme):
    """Positions divided by a ratio for every KV head (Ms-PoE: Zhang et al., arXiv:2403.04797).

    Ratios rise with the number of the head. The paper gives them to heads by how much a head attends to positions,
    which takes a model to measure.
    """

    ratios: tuple[float, ...]
    heads: int | None = None

    def rope_parameters(self) -> None:
        """None: transformers has one rule for all heads."""

    def _frequencies(self, length: int) -> Floats:
        theta: Floats = super()._frequencies(length) / np.array(self.ratios)[:, None]
        return theta


@dataclass(frozen=True)
class Stretched(Scheme):
    """The trained length times a factor; by itself NTK-aware, whose one change is the base."""

    factor: float

    @property
    def target_length(self) -> int:
        """The trained length times the factor."""
        return round(self.original * self.factor)


@dataclass(frozen=True)
class PositionInterpolation(Stretched):
    """Positions divided by a factor (Chen et al., arXiv:2306.15595)."""

    def rope_parameters(self) -> dict[str, Any]:
        """`linear` in transformers."""
        return self._rule("linear", factor=self.factor)

    def _frequencies(self, length: int) -> Floats:
        return super()._frequencies(length) / self.factor


@dataclass(frozen=True)
class Dynamic(Stretched):
    """NTK-aware scaling that grows with the sequence."""

    def rope_parameters(self) -> dict[str, Any]:
        """`dynamic` in transformers."""
        return self._rule("dynamic", factor=self.factor)

    def _frequencies(self, length: int) -> Floats:
        stretch = self.factor * max(length, self.original) / self.original - (self.factor - 1)
        return inv_freq([ntk_base(base, stretch, self.head_dim) for base in self.bases], self.head_dim)


@dataclass(frozen=True)
class NtkByParts(Stretched):
    """Slow frequencies divided by a factor, fast ones kept, a ramp in between (YaRN, arXiv:2309.00071, section 3.2)."""

    def rope_parameters(self) -> dict[str, Any]:
        """`yarn` in transformers, with its attention factor named: 1, where left out it would be YaRN's."""
        own = self.attention_factor()
        return self._rule(
            "yarn", factor=self.factor, original_max_position_embeddings=self.original, attention_factor=own
        )

    def _frequencies(self, length: int) -> Floats:
        theta = super()._frequencies(length)
        (base,) = self.bases
        # Index of the frequency that turns 32 times, and of the one that turns once, over the trained length.
        fast, slow = (
            self.head_dim * math.log(self.original / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1)
        )
        first, last = float(max(math.floor(fast), 0)), float(min(math.ceil(slow), self.head_dim - 1))
        width = last - first or 1  # a ramp that begins and ends at the same index is a step
        ramp: Floats = np.clip((np.arange(self.head_dim // 2) - first) / width, 0, 1)
        return theta * (1 - ramp) + theta / self.factor * ramp


@dataclass(frozen=True)
class Yarn(NtkByParts):
    """NTK-by-parts with YaRN's attention factor (arXiv:2309.00071, section 3.4)."""

    def _attention_factor(self, length: int) -> float:
        return 0.1 * math.log(self.factor) + 1


@dataclass(frozen=True)
class Llama3(Stretched):
    """Llama 3.1's ramp, over turns within the trained length."""

    low_freq_factor: float
    high_freq_factor: float

    def rope_parameters(self) -> dict[str, Any]:
        """`llama3` in transformers."""
        return self._rule(
            "llama3",
            factor=self.factor,
            low_freq_factor=self.low_freq_factor,
            high_freq_factor=self.high_freq_factor,
            original_max_position_embeddings=self.original,
        )

    def _frequencies(self, length: int) -> Floats:
        theta = super()._frequencies(length)
        turns = self.original * theta / (2 * math.pi)
        kept: Floats = np.clip((turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor), 0, 1)
        return theta * kept + theta / self.factor * (1 - kept)


@dataclass(frozen=True)
class LongRopeScheme(Scheme):
    """A divisor for every frequency, from one of two lists by length (LongRoPE, arXiv:2402.13753)."""

    rule: LongRope

    @property
    def target_length(self) -> int:
        """Length that the model of the file is made for."""
        return self.rule.longest

    def rope_parameters(self) -> dict[str, Any] | None:
        """`longrope` in transformers, which has one attention factor for all lengths."""
        if self.rule.short_attention_factor != self.rule.long_attention_factor:
            return None
        return self._rule(
            "longrope",
            short_factor=list(self.rule.short_factor),
            long_factor=list(self.rule.long_factor),
            factor=self.rule.longest / self.original,
            attention_factor=self.rule.long_attention_factor,
            original_max_position_embeddings=self.original,
        )

    def _frequencies(self, length: int) -> Floats:
        divisors = self.rule.long_factor if length > self.original else self.rule.short_factor
        return super()._frequencies(length) / np.array(divisors, dtype=np.float64)

    def _attention_factor(self, length: int) -> float:
        return self.rule.long_attention_factor if length > self.original else self.rule.short_attention_factor


@dataclass(frozen=True)
class SelfExtend(Scheme):
    """Distances beyond a window in groups (Jin et al., arXiv:2401.01325)."""

    window: int
    group: int

    def rope_parameters(self) -> None:
        """None: a config holds no rule for distances."""

    def _distances(self, m: Distances, upper: bool) -> Distances:
        # ⌊q/G⌋ − ⌊k/G⌋ is ⌊(q−k)/G⌋ or ⌈(q−k)/G⌉; the two are equal where the group divides q − k.
        groups = -(-m // self.group) if upper else m // self.group
        return np.where(m < self.window, m, groups + (self.window - self.window // self.group))


def common_head_dim(named: Iterable[tuple[str, Scheme]]) -> int:
    """Return the head_dim of all schemes, each beside its name; raise InputError if they differ in it."""
    sizes = [(name, scheme.head_dim) for name, scheme in named]
    if len({size for _, size in sizes}) > 1:
        each = ", ".join(f"{name}: {size}" for name, size in sizes)
        msg = f"all sets and schemes must have the same head_dim, not {each}"
        raise InputError(msg)
    return sizes[0][1]


def ntk_base(base: float, factor: float, head_dim: int) -> float:
    """Return the base that stretches the longest wavelength by a factor: base·factor^(d/(d−2))."""
    if head_dim < 4:
        raise ParameterError("head_dim", head_dim, "at least 4 here, for the exponent head_dim / (head_dim - 2)")
    return checks.base("base", base * factor ** (head_dim / (head_dim - 2)))
