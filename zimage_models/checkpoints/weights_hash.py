"""Hash the weights of a checkpoint. Digests are cached, because hashing files of 12 GB takes a while."""

import hashlib
import json
import logging
import os
import tempfile
from pathlib import Path

from zimage_models.checkpoints.checkpoint_source import default_cache_dir
from zimage_models.checkpoints.weight_files import weight_files, weight_parts

logger = logging.getLogger(__name__)


def weights_sha256(directory: Path, *, controlnet: Path | None = None, cache_dir: Path | None = None) -> str:
    """Hash the safetensors files of a checkpoint and, if given, its ControlNet.

    Digests are cached by path, size and modification time, so that a large checkpoint is read only once.

    Returns:
        64 hexadecimal digits.

    Raises:
        CheckpointError: weights are missing.
    """
    cache_path = (cache_dir or default_cache_dir()) / "weights-sha256.json"
    try:
        cache: dict[str, str] = json.loads(cache_path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        cache = {}
    total = hashlib.sha256()
    num_cached = len(cache)
    files = [(part, file) for part in weight_parts(directory) for file in weight_files(directory, part).files]
    if controlnet:
        files += [("controlnet", file) for file in weight_files(controlnet, "").files]
    for part, file in files:
        real = file.resolve()
        status = real.stat()
        key = f"{real}|{status.st_size}|{status.st_mtime_ns}"
        if key not in cache:
            with file.open("rb") as stream:
                cache[key] = hashlib.file_digest(stream, "sha256").hexdigest()
        total.update(f"{part}/{file.name}:{cache[key]}\n".encode())
    if len(cache) > num_cached:
        try:
            _replace_text(cache_path, json.dumps(cache, indent=0))
        except OSError as error:
            logger.warning(
                "weights will be hashed again next time: %s cannot be written (%s)", cache_path, error
            )
    return total.hexdigest()


def _replace_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.replace(temporary, path)
