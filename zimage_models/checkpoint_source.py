"""Turn a model's name into a local folder: embedded, on disk, on the hub, or on S3.

Downloads go to one cache per node, behind a file lock, so that engines starting together fetch once.
"""

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from filelock import FileLock

from zimage_models.errors import CheckpointError
from zimage_models.model_spec import KNOWN_MODELS

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "*.txt", "*.jinja", "*.model"]
_FINISHED = ".finished"


def default_cache_dir() -> Path:
    """Return the user's cache folder for this product (``$XDG_CACHE_HOME/zimage`` or ``~/.cache/zimage``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zimage"


def resolve_checkpoint(
    model: str, *, cache_dir: Path | None = None, s3_endpoint_url: str | None = None
) -> Path:
    """Return the local folder of a model, downloading it first if need be.

    Args:
        model: an embedded model's name, a local folder, a hub id (``HF_HUB_OFFLINE`` is honoured), or
            ``s3://bucket/prefix`` (credentials from the usual AWS chain).
        cache_dir: where ``s3://`` checkpoints are kept; the hub keeps its own cache.
        s3_endpoint_url: an S3-compatible server instead of AWS.

    Raises:
        CheckpointError: nothing of that name, or it cannot be fetched.
    """
    known = KNOWN_MODELS.get(model)
    if known and known.directory:
        return known.directory
    if model.startswith("s3://"):
        return _fetch_s3(model, cache_dir or default_cache_dir(), s3_endpoint_url)
    if Path(model).is_dir():
        return Path(model).resolve()
    if _HUB_ID.fullmatch(model) and not model.startswith("."):
        return _fetch_hub(model)
    embedded = ", ".join(name for name, entry in KNOWN_MODELS.items() if entry.directory)
    raise CheckpointError(
        f"model: {model!r} is neither embedded ({embedded}) nor a folder, a hub id or an s3:// address", field="model"
    )


def _fetch_hub(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(model, allow_patterns=_CHECKPOINT_FILES))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"model: {model} is neither a local folder nor in the hub's cache, and the hub cannot be reached",
            field="model",
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(f"model: {model} cannot be fetched from the hub ({error})", field="model") from error


def _fetch_s3(uri: str, cache_dir: Path, endpoint_url: str | None) -> Path:
    bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
    folder_name = prefix.rsplit("/", 1)[-1] or bucket
    digest = hashlib.sha256(f"{endpoint_url or ''}|{uri}".encode()).hexdigest()[:16]
    target = cache_dir / "s3" / digest / folder_name
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.parent / ".lock"):
        listing = _list_s3(bucket, prefix, endpoint_url)
        state = "\n".join(f"{key} {size} {etag}" for key, size, etag in listing)
        finished = target / _FINISHED
        if finished.is_file() and finished.read_text(encoding="utf-8") == state:
            return target
        if not any(key.endswith("model_index.json") for key, _, _ in listing):
            raise CheckpointError(f"model: {uri} holds no model_index.json", field="model")
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
        try:
            client = _s3_client(endpoint_url)
            for key, _, _ in listing:
                file = temporary / key.removeprefix(prefix).lstrip("/")
                file.parent.mkdir(parents=True, exist_ok=True)
                client.download_file(bucket, key, str(file))
            (temporary / _FINISHED).write_text(state, encoding="utf-8")
            if target.exists():
                # Another process may still read the old files: move them aside whole, never edit in place.
                target.rename(Path(tempfile.mkdtemp(dir=target.parent, prefix=".old-")) / folder_name)
            temporary.rename(target)
        except Exception as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise CheckpointError(f"model: {uri} cannot be fetched ({error})", field="model") from error
    return target


def _s3_client(endpoint_url: str | None) -> Any:
    import boto3

    return boto3.client("s3", endpoint_url=endpoint_url)


def _list_s3(bucket: str, prefix: str, endpoint_url: str | None) -> list[tuple[str, int, str]]:
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        pages = _s3_client(endpoint_url).get_paginator("list_objects_v2")
        folder = f"{prefix}/" if prefix else ""
        return sorted(
            (item["Key"], item["Size"], item["ETag"])
            for page in pages.paginate(Bucket=bucket, Prefix=folder)
            for item in page.get("Contents", [])
            if not item["Key"].endswith("/")
        )
    except (BotoCoreError, ClientError) as error:
        raise CheckpointError(f"model: s3://{bucket}/{prefix} cannot be listed ({error})", field="model") from error
