"""Write docs/coverage.md: what the published set covers, beside other sets. Takes some minutes.

    python docs/make_coverage.py

Every figure on the page is computed here, except the scores cited from the paper.
"""

import itertools
from pathlib import Path

import numpy as np

from ropesearch import PRESETS, BaseSet, search_bases, uniform_bases
from ropesearch.core.grid import candidate_bases
from ropesearch.evaluation.paper import NIAH_BY_STRIDE, NIAH_UNIFORM

GRID = (1e6, 5e6, 30000)
RANDOM_SETS = 300

FIGURES = {
    "floor": lambda c: c.floor,
    "mean": lambda c: c.mean,
    "1 % quantile": lambda c: c.quantile_01,
    "less ripple": lambda c: -c.ripple,
    "valleys on peaks": lambda c: np.mean(c.valleys_on_peaks),
}


def cells(coverages):
    """Cells of one row: a figure each, of one set, or mean ± standard deviation of several."""
    columns = (
        ([c.floor for c in coverages], 4),
        ([c.mean for c in coverages], 4),
        ([c.quantile_01 for c in coverages], 4),
        ([c.ripple for c in coverages], 5),
        ([100 * np.mean(c.valleys_on_peaks) for c in coverages], 1),
    )
    for values, digits in columns:
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
        yield f"{np.mean(values):.{digits}f}{spread}"


def row(name, *coverages):
    return f"| {name} | {' | '.join(cells(coverages))} |"


def published_rows():
    """The sets that no search for coverage made."""
    yield row("Table 2 (`peak-valley`)", search_bases(**PRESETS["table2"]).coverage())
    yield row("uniform, ascending or descending", uniform_bases(*GRID[:2], 32).coverage())


def searched_rows():
    for strategy, refine in itertools.product(("floor", "ripple"), (False, True)):
        found = search_bases(*GRID, 32, strategy=strategy, refine=refine)
        yield row(f"`--strategy {strategy}{' --refine' * refine}`", found.coverage())


def random_row():
    grid = np.array([GRID[0], *candidate_bases(*GRID)])
    draw = np.random.default_rng(0)
    coverages = []
    for _ in range(RANDOM_SETS):
        bases = tuple(np.sort(draw.choice(grid, 32, replace=False)).tolist())
        base_set = BaseSet.of(bases, strategy="random")
        coverages.append(base_set.coverage())
    return row(f"{RANDOM_SETS} random subsets of the 134", *coverages)


def stride_coverages():
    return {stride: search_bases(*GRID[:2], stride, 32).coverage() for stride in NIAH_BY_STRIDE}


def stride_rows(coverages):
    for stride, coverage in coverages.items():
        yield f"{row(str(stride), coverage)} {NIAH_BY_STRIDE[stride]:.2f} |"
    uniform = row("uniform", uniform_bases(*GRID[:2], 32).coverage())
    yield f"{uniform} {NIAH_UNIFORM['ascending']:.2f} ascending, {NIAH_UNIFORM['descending']:.2f} descending |"


def ranks(values):
    order = np.sort(values)
    return np.array([np.mean(np.flatnonzero(order == v)) for v in values])


def rank_correlation(a, b):
    """Spearman's: the correlation of the ranks, equal values sharing theirs."""
    return float(np.corrcoef(ranks(a), ranks(b))[0, 1])


def exact_p(a, b):
    """Share of all orders of b that correlate with a as strongly, either way."""
    seen = abs(rank_correlation(a, b))
    orders = [abs(rank_correlation(a, np.array(order))) for order in itertools.permutations(b)]
    return np.mean([r >= seen - 1e-12 for r in orders]), len(orders)


def correlation_rows(coverages):
    """Each figure against the scores of the five strides."""
    scores = np.array([NIAH_BY_STRIDE[stride] for stride in coverages])
    for name, figure in FIGURES.items():
        values = np.array([figure(c) for c in coverages.values()])
        p, n = exact_p(values, scores)
        yield f"| {name} | {rank_correlation(values, scores):+.2f} | {p:.3f} |", p, n


def page():
    coverages = stride_coverages()
    correlations = list(correlation_rows(coverages))
    n_orders = correlations[0][2]
    smallest = min(p for _, p, _ in correlations)
    return TEMPLATE.format(
        published="\n".join(published_rows()),
        random=random_row(),
        searched="\n".join(searched_rows()),
        strides="\n".join(stride_rows(coverages)),
        correlations="\n".join(line for line, _, _ in correlations),
        n_figures=len(correlations),
        n_orders=n_orders,
        least=f"{2 / n_orders:.3f}",
        smallest=f"{smallest:.3f}",
        corrected=f"{min(1.0, len(correlations) * smallest):.2f}",
        least_corrected=f"{len(correlations) * 2 / n_orders:.2f}",
    )


TEMPLATE = """\
<!-- Made by `python docs/make_coverage.py`, every figure except the scores cited from the paper. -->

# Is the published set good?

HARPE ([arXiv:2412.07171](https://arxiv.org/abs/2412.07171)) says that its set of bases fills the valleys of some heads
with the peaks of others. `BaseSet.coverage()`, `ropesearch search --coverage` and `ropesearch show --coverage` measure
this for any set, over 131 072 distances:

- **floor**: the minimum, over distance, of the best head (the largest value of all heads at a distance), in mean
  cosine: the waveform scaled to 1 at distance 0. **mean** and **1 % quantile**: of the best head.
- **ripple**: the root mean square, from distance 2048 on, of the mean of the heads' waveforms minus its trend (a
  running mean over 4097 tokens). Smaller is smoother.
- **valleys on peaks**: the share of a head's valleys that lie within 3 tokens of another head's peak, by the rule that
  the search itself uses, averaged over the heads, in percent.

## 32 heads, head_dim 128, bases from 1e6 to 5e6

| set | floor | mean | 1 % quantile | ripple | valleys on peaks, % |
|---|---|---|---|---|---|
{published}
{random}
{searched}

The published set does what its search asks for: more of its valleys lie on another head's peak than in any other set in
this table. By the other figures it is no better than an even spread or a random subset of the same grid (± is the
standard deviation over the subsets). `--strategy floor` and `--strategy ripple` are better by the figures that they
search for, and `--refine`, which moves the bases off the grid, gains a little more. Only training can show whether any
of this makes a better *model*.

Coverage does not depend on the order of the bases over the heads: ascending and descending share one row here, although
the paper's scores for the two differ.

## The five strides of the paper's Table 6

The sets that `ropesearch search --bmin 1e6 --bmax 5e6 --heads 32 --stride …` gives, and the paper's averages of "needle
in a haystack" for its models. The paper prints its set only for stride 30 000, so the sets are
known to agree only there.

| stride | floor | mean | 1 % quantile | ripple | valleys on peaks, % | paper's score |
|---|---|---|---|---|---|---|
{strides}

Does any figure order the five strides as the scores do? Spearman's rank correlation, and the share of all
{n_orders} orders of the scores that correlate as strongly, either way:

| figure | rank correlation | exact p |
|---|---|---|
{correlations}

Five points have {n_orders} orders, so p cannot be below {least}, and with {n_figures} figures tried cannot be below
{least_corrected} after Bonferroni's correction. The smallest p here is {smallest}, corrected {corrected}. So the five
strides do not show that any coverage figure predicts the scores, and are too few to show it. Nor do they show that none
does.
"""

if __name__ == "__main__":
    Path(__file__).with_name("coverage.md").write_text(page())
