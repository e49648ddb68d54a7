"""Searches for base sets: Algorithm 1 of HARPE and other strategies, comparisons, and sweeps of many searches."""
