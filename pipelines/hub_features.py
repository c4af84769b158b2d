"""Arrow types as Hugging Face `datasets` describes them in a Parquet file's metadata."""

from typing import Any

import pyarrow as pa

from zimage_models.errors import InvalidRequest

# `datasets` uses Arrow's type names (datasets 5.2, features.py), except for these five.
_RENAMED = {
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.float64(): "float64",
    pa.date32(): "date32",
    pa.date64(): "date64",
}
_SAME_NAME = {
    pa.null(),
    pa.bool_(),
    *(pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    *(pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    *(pa.string(), pa.large_string(), pa.string_view()),
    *(pa.binary(), pa.large_binary(), pa.binary_view()),
}
_SAME_NAME_KINDS = (
    pa.types.is_timestamp,
    pa.types.is_time,
    pa.types.is_duration,
    pa.types.is_decimal128,
    pa.types.is_decimal256,
    pa.types.is_fixed_size_binary,
)


def feature_of(dtype: pa.DataType, *, column: str) -> dict[str, Any]:
    """Describe an Arrow type as a feature of `datasets`.

    Args:
        dtype: of a column, or of a part of one.
        column: its name, for errors.

    Raises:
        InvalidRequest: `datasets` has no such type.
    """
    if isinstance(dtype, pa.StructType) and dtype.num_fields:
        return {field.name: feature_of(field.type, column=f"{column}.{field.name}") for field in dtype}
    if isinstance(dtype, pa.FixedSizeListType):
        item = feature_of(dtype.value_type, column=f"{column}[]")
        return {"feature": item, "length": dtype.list_size, "_type": "List"}
    if isinstance(dtype, pa.ListType):
        return {"feature": feature_of(dtype.value_type, column=f"{column}[]"), "_type": "List"}
    if isinstance(dtype, pa.LargeListType):
        return {"feature": feature_of(dtype.value_type, column=f"{column}[]"), "_type": "LargeList"}
    if isinstance(dtype, pa.DictionaryType):
        return feature_of(dtype.value_type, column=column)
    if dtype in _RENAMED:
        return {"dtype": _RENAMED[dtype], "_type": "Value"}
    if dtype in _SAME_NAME or any(is_kind(dtype) for is_kind in _SAME_NAME_KINDS):
        return {"dtype": str(dtype), "_type": "Value"}
    raise InvalidRequest(
        f"column {column}: Hugging Face datasets has no type for Arrow's {dtype}; convert or drop it",
        field=column,
    )
