"""A folder of files, on local disk or in S3, behind one small set of whole-file operations.

Knows nothing of what is in the files. `s3_storage` is the S3 half of this module.
"""

import contextlib
import errno
import os
import stat
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import pyarrow.fs

_SUPPORTED = "dir, /abs/dir, file:///abs/dir or s3://bucket/prefix"
_TEMP_PREFIX = ".zimage-tmp-"


class StorageError(OSError):
    """Say why a file, folder or bucket could not be used: no access, no network, no such bucket, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How to reach S3; None leaves it to the AWS environment or profile (`AWS_ENDPOINT_URL`, `AWS_REGION`).

    Credentials always come from the usual AWS chain, as does the number of attempts per request
    (`AWS_MAX_ATTEMPTS`, 10 if unset).
    """

    s3_endpoint_url: str | None = None
    s3_region: str | None = None

    def __post_init__(self) -> None:
        """Refuse an endpoint that is not an http or https URL."""
        url = self.s3_endpoint_url
        if url is not None and not (url.startswith(("http://", "https://")) and urlsplit(url).hostname):
            raise ValueError(f"s3_endpoint_url {url!r} must be like http://host:port or https://host")


_AWS_DEFAULTS = StorageOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One listing entry: the path relative to the storage root, "/" separated, and the size."""

    path: str
    num_bytes: int


Listing = list[StoredFile]  # inside the classes below, `list` is a method


class Storage(ABC):
    """Read and write whole files under one folder; thread-safe and picklable.

    Paths are relative to the folder and "/" separated: an absolute path, "..", ".", an empty segment, a
    backslash or a NUL raises ValueError. Reading an absent file raises FileNotFoundError. Every other
    failure of the disk, the network or the server raises StorageError.

    Attributes:
        uri: Canonical address of the folder, "/abs/dir" or "s3://bucket/prefix".
    """

    uri: str

    @abstractmethod
    def read(self, path: str, num_bytes: int | None = None) -> bytes:
        """Return the whole file as it was at one moment, or its first ``num_bytes``."""

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview) -> None:
        """Put the whole file in place, replacing any; a reader sees the old content or the new.

        S3 takes it as a single PUT, so at most 5 GB; several parallel writes hold several files in memory.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Put the whole file in place if the path is free, and return whether this call did so.

        Of any number of concurrent calls exactly one returns True. On disk this takes hard links.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether the path is a file; a folder is not."""

    @abstractmethod
    def list(self, prefix: str = "") -> Listing:
        """Return all files under the folder `prefix`, at any depth, sorted by path; [] if it is absent."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Remove the file; an absent one is no error."""

    @abstractmethod
    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        """Return a filesystem for pyarrow and Ray Data, and this folder's path in it."""

    def _file_uri(self, path: str) -> str:
        return f"{self.uri.rstrip('/')}/{_checked(path)}"

    def _folder_uri(self, prefix: str) -> str:
        return self._file_uri(prefix.removesuffix("/")) if prefix else self.uri


def open_storage(uri: str, options: StorageOptions = _AWS_DEFAULTS) -> Storage:
    """Open a folder, which need not exist yet: "dir", "/abs/dir", "file:///abs/dir" or "s3://bucket/prefix".

    The S3 endpoint and region are settled here: a pickled storage reaches the same server from a machine
    whose environment says otherwise.

    Raises:
        ValueError: The URI or the endpoint is malformed, or the scheme is not supported.
        StorageError: The AWS configuration cannot be read.
    """
    scheme, place = _split_uri(uri)
    if scheme == "file":
        return _LocalStorage(os.path.abspath(place))
    bucket, _, prefix = place.rstrip("/").partition("/")
    if not bucket:
        raise ValueError(f"{uri!r} names no bucket: use s3://bucket/prefix")
    # Imported here because it builds on this module, and because boto3 takes a quarter of a second to import.
    from pipelines.storage_s3 import open_s3

    return open_s3(bucket, prefix and _checked(prefix), options)


def open_file(uri: str, options: StorageOptions = _AWS_DEFAULTS) -> tuple[Storage, str]:
    """Return the storage of the folder that holds the file, and the file's name in it.

    Raises:
        ValueError: As in `open_storage`, or the URI names no file.
        StorageError: As in `open_storage`.
    """
    scheme, place = _split_uri(uri)
    folder, slash, name = place.rpartition("/")
    if name in ("", ".", "..") or (scheme == "s3" and not folder):
        raise ValueError(f"{uri!r} names a folder where a file is needed")
    if scheme == "file":
        return _LocalStorage(os.path.abspath(folder + slash)), name
    return open_storage(f"s3://{folder}", options), name


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
            # Links are followed: a data folder may be a link to a bigger disk.
            for parent, _, names in os.walk(folder, followlinks=True, onerror=_raise_unless_absent):
                for name in names:
                    if name.startswith(_TEMP_PREFIX):
                        continue
                    file_path = os.path.join(parent, name)
                    num_bytes = _file_size(file_path)
                    if num_bytes is not None:  # else deleted since its folder was read, or a dangling link
                        path = os.path.relpath(file_path, self.uri)
                        files.append(StoredFile(path=path, num_bytes=num_bytes))
        return sorted(files, key=lambda file: file.path)

    def delete(self, path: str) -> None:
        file_path = self._file_uri(path)
        with _local_errors(file_path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(file_path)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        return pyarrow.fs.LocalFileSystem(), self.uri


def _split_uri(uri: str) -> tuple[str, str]:
    scheme, separator, place = uri.partition("://")
    if not uri or "\0" in uri or (not separator and uri.startswith(("s3:", "file:"))):
        raise ValueError(f"{uri!r} is not a storage address: use {_SUPPORTED}")
    if not separator:
        return "file", uri
    if scheme == "s3":
        return "s3", place
    if scheme != "file":
        raise ValueError(f"{uri!r} has the unsupported scheme {scheme!r}: use {_SUPPORTED}")
    if not place.startswith("/"):
        raise ValueError(f"{uri!r} holds no absolute path: use file:///abs/dir")
    return "file", unquote(place)


def _checked(path: str) -> str:
    segments = path.split("/")
    if "\\" in path or "\0" in path or not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError(
            f"path {path!r} must be relative and '/' separated, without '..', '.', empty segments, "
            "backslashes or NUL characters"
        )
    if segments[-1].startswith(_TEMP_PREFIX):
        raise ValueError(f"path {path!r} is reserved: no file name may start with {_TEMP_PREFIX!r}")
    return path


@contextlib.contextmanager
def _local_errors(file_path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"{file_path}: {error.strerror or error}") from error


@contextlib.contextmanager
def _temporary_file(folder: str, data: bytes | memoryview) -> Iterator[str]:
    os.makedirs(folder, exist_ok=True)
    # Not the tempfile module, whose files only their owner may read.
    temp_path = os.path.join(folder, f"{_TEMP_PREFIX}{uuid.uuid4().hex}")
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
