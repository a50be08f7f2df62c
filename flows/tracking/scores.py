"""The table of a batch's scores, read from a file that may be any."""

from pathlib import Path

import pandas as pd
from pandas.api import types

from flows.tracking.store import ArtifactMissing
from flows.words import one_line

NUMBERS, TRUTHS, WORDS = ("score", "p_value"), ("flagged",), ("uri", "status")  # columns of every batch
YOUNGER = ("review", "audit")  # truths too; batches from before do not have them
LONGEST = 300  # characters of what a library says of a file
MOST_ROWS = 100_000_000


def read_scores(path: Path, of: str) -> pd.DataFrame:
    """The rows of a batch's images; `of` is what an error calls the run that has them.

    Raises:
        ArtifactMissing: the file is no table of scores.
    """
    try:
        table = _read(path)
        wrong = _wrong_column(table)
    except Exception as error:  # pandas and pyarrow have no common class for a damaged file
        wrong = one_line(str(error).replace(str(path), path.name), LONGEST) or type(error).__name__
    if wrong:
        raise ArtifactMissing(
            f"{path.name} of {of} is no table of scores ({wrong}): restore it from a backup, or score the batch again"
        )
    return table


def _read(path: Path) -> pd.DataFrame:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:  # a few bytes may stand for any number of rows
        if file.metadata.num_rows > MOST_ROWS:
            raise ValueError(f"it says that it has {file.metadata.num_rows:,} rows")
        table: pd.DataFrame = file.read().to_pandas()
        return table


def _wrong_column(table: pd.DataFrame) -> str:
    """What is wrong with the columns; empty where nothing is."""
    kinds = {
        **dict.fromkeys(NUMBERS, types.is_float_dtype),
        **dict.fromkeys(TRUTHS, types.is_bool_dtype),
        **dict.fromkeys([name for name in YOUNGER if name in table], types.is_bool_dtype),
        **dict.fromkeys(WORDS, _are_words),
    }
    if absent := [name for name in kinds if name not in table]:
        return f"it has no column {', '.join(absent)}"
    strange = [name for name, fits in kinds.items() if len(table) and not fits(table[name])]
    return f"its column {strange[0]} holds something else" if strange else ""


def _are_words(column: "pd.Series[str]") -> bool:
    return bool(types.infer_dtype(column, skipna=False) == "string")
