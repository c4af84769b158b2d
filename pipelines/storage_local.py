"""A folder on local disk."""

import contextlib
import errno
import os
import shutil
import stat
import uuid
from collections.abc import Iterator
from typing import BinaryIO

import pyarrow.fs

from pipelines.storage import TEMP_PREFIX, Listing, Storage, StorageError, StoredFile

_FOLDER_ATTEMPTS = 1000


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
            self._drop_empty_folders(file_path)

    def move(self, source: str, target: str) -> None:
        source_path, target_path = self._file_uri(source), self._file_uri(target)
        with _local_errors(source_path):
            if _file_size(source_path) is not None:
                with contextlib.suppress(FileNotFoundError):  # another process has just moved it
                    _replace(source_path, target_path)
                    self._drop_empty_folders(source_path)
            if _file_size(target_path) is not None:
                return
        raise FileNotFoundError(errno.ENOENT, "No such file", source_path)

    def _drop_empty_folders(self, file_path: str) -> None:
        """Remove the folders that a removed file leaves empty: as in a bucket, none is without files."""
        folder = os.path.dirname(file_path)
        while folder.startswith(f"{self.uri.rstrip('/')}/"):
            try:
                os.rmdir(folder)
            except OSError:  # it has other files, or is a link or a mount
                return
            folder = os.path.dirname(folder)

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
    # Not the tempfile module: only the owner may read its files.
    temp_path = os.path.join(folder, f"{TEMP_PREFIX}{uuid.uuid4().hex}")
    file = _new_file(temp_path)
    try:
        with file:
            file.write(data)
        yield temp_path
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temp_path)


def _new_file(path: str) -> BinaryIO:
    folder = os.path.dirname(path)
    for _ in range(_FOLDER_ATTEMPTS):
        # Another process may remove a folder that is still empty.
        try:
            os.makedirs(folder, exist_ok=True)
            return open(path, "xb")
        except FileNotFoundError:
            pass
        except FileExistsError:
            if os.path.lexists(folder) and not os.path.isdir(folder):
                raise
    # Nobody is so unlucky: it cannot be made, as below a link to a disk that is not mounted.
    os.makedirs(folder, exist_ok=True)
    return open(path, "xb")


def _replace(source_path: str, target_path: str) -> None:
    with _temporary_file(os.path.dirname(target_path), b"") as temp_path:  # keeps the folder from going
        try:
            os.replace(source_path, target_path)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            # The folders are on different disks.
            shutil.copyfile(source_path, temp_path)
            os.replace(temp_path, target_path)
            os.unlink(source_path)


def _file_size(file_path: str) -> int | None:
    try:
        status = os.stat(file_path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, (FileNotFoundError, NotADirectoryError)):
        raise error
