"""Digests of table rows, computed from Arrow's own memory: cells never become Python objects.

A cell may hold what Python cannot (an infinite timestamp) or what is slow to convert (a vector of 1,024
numbers).
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_NULL = b"\x00"
_VALUE = b"\x01"
_TEXT_TYPES = (pa.string(), pa.large_string(), pa.binary(), pa.large_binary())


def row_digests(table: pa.Table) -> list[bytes]:
    """Hash each row of a table to 16 bytes.

    Rows of tables with the same schema have the same digest if all their cells are equal, however the tables
    are cut into chunks. Floats are compared by their bits.
    """
    columns = [_cells(column.combine_chunks()) for column in table.columns]
    if not columns:
        return [_digest(())] * table.num_rows
    return [_digest(cells) for cells in zip(*columns, strict=True)]


def _digest(cells: Sequence[bytes]) -> bytes:
    return hashlib.sha256(_joined(cells)).digest()[:16]


def _joined(cells: Sequence[bytes]) -> bytes:
    """Join cells so that no two sequences give the same bytes."""
    return b"".join([len(cell).to_bytes(8, "little") + cell for cell in cells])


def _cells(array: "pa.Array[Any]") -> list[bytes]:
    """Return each cell of an array as bytes; null differs from every value."""
    if isinstance(array, pa.DictionaryArray):
        array = array.dictionary_decode()
    values = _values(array)
    if not array.null_count:
        return [_VALUE + value for value in values]
    valid = array.is_valid().to_numpy(zero_copy_only=False).tolist()
    return [_VALUE + value if is_valid else _NULL for value, is_valid in zip(values, valid, strict=True)]


def _values(array: "pa.Array[Any]") -> list[bytes]:
    """Return each cell's value as bytes; that of a null is anything."""
    dtype = array.type
    if pa.types.is_null(dtype):
        return [b""] * len(array)
    if isinstance(array, pa.StructArray):
        children = [_cells(array.field(index)) for index in range(dtype.num_fields)]
        return [_joined(cells) for cells in zip(*children, strict=True)] if children else [b""] * len(array)
    if isinstance(array, pa.ListArray | pa.LargeListArray | pa.FixedSizeListArray):
        return _list_values(array)
    if dtype in _TEXT_TYPES:
        return [value or b"" for value in array.cast(pa.large_binary()).to_pylist()]
    fixed = _fixed_width(array)
    return fixed.view(f"V{fixed.shape[1]}")[:, 0].tolist() if fixed.size else [b""] * len(array)


def _list_values(
    array: "pa.ListArray[Any] | pa.LargeListArray[Any] | pa.FixedSizeListArray[Any]",
) -> list[bytes]:
    lengths = np.array(pc.list_value_length(array).fill_null(0))
    ends = np.cumsum(lengths)
    bounds = list(zip((ends - lengths).tolist(), ends.tolist(), strict=True))
    items = array.flatten()  # without those of null lists
    if _has_fixed_width(items.type):
        content, valid = _fixed_width(items), np.ones(len(items), dtype=np.uint8)
        if items.null_count:
            valid = np.array(items.is_valid()).astype(np.uint8)
            content = content * valid[:, np.newaxis]
        # A list's length follows from its bytes.
        return [valid[start:end].tobytes() + content[start:end].tobytes() for start, end in bounds]
    cells = _cells(items)
    return [_joined(cells[start:end]) for start, end in bounds]


def _has_fixed_width(dtype: pa.DataType) -> bool:
    return dtype.num_buffers == 2 and not (pa.types.is_nested(dtype) or pa.types.is_dictionary(dtype))


def _fixed_width(array: "pa.Array[Any]") -> npt.NDArray[np.uint8]:
    """Return the cells of a type of fixed width as (rows, bytes)."""
    if pa.types.is_boolean(array.type):
        array = array.cast(pa.uint8())
    width = array.type.bit_width // 8
    content = np.frombuffer(memoryview(array.buffers()[1] or b""), dtype=np.uint8)
    start = array.offset * width
    return content[start : start + len(array) * width].reshape(len(array), width)
