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
# A character that separates units, which no text has.
_NO_DELIMITER = "\x1f"
# With an even number of backslashes before a quote, the last of them is text.
_BACKSLASHED_QUOTE = re.compile(r'(?<!\\)((?:\\\\)*)\\"')
_SAMPLE_LINES = 1000
_SAMPLE_CHARS = 2**20


class CsvRecord(NamedTuple):
    """One record, or why it cannot be read."""

    line: int
    """Number of its first line, from 1."""
    cells: list[str]
    error: str | None


class CsvDialect(NamedTuple):
    """How the cells of a file are written."""

    delimiter: str
    skips_space: bool = False
    """Spaces after a delimiter do not count."""
    has_backslashes: bool = False
    """A quote inside a cell may be written with a backslash before it."""

    @property
    def has_one_column(self) -> bool:
        """Whether each line is one cell, whatever delimiters it has."""
        return self.delimiter == _NO_DELIMITER


class CsvHeader:
    """The header's names, ``""`` for a nameless column, and what it asks of the other records."""

    def __init__(self, cells: Sequence[str]) -> None:
        names = [name.strip() for name in cells]
        if len(set(cells) - {""}) > len(set(names) - {""}):  # two that only spaces tell apart
            names = [cell if name else "" for cell, name in zip(cells, names, strict=True)]
        self.names = names
        # Spreadsheets leave nameless columns behind, and not every line need have cells for them.
        self._num_required = max((n for n, name in enumerate(self.names, start=1) if name), default=0)

    def misfit(self, cells: Sequence[str], dialect: CsvDialect) -> str | None:
        """Return why a record has too few or too many cells; blank ones past the header do not count."""
        width = len(self.names)
        if self._num_required <= len(cells) <= width or (len(cells) > width and _is_blank(cells[width:])):
            return None
        misfit = f"{len(cells)} cells; the header has {width}"
        if len(cells) > width:
            misfit += (
                f"; a cell that holds {shown_delimiter(dialect.delimiter)} needs double quotes around it"
            )
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
    """Return the first lines, for :func:`find_dialect`."""
    sample, num_chars = [], 0
    for line in islice(lines, _SAMPLE_LINES):
        sample.append(line)
        num_chars += len(line.text)
        if num_chars > _SAMPLE_CHARS:
            break
    return sample


def find_dialect(sample: Sequence[TextLine], delimiter: str | None, usual: str) -> CsvDialect:
    """Return how the cells of a file are written.

    Args:
        sample: its first lines.
        delimiter: the delimiter, if it is known.
        usual: the delimiter in doubt. Otherwise it is that which cuts most records into the header's cells,
            and at least half of them, and that with the most cells if several do.
    """
    best, found = (0.5, 0), None
    for candidate in [delimiter] if delimiter else sorted(_DELIMITERS, key=lambda one: one != usual):
        plain = CsvDialect(candidate, skips_space=_has_space_before_quotes(sample, candidate))
        for dialect in (plain, plain._replace(has_backslashes=True)):
            share, num_cells = _fit(sample, dialect)
            if num_cells > 1 and (share, num_cells) > best:
                best, found = (share, num_cells), dialect
    if found:
        return found
    # Of a header in one cell, the other records say nothing.
    dialect = CsvDialect(delimiter or usual)
    return dialect if delimiter or not _is_one_column(sample, dialect) else CsvDialect(_NO_DELIMITER)


def _fit(sample: Sequence[TextLine], dialect: CsvDialect) -> tuple[float, int]:
    """Return the share of the records that fit the header, and its number of cells."""
    records = csv_records(sample, dialect)
    first = next(records, None)
    if first is None or first.error:
        return 0.0, 0
    header = CsvHeader(first.cells)
    fits = [not record.error and not header.misfit(record.cells, dialect) for record in records]
    return sum(fits) / len(fits) if fits else 1.0, len(first.cells)


def _has_space_before_quotes(sample: Sequence[TextLine], delimiter: str) -> bool:
    """Return whether quotes come after a space: ``"id", "prompt"``. Without it, they would be text."""
    mark = re.escape(delimiter)
    after_space, direct = re.compile(f'{mark} +"(?!")'), re.compile(f'{mark}"')
    counts = [sum(len(form.findall(line.text)) for line in sample) for form in (after_space, direct)]
    return counts[0] > counts[1]


def _is_one_column(sample: Sequence[TextLine], dialect: CsvDialect) -> bool:
    """Return whether the header is one cell and delimiters in other lines are text, not empty cells."""
    records = csv_records(sample, dialect)
    header = next(records, None)
    if header is None or len(header.cells) != 1:
        return False
    longer = [record.cells for record in records if len(record.cells) > 1]
    return not longer or not all(_is_blank(cells[1:]) for cells in longer)


def csv_records(lines: Iterable[TextLine], dialect: CsvDialect) -> Iterator[CsvRecord]:
    """Yield all records but blank ones, the header first."""
    source = _Lines(lines, has_backslashes=dialect.has_backslashes)
    delimiter = dialect.delimiter
    reader = csv.reader(source, delimiter=delimiter, skipinitialspace=dialect.skips_space, strict=True)
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
            cells, error = [], _in_words(reason)
            if delimiter in "\t" + _NO_DELIMITER:
                cells, error = source.taken[0].text.rstrip("\r\n").split(delimiter), None
        error = next((line.error for line in source.taken if line.error), error)
        if error or not _is_blank(cells):
            yield CsvRecord(source.taken[0].number, cells, error)


def _in_words(error: csv.Error) -> str:
    reason = str(error)
    if "expected after" in reason:
        return 'a cell goes on after its closing quote; a quote inside a cell is written twice ("")'
    if "field larger" in reason:
        return f"a cell has more than {csv.field_size_limit()} characters, or its quotes are not closed"
    return "the quotes of a cell are not closed" if "end of data" in reason else reason


def _is_blank(cells: Sequence[str]) -> bool:
    return not any(map(str.strip, cells))


class _Lines(Iterator[str]):
    """The lines for a CSV reader; it remembers which of them a record took."""

    def __init__(self, lines: Iterable[TextLine], *, has_backslashes: bool) -> None:
        self._lines = iter(lines)
        self._has_backslashes = has_backslashes
        self._waiting: deque[TextLine] = deque()
        self.taken: list[TextLine] = []

    def __next__(self) -> str:
        line = self._waiting.popleft() if self._waiting else next(self._lines)
        self.taken.append(line)
        return _BACKSLASHED_QUOTE.sub(r'\1""', line.text) if self._has_backslashes else line.text

    def give_back(self) -> None:
        """Put back all taken lines except the first, to be read again."""
        self._waiting.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]
