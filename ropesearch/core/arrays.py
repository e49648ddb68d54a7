"""Names for the arrays that pass between rooms, by what they hold."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""Values of curves, frequencies, figures."""
Curves = npt.NDArray[np.float32]
"""Values of many curves, kept to the precision of a measurement."""
Complexes = npt.NDArray[np.complex128]
Positions = npt.NDArray[np.int32]
"""Places in a window, counted from its first distance."""
Distances = npt.NDArray[np.int64]
"""Distances, in tokens."""
Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int_]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]
"""Bits, 64 to a word, the lowest first."""
