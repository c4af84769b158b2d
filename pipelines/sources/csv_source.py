"""Rows of comma-separated or tab-separated text. It knows nothing about the columns' meaning."""

import csv
import itertools
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from pipelines.sources.input_files import MAX_LINE_BYTES, InputFiles
from pipelines.sources.source_rows import RowError, Source, SourceBatch, batched_rows, check_column_names
from zimage_models.errors import InvalidRequest


class CsvSource(Source):
    """A CSV (RFC 4180) or tab-separated file in UTF-8, with a header line.

    Every column is text, so "007" stays "007"; an empty cell is null. A quoted cell may hold line breaks.
    Blank lines are skipped. A row with malformed quotes, with more or fewer cells than the header, or with a
    cell of more than 131,072 characters is a row error. Many tab-separated files do not use quotes, so a line
    with malformed quotes is read literally there.

    Raises:
        InvalidRequest: no header, no rows, or a header that is not UTF-8.
    """

    def __init__(self, files: InputFiles, *, delimiter: str) -> None:
        self.format = "tsv" if delimiter == "\t" else "csv"
        self._files = files
        self._delimiter = delimiter
        self.folder, self.fingerprint = files.folder, files.fingerprint()
        records = self._records()
        _, header = next(records, (0, []))
        if isinstance(header, str):
            raise InvalidRequest(f"input: {files.uri}: the header is unreadable: {header}", field="input")
        if not header:
            raise InvalidRequest(f"input: {files.uri} is empty", field="input")
        check_column_names(header, f"input: {files.uri}")
        if next(records, None) is None:
            raise InvalidRequest(f"input: {files.uri} has a header but no rows", field="input")
        records.close()
        self.schema = pa.schema([(name, pa.string()) for name in header])

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows in batches."""
        return batched_rows(self._rows(), self.schema, batch_rows)

    def _rows(self) -> Iterator[tuple[int, Sequence[str | None]] | RowError]:
        num_columns = len(self.schema)
        for row, (line, cells) in enumerate(itertools.islice(self._records(), 1, None)):
            if isinstance(cells, str):
                yield RowError(row=row, key=None, message=f"line {line}: {cells}")
            elif len(cells) != num_columns:
                message = f"line {line}: {len(cells)} cells; the header has {num_columns}"
                yield RowError(row=row, key=None, message=message)
            else:
                yield row, [cell or None for cell in cells]

    def _records(self) -> Generator[tuple[int, list[str] | str]]:
        """Yield (number of the first line, cells or an error) for each record, the header first."""
        lines = _Lines(self._files)
        reader = csv.reader(lines, delimiter=self._delimiter, strict=True)
        while True:
            lines.taken.clear()
            try:
                cells: list[str] | str = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # A stray quote swallows the lines after it. Only the first is bad; read the others again.
                lines.give_back()
                line = lines.taken[0].text.rstrip("\r\n")
                cells = line.split("\t") if self._delimiter == "\t" else str(error)
            if cells:
                broken = next((line.error for line in lines.taken if line.error), None)
                yield lines.taken[0].number, broken or cells


class _Line(NamedTuple):
    number: int
    text: str
    error: str | None


class _Lines(Iterator[str]):
    """The lines for a CSV reader; it remembers which of them a record took."""

    def __init__(self, files: InputFiles) -> None:
        self._uri = files.uri
        self._lines = files.lines()
        self._waiting: deque[_Line] = deque()
        self.taken: list[_Line] = []

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else self._read()
        self.taken.append(line)
        return line.text

    def give_back(self) -> None:
        """Put back all taken lines except the first, to be read again."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]

    def _read(self) -> _Line:
        number, line = next(self._lines)
        if len(line) > MAX_LINE_BYTES:
            raise InvalidRequest(
                f"input: {self._uri}: line {number} is longer than {MAX_LINE_BYTES} bytes", field="input"
            )
        try:
            return _Line(number, line.decode(), None)
        except UnicodeDecodeError as error:
            return _Line(number, line.decode(errors="replace"), f"not UTF-8 text ({error.reason})")
