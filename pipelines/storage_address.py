"""Opening the storage that an address names: a folder on disk, or a prefix in a bucket."""

import os
from urllib.parse import unquote

from pipelines.storage import AWS_DEFAULTS, Storage, StorageOptions, checked_path
from pipelines.storage_local import open_local

_SUPPORTED = "dir, /abs/dir, file:///abs/dir or s3://bucket/prefix"


def open_storage(uri: str, options: StorageOptions = AWS_DEFAULTS) -> Storage:
    """Open a folder, which need not exist yet: "dir", "/abs/dir", "file:///abs/dir" or "s3://bucket/prefix".

    The S3 endpoint and region are fixed here, so a pickled storage reaches the same server from a machine
    with a different environment.

    Raises:
        ValueError: The URI or the endpoint is malformed, or the scheme is not supported.
        StorageError: The AWS configuration cannot be read.
    """
    scheme, place = _split_uri(uri)
    if scheme == "file":
        return open_local(os.path.abspath(place))
    bucket, _, prefix = place.rstrip("/").partition("/")
    if not bucket:
        raise ValueError(f"{uri!r} has no bucket: use s3://bucket/prefix")
    # Imported here because boto3 takes a quarter of a second to import.
    from pipelines.storage_s3 import open_s3

    return open_s3(bucket, prefix and checked_path(prefix), options)


def absolute_address(uri: str) -> str:
    """Return an address that names the same place from any folder; only a path on disk is changed."""
    return os.path.abspath(uri) if _is_path(uri) else uri


def open_file(uri: str, options: StorageOptions = AWS_DEFAULTS) -> tuple[Storage, str]:
    """Return the storage of the folder that holds a file, and the file's name.

    Raises:
        ValueError: As in `open_storage`, or the URI does not name a file.
        StorageError: As in `open_storage`.
    """
    scheme, place = _split_uri(uri)
    folder, slash, name = place.rpartition("/")
    if name in ("", ".", "..") or (scheme == "s3" and not folder):
        raise ValueError(f"{uri!r} is a folder; a file is needed")
    if scheme == "file":
        return open_local(os.path.abspath(folder + slash)), name
    return open_storage(f"s3://{folder}", options), name


def _split_uri(uri: str) -> tuple[str, str]:
    scheme, separator, place = uri.partition("://")
    if not uri or "\0" in uri or not (separator or _is_path(uri)):
        raise ValueError(f"{uri!r} is not a storage address: use {_SUPPORTED}")
    if not separator:
        return "file", uri
    if scheme == "s3":
        return "s3", place
    if scheme != "file":
        raise ValueError(f"{uri!r} has the unsupported scheme {scheme!r}: use {_SUPPORTED}")
    if not place.startswith("/"):
        raise ValueError(f"{uri!r} has no absolute path: use file:///abs/dir")
    return "file", unquote(place)


def _is_path(uri: str) -> bool:
    return bool(uri) and "://" not in uri and not uri.startswith(("s3:", "file:"))
