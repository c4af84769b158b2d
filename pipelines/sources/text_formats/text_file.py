"""The text of one file: decompressed, decoded, and cut into lines. It knows nothing about table formats."""

import bz2
import codecs
import contextlib
import gzip
import io
import lzma
import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, cast

import pyarrow as pa

from pipelines.sources.table_file import TableFile
from zimage_models.errors import InvalidRequest

MAX_LINE_BYTES = 4 * 2**20
_CHUNK_BYTES = 2**20
_PEEK_BYTES = 4096
_ASCII = bytes(range(128))
# UTF-32's mark starts with that of UTF-16, so it comes first.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A text may start with "BZh" too: bzip2 goes on with the digits of pi, or of its root if the file is empty.
_BZIP2 = re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)")
_ZSTD = re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18")
_NO_TEXT = (
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook; unpack it, or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an Excel workbook; save the sheet as CSV"),
    (b"PAR1\x15", "a Parquet file; give --format parquet"),
)
_ADVICE = (
    "give --encoding, such as cp1252 (Western European), cp1251 (Russian), gb18030 (Chinese) or cp932"
    " (Japanese)"
)


class TextLine(NamedTuple):
    """One line with its end."""

    number: int
    """From 1."""
    text: str
    error: str | None
    """Why the line cannot be used."""


class TextFile:
    """The text of one file, decompressed if it is gzip, bzip2, xz or zstd, whatever its name says.

    A byte order mark decides the encoding, otherwise ``encoding`` does, otherwise it is UTF-8.

    Attributes:
        encoding: a name of Python's, of the encoding in use.
        notes: what a person should know about the encoding.

    Raises:
        InvalidRequest: an encoding that does not exist, or a file that cannot be read or holds no text.
    """

    def __init__(self, file: TableFile, encoding: str | None = None) -> None:
        self.file = file
        if encoding is not None:
            _check_encoding(encoding)
        with self._bytes() as stream:
            start = stream.peek(_PEEK_BYTES)[:_PEEK_BYTES]
        self._mark, marked = next((mark for mark in _MARKS if start.startswith(mark[0])), (b"", None))
        self._is_default = encoding is None and marked is None
        self.encoding = marked or encoding or "utf-8"
        self._check_start(start)
        self.notes: tuple[str, ...] = ()
        if (
            marked
            and encoding
            and codecs.lookup(encoding).name not in ("utf-8-sig", "utf-16", "utf-32", marked)
        ):
            self.notes = (f"the byte order mark says {marked}, so --encoding {encoding} is not used",)
        elif marked not in (None, "utf-8"):
            self.notes = (f"the text is {marked}, as its byte order mark says",)

    def lines(self) -> Iterator[TextLine]:
        r"""Yield all lines with their ends: ``\n``, ``\r\n`` or ``\r``.

        A line that is longer than :data:`MAX_LINE_BYTES` or not text of the encoding has an error.

        Raises:
            InvalidRequest: the file is damaged, or at least half of its lines are not text of the encoding.
        """
        num_filled = num_undecodable = 0
        encoding = self.encoding if _is_ascii_based(self.encoding) else "utf-8"
        for number, line in enumerate(_split(self._chunks()), start=1):
            num_filled += not line.isspace()
            error = None
            try:
                text = line.decode(encoding)
            except UnicodeDecodeError as reason:
                text, error = line.decode(encoding, errors="replace"), self._undecodable(reason)
                num_undecodable += len(line) <= MAX_LINE_BYTES  # a cut may fall within a character
            if len(line) > MAX_LINE_BYTES:
                error = f"longer than {MAX_LINE_BYTES} bytes"
            yield TextLine(number, text.lstrip("\ufeff") if number == 1 else text, error)
        if num_undecodable and num_undecodable * 2 >= num_filled:
            raise self._refusal(f"{num_undecodable} of {num_filled} lines")

    def filled_lines(self) -> Iterator[TextLine]:
        """Yield the lines that are not blank."""
        return (line for line in self.lines() if line.text.strip())

    def whole(self, max_bytes: int) -> str:
        """Return the whole text, of at most ``max_bytes``.

        Raises:
            InvalidRequest: the file is damaged, larger, or not text of the encoding.
        """
        with self._bytes() as stream:
            stream.read(len(self._mark))
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise self._error(f"is larger than {max_bytes} bytes; write it as JSON Lines, an object per line")
        try:
            return content.decode(self.encoding).lstrip("\ufeff")
        except UnicodeDecodeError as error:
            raise self._refusal(f"byte {error.start + len(self._mark)}") from error

    @contextlib.contextmanager
    def _bytes(self) -> "Iterator[io.BufferedReader[Any]]":
        """Open the decompressed bytes."""
        file = self.file
        with file.reading(), file.filesystem.open_input_stream(file.path, compression=None) as raw:
            stream: io.BufferedReader[Any] = io.BufferedReader(cast(io.RawIOBase, raw))
            start = stream.peek(16)[:16]
            unpacked = _unpacked(stream, start)
            yield stream if unpacked is None else io.BufferedReader(cast(io.RawIOBase, unpacked))

    def _chunks(self) -> Iterator[bytes]:
        """Yield the bytes without the mark, as UTF-8 unless the encoding is based on ASCII.

        In the other encodings the bytes of a line end may be part of a character.
        """
        with self._bytes() as stream:
            stream.read(len(self._mark))
            chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
            if _is_ascii_based(self.encoding):
                yield from chunks
                return
            # Half a surrogate pair becomes bytes that are not UTF-8: the error of its line.
            decoder = codecs.getincrementaldecoder(self.encoding)("surrogatepass")
            try:
                for chunk in chunks:
                    yield decoder.decode(chunk).encode("utf-8", "surrogatepass")
                decoder.decode(b"", final=True)
            except UnicodeError as error:
                raise self._refusal(str(error)) from error

    def _check_start(self, start: bytes) -> None:
        for magic, reason in _NO_TEXT:
            if start.startswith(magic):
                raise self._error(f"is {reason}")
        # ASCII characters in UTF-16 are valid UTF-8 with a NUL beside each of them.
        big, little = start[::2].count(0), start[1::2].count(0)
        if self._is_default and max(big, little) * 20 > len(start):
            encoding = "utf-16-be" if big > little else "utf-16-le"
            raise self._error(
                f"looks like UTF-16 without a byte order mark; give --encoding {encoding}", field="encoding"
            )

    def _undecodable(self, error: UnicodeDecodeError) -> str:
        advice = f"; {_ADVICE}" if self._is_default else ""
        return f"not {self._name} text (byte 0x{error.object[error.start]:02X}){advice}"

    @property
    def _name(self) -> str:
        return "UTF-8" if self.encoding == "utf-8" else self.encoding

    def _refusal(self, where: str) -> InvalidRequest:
        advice = _ADVICE if self._is_default else "give its --encoding"
        return self._error(f"is not {self._name} text ({where}); {advice}", field="encoding")

    def _error(self, message: str, field: str = "input") -> InvalidRequest:
        return InvalidRequest(f"input: {self.file.uri} {message}", field=field)


def _unpacked(packed: "io.BufferedReader[Any]", start: bytes) -> object:
    """Return the decompressed stream, or None if its start is not that of a compressed file."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=packed)
    if _BZIP2.match(start):
        return bz2.BZ2File(packed)
    if start.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMAFile(packed)
    if _ZSTD.match(start):
        return pa.CompressedInputStream(pa.PythonFile(packed, mode="r"), "zstd")
    return None


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yield lines with their ends; one that is too long is cut, but not below the limit."""
    rest = b""
    for chunk in filter(None, chunks):
        lines = (rest + chunk).splitlines(keepends=True)
        # The last line may go on, and a CR at its end may be half of a CR LF.
        rest = b"" if lines[-1].endswith(b"\n") else lines.pop()
        yield from lines
        if len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\r"):
            rest = rest[: MAX_LINE_BYTES + 1]
    if rest:
        yield rest


def _is_ascii_based(encoding: str) -> bool:
    try:
        return _ASCII.decode(encoding) == _ASCII.decode("ascii")
    except UnicodeError:
        return False


def _check_encoding(name: str) -> None:
    try:
        codecs.lookup(name)
        with contextlib.suppress(UnicodeDecodeError):  # half a character of UTF-16
            b"a".decode(name)
    except (LookupError, ValueError) as error:
        raise InvalidRequest(
            f"encoding: {name!r} is not a text encoding; known are utf-8, cp1252, gb18030, utf-16-le,"
            " shift_jis and the others of Python's codecs",
            field="encoding",
        ) from error
