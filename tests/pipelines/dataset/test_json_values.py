import decimal
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.dataset.json_values import json_values

DAY_US = 86_400 * 10**6
INFINITE = 2**63 - 1  # DuckDB's infinite timestamp


def counted(counts: list[int | None], dtype: pa.DataType) -> "pa.Array[Any]":
    return pa.array(counts, pa.int32() if dtype.bit_width == 32 else pa.int64()).view(dtype)


def bad_text() -> "pa.Array[Any]":
    return pa.array([b"\xffok", b""], pa.binary()).view(pa.string())


CASES: list[tuple["pa.Array[Any]", list[Any]]] = [
    (
        counted([0, 1_500_000, INFINITE, None], pa.timestamp("us")),
        ["1970-01-01T00:00:00", "1970-01-01T00:00:01.500000", str(INFINITE), None],
    ),
    (
        counted([-1, 10**6 * DAY_US], pa.timestamp("us", "UTC")),
        ["1969-12-31T23:59:59.999999+00:00", "4707-11-29T00:00:00+00:00"],
    ),
    (
        counted([1, INFINITE], pa.timestamp("ns", "Europe/Berlin")),
        ["1970-01-01T01:00:00.000000001+01:00", "2262-04-12T01:47:16.854775807+02:00"],
    ),
    (counted([0], pa.timestamp("s", "Nowhere/Land")), ["1970-01-01T00:00:00+00:00"]),
    (
        counted([253_402_300_799, 253_402_300_800], pa.timestamp("s", "+02:00")),
        ["253402300799", "253402300800"],
    ),
    (counted([0, -719_162, 2**31 - 1], pa.date32()), ["1970-01-01", "0001-01-01", str(2**31 - 1)]),
    (counted([0, -INFINITE], pa.date64()), ["1970-01-01", str(-INFINITE)]),
    (counted([0, 86_399_999_999_999], pa.time64("ns")), ["00:00:00", "23:59:59.999999999"]),
    (counted([3_600], pa.time32("s")), ["01:00:00"]),
    (counted([1_500, INFINITE], pa.duration("ms")), [1.5, INFINITE / 1000]),
    (
        pa.array([decimal.Decimal("0"), None, decimal.Decimal("12.50")], pa.decimal256(60, 2)),
        ["0.00", None, "12.50"],
    ),
    (pa.array(np.array([1.5, np.nan, np.inf], np.float16)), [1.5, None, None]),
    (pa.array([float("-inf"), 0.1, None]), [None, 0.1, None]),
    (pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
    (pa.array(["", None, "苹果"], pa.string_view()), ["", None, "苹果"]),
    (bad_text(), ["\ufffdok", ""]),
    (pa.array([b"", None, b"\x00\xff"], pa.binary_view()), ["", None, "AP8="]),
    (pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
    (pa.array([[1.0, float("nan")], None, []], pa.large_list(pa.float32())), [[1.0, None], None, []]),
    (pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
    (
        pa.array(
            [{"x": [{"y": float("nan")}]}, None, {"x": None}],
            pa.struct([("x", pa.list_(pa.struct([("y", pa.float64())])))]),
        ),
        [{"x": [{"y": None}]}, None, {"x": None}],
    ),
    (pa.array([{}, None], pa.struct([])), [{}, None]),
    (pa.nulls(2), [None, None]),
]


@pytest.mark.parametrize(("array", "expected"), CASES, ids=lambda value: str(getattr(value, "type", "")))
def test_any_type_becomes_plain_json(array: "pa.Array[Any]", expected: list[Any]) -> None:
    assert json_values(array) == expected
    assert json.loads(json.dumps(json_values(array), allow_nan=False)) == expected
    # A part of a longer column, whose buffers begin elsewhere.
    assert json_values(pa.concat_arrays([array, array])[1 : len(array) + 1]) == [*expected[1:], expected[0]]
