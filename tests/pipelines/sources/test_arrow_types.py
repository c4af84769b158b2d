import uuid
from typing import Any

import pyarrow as pa
import pytest

from pipelines.sources.arrow_types import converted, plain_type

UUIDS = [uuid.UUID(int=number * 0x1234567890ABCDEF1234567890) for number in range(4)]
TEXTS = [str(value) for value in UUIDS]
IDS = pa.array([UUIDS[0].bytes, UUIDS[1].bytes, None, UUIDS[3].bytes], pa.uuid())
STRUCT = pa.struct({"a": pa.list_view(pa.string_view())})
PAIRS = pa.map_(pa.string(), pa.string_view())


@pytest.mark.parametrize(
    ("array", "dtype", "values"),
    [
        (pa.array(["a", None], pa.string_view()), pa.string(), ["a", None]),
        (pa.array([b"a", None], pa.binary_view()), pa.binary(), [b"a", None]),
        (pa.array([["a"], None], pa.list_view(pa.string_view())), pa.list_(pa.string()), [["a"], None]),
        (
            pa.array([{"a": ["x"]}, None], STRUCT),
            pa.struct({"a": pa.list_(pa.string())}),
            [{"a": ["x"]}, None],
        ),
        (pa.array([[1], None], pa.large_list_view(pa.int8())), pa.large_list(pa.int8()), [[1], None]),
        (
            pa.array([[("a", "b"), ("a", None)], None, []], PAIRS),
            pa.list_(pa.struct({"key": pa.string(), "value": pa.string()})),
            [[{"key": "a", "value": "b"}, {"key": "a", "value": None}], None, []],
        ),
        (pa.array(["a"], pa.string_view()).dictionary_encode(), pa.string(), ["a"]),
        (pa.RunEndEncodedArray.from_arrays([2, 3], ["a", None]), pa.string(), ["a", "a", None]),
        (pa.array([2], pa.decimal32(5, 2)), pa.decimal128(5, 2), [2]),
        (pa.array(['{"a": 1}'], pa.json_()), pa.string(), ['{"a": 1}']),
        (pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0], pa.int8())), pa.int8(), [1, 0]),
        (
            pa.ExtensionArray.from_storage(
                pa.fixed_shape_tensor(pa.int8(), [2]), pa.array([[1, 2]], pa.list_(pa.int8(), 2))
            ),
            pa.list_(pa.int8(), 2),
            [[1, 2]],
        ),
        (IDS, pa.string(), [TEXTS[0], TEXTS[1], None, TEXTS[3]]),
        (IDS[1:3], pa.string(), [TEXTS[1], None]),
        (IDS[:0], pa.string(), []),
        (
            pa.ListArray.from_arrays([0, 1, None, 4], IDS)[1:],
            pa.list_(pa.string()),
            [[TEXTS[1], None, TEXTS[3]], None],
        ),
        (pa.FixedSizeListArray.from_arrays(IDS, 2)[1:], pa.list_(pa.string(), 2), [[None, TEXTS[3]]]),
        (
            pa.StructArray.from_arrays([IDS], ["id"], mask=pa.array([True, False, False, False]))[:2],
            pa.struct({"id": pa.string()}),
            [None, {"id": TEXTS[1]}],
        ),
        (
            pa.MapArray.from_arrays([0, 1, 2], pa.array(["a", "b"]), IDS[:2]),
            pa.list_(pa.struct({"key": pa.string(), "value": pa.string()})),
            [[{"key": "a", "value": TEXTS[0]}], [{"key": "b", "value": TEXTS[1]}]],
        ),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)
def test_unusual_types_become_plain_ones(array: Any, dtype: pa.DataType, values: list[Any]) -> None:
    assert plain_type(array.type) == dtype
    plain = converted(array, dtype)
    plain.validate(full=True)
    assert (plain.type, plain.to_pylist()) == (dtype, values)


@pytest.mark.parametrize(
    "dtype",
    [
        *(pa.string(), pa.large_string(), pa.null(), pa.timestamp("us", "Mars/Base"), pa.decimal256(50, 2)),
        *(pa.float16(), pa.duration("ns"), pa.dictionary(pa.int8(), pa.string(), True), pa.binary(16)),
        pa.list_(pa.struct({"a": pa.large_list(pa.int8())}), 2),
    ],
    ids=str,
)
def test_plain_types_stay(dtype: pa.DataType) -> None:
    assert plain_type(dtype) == dtype


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (pa.opaque(pa.null(), "type", "vendor"), r"extension type arrow\.opaque"),
        (pa.list_(pa.opaque(pa.null(), "type", "vendor")), r"extension type arrow\.opaque"),
        (pa.sparse_union([pa.field("a", pa.int8())]), "union"),
        (pa.struct([("a", pa.int8()), ("a", pa.int8())]), "two fields of one name"),
    ],
)
def test_types_that_no_table_has_are_named(dtype: pa.DataType, named: str) -> None:
    with pytest.raises(TypeError, match=named):
        plain_type(dtype)
