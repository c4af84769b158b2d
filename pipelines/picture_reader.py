"""Reads the files of pictures that a table names: on disk, in S3 or on the web, within bounds.

A table is not trusted: a path leads nowhere outside its folder, and a URL to public hosts only.
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
    """Where pictures may be read from, and how hard to try."""

    root: str
    """The folder, on disk or in S3, where relative paths begin and which no path leaves."""
    storage: StorageOptions = field(default_factory=StorageOptions)
    allow_urls: bool = False
    """Fetch from public addresses of the web."""
    trusted_hosts: frozenset[tuple[str, int]] = frozenset()
    """Hosts and ports to fetch from as well, whatever their addresses."""
    limits: ImageLimits = field(default_factory=ImageLimits)
    timeout_s: float = 20.0
    """Of one fetch."""
    num_attempts: int = 3
    backoff_s: float = 0.5
    """Before the second attempt; doubled for each one after it."""

    def url_policy(self) -> UrlPolicy:
        """Return what URLs may lead to."""
        return UrlPolicy(is_allowed=is_public if self.allow_urls else _nowhere, trusted=self.trusted_hosts)


class PictureReader:
    """Reads files of pictures; used by many threads at once.

    Args:
        access: what may be read.
        policy: what URLs may lead to, in place of what ``access`` says.
    """

    def __init__(self, access: PictureAccess, *, policy: UrlPolicy | None = None) -> None:
        self._access = access
        self._policy = policy or access.url_policy()
        self._open = lru_cache(_MAX_BUCKETS)(lambda uri: open_storage(uri, access.storage))

    @property
    def limits(self) -> ImageLimits:
        """What a picture may be."""
        return self._access.limits

    def read(self, address: str, *, field: str, max_bytes: int) -> bytes:
        """Read the file at an address; of one past ``max_bytes`` one byte more.

        Args:
            address: a path in the root folder, or an ``s3://`` or http(s) address.
            field: what it is for, for errors.
            max_bytes: of the file.

        Raises:
            InvalidRequest: an address that is none, or may not be read.
            FetchFailed: there is nothing to be had, also after several attempts where that helps.
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
            f"{field}: {shown(address)} is no address of a picture; that is a path, s3:// or http(s)://",
            field=field,
        )

    def _read_path(self, path: str, field: str, max_bytes: int) -> bytes:
        root = self._access.root
        if root.startswith("s3://"):
            return self._read_stored(root, path, field, max_bytes)
        try:
            root = os.path.realpath(root)
            # Links are followed before the place is judged.
            file_path = os.path.realpath(os.path.join(root, path))
            if os.path.commonpath([root, file_path]) != root:
                raise InvalidRequest(
                    f"{field}: {shown(path)} is outside of {root}; --image-root names another folder",
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
            raise FetchFailed(f"{field}: there is no {folder}/{path}", field=field) from error
        except StorageError as error:  # after its own attempts
            raise FetchFailed(f"{field}: {error}", field=field) from error

    def _fetch(self, url: str, field: str, max_bytes: int) -> bytes:
        if not self._access.allow_urls and not self._trusts(url):
            raise InvalidRequest(
                f"{field}: {shown(url)} is a URL; these are fetched with --allow-urls only", field=field
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
    """Read ``HOST:PORT``, or ``HOST`` for both ports of the web.

    Raises:
        ValueError: the text is not of that form.
    """
    try:
        url = URL(f"//{text}")
        host, port = url.host, url.explicit_port
    except ValueError:
        host, port = None, None
    if not host or text.endswith(":") or not _NOT_IN_HOSTS.isdisjoint(text):
        raise ValueError(f"{text!r} is not of the form HOST or HOST:PORT")
    return frozenset((host, number) for number in (_WEB_PORTS if port is None else (port,)))


def _nowhere(address: object) -> bool:
    return False
