"""The plain Arrow types that columns are read as. It knows nothing about files."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

# Their storage says the same.
_TRANSPARENT = ("arrow.json", "arrow.bool8", "arrow.fixed_shape_tensor")
_HYPHENS = (8, 13, 18, 23)
_UUID_LENGTH = 36


def plain_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type that a column is read as.

    Views, run-end encodings and small decimals become the usual types, maps lists of key and value, UUIDs
    text, and other extension types of Arrow's own (JSON, tensors, 8-bit booleans) what they are stored as.

    Raises:
        TypeError: an extension type that is none of these, a union, or a struct with two fields of one name;
            the message says which.
    """
    if isinstance(dtype, pa.BaseExtensionType):
        if isinstance(dtype, pa.UuidType):
            return pa.string()
        if dtype.extension_name not in _TRANSPARENT:
            # Reading its values may run code: Ray's `ray.data.arrow_pickled_object` unpickles them.
            raise TypeError(f"Arrow extension type {dtype.extension_name}")
        return plain_type(dtype.storage_type)
    if pa.types.is_union(dtype):
        raise TypeError(f"Arrow union type {dtype}")
    if isinstance(dtype, pa.RunEndEncodedType):
        encoded: Any = dtype
        return plain_type(encoded.value_type)
    if isinstance(dtype, pa.DictionaryType):
        values = plain_type(dtype.value_type)
        return dtype if values == dtype.value_type else values
    if isinstance(dtype, pa.MapType):
        pair = pa.struct([("key", plain_type(dtype.key_type)), ("value", plain_type(dtype.item_type))])
        return pa.list_(pair)
    if isinstance(dtype, pa.StructType):
        if len({field.name for field in dtype}) < dtype.num_fields:
            raise TypeError(f"Arrow type {dtype}, which has two fields of one name")
        return pa.struct([(field.name, plain_type(field.type)) for field in dtype])
    if isinstance(dtype, pa.FixedSizeListType):
        return pa.list_(plain_type(dtype.value_type), dtype.list_size)
    if isinstance(dtype, (pa.ListType, pa.ListViewType)):
        return pa.list_(plain_type(dtype.value_type))
    if isinstance(dtype, (pa.LargeListType, pa.LargeListViewType)):
        return pa.large_list(plain_type(dtype.value_type))
    if isinstance(dtype, (pa.Decimal32Type, pa.Decimal64Type)):
        return pa.decimal128(dtype.precision, dtype.scale)
    return pa.string() if dtype == pa.string_view() else pa.binary() if dtype == pa.binary_view() else dtype


def converted(array: Any, dtype: pa.DataType) -> Any:
    """Return an array's values in a plain type that holds them.

    Raises:
        pyarrow.ArrowInvalid: a value does not fit the type.
    """
    # Arrow casts lists and structs too, but some of them to arrays that are not valid.
    own = array.type
    if own == dtype:
        return array
    if pa.types.is_null(own):
        return nulls(len(array), dtype)
    if isinstance(own, pa.UuidType):
        return converted(_uuid_texts(array.storage), dtype)
    if isinstance(own, pa.BaseExtensionType):
        return converted(array.storage, dtype)
    if pa.types.is_run_end_encoded(own):
        return converted(pc.call_function("run_end_decode", [array]), dtype)
    if isinstance(own, pa.DictionaryType):
        return converted(array.dictionary, dtype).take(array.indices)
    if isinstance(own, pa.MapType):
        pair = pa.struct([("key", own.key_type), ("value", own.item_type)])
        return converted(array.cast(pa.list_(pair)), dtype)
    if isinstance(dtype, pa.StructType):
        places = {field.name: place for place, field in enumerate(own)}
        children = [
            converted(array.field(places[field.name]), field.type)
            if field.name in places
            else nulls(len(array), field.type)
            for field in dtype
        ]
        return pa.StructArray.from_arrays(children, type=dtype, mask=array.is_null())
    if isinstance(dtype, pa.FixedSizeListType):
        size = dtype.list_size
        values = array.values.slice(array.offset * size, len(array) * size)
        values = converted(values, dtype.value_type)
        return pa.FixedSizeListArray.from_arrays(values, size, mask=array.is_null())
    if isinstance(dtype, (pa.ListType, pa.LargeListType)):
        # The values of a view, or of a null, may lie anywhere.
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        is_large = isinstance(dtype, pa.LargeListType)
        offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int64() if is_large else pa.int32())
        make: Any = pa.LargeListArray if is_large else pa.ListArray
        return make.from_arrays(
            offsets, converted(array.flatten(), dtype.value_type), type=dtype, mask=array.is_null()
        )
    return array.cast(dtype)


def nulls(length: int, dtype: pa.DataType) -> Any:
    """Return an array of nulls."""
    typed: Any = dtype  # the stubs know single types only
    return pa.nulls(length, typed)


def _uuid_texts(array: Any) -> Any:
    """Return the canonical texts (``8-4-4-4-12`` hexadecimal digits) of binary values of 16 bytes each."""
    start = array.offset * 16
    data = np.frombuffer(array.buffers()[1] or b"", np.uint8)[start : start + 16 * len(array)].reshape(-1, 16)
    nibbles = np.stack([data >> 4, data & 15], axis=2).reshape(-1, 32)
    texts = np.full((len(array), _UUID_LENGTH), ord("-"), np.uint8)
    digits = [place for place in range(_UUID_LENGTH) if place not in _HYPHENS]
    texts[:, digits] = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles]
    characters = pa.array(
        texts.reshape(-1).view(f"S{_UUID_LENGTH}") if len(array) else [], pa.binary(_UUID_LENGTH)
    )
    return pc.if_else(array.is_valid(), characters, None).cast(pa.string())
