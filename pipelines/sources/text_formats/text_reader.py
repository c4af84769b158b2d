"""Rows of plain text, one prompt per line."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources.source_rows import RowError
from pipelines.sources.table_file import RowReader, TableFile
from pipelines.sources.text_formats.text_file import TextFile

PROMPT = "prompt"
"""The column of values that no column's name comes with."""


class TextReader(RowReader):
    """A text file with a prompt per line, taken as it is. Blank lines are skipped.

    Raises:
        InvalidRequest: the file cannot be read, or is not text of the encoding.
    """

    format = "txt"
    schema = pa.schema([(PROMPT, pa.string())])

    def __init__(self, file: TableFile, *, encoding: str | None = None) -> None:
        self._text = TextFile(file, encoding)
        self.num_rows = sum(1 for _ in self.rows())
        self.notes = self._text.notes

    def rows(self) -> Iterator[tuple[int, list[str]] | RowError]:
        """Yield the rows' cells, and errors."""
        for row, line in enumerate(self._text.filled_lines()):
            if line.error:
                yield RowError(row=row, key=None, message=f"line {line.number}: {line.error}")
            else:
                yield row, [line.text.rstrip("\r\n")]
