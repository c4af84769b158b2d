"""Rows of plain text, one prompt per line."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources.source_rows import RowError, SourceBatch, batched_rows
from pipelines.sources.table_file import FileReader, TableFile
from pipelines.sources.text_formats.text_file import TextFile

PROMPT = "prompt"
"""The column of values that no column's name comes with."""


class TextReader(FileReader):
    """A text file with a prompt per line, taken as it is. Blank lines are skipped.

    Raises:
        InvalidRequest: the file cannot be read, or is not text of the encoding.
    """

    format = "txt"
    schema = pa.schema([(PROMPT, pa.string())])

    def __init__(self, file: TableFile, *, encoding: str | None = None) -> None:
        self._text = TextFile(file, encoding)
        self.num_rows = sum(1 for _ in self._rows())
        self.notes = self._text.notes

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        """Read all rows in batches."""
        return batched_rows(self._rows(), self.schema, batch_rows)

    def _rows(self) -> Iterator[tuple[int, list[str]] | RowError]:
        for row, line in enumerate(self._text.filled_lines()):
            if line.error:
                yield RowError(row=row, key=None, message=f"line {line.number}: {line.error}")
            else:
                yield row, [line.text.rstrip("\r\n")]
