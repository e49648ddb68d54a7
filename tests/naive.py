"""Slow and obvious twins of what the package computes. Nothing here is imported from the package."""

import math
from decimal import Decimal

import numpy as np


def inv_freq(base, head_dim):
    return [base ** (-2 * (i - 1) / head_dim) for i in range(1, head_dim // 2 + 1)]


def waveform(base, head_dim, first, last):
    """One distance and one frequency at a time."""
    values = []
    for m in range(first, last + 1):
        values.append(2 / math.sqrt(head_dim) * sum(math.cos(m * theta) for theta in inv_freq(base, head_dim)))
    return values


def decay_bound(base, head_dim, first, last):
    values = []
    for m in range(first, last + 1):
        partial, total = 0j, 0.0
        for theta in inv_freq(base, head_dim):
            partial += complex(math.cos(m * theta), math.sin(m * theta))
            total += abs(partial)
        values.append(2 / head_dim * total)
    return values


def strict_maxima(values):
    return [j for j in range(1, len(values) - 1) if values[j] > values[j - 1] and values[j] > values[j + 1]]


def strict_minima(values):
    return [j for j in range(1, len(values) - 1) if values[j] < values[j - 1] and values[j] < values[j + 1]]


def dominant_peaks(values, count, gap, look_ahead, level_tolerance):
    values = list(values)
    maxima = strict_maxima(values)
    kept = []
    level = max((values[m] for m in maxima), default=None)
    for m in maxima:
        if len(kept) == count:
            break
        if not abs(values[m] - level) <= level_tolerance:
            continue
        if not kept or m - kept[-1] > gap:
            kept.append(m)
        later = [x for x in maxima if x > m]
        start = min(m + gap, later[0]) if later else m + gap
        ahead = values[start : start + look_ahead]
        if not ahead:
            break
        level = max(ahead)
    return kept


def dominant_valleys(values, count, gap, valley_gap, level_tolerance):
    values = list(values)
    minima = strict_minima(values)
    kept = []
    level = min((values[m] for m in minima), default=None)
    for m in reversed(minima):
        if len(kept) == count:
            break
        if not abs(values[m] - level) <= level_tolerance:
            continue
        if not kept or kept[-1] - m > valley_gap:
            kept.append(m)
        earlier = [x for x in minima if x < m]
        end = min(m - gap, earlier[-1]) if earlier else 0
        left = values[: max(end, 0)]
        if not left:
            break
        level = min(left)
    return sorted(kept)


def local_maxima(values):
    """Middles, rounded down, of the runs of equal values that stand above both sides."""
    found = []
    start = 0
    for j in range(1, len(values) + 1):
        if j < len(values) and values[j] == values[start]:
            continue
        if start > 0 and j < len(values) and values[start - 1] < values[start] > values[j]:
            found.append((start + j - 1) // 2)
        start = j
    return found


def prominence(values, m):
    """How far a maximum stands above the higher of the two lowest points before the curve is higher than it."""
    bases = []
    for side in (range(m, -1, -1), range(m, len(values))):
        lowest = values[m]
        for j in side:
            if values[j] > values[m]:
                break
            lowest = min(lowest, values[j])
        bases.append(lowest)
    return values[m] - max(bases)


def local_peaks(values, least_prominence=None, min_separation=None):
    """Local maxima; of two closer than `min_separation` the higher stays, then those of too little prominence go."""
    peaks = local_maxima(values)
    if min_separation is not None:
        kept = []
        for m in sorted(peaks, key=lambda m: -values[m]):
            if all(abs(m - other) >= min_separation for other in kept):
                kept.append(m)
        peaks = sorted(kept)
    return [m for m in peaks if least_prominence is None or prominence(values, m) >= least_prominence]


def candidates(bmin, bmax, stride):
    low, high, step = (Decimal(repr(x)) for x in (bmin, bmax, stride))
    grid = []
    i = 1
    while low + i * step <= high:
        grid.append(float(low + i * step))
        i += 1
    return grid


def choose_by_coincidence(extrema, n, tolerance, *, take_out=True, pools="lists"):
    """Indices in order of choice; `extrema` holds (peaks, valleys) of each candidate, the first is b_min's.

    `take_out=False` leaves coinciding positions in, `pools="sets"` keeps a position once: both are variants that
    the published set does not come from.
    """
    chosen = [0]
    pool_peaks, pool_valleys = list(extrema[0][0]), list(extrema[0][1])
    while len(chosen) < n:
        scores = {}
        for c, (peaks, valleys) in enumerate(extrema):
            if c in chosen:
                continue
            apart = np.concatenate(
                [
                    np.subtract.outer(np.array(peaks, int), np.array(pool_valleys, int)).ravel(),
                    np.subtract.outer(np.array(valleys, int), np.array(pool_peaks, int)).ravel(),
                ]
            )
            apart = apart[abs(apart) <= tolerance]
            scores[c] = (-len(apart), int((apart**2).sum()), c)
        newest = min(scores, key=scores.get)
        chosen.append(newest)
        pool_peaks += extrema[newest][0]
        pool_valleys += extrema[newest][1]
        if pools == "sets":
            pool_peaks, pool_valleys = sorted(set(pool_peaks)), sorted(set(pool_valleys))
        if take_out:
            both = set(pool_peaks) & set(pool_valleys)
            pool_peaks = [x for x in pool_peaks if x not in both]
            pool_valleys = [x for x in pool_valleys if x not in both]
    return chosen


def choose_by_distance(extrema, n, normalize):
    chosen = [0]
    pool_peaks, pool_valleys = list(extrema[0][0]), list(extrema[0][1])
    while len(chosen) < n:
        scores = {}
        for c, (peaks, valleys) in enumerate(extrema):
            if c in chosen:
                continue
            if not pool_peaks or not pool_valleys:
                scores[c] = (math.inf, c)
                continue
            from_peaks = [min(abs(p - v) for v in pool_valleys) for p in peaks]
            from_valleys = [min(abs(v - p) for p in pool_peaks) for v in valleys]
            score = sum(from_peaks) + sum(from_valleys)
            if normalize:
                score = sum(from_peaks) / max(len(from_peaks), 1) + sum(from_valleys) / max(len(from_valleys), 1)
            scores[c] = (score, c)
        newest = min(scores, key=scores.get)
        chosen.append(newest)
        pool_peaks += extrema[newest][0]
        pool_valleys += extrema[newest][1]
    return chosen


def running_mean(values, width):
    """The mean of `width` values around each, the ends repeated beyond the ends."""
    half = width // 2
    padded = [values[0]] * half + list(values) + [values[-1]] * half
    sums = np.concatenate([[0.0], np.cumsum(padded)])
    return (sums[width:] - sums[:-width]) / width


def ripple(waveforms):
    """Root mean square of the mean of waveforms, each without its trend, from distance 2048 on."""
    residuals = [np.array(w) - running_mean(w, 4097) for w in waveforms]
    return math.sqrt(np.mean(np.mean(residuals, axis=0)[2048:] ** 2))


def floor(waveforms):
    """The smallest value of the best head from distance 1 on, and where it falls."""
    best = [max(values) for values in zip(*waveforms, strict=True)]
    m = min(range(1, len(best)), key=best.__getitem__)
    return best[m], m


def greedy(figure, n_candidates, n):
    """Indices in order of choice: from the first, always the one that gives the largest figure."""
    members = [0]
    while len(members) < n:
        others = [c for c in range(n_candidates) if c not in members]
        members.append(max(others, key=lambda c: (figure([*members, c]), -c)))
    return members


def exchanges(figure, members, n_candidates):
    """Figures of all sets that differ from `members` in one that is not the first."""
    for place in range(1, len(members)):
        for c in range(n_candidates):
            if c not in members:
                yield figure([*members[:place], c, *members[place + 1 :]])


def waveform_of(frequencies, distances):
    """Of any frequencies at any distances, one cosine at a time."""
    scale = 2 / math.sqrt(2 * len(frequencies))
    return [scale * sum(math.cos(m * theta) for theta in frequencies) for m in distances]


def decay_bound_of(frequencies, distances):
    values = []
    for m in distances:
        partial, total = 0j, 0.0
        for theta in frequencies:
            partial += complex(math.cos(m * theta), math.sin(m * theta))
            total += abs(partial)
        values.append(total / len(frequencies))
    return values


def self_extend_distances(m, window, group):
    """Every distance that Self-Extend gives a query and a key that are m apart, over all places in their groups."""
    seen = set()
    for key in range(group):
        query = key + m
        if m < window:
            seen.add(query - key)
        else:
            seen.add(query // group + window - window // group - key // group)
    return seen


def pairs(m, length):
    """(query, key) m apart, the key none of the first four."""
    return [(i, i - m) for i in range(length) if i - m >= 4]


def mean_scores(texts, last):
    """The mean of the entries of square arrays of scores, one of each text, by distance."""
    means = []
    for m in range(last + 1):
        means.append(np.mean([scores[i, j] for scores in texts for i, j in pairs(m, len(scores))]))
    return means


def standard_errors(texts, last):
    """Of those means, between blocks of query positions, 16 of each text: the linearised error of a ratio."""
    errors = []
    for m in range(last + 1):
        blocks = []
        for scores in texts:
            size = math.ceil(len(scores) / 16)
            for start in range(0, len(scores), size):
                found = [scores[i, j] for i, j in pairs(m, len(scores)) if start <= i < start + size]
                if found:
                    blocks.append((sum(found), len(found)))
        total, n = (sum(column) for column in zip(*blocks, strict=True))
        misses = sum((s - count * total / n) ** 2 for s, count in blocks)
        errors.append(math.sqrt(misses * len(blocks) / max(len(blocks) - 1, 1)) / n)
    return errors


def model_curve(queries, keys, base, last):
    """The score of the mean query and the mean key, before rotation, each (S, d) of every text."""
    d = queries[0].shape[1]
    mean_query, mean_key = (np.mean([x[4:].mean(0) for x in texts], axis=0) for texts in (queries, keys))
    curve = []
    for m in range(last + 1):
        value = 0.0
        for f, theta in enumerate(inv_freq(base, d)):
            q = complex(mean_query[f], mean_query[f + d // 2])
            k = complex(mean_key[f], mean_key[f + d // 2])
            value += (q * k.conjugate() * complex(math.cos(m * theta), math.sin(m * theta))).real
        curve.append(value / math.sqrt(d))
    return curve


def masses(texts, last):
    """Attention weights by distance, the first four keys taken out and rows scaled to 1; and what these four get."""
    cut = []
    for weights in texts:
        rest = weights.astype(float)
        rest[:, :4] = 0
        cut.append(rest / np.maximum(rest.sum(1, keepdims=True), 1e-300))
    return mean_scores(cut, last), np.mean([weights[4:, :4].sum(1) for weights in texts])


def bootstrap(sums, counts, draws):
    """95 % interval of a ratio of sums, by drawing documents one by one."""
    random = np.random.default_rng(7)
    ratios = []
    for _ in range(draws):
        drawn = [random.integers(len(sums)) for _ in sums]
        ratios.append(sum(sums[i] for i in drawn) / sum(counts[i] for i in drawn))
    return np.quantile(ratios, [0.025, 0.975])


def bootstrap_mean_difference(tasks, draws, random):
    """95 % interval of the mean over tasks of the difference of two ratios, sample by sample.

    `tasks` holds, for each task, a list of ((sum, count), (sum, count)): of the first and of the second.
    """
    found = []
    for _ in range(draws):
        differences = []
        for pairs in tasks:
            drawn = [random.choice(pairs) for _ in pairs]
            first = sum(a[0] for a, _ in drawn) / sum(a[1] for a, _ in drawn)
            second = sum(b[0] for _, b in drawn) / sum(b[1] for _, b in drawn)
            differences.append(second - first)
        found.append(sum(differences) / len(differences))
    found.sort()
    return found[round(0.025 * draws)], found[round(0.975 * draws) - 1]
