"""Sums over pairs of a query and a key, by distance, without a matrix of S × S.

Shapes: S tokens, L layers, H query heads, K KV heads, G = H / K query heads per KV head, D channels per head, P
passages, distances m = 0 … M.
"""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ropesearch.core.arrays import Complexes, Counts, Curves, Floats

from .capture import CapturedLayer

if TYPE_CHECKING:
    import torch

SINKS = 4
"""The first keys of a text, which draw attention whatever they say; they count nowhere but in `sink_mass`."""
BLOCKS = 16
"""Blocks of query positions in each text, between which the standard error is taken."""

SCORES_AT_ONCE = {"cpu": 2**17, "cuda": 2**24}
"""Entries of one head's attention matrix that the softmax works on at a time: as many as a cache or a GPU holds."""


class PairSums:
    """Sums over the pairs of several passages and layers, and what a Decay holds of them."""

    def __init__(
        self, n_layers: int, identity: Mapping[str, Any], length: int, n_passages: int, *, softmax: bool
    ) -> None:
        self._last = length // 2
        self._head_dim = identity["head_dim"]
        self._n_passages = n_passages
        heads, half = identity["heads"], identity["head_dim"] // 2
        shape = (n_layers, heads, self._last + 1)
        self._pairs = pairs_by_block(length, self._last)  # (blocks, M + 1)
        self._parts = np.zeros((max(n_passages, 2), *shape))  # sums of scores, by passage or half of it
        self._squares = np.zeros(shape)  # Σ_b N_b², N_b the sum of scores in block b
        self._products = np.zeros(shape)  # Σ_b n_b N_b, n_b the pairs in it
        self._query = np.zeros((n_layers, heads, half), np.complex128)
        self._key = np.zeros((n_layers, identity["kv_heads"], half), np.complex128)
        self._mass = np.zeros(shape) if softmax else None
        self._sink_mass = np.zeros(shape[:2])

    def add(self, passage: int, layer: CapturedLayer) -> None:
        """Add the pairs of one layer of one passage."""
        row, kv_heads = layer.row, layer.key.shape[1]
        group = layer.query.shape[1] // kv_heads
        for kv_head in range(kv_heads):
            heads = slice(kv_head * group, (kv_head + 1) * group)
            mean_query = _complex_mean(layer.query[:, heads]) * (layer.scaling * math.sqrt(self._head_dim))
            self._query[row, heads] += mean_query / self._n_passages
            self._key[row, kv_head] += _complex_mean(layer.key[:, kv_head]) / self._n_passages
            query = layer.rotated_query[:, heads].transpose(0, 1)  # (G, S, D)
            key = layer.rotated_key[:, kv_head]  # (S, D)
            blocks = correlate(query, key, self._last).cpu().numpy() * layer.scaling  # (G, blocks, M + 1)
            self._squares[row, heads] += (blocks * blocks).sum(1)
            self._products[row, heads] += (blocks * self._pairs).sum(1)
            if self._n_passages > 1:
                self._parts[passage, row, heads] = blocks.sum(1)
            else:
                self._parts[:, row, heads] = blocks.reshape(group, 2, -1, self._last + 1).sum(2).swapaxes(0, 1)
            if self._mass is not None:
                mass, sinks = softmax_mass(query, key, self._last, layer.scaling, layer.window, layer.cap)
                self._mass[row, heads] += mass.cpu().numpy() / self._n_passages
                self._sink_mass[row, heads] += sinks.cpu().numpy() / self._n_passages

    def coefficients(self) -> Complexes:
        """Return c_f, shape (L, H, D/2)."""
        group = self._query.shape[1] // self._key.shape[1]
        product: Complexes = self._query * np.repeat(self._key, group, axis=1).conj()
        return product

    def score(self) -> Curves:
        """Return the means over all pairs, shape (L, H, M + 1)."""
        score = np.empty(self._squares.shape, np.float32)
        for row in range(len(score)):
            score[row] = self._mean(row)
        return score

    def curves(self) -> dict[str, Any]:
        """Return the fields of a Decay that are curves over distance, or means of them."""
        pairs = self._pairs.sum(0)
        halves = self._pairs.reshape(2, -1, pairs.size).sum(1)
        pairs_of_parts = (np.tile(pairs, (self._n_passages, 1)) if self._n_passages > 1 else halves)[:, None]
        curves: dict[str, Any] = {
            "pairs": self._n_passages * pairs,
            "score": self.score(),
            "standard_error": np.empty(self._squares.shape, np.float32),
            "parts": np.full(self._parts.shape, np.nan, np.float32),
        }
        if self._mass is not None:
            curves["mass"] = np.empty(self._mass.shape, np.float32)
            curves["sink_mass"] = self._sink_mass.astype(np.float32)
        for row in range(len(self._squares)):  # so that what is made in float64 on the way is one layer's
            curves["standard_error"][row] = self._standard_error(row)
            parts = curves["parts"][:, row]
            np.divide(self._parts[:, row], pairs_of_parts, out=parts, where=pairs_of_parts > 0, casting="same_kind")
            if self._mass is not None:
                curves["mass"][row] = self._mass[row] / pairs
        return curves

    def _mean(self, row: int) -> Floats:
        """Of the scores of one layer, (H, M + 1)."""
        mean: Floats = self._parts[:, row].sum(0) / (self._n_passages * self._pairs.sum(0))
        return mean

    def _standard_error(self, row: int) -> Floats:
        """Of that mean, a ratio of sums over blocks; by linearisation its variance is Σ_b (N_b − n_b·mean)² / n²."""
        mean = self._mean(row)
        squared_pairs = self._n_passages * (self._pairs.astype(np.float64) ** 2).sum(0)
        misses = self._squares[row] - 2 * mean * self._products[row] + mean**2 * squared_pairs
        n_blocks = self._n_passages * (self._pairs > 0).sum(0)
        n = self._n_passages * self._pairs.sum(0)
        error: Floats = np.sqrt(np.maximum(misses, 0) * n_blocks / np.maximum(n_blocks - 1, 1)) / n
        return error


def pairs_by_block(length: int, last: int) -> Counts:
    """Count pairs of a query in each block and a key m before it, not one of the first four: (blocks, last + 1)."""
    size = -(-length // BLOCKS)
    starts = np.arange(BLOCKS) * size
    ends = np.minimum(starts + size, length)
    m = np.arange(last + 1)
    counts: Counts = np.maximum(ends[:, None] - np.maximum(starts[:, None], m + SINKS), 0)
    return counts


def correlate(query: "torch.Tensor", key: "torch.Tensor", last: int) -> "torch.Tensor":
    """Sum q_i·k_{i−m} over the queries i of each block, without the first four keys, for m = 0 … last.

    Queries and keys are cut into 16 blocks of B positions. The product of the spectrum of a block of queries with
    that of the block of keys l blocks before is the spectrum of the sums at distances l·B − B + 1 … l·B + B − 1; two
    such products cover every distance.

    Parameters
    ----------
    query : tensor, shape (G, S, D)
    key : tensor, shape (S, D)
    last : int

    Returns
    -------
    tensor of float64, shape (G, 16, last + 1)
    """
    import torch

    n_heads, length, _ = query.shape
    size = -(-length // BLOCKS)
    room = BLOCKS * size - length
    pad = torch.nn.functional.pad
    query = pad(query.double(), (0, 0, 0, room)).view(n_heads, BLOCKS, size, -1).transpose(2, 3)  # (G, b, D, B)
    key = pad(key[SINKS:].double(), (0, 0, SINKS, room)).view(BLOCKS, size, -1).transpose(1, 2)  # (c, D, B)
    queries, keys = (torch.fft.rfft(x, n=2 * size) for x in (query, key))
    # Complex numbers as real matrices: torch multiplies a batch of those at once, and of complex ones one by one.
    queries = torch.view_as_real(queries.permute(3, 0, 1, 2).flatten(1, 2)).flatten(2)  # (F, G·b, 2D)
    conjugate = keys.conj().permute(2, 1, 0)  # (F, D, c)
    conjugates = torch.view_as_real(torch.stack((conjugate, 1j * conjugate), dim=2)).flatten(3).flatten(1, 2)
    products = (queries @ conjugates).reshape(-1, n_heads * BLOCKS, BLOCKS, 2)
    spectra = torch.view_as_complex(products)  # (F, G·b, c)
    sums = torch.fft.irfft(spectra.permute(1, 2, 0), n=2 * size).unflatten(0, (n_heads, BLOCKS))  # (G, b, c, 2B)
    farthest = last // size + 1
    result = query.new_zeros(n_heads, BLOCKS, farthest + 1, size)
    for apart in range(farthest + 1):
        of_blocks = sums.diagonal(-apart, 1, 2).transpose(1, 2)  # (G, b − apart, 2B): distances 0 … B−1, −B … −1
        result[:, apart:, apart] += of_blocks[..., :size]
        if apart:
            result[:, apart:, apart - 1] += of_blocks[..., size:]
    return result.flatten(2)[..., : last + 1]


def softmax_mass(
    query: "torch.Tensor", key: "torch.Tensor", last: int, scale: float, window: int | None, cap: float | None = None
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Sum attention after the softmax by distance, and average the share of the first four keys.

    Queries that see no other key than those four are left out; every other row is scaled to 1 without the four.

    Parameters
    ----------
    query : tensor, shape (G, S, D)
    key : tensor, shape (S, D)
    last : int
    scale : float
        Factor on each product of query and key.
    window : int or None
        How many keys a query sees, its own included.
    cap : float or None
        What the scores approach and do not exceed, by cap·tanh(score/cap).

    Returns
    -------
    mass : tensor of float64, shape (G, last + 1)
    sinks : tensor of float64, shape (G,)
    """
    import torch

    n_heads, length, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    query, key = query.to(dtype) * scale, key.to(dtype)
    mass = torch.zeros(n_heads, last + 1, dtype=torch.float64, device=query.device)
    sinks = torch.zeros(n_heads, dtype=torch.float64, device=query.device)
    n_rows = rows_at_once(length, query.device.type)
    for start in range(SINKS, length, n_rows):
        stop = min(start + n_rows, length)
        of_rows, of_sinks = _mass_of_rows(query[:, start:stop], key[:stop], last, window, cap)
        mass += of_rows
        sinks += of_sinks
    return mass, sinks / (length - SINKS)


def rows_at_once(length: int, device_type: str) -> int:
    """Return how many rows of the attention matrix the softmax works on at a time."""
    return max(16, SCORES_AT_ONCE[device_type] // length)


def _mass_of_rows(
    query: "torch.Tensor", key: "torch.Tensor", last: int, window: int | None, cap: float | None
) -> "tuple[torch.Tensor, torch.Tensor]":
    """Sums over the last R queries, (G, R, D), of a passage whose keys are `key`, (stop, D)."""
    import torch

    n_heads, n_rows, _ = query.shape
    stop = len(key)
    start = stop - n_rows
    apart = torch.arange(start, stop, device=key.device)[:, None] - torch.arange(stop, device=key.device)  # (R, stop)
    hidden = apart < 0
    if window is not None:
        hidden |= apart >= window
    scores = query @ key.T  # (G, R, stop)
    if cap is not None:
        scores.div_(cap).tanh_().mul_(cap)
    scores.masked_fill_(hidden, -torch.inf)
    of_sinks = scores[..., :SINKS].logsumexp(-1)
    scores[..., :SINKS] = -torch.inf
    highest = scores.amax(-1, keepdim=True)
    shares = scores.sub_(highest).exp_()
    of_rest = shares.sum(-1, keepdim=True)
    shares /= of_rest
    sinks = (of_sinks - highest[..., 0] - of_rest[..., 0].log()).sigmoid().double().sum(-1)
    # Row r holds distance m at column start + r − m: with rows one entry further apart, m is one column.
    width = last + stop
    laid = shares.new_zeros(n_heads, n_rows, width)
    laid[..., last:] = shares
    skewed = laid.as_strided((n_heads, n_rows, last + 1), (laid[0].numel(), width + 1, 1), start)
    return skewed.sum(1).double().flip(-1), sinks


def _complex_mean(values: "torch.Tensor") -> Complexes:
    """Mean over all positions but the first four, (S, …, D), as complex numbers by frequency, (…, D/2)."""
    mean = values[SINKS:].double().mean(0).cpu().numpy()
    half = mean.shape[-1] // 2
    complexes: Complexes = mean[..., :half] + 1j * mean[..., half:]
    return complexes
