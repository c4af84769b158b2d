"""What types and values say about a column: may it be the prompt, a key, pictures, a setting."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import pyarrow as pa

from pipelines.sources.source_rows import Source
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import read_field
from zimage_models.model_spec import ModelSpec
from zimage_models.request_fields import REQUEST_FIELDS
from zimage_models.requests import build_request

_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
_BINARY_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view())
_CACHED_VALUES = 65_536


def is_text(dtype: pa.DataType) -> bool:
    """Return whether a column holds text."""
    return (dtype.value_type if isinstance(dtype, pa.DictionaryType) else dtype) in _TEXT_TYPES


def is_text_or_number(dtype: pa.DataType) -> bool:
    """Return whether a column holds text or numbers, which may be keys and settings."""
    if isinstance(dtype, pa.DictionaryType):
        dtype = dtype.value_type
    types = pa.types
    is_number = types.is_integer(dtype) or types.is_floating(dtype) or types.is_decimal(dtype)
    return is_number or is_text(dtype)


def holds_pictures(dtype: pa.DataType) -> bool:
    """Return whether a column holds bytes, Hugging Face Image structs, or lists of these."""
    dtype = _item_type(dtype)
    if isinstance(dtype, pa.StructType):
        return {member.name for member in dtype} == {"bytes", "path"}
    return dtype in _BINARY_TYPES


def may_name_pictures(dtype: pa.DataType) -> bool:
    """Return whether a column holds pictures, or text that could name them."""
    return holds_pictures(dtype) or is_text(_item_type(dtype))


def _item_type(dtype: pa.DataType) -> pa.DataType:
    if isinstance(dtype, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        item: pa.DataType = dtype.value_type
        return item
    return dtype


def given_value(value: Any) -> Any:
    """Return a cell of a column of settings or pictures, or None if it is blank text, as CSV reads it."""
    return None if isinstance(value, str) and not value.strip() else value


@dataclass(kw_only=True)
class ValueCheck:
    """A question to all values of some columns: are (enough of) them good?"""

    columns: tuple[str, ...]
    is_good: Callable[..., bool]
    """Takes a row's values of these columns."""
    share: float = 1.0
    """Share of the values that must be good; 0: one must, if there are any."""
    ignores_null: bool = True
    """Whether rows with a null do not count; else they are not good."""
    num_good: int = field(default=0, init=False)
    num_bad: int = field(default=0, init=False)

    @property
    def holds(self) -> bool:
        """Whether enough of the values are good; without values, only if the share is 0."""
        if not self.share:
            return self.num_good > 0 or self.num_bad == 0
        return self.num_good > 0 and self.num_good >= self.share * (self.num_good + self.num_bad)

    @property
    def is_settled(self) -> bool:
        """Whether further values change nothing."""
        return (self.share == 1.0 and self.num_bad > 0) or (not self.share and self.num_good > 0)

    def add(self, table: pa.Table) -> None:
        """Count the values of further rows."""
        cells = (map(given_value, table[name].to_pylist()) for name in self.columns)
        rows = Counter(zip(*cells, strict=True))
        for values, count in rows.items():
            if None not in values and self.is_good(*values):
                self.num_good += count
            elif None not in values or not self.ignores_null:
                self.num_bad += count


def check_values(source: Source, checks: Collection[ValueCheck]) -> None:
    """Put the questions to a table; it is read until they are settled, and not at all without any.

    Raises:
        InvalidRequest: a file is damaged or can no longer be read.
    """
    if not checks:
        return
    columns = {column for check in checks for column in check.columns}
    for batch in source.batches(columns=columns):
        for check in checks:
            if not check.is_settled:
                check.add(batch.table)
        if all(check.is_settled for check in checks):
            return


def accepted_values(fields: Sequence[str], spec: ModelSpec) -> Callable[..., bool]:
    """Return a function that says whether the model takes values of these fields, in this order."""

    def read(values: dict[str, Any]) -> None:
        if "strength" in values:  # a whole request with a strength needs a picture too
            read_field(REQUEST_FIELDS["strength"], spec, values)
        else:
            build_request(spec, {"prompt": "any", "seed": 0, **values})

    @lru_cache(_CACHED_VALUES)
    def is_accepted(*values: Any) -> bool:
        try:
            read(dict(zip(fields, values, strict=True)))
        except InvalidRequest:
            return False
        return True

    return is_accepted
