"""From a range of bases to a base set: Algorithm 1 and its relatives, comparisons, and many searches at once."""
