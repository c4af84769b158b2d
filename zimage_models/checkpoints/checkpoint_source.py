"""Find a model's local folder by its name: embedded, on disk, on the hub, or on S3.

Downloads go to one cache per node with a file lock, so engines that start together download only once.
"""

import hashlib
import os
import re
import shutil
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from filelock import FileLock

from zimage_models.errors import CheckpointError
from zimage_models.model_spec import KNOWN_MODELS

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_INDEX_FILES = {"model": "model_index.json", "controlnet": "config.json"}
_CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model")


def default_cache_dir() -> Path:
    """Return the user's cache folder for this product (``$XDG_CACHE_HOME/zimage`` or ``~/.cache/zimage``)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "zimage"


def resolve_checkpoint(
    model: str,
    *,
    field: str = "model",
    cache_dir: Path | None = None,
    s3_endpoint_url: str | None = None,
) -> Path:
    """Return the local folder of a model or a ControlNet, downloading it first if necessary.

    Args:
        model: an embedded model's name, a local folder, a hub id (``HF_HUB_OFFLINE`` is honoured), or
            ``s3://bucket/prefix`` (credentials from the usual AWS chain).
        field: the engine's option: ``model``, or ``controlnet``, of which none is embedded.
        cache_dir: the folder for ``s3://`` checkpoints; the hub has its own cache.
        s3_endpoint_url: an S3-compatible server instead of AWS.

    Raises:
        CheckpointError: nothing has that name, or it cannot be fetched.
    """
    known = KNOWN_MODELS.get(model) if field == "model" else None
    if known and known.directory:
        return known.directory
    if model.startswith("s3://"):
        return _fetch_s3(model, field, cache_dir or default_cache_dir(), s3_endpoint_url)
    if model and Path(model).is_dir():
        return Path(model).resolve()
    if _HUB_ID.fullmatch(model):
        return _fetch_hub(model, field)
    if field == "controlnet":
        raise CheckpointError(
            f"controlnet: {model!r} is neither a folder (config.json and safetensors, as diffusers writes a"
            " ZImageControlNetModel) nor a hub id or an s3:// address",
            field=field,
        )
    if Path(model).is_file():
        kind = "quantised weights in one file" if model.endswith(".gguf") else "one file"
        raise CheckpointError(
            f"model: {model!r} is {kind}; a checkpoint is a folder in diffusers layout (model_index.json)",
            field=field,
        )
    embedded = ", ".join(name for name, entry in KNOWN_MODELS.items() if entry.directory)
    raise CheckpointError(
        f"model: {model!r} is neither embedded ({embedded}) nor a folder, a hub id or an s3:// address",
        field=field,
    )


def is_fetched(model: str) -> bool:
    """Return whether a model or ControlNet comes from a hub or S3, rather than from this machine."""
    known = KNOWN_MODELS.get(model)
    if (known and known.directory) or Path(model).is_dir():
        return False
    return model.startswith("s3://") or _HUB_ID.fullmatch(model) is not None


def _fetch_hub(model: str, field: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    try:
        return Path(snapshot_download(model, allow_patterns=list(_CHECKPOINT_FILES)))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:
        raise CheckpointError(
            f"{field}: {model} is neither a local folder nor in the hub's cache, and the hub cannot be"
            " reached",
            field=field,
        ) from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{field}: {model} cannot be fetched from the hub ({error})", field=field
        ) from error


def _fetch_s3(uri: str, field: str, cache_dir: Path, endpoint_url: str | None) -> Path:
    """Fetch a checkpoint into a folder named by a hash of the bucket's current objects.

    If an object changes, so does the folder, and engines that read the old one are not disturbed.
    """
    # Imported here: nothing else in this package needs storage, and GPU machines may lack boto3.
    import boto3
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    bucket, _, prefix = uri.removeprefix("s3://").strip("/").partition("/")
    try:
        client = boto3.client("s3", endpoint_url=endpoint_url)
        objects = _list_s3(client, bucket, prefix)
        if _INDEX_FILES[field] not in objects:
            raise CheckpointError(f"{field}: {uri} holds no {_INDEX_FILES[field]}", field=field)
        folder = cache_dir / "s3" / _digest(endpoint_url or "", uri, *map(str, sorted(objects.items())))
        # Keep the last component: it is how known models are recognised.
        target = folder / (prefix.rsplit("/", 1)[-1] or bucket)
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):
            if target.is_dir():
                return target
            # A folder inside it: the temporary one itself is closed to other users of the cache.
            outer = Path(tempfile.mkdtemp(dir=folder))
            temporary = outer / "checkpoint"
            try:
                temporary.mkdir()
                for name in objects:
                    file = temporary / name
                    file.parent.mkdir(parents=True, exist_ok=True)
                    client.download_file(bucket, f"{prefix}/{name}" if prefix else name, str(file))
                if _list_s3(client, bucket, prefix) != objects:
                    raise CheckpointError(f"{field}: {uri} changed while it was being fetched", field=field)
                temporary.rename(target)
            finally:
                shutil.rmtree(outer, ignore_errors=True)
    # boto3 raises ValueError for a malformed endpoint.
    except (Boto3Error, BotoCoreError, ClientError, OSError, ValueError) as error:
        raise CheckpointError(f"{field}: {uri} cannot be fetched ({error})", field=field) from error
    return target


def _list_s3(client: Any, bucket: str, prefix: str) -> dict[str, str]:
    """List a checkpoint's files relative to its prefix, each with its size and entity tag."""
    folder = f"{prefix}/" if prefix else ""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=folder)
    objects = (item for page in pages for item in page.get("Contents", []))
    found = {item["Key"].removeprefix(folder): f"{item['Size']} {item['ETag']}" for item in objects}
    return {
        name: state
        for name, state in found.items()
        # An empty part as in "prefix//etc" would make the name an absolute path.
        if {"", ".", ".."}.isdisjoint(name.split("/"))
        and any(fnmatch(name, pattern) for pattern in _CHECKPOINT_FILES)
    }


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
