"""Rows of a Parquet file. It knows nothing about the other files or the columns' meaning."""

import contextlib
from collections.abc import Collection, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.arrow_types import converted, plain_type
from pipelines.sources.source_rows import SourceBatch
from pipelines.sources.table_file import FileReader, TableFile
from pipelines.sources.text_formats.column_names import made_up_name, repeated_names

_MAX_BATCH_BYTES = 64 * 2**20


class ParquetReader(FileReader):
    """A Parquet file, whose columns are read as :func:`~pipelines.sources.arrow_types.plain_type` says.

    Columns of a type that no table has, and those that share a name, are refused.

    Raises:
        InvalidRequest: a damaged file.
    """

    format = "parquet"

    def __init__(self, file: TableFile) -> None:
        self._file = file
        with self._opened() as parquet:
            footer, columns = parquet.metadata, parquet.schema_arrow
        self.num_rows = footer.num_rows
        self.refused = repeated_names(columns.names, file.uri)
        names, notes = list(columns.names), []
        for place, name in enumerate(names):
            if not name:
                names[place] = made_up_name(place + 1, names)
                notes.append(f"the nameless column {place + 1} is called {names[place]}")
        # Metadata of other tools (pandas, Hugging Face) describes their table, not ours.
        types: dict[str, pa.DataType] = {}
        maps = []
        for name, field in zip(names, columns, strict=True):
            if name in self.refused:
                continue
            try:
                types[name] = plain_type(field.type)
            except TypeError as error:
                self.refused[name] = (
                    f"input: {file.uri}: column {name!r} has the {error}; write it as a plain type or drop it"
                )
                continue
            if _holds_map(field.type):
                maps.append(repr(name))
        if maps:
            many = "s" if len(maps) > 1 else ""
            named = ", ".join(maps)
            notes.append(f"maps become lists of key and value, as datasets has no maps: column{many} {named}")
        self.notes = tuple(notes)
        self.schema = pa.schema(list(types.items()))
        self._names = dict(zip(names, columns.names, strict=True))
        num_bytes = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
        self._row_bytes = num_bytes // max(1, self.num_rows) + 1

    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        """Read all rows in batches of at most ``batch_rows`` rows and about 64 MiB."""
        kept = [field for field in self.schema if columns is None or field.name in columns]
        schema = pa.schema(kept)
        names = [self._names[field.name] for field in kept]
        batch_rows = min(batch_rows, max(1, _MAX_BATCH_BYTES // self._row_bytes))
        row = 0
        with self._opened() as parquet:
            for batch in parquet.iter_batches(batch_size=batch_rows, columns=names):
                # "a.b" is also the field b of a column called a, which then comes too.
                batch = batch.select(names)
                batch.validate(full=True)
                pairs = zip(batch.columns, schema.types, strict=True)
                table = pa.Table.from_arrays([converted(*pair) for pair in pairs], schema=schema)
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


def _holds_map(dtype: pa.DataType) -> bool:
    if isinstance(dtype, pa.MapType):
        return True
    return any(_holds_map(dtype.field(index).type) for index in range(dtype.num_fields))
