"""Type aliases for the arrays that pass between rooms, named by what they hold."""

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
"""Values of curves, frequencies, figures."""
Curves = npt.NDArray[np.float32]
"""Values of many measured curves."""
Complexes = npt.NDArray[np.complex128]
Positions = npt.NDArray[np.int32]
"""Positions in a window, counted from its first distance."""
Distances = npt.NDArray[np.int64]
"""Distances, in tokens."""
Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int_]
Flags = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]
"""Bits, 64 to a word, lowest first."""
