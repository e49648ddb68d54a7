"""Floor 0: numba loops over arrays. No argument is checked here; the floors above do that."""
