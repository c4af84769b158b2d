"""The rows of all files of an input as one table. It knows nothing about the columns' meaning."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from pipelines.sources.arrow_types import converted, nulls
from pipelines.sources.schema_union import FileColumns, unify_columns
from pipelines.sources.source_rows import Source, SourceBatch
from pipelines.sources.table_file import FileReader, TableFile
from zimage_models.errors import InvalidRequest


class CombinedSource(Source):
    """The rows of several files, one file after another.

    Columns are joined by name (:func:`~pipelines.sources.schema_union.unify_columns`); one that a file does
    not have is null in its rows, and one whose types do not go together is refused. The partitions of a
    file's path are columns of text, unless the file itself has a column of that name. Files without rows do
    not count.

    Args:
        files: each file and what reads it, in order.
        folder: address of the folder that paths in the table start from.
        fingerprint: identifies the files' state.
        notes: what a person should know about how the files were found.

    Raises:
        InvalidRequest: no file has rows.
    """

    def __init__(
        self,
        files: Sequence[tuple[TableFile, FileReader]],
        *,
        folder: str,
        fingerprint: str,
        notes: Sequence[str] = (),
    ) -> None:
        self.folder, self.fingerprint = folder, fingerprint
        filled = [(file, reader) for file, reader in files if reader.num_rows != 0]
        if not filled:
            raise InvalidRequest(f"input: {files[0][0].uri} has no rows", field="input")
        self.format = " and ".join(dict.fromkeys(reader.format for _, reader in filled))
        names = short_names([file.uri for file, _ in filled])
        self._files = [(name, file, reader) for name, (file, reader) in zip(names, filled, strict=True)]
        unified = unify_columns([self._columns(name, file, reader) for name, file, reader in self._files])
        self.refused = dict(unified.refused)
        for _, reader in filled:
            self.refused |= reader.refused
        self.schema = pa.schema([field for field in unified.schema if field.name not in self.refused])
        for _, reader in filled:
            reader.read_as_text(unified.as_text & set(reader.schema.names))
        counts = [reader.num_rows for _, reader in filled]
        self.num_rows = None if None in counts else sum(filter(None, counts))
        self.notes = (*notes, *self._reader_notes(), *unified.notes, *self._partition_notes())

    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        """Read all rows in batches."""
        schema = self.schema
        if columns is not None:
            # A table without columns would have no rows either.
            fields = [field for field in schema if field.name in columns] or list(schema)[:1]
            schema = pa.schema(fields)
        first_row = 0
        for name, file, reader in self._files:
            num_rows = 0
            own = set(schema.names).intersection(reader.schema.names) or reader.schema.names[:1]
            for batch in reader.batches(batch_rows, own):
                last_rows = [batch.rows[-1]] if batch.rows else []
                num_rows = 1 + max([num_rows - 1, *last_rows, *(error.row for error in batch.errors)])
                table = _conformed(batch.table, schema, name, file)
                prefix = f"{name} " if len(self._files) > 1 else ""
                yield SourceBatch(
                    table=table,
                    rows=[first_row + row for row in batch.rows] if first_row else batch.rows,
                    errors=[
                        replace(error, row=first_row + error.row, message=prefix + error.message)
                        for error in batch.errors
                    ],
                )
            first_row += num_rows

    def _columns(self, name: str, file: TableFile, reader: FileReader) -> FileColumns:
        own = set(reader.schema.names)
        return FileColumns(
            name=name,
            schema=reader.schema,
            partitions=pa.schema([(column, pa.string()) for column in file.partitions if column not in own]),
            is_typed=reader.format == "parquet",
        )

    def _reader_notes(self) -> Iterator[str]:
        files: dict[str, list[str]] = {}
        for name, _, reader in self._files:
            for note in reader.notes:
                files.setdefault(note, []).append(name)
        for note, names in files.items():
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            yield note if len(self._files) == 1 else f"{names[0]}{more}: {note}"

    def _partition_notes(self) -> Iterator[str]:
        own = dict.fromkeys(
            column
            for _, file, reader in self._files
            for column in file.partitions
            if column in reader.schema.names
        )
        if own:
            columns, are = ("columns", "are") if len(own) > 1 else ("column", "is")
            named = ", ".join(map(repr, own))
            yield f"{columns} {named} {are} taken from the files that have it, not from the folders' names"


def _conformed(table: pa.Table, schema: pa.Schema, name: str, file: TableFile) -> pa.Table:
    if table.schema.equals(schema):
        return table
    own = set(table.column_names)
    columns: list[Any] = []
    for field in schema:
        if field.name in own:
            columns.append(_converted(table.column(field.name), field, name))
        elif field.name in file.partitions:
            value = pa.scalar(file.partitions[field.name], pa.string())
            columns.append(pa.repeat(value, len(table)).cast(field.type))
        else:
            columns.append(nulls(len(table), field.type))
    return pa.Table.from_arrays(columns, schema=schema)


def _converted(column: Any, field: "pa.Field[Any]", name: str) -> Any:
    if column.type == field.type:
        return column
    try:
        return pa.chunked_array([converted(chunk, field.type) for chunk in column.chunks], field.type)
    except pa.ArrowInvalid as error:
        raise InvalidRequest(
            f"input: column {field.name!r} is {column.type} in {name}, but {field.type} for all files"
            f" together, which does not hold its values: {error}; write it with one type in all files or drop"
            " it",
            field=field.name,
        ) from error


def short_names(uris: Sequence[str]) -> list[str]:
    """Return addresses without the folders that all have in common."""
    folders = [uri.split("/")[:-1] for uri in uris]
    num_common = 0
    for names in zip(*folders, strict=False):
        if len(set(names)) > 1:
            break
        num_common += 1
    return ["/".join(uri.split("/")[num_common:]) for uri in uris]
