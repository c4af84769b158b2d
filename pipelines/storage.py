"""A folder of files, behind one small set of whole-file operations. It knows no disk and no object store."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from urllib.parse import urlsplit

import pyarrow.fs

TEMP_PREFIX = ".zimage-tmp-"
"""How the names of files begin that are being written."""


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


AWS_DEFAULTS = StorageOptions()


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
        return f"{self.uri.rstrip('/')}/{checked_path(path)}"

    def _folder_uri(self, prefix: str) -> str:
        return self._file_uri(prefix.removesuffix("/")) if prefix else self.uri


def checked_path(path: str) -> str:
    """Return a relative path that stays in its folder; raise ValueError for any other."""
    segments = path.split("/")
    if "\\" in path or "\0" in path or not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError(
            f"path {path!r} must be relative and '/' separated, without '..', '.', empty segments, "
            "backslashes or NUL characters"
        )
    if segments[-1].startswith(TEMP_PREFIX):
        raise ValueError(f"path {path!r} is reserved: no file name may start with {TEMP_PREFIX!r}")
    return path
