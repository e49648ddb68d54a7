"""A figure that a notebook shows."""

import io

from matplotlib.figure import Figure as PlainFigure


class Figure(PlainFigure):
    """matplotlib's figure, made without pyplot, which a notebook shows all the same."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()
