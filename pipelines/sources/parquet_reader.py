"""Rows of a Parquet file. It knows nothing about the other files or the columns' meaning."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.arrow_types import converted, plain_type
from pipelines.sources.source_rows import SourceBatch
from pipelines.sources.table_file import FileReader, TableFile
from pipelines.sources.text_formats.column_names import check_unique, made_up_name
from zimage_models.errors import InvalidRequest

_MAX_BATCH_BYTES = 64 * 2**20


class ParquetReader(FileReader):
    """A Parquet file, whose columns are read as :func:`~pipelines.sources.arrow_types.plain_type` says.

    Raises:
        InvalidRequest: a damaged file, or a column of a type that no table has.
    """

    format = "parquet"

    def __init__(self, file: TableFile) -> None:
        self._file = file
        with self._opened() as parquet:
            footer, columns = parquet.metadata, parquet.schema_arrow
        self.num_rows = footer.num_rows
        check_unique(columns.names, file.uri)
        names, notes = list(columns.names), []
        for place, name in enumerate(names):
            if not name:
                names[place] = made_up_name(place + 1, names)
                notes.append(f"the nameless column {place + 1} is called {names[place]}")
        if maps := ", ".join(repr(field.name) for field in columns if _holds_map(field.type)):
            notes.append(f"maps become lists of key and value, as datasets has no maps: column {maps}")
        self.notes = tuple(notes)
        # Metadata of other tools (pandas, Hugging Face) describes their table, not ours.
        types = [self._plain_type(field) for field in columns]
        self.schema = pa.schema(list(zip(names, types, strict=True)))
        num_bytes = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        self._row_bytes = num_bytes // max(1, self.num_rows) + 1

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows in batches of at most ``batch_rows`` rows and about 64 MiB."""
        batch_rows = min(batch_rows, max(1, _MAX_BATCH_BYTES // self._row_bytes))
        row = 0
        with self._opened() as parquet:
            for batch in parquet.iter_batches(batch_size=batch_rows):
                batch.validate(full=True)
                columns = zip(batch.columns, self.schema.types, strict=True)
                table = pa.Table.from_arrays([converted(*column) for column in columns], schema=self.schema)
                yield SourceBatch(table=table, rows=list(range(row, row + len(table))), errors=[])
                row += len(table)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[pq.ParquetFile]:
        file = self._file
        with file.reading(), file.filesystem.open_input_file(file.path) as opened:
            footer = pq.read_metadata(opened)
            # Spark's old timestamps have microseconds, and years such as 9999, which would turn into others
            # if they were read as nanoseconds.
            is_spark = (footer.created_by or "").startswith("parquet-mr")
            unit = "us" if is_spark else None
            yield pq.ParquetFile(opened, metadata=footer, coerce_int96_timestamp_unit=unit)

    def _plain_type(self, field: "pa.Field[Any]") -> pa.DataType:
        try:
            return plain_type(field.type)
        except TypeError as error:
            raise InvalidRequest(
                f"input: {self._file.uri}: column {field.name!r} has the {error}; write it as a plain type",
                field=field.name,
            ) from None


def _holds_map(dtype: pa.DataType) -> bool:
    if isinstance(dtype, pa.MapType):
        return True
    return any(_holds_map(dtype.field(index).type) for index in range(dtype.num_fields))
