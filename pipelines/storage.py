"""A folder of files, accessed by a small set of whole-file operations.

It knows nothing about disks or object stores.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:  # the command line knows StorageError before it needs pyarrow
    import pyarrow.fs

TEMP_PREFIX = ".zimage-tmp-"
"""Start of the names of files that are still being written."""


class StorageError(OSError):
    """Why a file, folder or bucket could not be used: no access, no network, no such bucket, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorageOptions:
    """How to reach S3; None defers to the AWS environment or profile (`AWS_ENDPOINT_URL`, `AWS_REGION`).

    Credentials always come from the usual AWS chain, as does the number of attempts per request
    (`AWS_MAX_ATTEMPTS`, 10 if unset).
    """

    s3_endpoint_url: str | None = None
    s3_region: str | None = None

    def __post_init__(self) -> None:
        """Reject an endpoint that is not an http or https URL."""
        url = self.s3_endpoint_url
        if url is not None and not (url.startswith(("http://", "https://")) and urlsplit(url).hostname):
            raise ValueError(f"s3_endpoint_url {url!r} must be like http://host:port or https://host")


AWS_DEFAULTS = StorageOptions()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredFile:
    """One listing entry: the "/"-separated path relative to the storage root, and the size."""

    path: str
    num_bytes: int


Listing = list[StoredFile]  # inside the classes below, `list` is a method


class Storage(ABC):
    """A folder whose files are read and written whole; thread-safe and picklable.

    Paths are relative to the folder and "/"-separated: an absolute path, "..", ".", an empty segment, a
    backslash or a NUL raises ValueError. Reading an absent file raises FileNotFoundError. Every other
    failure of the disk, the network or the server raises StorageError.

    Attributes:
        uri: Canonical address of the folder, "/abs/dir" or "s3://bucket/prefix".
    """

    uri: str

    @abstractmethod
    def read(self, path: str, num_bytes: int | None = None) -> bytes:
        """Return a consistent copy of the whole file, or of its first ``num_bytes``."""

    @abstractmethod
    def write(self, path: str, data: bytes | memoryview) -> None:
        """Write the whole file, replacing any existing one; readers see either the old or the new content.

        On S3 this is a single PUT of at most 5 GB. Parallel writes each hold a whole file in memory.
        """

    @abstractmethod
    def create(self, path: str, data: bytes) -> bool:
        """Write the whole file if the path is free, and return whether this call did so.

        Of any number of concurrent calls, exactly one returns True. On disk this requires hard links.
        """

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Return whether the path is a file, not a folder."""

    @abstractmethod
    def list(self, prefix: str = "") -> Listing:
        """Return all files under the folder `prefix`, at any depth, sorted by path; [] if it is absent."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the file; do nothing if it is absent."""

    @abstractmethod
    def move(self, source: str, target: str) -> None:
        """Move a file, replacing any at the target; readers of the target see either its old or new content.

        On S3 it is copied by the server, then deleted: for a while, or after a kill, both are there. A move
        may be repeated: if only the target is there, it is done. If neither is, FileNotFoundError is raised.
        """

    @abstractmethod
    def arrow(self) -> "tuple[pyarrow.fs.FileSystem, str]":
        """Return a filesystem for pyarrow and Ray Data, and the path of this folder in it."""

    def _file_uri(self, path: str) -> str:
        return f"{self.uri.rstrip('/')}/{checked_path(path)}"

    def _folder_uri(self, prefix: str) -> str:
        return self._file_uri(prefix.removesuffix("/")) if prefix else self.uri


def checked_path(path: str) -> str:
    """Return the path if it is relative and stays in its folder; else raise ValueError."""
    segments = path.split("/")
    if "\\" in path or "\0" in path or not {"", ".", ".."}.isdisjoint(segments):
        raise ValueError(
            f"path {path!r} must be relative and '/' separated, without '..', '.', empty segments, "
            "backslashes or NUL characters"
        )
    if segments[-1].startswith(TEMP_PREFIX):
        raise ValueError(f"path {path!r} is reserved: no file name may start with {TEMP_PREFIX!r}")
    return path
