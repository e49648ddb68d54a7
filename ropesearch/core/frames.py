"""Tables for those who have pandas."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import MissingExtraError

if TYPE_CHECKING:
    from pandas import DataFrame


def as_dataframe(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> "DataFrame":
    """Return rows as a pandas data frame; raise MissingExtraError without pandas."""
    try:
        import pandas as pd
    except ImportError:
        raise MissingExtraError("a data frame needs pandas: pip install pandas") from None
    return pd.DataFrame(list(rows), columns=list(columns))
