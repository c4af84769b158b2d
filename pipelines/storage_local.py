"""A folder on local disk."""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator

import pyarrow.fs

from pipelines.storage import TEMP_PREFIX, Listing, Storage, StorageError, StoredFile


def open_local(folder: str) -> Storage:
    """Open a folder by its absolute path; it need not exist yet."""
    return _LocalStorage(folder)


class _LocalStorage(Storage):
    def __init__(self, folder: str) -> None:
        self.uri = folder

    def read(self, path: str, num_bytes: int | None = None) -> bytes:
        file_path = self._file_uri(path)
        with _local_errors(file_path):
            try:
                with open(file_path, "rb") as file:
                    return file.read(num_bytes)
            except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
                pass
        raise FileNotFoundError(errno.ENOENT, "No such file", file_path)

    def write(self, path: str, data: bytes | memoryview) -> None:
        file_path = self._file_uri(path)
        with _local_errors(file_path), _temporary_file(os.path.dirname(file_path), data) as temp_path:
            os.replace(temp_path, file_path)

    def create(self, path: str, data: bytes) -> bool:
        file_path = self._file_uri(path)
        with _local_errors(file_path), _temporary_file(os.path.dirname(file_path), data) as temp_path:
            try:
                os.link(temp_path, file_path)
            except FileExistsError:
                return False
            return True

    def exists(self, path: str) -> bool:
        file_path = self._file_uri(path)
        with _local_errors(file_path):
            return _file_size(file_path) is not None

    def list(self, prefix: str = "") -> Listing:
        folder = self._folder_uri(prefix)
        files = []
        with _local_errors(folder):
            # Follow links: a data folder may be a link to a bigger disk.
            for parent, _, names in os.walk(folder, followlinks=True, onerror=_raise_unless_absent):
                for name in names:
                    if name.startswith(TEMP_PREFIX):
                        continue
                    file_path = os.path.join(parent, name)
                    num_bytes = _file_size(file_path)
                    if num_bytes is not None:  # None: a dangling link, or deleted in the meantime
                        path = os.path.relpath(file_path, self.uri)
                        files.append(StoredFile(path=path, num_bytes=num_bytes))
        return sorted(files, key=lambda file: file.path)

    def delete(self, path: str) -> None:
        file_path = self._file_uri(path)
        with _local_errors(file_path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(file_path)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.LocalFileSystem(), self.uri


@contextlib.contextmanager
def _local_errors(file_path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{file_path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _temporary_file(folder: str, data: bytes | memoryview) -> Iterator[str]:
    os.makedirs(folder, exist_ok=True)
    # Not the tempfile module: only the owner may read its files.
    temp_path = os.path.join(folder, f"{TEMP_PREFIX}{uuid.uuid4().hex}")
    try:
        with open(temp_path, "xb") as file:
            file.write(data)
        yield temp_path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp_path)


def _file_size(file_path: str) -> int | None:
    try:
        status = os.stat(file_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
