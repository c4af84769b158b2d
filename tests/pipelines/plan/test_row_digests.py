import datetime
import decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.plan.row_digests import row_digests

TYPES: list[pa.DataType] = [
    pa.null(),
    pa.bool_(),
    pa.int64(),
    pa.float16(),
    pa.string(),
    pa.large_binary(),
    pa.binary(2),
    pa.timestamp("us", "Mars/Olympus"),
    pa.month_day_nano_interval(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.list_(pa.string()),
    pa.list_(pa.dictionary(pa.int8(), pa.string())),
    pa.large_list(pa.int16()),
    pa.list_(pa.bool_(), 2),
    pa.struct([("a", pa.int8()), ("b", pa.list_(pa.string()))]),
    pa.list_(pa.struct([("a", pa.string())])),
]
SAMPLES: dict[str, list[Any]] = {
    "null": [None],
    "bool": [True, False],
    "int64": [0, 1, -(2**63)],
    "halffloat": [0.0, 1.5],
    "string": ["", "a", "苹果"],
    "large_binary": [b"", b"\0", b"ab"],
    "fixed_size_binary[2]": [b"ab", b"\0\0"],
    "timestamp[us, tz=Mars/Olympus]": [2**62, 0, -(2**62)],  # no Python datetime holds the outer two
    "month_day_nano_interval": [(0, 0, 0), (1, 2, 3)],
    "dictionary<values=string, indices=int8, ordered=0>": ["", "a"],
    "list<item: string>": [[], [""], ["a", "b"], ["ab"], [None], ["a", None]],
    "list<item: dictionary<values=string, indices=int8, ordered=0>>": [[], ["a"], ["b", "a"]],
    "large_list<item: int16>": [[], [0], [0, 0], [None], [256]],
    "fixed_size_list<item: bool>[2]": [[True, False], [False, True], [None, True]],
    "struct<a: int8, b: list<item: string>>": [
        {"a": None, "b": None},
        {"a": 1, "b": []},
        {"a": 1, "b": ["x"]},
        {"a": 0, "b": None},
    ],
    "list<item: struct<a: string>>": [[], [{"a": None}], [None], [{"a": "x"}, {"a": ""}]],
}


def column(dtype: pa.DataType, cells: list[Any]) -> "pa.Array[Any]":
    if pa.types.is_timestamp(dtype):
        return pa.array(cells, pa.int64()).cast(dtype)
    return pa.array(cells, dtype)


@given(st.data())
def test_rows_have_one_digest_if_and_only_if_their_cells_are_equal(data: st.DataObject) -> None:
    types = data.draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=4))
    num_rows = data.draw(st.integers(1, 6))
    places = [data.draw(st.lists(st.integers(-1, 5), min_size=num_rows, max_size=num_rows)) for _ in types]
    # Indices into the samples; -1 is null.
    cells = [
        [
            None if place < 0 else SAMPLES[str(dtype)][place % len(SAMPLES[str(dtype)])]
            for place in column_places
        ]
        for dtype, column_places in zip(types, places, strict=True)
    ]
    table = pa.Table.from_arrays(
        [column(dtype, values) for dtype, values in zip(types, cells, strict=True)],
        names=[f"c{index}" for index in range(len(types))],
    )
    digests = row_digests(table)
    rows = [repr([values[row] for values in cells]) for row in range(num_rows)]
    for first in range(num_rows):
        for second in range(num_rows):
            assert (digests[first] == digests[second]) == (rows[first] == rows[second])
    # However the table is cut.
    cut = data.draw(st.integers(0, num_rows))
    halves = pa.concat_tables([table.slice(cut), table.slice(0, cut)])
    assert row_digests(halves) == digests[cut:] + digests[:cut]
    assert row_digests(table.slice(cut)) == digests[cut:]


@pytest.mark.parametrize(
    "cells",
    [
        [datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)],
        [datetime.timedelta(microseconds=1), datetime.timedelta(0)],
        [decimal.Decimal("1.10"), decimal.Decimal("1.11")],
        [0.0, float("nan")],
    ],
    ids=str,
)
def test_other_types_are_told_apart_too(cells: list[Any]) -> None:
    first, second = row_digests(pa.table({"a": cells}))
    assert first != second


def test_text_does_not_run_into_the_next_column() -> None:
    digests = row_digests(pa.table({"a": ["x", "xy"], "b": ["yz", "z"]}))
    assert digests[0] != digests[1]


def test_a_table_without_columns_has_rows_that_are_all_equal() -> None:
    assert len(set(row_digests(pa.table({"a": [1, 2]}).select([])))) == 1
