"""Numba loops over arrays. Checks and Python objects are left to the rooms that call them."""
