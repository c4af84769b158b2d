import datetime
from typing import Any

import pyarrow as pa
import pytest

from pipelines.plan.fill_down import FillDown
from zimage_models.errors import InvalidRequest


def filled(values: list[Any], dtype: pa.DataType, batch_rows: int) -> list[Any]:
    table = pa.table({"a": pa.array(values, dtype), "b": range(len(values))})
    fill_down = FillDown(["a"], table.schema)
    parts = []
    for start in range(0, table.num_rows, batch_rows):
        part = fill_down.fill(table.slice(start, batch_rows))
        assert part.schema == table.schema
        parts.append(part)
    whole = pa.concat_tables(parts)
    assert whole["b"].to_pylist() == list(range(len(values)))
    return whole["a"].to_pylist()


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 100])
@pytest.mark.parametrize(
    ("dtype", "values"),
    [
        (pa.string(), ["x", "y"]),
        (pa.large_string(), ["x", "y"]),
        (pa.dictionary(pa.int8(), pa.string()), ["x", "y"]),
        (pa.int64(), [1, 2]),
        (pa.bool_(), [True, False]),
        (pa.timestamp("us"), [datetime.datetime(2026, 1, 1), datetime.datetime(2027, 1, 1)]),
        (
            pa.decimal128(4, 2),
            [pa.scalar(1, pa.decimal128(4, 2)).as_py(), pa.scalar(2, pa.decimal128(4, 2)).as_py()],
        ),
    ],
    ids=str,
)
def test_empty_cells_take_the_value_above(dtype: pa.DataType, values: list[Any], batch_rows: int) -> None:
    first, second = values
    cells = [None, first, None, None, second, None]
    assert filled(cells, dtype, batch_rows) == [None, first, first, first, second, second]


def test_empty_text_counts_as_empty() -> None:
    assert filled(["x", "", None, " ", ""], pa.string(), 2) == ["x", "x", "x", " ", " "]


def test_what_cannot_be_filled_is_refused() -> None:
    schema = pa.schema([("a", pa.string()), ("tags", pa.list_(pa.string()))])
    with pytest.raises(InvalidRequest, match='fill_down: no column "Title"; columns are "a" and "tags"'):
        FillDown(["Title"], schema)
    with pytest.raises(InvalidRequest, match="fill_down: column 'tags' is list"):
        FillDown(["tags"], schema)
