"""The header of a safetensors file: which tensors it holds and where. It needs no torch.

The format: 8 bytes with the length of a JSON header, the header, then the tensors' bytes in row-major order
(https://github.com/huggingface/safetensors, "Format").
"""

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zimage_models.errors import CheckpointError

_LFS_POINTER = b"version https://git-lfs"
_MAX_HEADER_BYTES = 100_000_000
_ITEM_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16}


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTensor:
    """One tensor of a file."""

    dtype: str
    """As the format names it, such as ``BF16``."""
    shape: tuple[int, ...]
    offset: int
    """Place of its first byte in the file."""


def require_content(path: Path) -> None:
    """Check that a file is there, and is itself and not what Git or the hub's cache keeps in its place.

    Raises:
        CheckpointError: it is missing, empty, a link to nothing, or a Git LFS pointer.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
    except FileNotFoundError:
        link = f"a link to {os.readlink(path)}, which is " if path.is_symlink() else ""
        raise CheckpointError(f"{path}: {link}missing") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error})") from error
    if start == _LFS_POINTER:
        raise CheckpointError(f"{path}: only a Git LFS pointer; fetch the file itself with git lfs pull")
    if not start:
        raise CheckpointError(f"{path}: empty; fetch it again")


def read_header(path: Path) -> dict[str, StoredTensor]:
    """Return a file's tensors by name.

    Raises:
        CheckpointError: it is missing, damaged, cut short, or not a safetensors file.
    """
    require_content(path)
    size = path.stat().st_size
    try:
        with path.open("rb") as stream:
            header_bytes = int.from_bytes(stream.read(8), "little")
            if not 2 <= header_bytes <= _MAX_HEADER_BYTES:
                raise CheckpointError(f"{path}: not a safetensors file")
            data_start = 8 + header_bytes
            if size < data_start:
                raise CheckpointError(f"{path}: cut short within its header; fetch it again")
            header = json.loads(stream.read(header_bytes))
        tensors = {name: _stored(entry, data_start) for name, entry in header.items() if name[:2] != "__"}
        ends = sorted(tuple(entry["data_offsets"]) for name, entry in header.items() if name in tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a safetensors file ({error})") from error
    data_bytes = 0
    for begin, end in ends:
        if begin != data_bytes or end < begin:
            raise CheckpointError(f"{path}: not a safetensors file (its tensors overlap or leave gaps)")
        data_bytes = end
    if size != data_start + data_bytes:
        problem = "cut short: it" if size < data_start + data_bytes else "damaged: it"
        raise CheckpointError(
            f"{path}: {problem} has {size} bytes, and its header counts {data_start + data_bytes};"
            " fetch it again"
        )
    return tensors


def _stored(entry: dict[str, Any], data_start: int) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(entry["shape"])
    item_bits = _ITEM_BITS.get(entry["dtype"])
    if item_bits and math.prod(shape) * item_bits != 8 * (end - begin):
        raise ValueError(f"{entry['dtype']} {list(shape)} does not take {end - begin} bytes")
    return StoredTensor(dtype=entry["dtype"], shape=shape, offset=data_start + begin)
