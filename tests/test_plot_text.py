"""Text from strangers in figures: drawn as it is, on one line."""

from dataclasses import replace

from ropesearch.plots.coverage import plot_coverage
from ropesearch.plots.decay import plot_slopes
from ropesearch.plots.style import save_figure
from test_plot_decay import made_up

from ropesearch import uniform_bases

HOSTILE = "$\\frac$ \x1b[31m \ud800\n\\$"
DRAWN = r"\$\frac\$ \x1b[31m \ud800\n\\$"  # matplotlib takes \$ for a $ that begins no formula


def test_names_are_no_formulas_and_have_no_line_breaks(tmp_path):
    coverage = plot_coverage(replace(uniform_bases(1e4, 2e4, 2), strategy=HOSTILE), 9000)
    assert f"({DRAWN})" in coverage.get_suptitle()
    named = plot_coverage(uniform_bases(1e4, 2e4, 2), 9000, title="$\\frac$")
    assert named.get_suptitle() == r"\$\frac\$"
    decay = made_up()
    slopes = plot_slopes(replace(decay, model={**decay.model, "name": HOSTILE}))
    assert slopes.get_suptitle().replace("\n", " ").endswith(f" {DRAWN}")  # long titles are wrapped
    for i, figure in enumerate((coverage, named, slopes)):
        save_figure(figure, tmp_path / f"{i}.svg")
