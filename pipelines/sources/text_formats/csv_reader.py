"""Rows of delimited text. It knows nothing about the columns' meaning."""

from collections.abc import Iterator, Sequence
from itertools import islice

import pyarrow as pa

from pipelines.sources.source_rows import RowError
from pipelines.sources.table_file import RowReader, TableFile
from pipelines.sources.text_formats.column_names import made_up_name, repeated_names
from pipelines.sources.text_formats.csv_records import (
    CsvHeader,
    CsvRecord,
    csv_records,
    find_dialect,
    parse_delimiter,
    sample_lines,
    sep_line_delimiter,
    shown_delimiter,
)
from pipelines.sources.text_formats.text_file import TextFile
from zimage_models.errors import InvalidRequest


class CsvReader(RowReader):
    """A file of comma-separated values (RFC 4180), or with another delimiter, with a header line.

    The delimiter is ``delimiter`` (one character, or ``tab``, ``comma``, ``semicolon`` or ``pipe``), else
    that of a first line ``sep=;``, else found among these four from the first lines; ``usual`` is that of the
    file's suffix. If the header is one cell, so is every line, whatever delimiters are in it.

    Every column is text, so "007" stays "007"; an empty cell is null. A quoted cell may hold line breaks. A
    quote in it is doubled or, if more of the first lines fit then, has a backslash before it. Spaces around
    the columns' names are left out. Lines that are blank or hold only delimiters are skipped. A nameless
    column is left out if it is empty, and otherwise called ``column_3`` by its position. A row with malformed
    quotes, with fewer cells than the header or with filled cells beyond it, or with a cell of more than
    131,072 characters is a row error. Many tab-separated files do not use quotes, so a line with malformed
    quotes is read literally there, and in a file of one column.

    Raises:
        InvalidRequest: the file cannot be read, its header is unreadable, or no row is usable.
    """

    def __init__(
        self,
        file: TableFile,
        *,
        delimiter: str | None = None,
        usual: str = ",",
        encoding: str | None = None,
    ) -> None:
        given = None if delimiter is None else parse_delimiter(delimiter)
        self._text = TextFile(file, encoding)
        sample = sample_lines(self._text.lines())
        said = sep_line_delimiter(sample[0].text) if sample else None
        self._num_skipped = 0 if said is None else 1
        sample = sample[self._num_skipped :]
        self._dialect = find_dialect(sample, given or said, usual)
        used = self._dialect.delimiter
        self.format = "tsv" if "\t" in (used, usual if self._dialect.has_one_column else used) else "csv"
        self.notes = self._text.notes
        if self._dialect.has_one_column:
            if any(usual in line.text for line in sample):
                what = "tabs" if usual == "\t" else "commas"
                self.notes += (f"there is one column, so {what} are part of its text",)
        elif given is None and used != usual:
            self.notes += (f"the delimiter is {shown_delimiter(used)}",)
        if self._dialect.has_backslashes:
            self.notes += ("quotes inside cells have a backslash before them",)

        records = self._records()
        first = next(records, CsvRecord(1, [], None))
        if first.error:
            raise InvalidRequest(f"input: {file.uri}: the header is unreadable: {first.error}", field="input")
        self._header = CsvHeader(first.cells)
        self.refused = repeated_names(self._header.names, file.uri)
        filled = self._scan(file.uri)
        self._name_columns(filled)

    def _scan(self, uri: str) -> set[int]:
        """Read all rows, and return which nameless columns have values."""
        nameless = {index for index, name in enumerate(self._header.names) if not name}
        filled: set[int] = set()
        num_rows, num_bad, first_error = 0, 0, ""
        for record in self._data_records():
            num_rows += 1
            if record.error:
                num_bad += 1
                first_error = first_error or f"line {record.line}: {record.error}"
            elif len(filled) < len(nameless):
                filled.update(i for i in nameless if i < len(record.cells) and record.cells[i].strip())
        if num_rows and num_bad == num_rows:
            raise InvalidRequest(f"input: {uri} has no usable rows; {first_error}", field="input")
        self.num_rows = num_rows
        return filled

    def _name_columns(self, filled: set[int]) -> None:
        """Leave out nameless columns without values, and name the others."""
        names = self._header.names
        columns = {index: name for index, name in enumerate(names) if name or index in filled}
        for index in sorted(filled):
            columns[index] = made_up_name(index + 1, {*names, *columns.values()})
            self.notes += (f"the nameless column {index + 1} is called {columns[index]}",)
        if num_empty := len(names) - len(columns):
            many = "s are" if num_empty > 1 else " is"
            self.notes += (f"{num_empty} nameless empty column{many} left out",)
        kept = {index: name for index, name in columns.items() if name not in self.refused}
        self._kept = list(kept)
        self.schema = pa.schema([(name, pa.string()) for name in kept.values()])

    def rows(self) -> Iterator[tuple[int, Sequence[str | None]] | RowError]:
        """Yield the rows' cells, and errors."""
        for row, record in enumerate(self._data_records()):
            if record.error:
                yield RowError(row=row, key=None, message=f"line {record.line}: {record.error}")
            else:
                cells = record.cells
                yield row, [(cells[i] or None) if i < len(cells) else None for i in self._kept]

    def _data_records(self) -> Iterator[CsvRecord]:
        """Yield the records after the header, with an error for those that do not fit it."""
        for record in islice(self._records(), 1, None):
            misfit = None if record.error else self._header.misfit(record.cells, self._dialect)
            yield record._replace(error=misfit) if misfit else record

    def _records(self) -> Iterator[CsvRecord]:
        return csv_records(islice(self._text.lines(), self._num_skipped, None), self._dialect)
