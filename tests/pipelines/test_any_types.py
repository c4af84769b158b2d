"""Columns of any type, from a Parquet file to the published data set."""

import datetime
import decimal
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.dataset.layout import PartPlaces
from pipelines.plan.row_digests import row_digests
from pipelines.sources.arrow_types import converted
from tests.pipelines.plan_fixtures import DataSet

FAR = [2**62, 0, -(2**62)]
"""Times that no Python object holds, but for the one between."""
TEXTS = ["", "a", "苹果", "line\nbreak", '"quoted"']
COLUMNS: list[tuple[pa.DataType, list[Any]]] = [
    (pa.null(), [None]),
    (pa.bool_(), [True, False]),
    (pa.int8(), [-128, 127]),
    (pa.uint64(), [0, 2**64 - 1]),
    (pa.float16(), [1.5, float("nan"), float("-inf")]),
    (pa.float32(), [0.1, float("nan")]),
    (pa.float64(), [0.1, -0.0]),
    (pa.string(), TEXTS),
    (pa.large_string(), TEXTS),
    (pa.string_view(), TEXTS),
    (pa.binary(), [b"", b"\0\xff"]),
    (pa.large_binary(), [b"", b"\0\xff"]),
    (pa.binary_view(), [b"", b"\0\xff"]),
    (pa.binary(3), [b"abc", b"\0\0\0"]),
    (pa.decimal32(5, 2), [decimal.Decimal("1.10"), decimal.Decimal("-999.99")]),
    (pa.decimal128(20, 3), [decimal.Decimal("1.100"), decimal.Decimal("-12345678901234567.890")]),
    (pa.decimal256(60, 0), [decimal.Decimal(10**59), decimal.Decimal(-1)]),
    (pa.date32(), [datetime.date(2026, 1, 1), 2**31 - 1]),
    (pa.date64(), [datetime.date(2026, 1, 1)]),
    (pa.time32("ms"), [datetime.time(1, 2, 3)]),
    (pa.time64("ns"), [datetime.time(1, 2, 3), 1]),
    (pa.timestamp("us"), FAR),
    (pa.timestamp("ns", "Europe/Berlin"), FAR),
    (pa.timestamp("us", "Mars/Olympus"), FAR),
    (pa.duration("ns"), FAR),
    (pa.dictionary(pa.int8(), pa.string()), TEXTS),
    (pa.list_(pa.string()), [[], ["a", None], ["ab"]]),
    (pa.large_list(pa.float32()), [[], [0.5, None]]),
    (pa.list_(pa.float32(), 2), [[0.5, 1.5], [None, 0.0]]),
    (pa.list_view(pa.int16()), [[], [1, None]]),
    (pa.map_(pa.string(), pa.int32()), [[], [("a", 1), ("b", None)]]),
    (
        pa.struct([("a", pa.string_view()), ("b", pa.list_(pa.int8()))]),
        [{"a": "x", "b": [1]}, {"a": None, "b": []}],
    ),
    (pa.list_(pa.struct([("t", pa.timestamp("us"))])), [[], [{"t": None}], [None]]),
    (pa.uuid(), [bytes(range(16))]),
]


def array(dtype: pa.DataType, cells: list[Any]) -> "pa.Array[Any]":
    """Make an array from values, or from the numbers behind them."""
    if pa.types.is_temporal(dtype) and all(cell is None or isinstance(cell, int) for cell in cells):
        return pa.array(cells, pa.int32() if dtype.bit_width == 32 else pa.int64()).cast(dtype)
    if dtype == pa.uuid():
        return pa.ExtensionArray.from_storage(dtype, pa.array(cells, pa.binary(16)))
    return pa.array(cells, dtype)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    num_rows = draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(COLUMNS), min_size=1, max_size=6))
    columns = {"sku": [f"sku-{row}" for row in range(num_rows)], "prompt": ["a pear"] * num_rows}
    for number, (dtype, samples) in enumerate(chosen):
        kind = type(draw(st.sampled_from(samples)))
        alike = [sample for sample in samples if type(sample) is kind]
        cells = draw(st.lists(st.sampled_from([None, *alike]), min_size=num_rows, max_size=num_rows))
        columns[f"column {number}"] = array(dtype, cells)
    return pa.table(columns)


@settings(max_examples=40)
@given(tables())
def test_every_cell_that_is_passed_through_comes_back_equal(
    tmp_path_factory: pytest.TempPathFactory, table: pa.Table
) -> None:
    data_set = DataSet(folder=tmp_path_factory.mktemp("types"))
    path = data_set.folder / "in.parquet"
    pq.write_table(table, path)
    data_set.generate(str(path))
    assert data_set.verify().problems == ()
    places = PartPlaces(data_set.output)
    rows = pa.concat_tables([places.read(part.path) for part in data_set.manifest().parts])
    given_rows = pq.read_table(path)
    keys = rows["key"].to_pylist()
    rows = rows.take([keys.index(key) for key in given_rows["sku"].to_pylist()])
    for name in given_rows.column_names[2:]:
        expected, found = given_rows[name].combine_chunks(), rows[name].combine_chunks()
        if expected.type == pa.uuid():
            expected = pa.array([cell and str(cell) for cell in expected.to_pylist()], pa.string())
        # Arrow's own cast makes invalid arrays of empty lists. By bits: a NaN does not equal itself.
        cells = [row_digests(pa.table({"cell": one})) for one in (converted(expected, found.type), found)]
        assert cells[0] == cells[1], given_rows.schema.field(name)
