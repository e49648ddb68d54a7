"""Waveforms of many bases at once, by torch on a GPU, for the same answer to the last bit.

Values computed elsewhere differ in their last digits, and a tie or a threshold may hang on those. So a device only
says where to look: bounds on every block, with a margin, for the rule `dominant`, whose deciding values the CPU then
computes; and for `local` the signs of all steps from point to point, where a curve with a step too small to be sure of
goes to the CPU altogether.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ropesearch.core.arrays import Floats, Words
from ropesearch.kernels.waveform import BLOCK

HALF = BLOCK // 2
MARGIN = 2e-9
"""Logits by which a value of the device may be off; the waveform's own error is below 1e-9, here and there."""

SHARE = 0.5
"""Of the device's free memory, how much is used."""


class Steps(NamedTuple):
    """Of one curve, where it rises and falls to the next point, as bits, and whether any of that is in doubt."""

    up: Words
    down: Words
    doubtful: bool


class Survey:
    """Waveforms over one window on a device, in batches that fit its memory."""

    def __init__(self, device: Any, head_dim: int, first: int, last: int) -> None:
        import torch

        self._torch = torch
        self._device = device
        self._n_distances = last - first + 1
        n_blocks = -(-self._n_distances // BLOCK)
        self._centres = first + HALF - 0.5 + BLOCK * torch.arange(n_blocks, dtype=torch.float64, device=device)
        self._offsets = 0.5 + torch.arange(HALF, dtype=torch.float64, device=device)
        self._scale = 2 / head_dim**0.5

    def bounds(self, frequencies: Floats) -> Iterator[tuple[Floats, Floats]]:
        """The least and the greatest value of every block, (blocks,) each, for every row of frequencies (C, d/2)."""
        for theta in self._batches(frequencies):
            even, odd = self._even_and_odd(theta)
            swing = odd.abs_()
            lowest = (even - swing).amin(dim=2).cpu().numpy()
            highest = (even + swing).amax(dim=2).cpu().numpy()
            yield from zip(lowest, highest, strict=True)

    def steps(self, frequencies: Floats) -> Iterator[Steps]:
        """Where every waveform rises and falls, for every row of frequencies (C, d/2)."""
        torch = self._torch
        weights = (2 ** torch.arange(8, device=self._device)).to(torch.uint8)
        for theta in self._batches(frequencies):
            even, odd = self._even_and_odd(theta)
            curve = torch.cat([(even + odd).flip(2), even - odd], dim=2).flatten(1)[:, : self._n_distances]  # (c, M)
            change = curve.diff(dim=1)
            doubtful = (change.abs() <= 2 * MARGIN).any(dim=1).cpu().tolist()
            words = []
            for sign in (change > 0, change < 0):
                room = -(-self._n_distances // 64) * 64
                bits = torch.nn.functional.pad(sign, (0, room - sign.shape[1])).unflatten(1, (-1, 8))
                octets = (bits * weights).sum(dim=2, dtype=torch.uint8).cpu().numpy()
                words.append(octets.view("<u8").astype(np.uint64))
            yield from map(Steps, *words, doubtful)

    def _batches(self, frequencies: Floats) -> Iterator[Any]:
        torch = self._torch
        free = torch.cuda.mem_get_info(self._device)[0] if self._device.type == "cuda" else 2**31
        each = 8 * (6 * self._n_distances + 4 * frequencies.shape[1] * (self._centres.numel() + HALF))
        size = max(1, int(SHARE * free) // each)
        for start in range(0, len(frequencies), size):
            yield torch.from_numpy(frequencies[start : start + size]).to(self._device)

    def _even_and_odd(self, theta: Any) -> tuple[Any, Any]:
        """E and O of every block, as in `kernels.waveform`, shape (c, blocks, HALF)."""
        at_centres = self._centres[:, None] * theta[:, None, :]  # (c, blocks, d/2)
        at_offsets = self._offsets[:, None] * theta[:, None, :]  # (c, HALF, d/2)
        even = (self._scale * at_centres.cos()) @ at_offsets.cos().mT
        odd = (self._scale * at_centres.sin()) @ at_offsets.sin().mT
        return even, odd
