"""The frequencies of rotary position embedding."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import checks


def inv_freq(base: Any, head_dim: int) -> npt.NDArray[np.float64]:
    """Return the frequencies of rotary position embedding, θ_i = b^(−2(i−1)/d).

    Parameters
    ----------
    base : float or array_like of float, any shape
        RoPE theta, dimensionless, > 1.
    head_dim : int
        Channels per head, d, even.

    Returns
    -------
    ndarray of float64, shape base.shape + (head_dim / 2,)
        In radians per token; the first is 1.

    Raises
    ------
    ValueError
        If a base or `head_dim` is out of range; the message names it and shows its value.

    References
    ----------
    HARPE, arXiv:2412.07171, Eq. 5; Su et al., arXiv:2104.09864, section 3.2.2.
    """
    d = checks.head_dim(head_dim)
    bases = np.asarray(base, dtype=object)
    rows = [_frequencies(checks.base("base", b), d) for b in bases.ravel()]
    return np.array(rows, dtype=np.float64).reshape(*bases.shape, d // 2)


def scaled_inv_freq(base: Any, head_dim: int, rule: Mapping[str, Any]) -> tuple[npt.NDArray[np.float64], float]:
    """Return frequencies under the rule of a scaled model, and its factor on cosines and sines.

    Parameters
    ----------
    base, head_dim
        As for `inv_freq`.
    rule : mapping
        As transformers writes it in `rope_parameters`: rope_type linear, llama3 or yarn, with their values; plain RoPE
        if it is empty.

    Returns
    -------
    ndarray of float64, shape base.shape + (head_dim / 2,); float

    References
    ----------
    Chen et al., arXiv:2306.15595; YaRN, arXiv:2309.00071; Llama 3, arXiv:2407.21783.
    """
    theta = inv_freq(base, head_dim)
    if not rule:
        return theta, 1.0
    factor, original = rule["factor"], rule.get("original_max_position_embeddings", 0)
    if rule["rope_type"] == "linear":
        return theta / factor, 1.0
    if rule["rope_type"] == "llama3":
        low, high = rule["low_freq_factor"], rule["high_freq_factor"]
        kept = np.clip((original * theta / (2 * math.pi) - low) / (high - low), 0, 1)
        return theta * kept + theta / factor * (1 - kept), 1.0

    # Index of the frequency that turns so many times over the trained length.
    log_base = np.log(np.asarray(base, dtype=np.float64))[..., None]
    turns = (rule.get("beta_fast") or 32, rule.get("beta_slow") or 1)
    first, last = (head_dim * math.log(original / (n * 2 * math.pi)) / (2 * log_base) for n in turns)
    if rule.get("truncate", True):
        first, last = np.floor(first), np.ceil(last)
    first, last = np.maximum(first, 0), np.minimum(last, head_dim - 1)
    width = np.where(last == first, 0.001, last - first)
    ramp = np.clip((np.arange(head_dim // 2) - first) / width, 0, 1)
    return theta * (1 - ramp) + theta / factor * ramp, _yarn_attention_factor(rule)


def _yarn_attention_factor(rule: Mapping[str, Any]) -> float:
    def by_scale(weight: float) -> float:
        return 0.1 * weight * math.log(rule["factor"]) + 1 if rule["factor"] > 1 else 1.0

    if rule.get("attention_factor") is not None:
        return float(rule["attention_factor"])
    if rule.get("mscale") and rule.get("mscale_all_dim"):
        return by_scale(rule["mscale"]) / by_scale(rule["mscale_all_dim"])
    return by_scale(1)


def _frequencies(base: float, head_dim: int) -> Sequence[float]:
    # Python's power is the C library's, exact to the last bit; numpy's vector power may be off by several.
    return [base ** (-2 * i / head_dim) for i in range(head_dim // 2)]
