"""Fill empty cells of a table with the value above, as spreadsheets do.

Shop exports list a product's variants below it and repeat only its handle.
"""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.plan.template_columns import unknown_column
from zimage_models.errors import InvalidRequest

_TEXT_TYPES = (pa.string(), pa.large_string())


class FillDown:
    """Fills some columns of a table that arrives in batches; null and empty text count as empty.

    Raises:
        InvalidRequest: the table has no such column, or it holds lists or structs.
    """

    def __init__(self, names: Sequence[str], schema: pa.Schema) -> None:
        for name in names:
            if name not in schema.names:
                raise unknown_column(name, schema.names, "fill_down")
            if pa.types.is_nested(schema.field(name).type):
                raise InvalidRequest(
                    f"fill_down: column {name!r} is {schema.field(name).type}; only values can be filled",
                    field="fill_down",
                )
        self._last: dict[str, pa.Array[Any]] = {
            name: pa.array([None], _plain(schema.field(name).type)) for name in names
        }

    def fill(self, table: pa.Table) -> pa.Table:
        """Return the next batch with its empty cells filled."""
        for name, last in self._last.items():
            index = table.schema.get_field_index(name)
            column = table.column(index).cast(last.type)
            if last.type in _TEXT_TYPES:
                is_empty = pc.equal(pc.utf8_length(column), pa.scalar(0))
                column = pc.if_else(is_empty, pa.scalar(None, last.type), column)
            filled = pc.fill_null_forward(pa.chunked_array([last, *column.chunks], last.type))
            if table.num_rows:
                self._last[name] = filled.slice(table.num_rows).combine_chunks()
            filled = filled.slice(1).cast(table.schema.field(index).type)
            table = table.set_column(index, table.schema.field(index), filled)
        return table


def _plain(dtype: pa.DataType) -> pa.DataType:
    return dtype.value_type if isinstance(dtype, pa.DictionaryType) else dtype
