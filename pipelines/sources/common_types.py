"""The Arrow type that holds the values of two plain types. It knows nothing about files."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

_LIST_TESTS = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
_TEXT_TESTS = (pa.types.is_string, pa.types.is_large_string)
_BINARY_TESTS = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
_NUMBER_TESTS = (pa.types.is_integer, pa.types.is_decimal)
# Types of one family have a type that holds all their values.
_FAMILIES = (
    _TEXT_TESTS,
    _BINARY_TESTS,
    _NUMBER_TESTS,
    (pa.types.is_floating,),
    (pa.types.is_date,),
    (pa.types.is_time,),
    (pa.types.is_timestamp,),
    (pa.types.is_duration,),
)


class TypeConflict(Exception):
    """Two types, at one place in a column, whose values no type holds without loss."""

    def __init__(self, left: pa.DataType, right: pa.DataType, path: str = "") -> None:
        super().__init__(f"{left} and {right}")
        self.left = left
        self.right = right
        self.path = path
        """Where in the column, such as ``.size`` or ``[]``; empty for the column itself."""


def common_type(left: pa.DataType, right: pa.DataType) -> pa.DataType:
    """Return the plain type that holds the values of two plain types.

    Times of several zones are in UTC. Whole numbers and a ``double`` give ``double``, and signed and unsigned
    numbers of 64 bits give ``int64``, although these do not hold every value; converting one that they do
    not hold raises an error.

    Raises:
        TypeConflict: there is none.
    """
    if left == right or pa.types.is_null(right):
        return left
    if pa.types.is_null(left):
        return right
    if isinstance(left, pa.DictionaryType):
        return common_type(left.value_type, right)
    if isinstance(right, pa.DictionaryType):
        return common_type(left, right.value_type)
    if isinstance(left, pa.StructType) and isinstance(right, pa.StructType):
        return _common_struct(left, right)
    if _is_any(left, _LIST_TESTS) and _is_any(right, _LIST_TESTS):
        return _common_list(left, right)
    if any(_is_any(left, family) and _is_any(right, family) for family in _FAMILIES):
        left, right = _in_one_zone(left, right)
        schemas = [pa.schema([("x", dtype)]) for dtype in (left, right)]
        try:
            unified: pa.DataType = pa.unify_schemas(schemas, promote_options="permissive").field("x").type
            return unified
        except (pa.ArrowInvalid, pa.ArrowTypeError):  # times with and without a zone, more than 76 digits
            raise TypeConflict(left, right) from None
    if any(map(pa.types.is_integer, (left, right))) and any(map(pa.types.is_floating, (left, right))):
        return pa.float64()
    raise TypeConflict(left, right)


def _is_any(dtype: pa.DataType, tests: tuple[Callable[[pa.DataType], bool], ...]) -> bool:
    return any(test(dtype) for test in tests)


def _in_one_zone(left: pa.DataType, right: pa.DataType) -> tuple[pa.DataType, pa.DataType]:
    """Return times with different zones as times in UTC, which are the same moments."""
    if not (isinstance(left, pa.TimestampType) and isinstance(right, pa.TimestampType)):
        return left, right
    if not (left.tz and right.tz) or left.tz == right.tz:
        return left, right
    return pa.timestamp(left.unit, "UTC"), pa.timestamp(right.unit, "UTC")


def _common_struct(left: pa.StructType, right: pa.StructType) -> pa.DataType:
    fields = {field.name: field.type for field in left}
    for field in right:
        try:
            fields[field.name] = common_type(fields.get(field.name, field.type), field.type)
        except TypeConflict as conflict:
            path = f".{field.name}{conflict.path}"
            raise TypeConflict(conflict.left, conflict.right, path) from None
    return pa.struct(list(fields.items()))


def _common_list(left: Any, right: Any) -> pa.DataType:
    try:
        values: pa.DataType = common_type(left.value_type, right.value_type)
    except TypeConflict as conflict:
        raise TypeConflict(conflict.left, conflict.right, f"[]{conflict.path}") from None
    common: pa.DataType = pa.list_(values)
    if pa.types.is_fixed_size_list(left) and pa.types.is_fixed_size_list(right):
        if left.list_size == right.list_size:
            common = pa.list_(values, left.list_size)
    elif pa.types.is_large_list(left) or pa.types.is_large_list(right):
        common = pa.large_list(values)
    return common
