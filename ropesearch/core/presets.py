"""The two published base sets, as search options, and Table 2 itself, which needs no search."""

from typing import Any

PRESETS: dict[str, dict[str, Any]] = {
    # HARPE, arXiv:2412.07171, Table 2: the rule's own defaults.
    "table2": {"bmin": 1e6, "bmax": 5e6, "stride": 30000.0, "heads": 32},
    # Attention Buckets, arXiv:2312.04455: {10000, 17500, 18000, 19000, 20000, 25000}.
    "attention-buckets": {
        "bmin": 10000.0,
        "bmax": 30000.0,
        "stride": 500.0,
        "heads": 6,
        "min_distance": 1000,
        "max_distance": 3000,
        "count": 10,
        "tolerance": 5,
    },
}
"""Arguments of `search_bases` by preset name: `search_bases(**PRESETS["table2"])`."""

# HARPE, arXiv:2412.07171, Table 2, in units of 10 000.
# fmt: off
TABLE_2 = tuple(
    10_000.0 * b
    for b in (
        100, 115, 130, 145, 217, 220, 223, 247, 250, 265, 268, 271, 274, 280, 283, 292,
        301, 304, 310, 313, 316, 322, 343, 346, 361, 388, 409, 415, 439, 445, 451, 454,
    )
)
# fmt: on
"""The 32 bases that `search_bases(**PRESETS["table2"])` finds."""
