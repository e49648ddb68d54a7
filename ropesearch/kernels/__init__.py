"""Numba loops over arrays: no checks, no Python objects; the rooms above do both."""
