"""Rows of a JSON Lines file, with one object per line."""

from collections.abc import Iterator

from pipelines.sources.source_rows import RowError
from pipelines.sources.table_file import TableFile
from pipelines.sources.text_formats.json_columns import JsonRowsReader
from pipelines.sources.text_formats.json_rows import JsonRow, rows_of_lines
from pipelines.sources.text_formats.text_file import TextFile
from zimage_models.errors import InvalidRequest


class JsonLinesReader(JsonRowsReader):
    """A file with one JSON object per line, or a text, which is a prompt. Blank lines are skipped.

    Raises:
        InvalidRequest: the file cannot be read, is one JSON document, or no row is usable.
    """

    format = "jsonl"

    def __init__(self, file: TableFile, *, encoding: str | None = None) -> None:
        self._text = TextFile(file, encoding)
        first = next(self._text.filled_lines(), None)
        start = first.text.strip() if first else ""
        if start.startswith("[") or start == "{":
            holds = "objects of several lines" if start == "{" else "an array"
            raise InvalidRequest(
                f"input: {file.uri} holds {holds}, not an object per line; give --format json", field="input"
            )
        super().__init__(file)
        self.notes = self._text.notes + self.type_notes()

    def json_rows(self) -> Iterator[JsonRow | RowError]:
        """Yield all objects, and errors for the other lines."""
        return rows_of_lines(self._text)
