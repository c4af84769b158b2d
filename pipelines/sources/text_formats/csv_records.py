"""Records of delimited text: the delimiter, and the cells. It knows nothing about the columns' meaning."""

import csv
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from pipelines.sources.text_formats.text_file import TextLine
from zimage_models.errors import InvalidRequest

_DELIMITERS = ",;\t|"
_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", r"\t": "\t", "pipe": "|"}
_SEP_LINE = re.compile(r'"?sep=([^"\r\n])"?[\r\n]*', re.IGNORECASE)
_SAMPLE_LINES = 1000
_SAMPLE_CHARS = 2**20


class CsvRecord(NamedTuple):
    """One record, or why it cannot be read."""

    line: int
    """Number of its first line, from 1."""
    cells: list[str]
    error: str | None


class CsvHeader:
    """The header's names, ``""`` for a nameless column, and what it asks of the other records."""

    def __init__(self, cells: Sequence[str]) -> None:
        self.names = [name if name.strip() else "" for name in cells]
        # Spreadsheets leave nameless columns behind, and not every line need have cells for them.
        self._num_required = max((n for n, name in enumerate(self.names, start=1) if name), default=0)

    def misfit(self, cells: Sequence[str], delimiter: str) -> str | None:
        """Return why a record has too few or too many cells; blank ones past the header do not count."""
        width = len(self.names)
        if self._num_required <= len(cells) <= width or (len(cells) > width and _is_blank(cells[width:])):
            return None
        misfit = f"{len(cells)} cells; the header has {width}"
        if len(cells) > width:
            misfit += f"; a cell that holds {shown_delimiter(delimiter)} needs double quotes around it"
        return misfit


def parse_delimiter(given: str) -> str:
    """Return the delimiter that an option names: a character, or a word such as ``tab``.

    Raises:
        InvalidRequest: it is neither.
    """
    delimiter = _WORDS.get(given.lower(), given)
    if len(delimiter) != 1 or delimiter in '"\r\n':
        raise InvalidRequest(
            f"delimiter: {given!r} is neither one character nor one of {', '.join(_WORDS)}", field="delimiter"
        )
    return delimiter


def shown_delimiter(delimiter: str) -> str:
    """Return a delimiter for a message."""
    return "a tab" if delimiter == "\t" else delimiter


def sep_line_delimiter(line: str) -> str | None:
    """Return the delimiter if a file's first line is only about it, as Excel writes: ``sep=;``."""
    found = _SEP_LINE.fullmatch(line)
    return found[1] if found else None


def sample_lines(lines: Iterable[TextLine]) -> list[TextLine]:
    """Return the first lines, for :func:`find_delimiter`."""
    sample, num_chars = [], 0
    for line in islice(lines, _SAMPLE_LINES):
        sample.append(line)
        num_chars += len(line.text)
        if num_chars > _SAMPLE_CHARS:
            break
    return sample


def find_delimiter(sample: Sequence[TextLine]) -> str:
    """Return the delimiter that cuts most records into the header's cells, and at least half of them.

    It is that with the most cells if several do, and the comma if none does: of a header in one cell, the
    other records say nothing.
    """
    best, delimiter = (0.5, 0), ","
    for candidate in _DELIMITERS:
        records = csv_records(sample, candidate)
        first = next(records, None)
        if first is None or first.error or len(first.cells) < 2:
            continue
        header = CsvHeader(first.cells)
        fits = [not record.error and not header.misfit(record.cells, candidate) for record in records]
        share = sum(fits) / len(fits) if fits else 1.0
        if (share, len(first.cells)) > best:  # not the same: the comma comes first
            best, delimiter = (share, len(first.cells)), candidate
    return delimiter


def csv_records(lines: Iterable[TextLine], delimiter: str) -> Iterator[CsvRecord]:
    """Yield all records but blank ones, the header first."""
    source = _Lines(lines)
    reader = csv.reader(source, delimiter=delimiter, strict=True)
    while True:
        source.taken.clear()
        error = None
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as reason:
            # A stray quote swallows the lines after it. Only the first is bad; read the others again.
            source.give_back()
            cells, error = [], str(reason)
            if delimiter == "\t":
                cells, error = source.taken[0].text.rstrip("\r\n").split("\t"), None
        error = next((line.error for line in source.taken if line.error), error)
        if error or not _is_blank(cells):
            yield CsvRecord(source.taken[0].number, cells, error)


def _is_blank(cells: Sequence[str]) -> bool:
    return not any(map(str.strip, cells))


class _Lines(Iterator[str]):
    """The lines for a CSV reader; it remembers which of them a record took."""

    def __init__(self, lines: Iterable[TextLine]) -> None:
        self._lines = iter(lines)
        self._waiting: deque[TextLine] = deque()
        self.taken: list[TextLine] = []

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self.taken.append(line)
        return line.text

    def give_back(self) -> None:
        """Put back all taken lines except the first, to be read again."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
