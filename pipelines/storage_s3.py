"""Objects in a bucket of AWS or any S3-compatible server, through boto3 and Arrow."""

import contextlib
import errno
import random
import threading
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import botocore.session
import pyarrow.fs
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.configprovider import ConfiguredEndpointProvider
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    IncompleteReadError,
    ReadTimeoutError,
    ResponseStreamingError,
)

from pipelines.storage import Listing, Storage, StorageError, StorageOptions, StoredFile

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MAX_ATTEMPTS = 10
_POOL_SIZE = 64
# A server takes a while to copy a large object, and may take it in pieces; moves run in threads already.
_COPY = TransferConfig(multipart_threshold=2**28, multipart_chunksize=2**27, use_threads=False)
_TOKEN = "creation-token"  # user metadata: which call of `create` wrote the object


def open_s3(bucket: str, prefix: str, options: StorageOptions) -> Storage:
    """Open the objects of a bucket whose keys start with "prefix/" ("" for all); connect on first use.

    Options that are None come from the AWS environment variables and profile of this process.

    Raises:
        ValueError: The endpoint configured there is not an http or https URL.
        StorageError: The AWS configuration cannot be read.
    """
    return _S3Storage(bucket, prefix, _with_aws_settings(options))


class _S3Storage(Storage):
    def __init__(self, bucket: str, prefix: str, options: StorageOptions) -> None:
        self.uri = f"s3://{bucket}/{prefix}" if prefix else f"s3://{bucket}"
        self._bucket = bucket
        self._prefix = prefix
        self._options = options
        self._lock = threading.Lock()
        self._shared_client: S3Client | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Clients and locks cannot be pickled.
        return type(self), (self._bucket, self._prefix, self._options)

    def read(self, path: str, num_bytes: int | None = None) -> bytes:
        uri, key = self._file_uri(path), self._key(path)
        attempt = 1
        with self._errors(uri):
            while True:
                body = self._client().get_object(Bucket=self._bucket, Key=key)["Body"]
                try:
                    data = body.read(num_bytes)
                    if num_bytes is not None:
                        body.close()  # drops the unread rest with its connection
                    return data
                except (IncompleteReadError, ReadTimeoutError, ResponseStreamingError):
                    # boto3 retries a request, but not reading its response.
                    if attempt == _MAX_ATTEMPTS:
                        raise
                attempt += 1

    def write(self, path: str, data: bytes | memoryview) -> None:
        uri = self._file_uri(path)
        with self._errors(uri):
            self._client().put_object(Bucket=self._bucket, Key=self._key(path), Body=bytes(data))

    def create(self, path: str, data: bytes) -> bool:
        uri, key, token = self._file_uri(path), self._key(path), uuid.uuid4().hex
        attempt = 1
        with self._errors(uri):
            while True:
                try:
                    self._client().put_object(
                        Bucket=self._bucket, Key=key, Body=data, IfNoneMatch="*", Metadata={_TOKEN: token}
                    )
                    return True
                except ClientError as error:
                    if _code(error) == "PreconditionFailed":
                        # boto3 repeats a PUT whose response was lost: the existing object may be ours.
                        return self._token_at(key) == token
                    if _code(error) != "ConditionalRequestConflict" or attempt == _MAX_ATTEMPTS:
                        raise
                # Another request for this key is in flight, and it may still fail.
                time.sleep(random.uniform(0, 0.01 * 2**attempt))
                attempt += 1

    def exists(self, path: str) -> bool:
        uri, key = self._file_uri(path), self._key(path)
        with self._errors(uri):
            # Not HEAD: its 404 has no body, so a missing bucket would look like a missing object.
            # The key itself sorts first among all keys with this prefix.
            page = self._client().list_objects_v2(Bucket=self._bucket, Prefix=key, MaxKeys=1)
        return any(entry["Key"] == key for entry in page.get("Contents", []))

    def list(self, prefix: str = "") -> Listing:
        uri = self._folder_uri(prefix)
        root, folder = self._key(""), self._key(prefix and f"{prefix.removesuffix('/')}/")
        files = []
        with self._errors(uri):
            paginator = self._client().get_paginator("list_objects_v2")
            for page in paginator.paginate(Bucket=self._bucket, Prefix=folder):
                for entry in page.get("Contents", []):
                    if not entry["Key"].endswith("/"):  # S3 consoles use such keys for folders
                        files.append(
                            StoredFile(path=entry["Key"].removeprefix(root), num_bytes=entry["Size"])
                        )
        return sorted(files, key=lambda file: file.path)

    def delete(self, path: str) -> None:
        uri = self._file_uri(path)
        with self._errors(uri):
            self._client().delete_object(Bucket=self._bucket, Key=self._key(path))

    def move(self, source: str, target: str) -> None:
        uri, key = self._file_uri(source), self._key(source)
        with self._errors(uri):
            try:
                self._client().copy(
                    {"Bucket": self._bucket, "Key": key}, self._bucket, self._key(target), Config=_COPY
                )
            except ClientError as error:
                if _code(error) not in ("404", "NoSuchKey"):
                    raise
                if self.exists(target):
                    return
                raise FileNotFoundError(errno.ENOENT, "No such file", uri) from error
        self.delete(source)

    def arrow(self) -> tuple[pyarrow.fs.FileSystem, str]:
        with self._errors(self.uri):
            bucket = self._client().head_bucket(Bucket=self._bucket)
        # boto3 follows a redirect to the bucket's region; Arrow does not.
        region = bucket.get("BucketRegion") or self._options.s3_region
        return _ArrowS3(self._options.s3_endpoint_url, region), self.uri.removeprefix("s3://")

    def _key(self, path: str) -> str:
        return f"{self._prefix}/{path}" if self._prefix else path

    def _token_at(self, key: str) -> str | None:
        try:
            return self._client().head_object(Bucket=self._bucket, Key=key)["Metadata"].get(_TOKEN)
        except ClientError as error:
            if _code(error) == "404":  # deleted in the meantime
                return None
            raise

    def _client(self) -> "S3Client":
        with self._lock:
            if self._shared_client is None:
                # Create a session: boto3's default session is not thread-safe.
                self._shared_client = boto3.Session(region_name=self._options.s3_region).client(
                    "s3",
                    endpoint_url=self._options.s3_endpoint_url,
                    config=Config(
                        retries={"mode": "standard", "total_max_attempts": _max_attempts()},
                        max_pool_connections=_POOL_SIZE,
                        s3={"addressing_style": "path" if self._options.s3_endpoint_url else "auto"},
                    ),
                )
            return self._shared_client

    @contextlib.contextmanager
    def _errors(self, uri: str) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code, message = _code(error), error.response["Error"].get("Message") or "no reason given"
            if code == "NoSuchKey":
                raise FileNotFoundError(errno.ENOENT, "No such file", uri) from error
            server = self._options.s3_endpoint_url or "AWS"
            if code in ("NoSuchBucket", "404"):
                raise StorageError(f"{uri}: there is no bucket {self._bucket!r} at {server}") from error
            raise StorageError(
                f"{uri}: {server} refused {error.operation_name}: {message} ({code})"
            ) from error
        except BotoCoreError as error:
            raise StorageError(f"{uri}: {error}") from error


class _ArrowS3(pyarrow.fs.S3FileSystem):
    # pyarrow 26 does not pickle the retry strategy, so Ray's workers would fall back to 3 attempts.

    def __init__(self, endpoint_url: str | None, region: str | None) -> None:
        self._arguments = (endpoint_url, region)
        endpoint = urlsplit(endpoint_url or "")
        super().__init__(  # type: ignore[call-arg]  # pyarrow-stubs 20 lacks allow_delayed_open
            region=region,
            scheme="http" if endpoint.scheme == "http" else "https",
            endpoint_override=endpoint.netloc + endpoint.path.rstrip("/") or None,
            allow_delayed_open=True,  # a small file then needs one request, not three
            retry_strategy=pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_max_attempts()),
        )

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self._arguments


def _with_aws_settings(options: StorageOptions) -> StorageOptions:
    session = botocore.session.Session()
    try:
        endpoint_url = options.s3_endpoint_url
        if endpoint_url is None and not session.get_config_variable("ignore_configured_endpoint_urls"):
            endpoint_url = ConfiguredEndpointProvider(
                full_config=session.full_config, scoped_config=session.get_scoped_config(), client_name="s3"
            ).provide()
        region = options.s3_region or session.get_config_variable("region")
    except BotoCoreError as error:
        raise StorageError(f"the AWS configuration cannot be read: {error}") from error
    return StorageOptions(s3_endpoint_url=endpoint_url, s3_region=region)


def _max_attempts() -> int:
    return int(botocore.session.Session().get_config_variable("max_attempts") or _MAX_ATTEMPTS)


def _code(error: ClientError) -> str:
    return error.response["Error"].get("Code", "unknown")
