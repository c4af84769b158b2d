"""Rows of Parquet files. It knows nothing about the columns' meaning."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.input_files import InputFiles
from pipelines.sources.source_rows import Source, SourceBatch, check_column_names
from zimage_models.errors import InvalidRequest

_MAX_BATCH_BYTES = 64 * 2**20
_NUM_FOOTER_THREADS = 16


class ParquetSource(Source):
    """One Parquet file, or all ``*.parquet`` files of a folder in order of their paths.

    Raises:
        InvalidRequest: no files, no rows, a damaged file, or files with different columns.
    """

    format = "parquet"

    def __init__(self, files: InputFiles) -> None:
        self._files = files
        self._paths = [f.path for f in files.files if not files.is_folder or f.path.endswith(".parquet")]
        if not self._paths:
            raise InvalidRequest(f"input: {files.uri} is a folder without *.parquet files", field="input")
        self.folder, self.fingerprint = files.folder, files.fingerprint()
        with ThreadPoolExecutor(_NUM_FOOTER_THREADS) as pool:
            footers = list(pool.map(self._read_footer, self._paths))
        # Metadata of other tools (pandas, Hugging Face) describes their table, not ours.
        schemas = [pa.schema([(field.name, field.type) for field in schema]) for schema, _, _ in footers]
        self.schema = schemas[0]
        check_column_names(self.schema.names, f"input: {files.uri}")
        for field in self.schema:
            if (extension := _extension_in(field.type)) is not None:
                raise InvalidRequest(
                    f"input: {files.uri}: column {field.name!r} has the Arrow extension type"
                    f" {extension.extension_name}; write it as a plain type",
                    field=field.name,
                )
        for path, schema in zip(self._paths, schemas, strict=True):
            if schema != self.schema:
                difference = _difference(schema, self.schema)
                raise InvalidRequest(
                    f"input: {path} has different columns from {self._paths[0]}: {difference}", field="input"
                )
        self.num_rows = sum(num_rows for _, num_rows, _ in footers)
        if not self.num_rows:
            raise InvalidRequest(f"input: {files.uri} has no rows", field="input")
        self._row_bytes = sum(num_bytes for _, _, num_bytes in footers) // self.num_rows + 1

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows in batches of at most ``batch_rows`` rows and about 64 MiB."""
        batch_rows = min(batch_rows, max(1, _MAX_BATCH_BYTES // self._row_bytes))
        row = 0
        for path in self._paths:
            with self._files.reading(path), self._files.filesystem.open_input_file(path) as file:
                for batch in pq.ParquetFile(file).iter_batches(batch_size=batch_rows):
                    batch.validate(full=True)
                    rows = list(range(row, row + batch.num_rows))
                    row += batch.num_rows
                    table = pa.Table.from_arrays(batch.columns, schema=self.schema)
                    yield SourceBatch(table=table, rows=rows, errors=[])

    def _read_footer(self, path: str) -> tuple[pa.Schema, int, int]:
        with self._files.reading(path), self._files.filesystem.open_input_file(path) as file:
            parquet = pq.ParquetFile(file)
            footer = parquet.metadata
            num_bytes = sum(footer.row_group(i).total_byte_size for i in range(footer.num_row_groups))
            return parquet.schema_arrow, footer.num_rows, num_bytes


def _extension_in(dtype: pa.DataType) -> "pa.BaseExtensionType | None":
    """Return an extension type in a column's type, or None if there is none.

    Reading its values may run code: Ray's ``ray.data.arrow_pickled_object`` unpickles them.
    """
    if isinstance(dtype, pa.BaseExtensionType):
        return dtype
    inner = [dtype.value_type] if isinstance(dtype, pa.DictionaryType) else []
    inner += [dtype.field(index).type for index in range(dtype.num_fields)]
    return next(filter(None, map(_extension_in, inner)), None)


def _difference(schema: pa.Schema, expected: pa.Schema) -> str:
    columns, expected_columns = (dict(zip(s.names, s.types, strict=True)) for s in (schema, expected))
    for name, type_ in expected_columns.items():
        if name not in columns:
            return f"{name!r} is missing"
        if columns[name] != type_:
            return f"{name!r} is {columns[name]}, not {type_}"
    added = [name for name in columns if name not in expected_columns]
    return f"{added[0]!r} is new" if added else "their order differs"
