"""Reader for the picture files that a table names: on disk, in S3 or on the web, within limits.

Tables are not trusted: a path may not leave the root folder, and a URL must lead to a public or trusted host.
"""

import asyncio
import os
import stat
import time
from dataclasses import dataclass, field
from functools import lru_cache

from yarl import URL

from deployments.access.url_fetch import UrlPolicy, fetch_image, is_public
from pipelines.storage import Storage, StorageError, StorageOptions
from pipelines.storage_address import open_storage
from zimage_models.errors import FetchFailed, InvalidRequest
from zimage_models.field_values import shown
from zimage_models.image_files.image_inputs import ImageLimits

_MAX_BUCKETS = 64
_WEB_PORTS = (80, 443)
_NOT_IN_HOSTS = frozenset("/?#@\\")


@dataclass(frozen=True, slots=True, kw_only=True)
class PictureAccess:
    """Rules for reading pictures: from where, within which limits, and with how many attempts."""

    root: str
    """Folder, on disk or in S3, that paths are relative to and may not leave."""
    storage: StorageOptions = field(default_factory=StorageOptions)
    allow_urls: bool = False
    """Whether public web addresses may be fetched from."""
    trusted_hosts: frozenset[tuple[str, int]] = frozenset()
    """Hosts and ports that may be fetched from even if their addresses are not public."""
    limits: ImageLimits = field(default_factory=ImageLimits)
    timeout_s: float = 20.0
    """Timeout of one fetch."""
    num_attempts: int = 3
    backoff_s: float = 0.5
    """Wait before the second attempt; it doubles before each further attempt."""

    def url_policy(self) -> UrlPolicy:
        """Return the policy for fetching URLs."""
        return UrlPolicy(is_allowed=is_public if self.allow_urls else _deny, trusted=self.trusted_hosts)


class PictureReader:
    """A thread-safe reader of picture files.

    Args:
        access: what may be read.
        policy: URL policy that replaces that of ``access``.
    """

    def __init__(self, access: PictureAccess, *, policy: UrlPolicy | None = None) -> None:
        self._access = access
        self._policy = policy or access.url_policy()
        self._open = lru_cache(_MAX_BUCKETS)(lambda uri: open_storage(uri, access.storage))

    @property
    def limits(self) -> ImageLimits:
        """Limits of a picture."""
        return self._access.limits

    def read(self, address: str, *, field: str, max_bytes: int) -> bytes:
        """Read the file at an address, or its first ``max_bytes`` + 1 bytes if it is larger.

        Args:
            address: a path in the root folder, or an ``s3://`` or http(s) address.
            field: the request field, for error messages.
            max_bytes: size limit of the file.

        Raises:
            InvalidRequest: the address is malformed or may not be read.
            FetchFailed: the file could not be read, after several attempts if the error was transient.
        """
        attempt = 1
        while True:
            try:
                return self._read(address, field, max_bytes)
            except FetchFailed as error:
                if not error.is_transient or attempt == self._access.num_attempts:
                    raise
            time.sleep(self._access.backoff_s * 2 ** (attempt - 1))
            attempt += 1

    def _read(self, address: str, field: str, max_bytes: int) -> bytes:
        scheme, separator, place = address.partition("://")
        scheme = scheme.lower()
        if not separator:
            return self._read_path(address, field, max_bytes)
        if scheme == "s3":
            bucket, _, key = place.partition("/")
            return self._read_stored(f"s3://{bucket}", key, field, max_bytes)
        if scheme in ("http", "https"):
            return self._fetch(address, field, max_bytes)
        raise InvalidRequest(
            f"{field}: {shown(address)} is not a picture address; give a path, s3:// or http(s)://",
            field=field,
        )

    def _read_path(self, path: str, field: str, max_bytes: int) -> bytes:
        root = self._access.root
        if root.startswith("s3://"):
            return self._read_stored(root, path, field, max_bytes)
        try:
            root = os.path.realpath(root)
            # Links are resolved before the path is checked.
            file_path = os.path.realpath(os.path.join(root, path))
            if os.path.commonpath([root, file_path]) != root:
                raise InvalidRequest(
                    f"{field}: {shown(path)} is outside {root}; set another folder with --image-root",
                    field=field,
                )
            if not stat.S_ISREG(os.stat(file_path).st_mode):
                raise FetchFailed(f"{field}: {shown(path)} is not a file", field=field)
            with open(file_path, "rb") as file:
                return file.read(max_bytes + 1)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the path
            reason = getattr(error, "strerror", None) or error
            raise FetchFailed(f"{field}: {shown(path)} cannot be read ({reason})", field=field) from error

    def _read_stored(self, folder: str, path: str, field: str, max_bytes: int) -> bytes:
        try:
            storage: Storage = self._open(folder)
            return storage.read(path, max_bytes + 1)
        except ValueError as error:
            raise InvalidRequest(f"{field}: {error}", field=field) from error
        except FileNotFoundError as error:
            raise FetchFailed(f"{field}: {folder}/{path} does not exist", field=field) from error
        except StorageError as error:  # the storage has retried already
            raise FetchFailed(f"{field}: {error}", field=field) from error

    def _fetch(self, url: str, field: str, max_bytes: int) -> bytes:
        if not self._access.allow_urls and not self._trusts(url):
            raise InvalidRequest(
                f"{field}: {shown(url)} is a URL; URLs are fetched only with --allow-urls", field=field
            )
        timeout_s = self._access.timeout_s
        return asyncio.run(
            fetch_image(url, field=field, max_bytes=max_bytes, timeout_s=timeout_s, policy=self._policy)
        )

    def _trusts(self, url: str) -> bool:
        try:
            return self._policy.trusts(URL(url))
        except ValueError:
            return False


def parse_host(text: str) -> frozenset[tuple[str, int]]:
    """Parse ``HOST:PORT``, or ``HOST``, which stands for the web ports 80 and 443.

    Raises:
        ValueError: the text does not have that form.
    """
    try:
        url = URL(f"//{text}")
        host, port = url.host, url.explicit_port
    except ValueError:
        host, port = None, None
    if not host or text.endswith(":") or not _NOT_IN_HOSTS.isdisjoint(text):
        raise ValueError(f"{text!r} is not of the form HOST or HOST:PORT")
    return frozenset((host, number) for number in (_WEB_PORTS if port is None else (port,)))


def _deny(address: object) -> bool:
    return False
