"""Sums of cosines over a run of distances, by angle addition.

A block of 2·HALF distances is centred on s; its points lie at s ± (k + ½), k = 0 … HALF − 1. With

    E[k] = Σ_i cos(s·θ_i)·cos((k+½)·θ_i)    (even in k + ½)
    O[k] = Σ_i sin(s·θ_i)·sin((k+½)·θ_i)    (odd)

the two halves of the block are Σ_i cos((s ± (k+½))·θ_i) = E[k] ∓ O[k]: half the multiplications of a plain
matrix product, and exact. From one block to the next every e^{i·s·θ} is turned by e^{i·2·HALF·θ}; the rounding
of that adds up to less than 1e-11 in a million distances, far below what rounding θ itself costs.
"""

import numpy as np
import numpy.typing as npt

from ._jit import kernel

Floats = npt.NDArray[np.float64]

HALF = 64
BLOCK = 2 * HALF


@kernel
def powers(first: float, theta: float, cosines: Floats, sines: Floats) -> None:
    """Write cos and sin of (first + k)·theta, k = 0, 1, …, by doubling; the length is a power of two."""
    cosines[0] = np.cos(first * theta)
    sines[0] = np.sin(first * theta)
    turn_re = np.cos(theta)
    turn_im = np.sin(theta)
    done = 1
    while done < cosines.size:
        for k in range(done):
            cosines[done + k] = cosines[k] * turn_re - sines[k] * turn_im
            sines[done + k] = cosines[k] * turn_im + sines[k] * turn_re
        turn_re, turn_im = turn_re * turn_re - turn_im * turn_im, 2 * turn_re * turn_im
        done *= 2


@kernel
def waveform(inv_freq: Floats, scale: float, first: int, out: Floats) -> None:
    """Write scale·Σ_i cos(m·θ_i) for m = first, first + 1, …; the length of `out` is a multiple of BLOCK."""
    n = inv_freq.size
    cos_k = np.empty((n, HALF))
    sin_k = np.empty((n, HALF))
    cos_s = np.empty(n)
    sin_s = np.empty(n)
    turn_re = np.empty(n)
    turn_im = np.empty(n)
    for i in range(n):
        theta = inv_freq[i]
        powers(0.5, theta, cos_k[i], sin_k[i])
        centre = first + HALF - 0.5
        cos_s[i] = scale * np.cos(centre * theta)
        sin_s[i] = scale * np.sin(centre * theta)
        turn_re[i] = np.cos(BLOCK * theta)
        turn_im[i] = np.sin(BLOCK * theta)

    even = np.empty(HALF)
    odd = np.empty(HALF)
    for start in range(0, out.size, BLOCK):
        even[:] = 0.0
        odd[:] = 0.0
        for i in range(n):
            a = cos_s[i]
            b = sin_s[i]
            cos_i = cos_k[i]
            sin_i = sin_k[i]
            for k in range(HALF):
                even[k] += a * cos_i[k]
            for k in range(HALF):
                odd[k] += b * sin_i[k]
        left = out[start : start + HALF]
        right = out[start + HALF : start + BLOCK]
        for k in range(HALF):
            left[HALF - 1 - k] = even[k] + odd[k]
        for k in range(HALF):
            right[k] = even[k] - odd[k]
        for i in range(n):
            a = cos_s[i]
            cos_s[i] = a * turn_re[i] - sin_s[i] * turn_im[i]
            sin_s[i] = a * turn_im[i] + sin_s[i] * turn_re[i]


@kernel
def decay_bound(inv_freq: Floats, first: int, out: Floats) -> None:
    """Write (1/n)·Σ_j |Σ_{i≤j} e^{i·m·θ_i}| for m = first, …; the length of `out` is a multiple of BLOCK."""
    n = inv_freq.size
    cos_k = np.empty((n, BLOCK))
    sin_k = np.empty((n, BLOCK))
    for i in range(n):
        powers(0.0, inv_freq[i], cos_k[i], sin_k[i])
    sum_re = np.empty(BLOCK)
    sum_im = np.empty(BLOCK)
    for start in range(0, out.size, BLOCK):
        block = out[start : start + BLOCK]
        block[:] = 0.0
        sum_re[:] = 0.0
        sum_im[:] = 0.0
        for i in range(n):
            a = np.cos((first + start) * inv_freq[i])
            b = np.sin((first + start) * inv_freq[i])
            cos_i = cos_k[i]
            sin_i = sin_k[i]
            for k in range(BLOCK):
                sum_re[k] += a * cos_i[k] - b * sin_i[k]
                sum_im[k] += a * sin_i[k] + b * cos_i[k]
                block[k] += np.sqrt(sum_re[k] * sum_re[k] + sum_im[k] * sum_im[k])
        for k in range(BLOCK):
            block[k] /= n
