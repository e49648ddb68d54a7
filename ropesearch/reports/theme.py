"""The colours of the page: those of figures, and for a dark screen others that are as far apart."""

from typing import Any

from ropesearch.plots.style import BEST, COLOURS, FAINT, INK, LIGHT, MEAN, THIRD, line_style

NAMES = {INK: "ink", BEST: "best", THIRD: "third", MEAN: "mean", LIGHT: "light"}
DARK = {INK: "#f2f2f2", BEST: "#b1c7f6", THIRD: "#da2a84", MEAN: "#e68818", LIGHT: "#0f4eaa"}
"""What stands for each colour of a figure on a dark screen. A test holds them apart as it does those."""
N_STYLES = 25

_LIGHT_SCREEN = {"paper": "#ffffff", "grid": "#e4e4e4", "faint": FAINT, "panel": "#f6f6f4", "edge": "#d0d0d0"}
_DARK_SCREEN = {"paper": "#121417", "grid": "#2b2f36", "faint": FAINT, "panel": "#1b1e23", "edge": "#3d434d"}


def variables() -> str:
    """Return the colours as the custom properties of a style sheet, for both themes."""
    light = _LIGHT_SCREEN | {NAMES[colour]: colour for colour in COLOURS}
    dark = _DARK_SCREEN | {NAMES[colour]: DARK[colour] for colour in COLOURS}
    return "\n".join(
        [
            f":root {{ color-scheme: light; {_declared(light)} }}",
            f"@media (prefers-color-scheme: dark) {{ :root {{ color-scheme: dark; {_declared(dark)} }} }}",
            f':root[data-theme="light"] {{ color-scheme: light; {_declared(light)} }}',
            f':root[data-theme="dark"] {{ color-scheme: dark; {_declared(dark)} }}',
        ]
    )


def _declared(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def styles() -> list[dict[str, Any]]:
    """Return the colour and dashes of each of several lines of equal rank, as `line_style` has them."""
    return [_style(**line_style(i)) for i in range(N_STYLES)]


def _style(color: str, linestyle: Any) -> dict[str, Any]:
    dash = [] if isinstance(linestyle, str) else [round(1.6 * length, 1) for length in linestyle[1]]
    return {"colour": NAMES[color], "dash": dash}


def style_of(colour: str, *, width: float = 1.5, dash: bool = False) -> dict[str, Any]:
    """Return the look of a line in one of the colours."""
    return {"colour": NAMES[colour], "width": width, "dash": dash}
