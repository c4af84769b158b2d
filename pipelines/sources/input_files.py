"""The files of one input: where they are, whether they changed, and their lines.

It knows nothing about table formats.
"""

import contextlib
import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import pyarrow as pa
import pyarrow.fs

from pipelines.storage import StorageOptions
from pipelines.storage_address import open_file, open_storage
from zimage_models.errors import InvalidRequest

MAX_LINE_BYTES = 4 * 2**20
_GZIP_MAGIC = b"\x1f\x8b"
_UTF8_BOM = b"\xef\xbb\xbf"
_UTF16_BOMS = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True, slots=True, kw_only=True)
class InputFiles:
    """One file, or a folder and the files in it at any depth."""

    uri: str
    filesystem: pyarrow.fs.FileSystem
    is_folder: bool
    files: tuple[pyarrow.fs.FileInfo, ...]
    """Sorted by path, without hidden ones (a part of the path starts with "." or "_")."""
    root: str

    @classmethod
    def find(cls, uri: str, options: StorageOptions) -> "InputFiles":
        """Find a file or a folder.

        Raises:
            InvalidRequest: it does not exist or cannot be reached.
        """
        try:
            filesystem, root = open_storage(uri, options).arrow()
            info = filesystem.get_file_info(root)
            is_folder = info.type == pyarrow.fs.FileType.Directory
            files = [info]
            if is_folder:
                files = filesystem.get_file_info(pyarrow.fs.FileSelector(root, recursive=True))
        except (ValueError, OSError) as error:
            raise InvalidRequest(f"input: {uri}: {error}", field="input") from error
        if info.type == pyarrow.fs.FileType.NotFound:
            raise InvalidRequest(f"input: {uri} does not exist", field="input")
        if not (is_folder or info.is_file):
            raise InvalidRequest(f"input: {uri} is neither a file nor a folder", field="input")
        return cls(
            uri=uri,
            filesystem=filesystem,
            is_folder=is_folder,
            files=tuple(
                sorted(
                    (file for file in files if file.is_file and not _is_hidden(file.path.removeprefix(root))),
                    key=lambda file: str(file.path),
                )
            ),
            root=root,
        )

    @property
    def folder(self) -> str:
        """Address of the folder that holds the files."""
        return (open_storage(self.uri) if self.is_folder else open_file(self.uri)[0]).uri

    def fingerprint(self) -> str:
        """Return a sha256 over the files' names, sizes and modification times; their content is not read."""
        digest = hashlib.sha256()
        for file in self.files:
            name = file.path.removeprefix(self.root) or file.base_name
            digest.update(f"{name}\0{file.size}\0{file.mtime_ns}\n".encode(errors="surrogateescape"))
        return digest.hexdigest()

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Yield the single file's lines with their numbers, from 1, decompressed if it is gzip.

        A line longer than :data:`MAX_LINE_BYTES` is cut to one byte more. A UTF-8 byte order mark is removed.

        Raises:
            InvalidRequest: the file cannot be read, or is UTF-16.
        """
        (file,) = self.files
        with self.reading(), self.filesystem.open_input_stream(file.path, compression=None) as raw:
            stream = io.BufferedReader(cast(io.RawIOBase, raw))
            if stream.peek(2).startswith(_GZIP_MAGIC):
                stream = io.BufferedReader(cast(io.RawIOBase, gzip.GzipFile(fileobj=stream)))
            if stream.peek(2).startswith(_UTF16_BOMS):
                raise InvalidRequest(f"input: {self.uri} is UTF-16 text; save it as UTF-8", field="input")
            line_number = 0
            while line := stream.readline(MAX_LINE_BYTES + 1):
                line_number += 1
                rest = line
                while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
                    rest = stream.readline(MAX_LINE_BYTES + 1)
                yield line_number, line.removeprefix(_UTF8_BOM) if line_number == 1 else line

    @contextlib.contextmanager
    def reading(self, path: str | None = None) -> Iterator[None]:
        """Convert errors while reading one of the files to InvalidRequest."""
        try:
            yield
        except (OSError, EOFError, zlib.error, pa.ArrowException) as error:
            message = f"input: {path or self.uri} cannot be read: {error}"
            raise InvalidRequest(message, field="input") from error


def _is_hidden(path: str) -> bool:
    return any(part.startswith((".", "_")) for part in path.split("/"))
