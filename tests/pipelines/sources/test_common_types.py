import pyarrow as pa
import pytest

from pipelines.sources.common_types import TypeConflict, common_type


@pytest.mark.parametrize(
    ("left", "right", "common"),
    [
        (pa.null(), pa.list_(pa.int8()), pa.list_(pa.int8())),
        (pa.int8(), pa.int32(), pa.int32()),
        (pa.uint32(), pa.int32(), pa.int64()),
        (pa.float32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float32(), pa.float64()),
        (pa.decimal128(10, 2), pa.decimal128(10, 4), pa.decimal128(12, 4)),
        (pa.string(), pa.large_string(), pa.large_string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.string(), pa.string()),
        (pa.dictionary(pa.int8(), pa.string()), pa.dictionary(pa.int32(), pa.string()), pa.string()),
        (pa.timestamp("s", "UTC"), pa.timestamp("us", "UTC"), pa.timestamp("us", "UTC")),
        (
            pa.timestamp("s", "Asia/Tokyo"),
            pa.timestamp("us", "Europe/Berlin"),
            pa.timestamp("us", "UTC"),
        ),
        (pa.date32(), pa.date64(), pa.date64()),
        (pa.list_(pa.null()), pa.list_(pa.string()), pa.list_(pa.string())),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int64(), 2), pa.list_(pa.int64(), 2)),
        (pa.list_(pa.int8(), 2), pa.list_(pa.int8(), 3), pa.list_(pa.int8())),
        (pa.list_(pa.int8()), pa.large_list(pa.int8()), pa.large_list(pa.int8())),
        (
            pa.struct({"a": pa.int8(), "b": pa.string()}),
            pa.struct({"c": pa.bool_(), "a": pa.int32()}),
            pa.struct({"a": pa.int32(), "b": pa.string(), "c": pa.bool_()}),
        ),
    ],
    ids=str,
)
def test_common_type_holds_both(left: pa.DataType, right: pa.DataType, common: pa.DataType) -> None:
    assert common_type(left, right) == common
    # The order of a struct's fields is that of their first appearance.
    assert isinstance(common, pa.StructType) or common_type(right, left) == common


@pytest.mark.parametrize(
    ("left", "right", "path"),
    [
        (pa.int64(), pa.string(), ""),
        (pa.bool_(), pa.int8(), ""),
        (pa.binary(), pa.string(), ""),
        (pa.decimal128(5, 2), pa.float64(), ""),
        (pa.timestamp("us", "UTC"), pa.timestamp("us"), ""),
        (pa.date32(), pa.timestamp("us"), ""),
        (pa.struct({"a": pa.int8()}), pa.string(), ""),
        (pa.list_(pa.struct({"a": pa.int8()})), pa.list_(pa.struct({"a": pa.bool_()})), "[].a"),
    ],
    ids=str,
)
def test_conflict_says_where(left: pa.DataType, right: pa.DataType, path: str) -> None:
    for first, second in ((left, right), (right, left)):
        with pytest.raises(TypeConflict) as caught:
            common_type(first, second)
        assert caught.value.path == path
