"""Find the safetensors files of a checkpoint's weights. It reads no tensors and does not need torch."""

import json
from pathlib import Path

from zimage_models.errors import CheckpointError
from zimage_models.siglip_spec import has_siglip

OTHER_WEIGHT_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf")
"""Suffixes of weights in other formats, which are never read."""
_WEIGHT_PARTS = ("text_encoder", "transformer", "vae")


def weight_parts(directory: Path) -> tuple[str, ...]:
    """List the components of a checkpoint that have weights."""
    return (*_WEIGHT_PARTS, "siglip") if has_siglip(directory) else _WEIGHT_PARTS


def check_files(directory: Path) -> None:
    """Require weights of all components, before any of them is read."""
    for part in weight_parts(directory):
        weight_files(directory, part)


def weight_files(directory: Path, part: str) -> list[Path]:
    """List a component's safetensors files, and require all files that its index names."""
    folder = directory / part
    files = sorted(folder.glob("*.safetensors"))
    for index in folder.glob("*.safetensors.index.json"):
        try:
            named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index}: not a safetensors index ({error})") from error
        missing = sorted(named - {file.name for file in files})
        if missing:
            raise CheckpointError(f"{folder / missing[0]}: missing, though {index.name} names it")
    if not files:
        other = sorted(file.name for file in folder.glob("*") if file.suffix in OTHER_WEIGHT_FORMATS)
        found = f"; {other[0]} is not read, only safetensors are" if other else ""
        raise CheckpointError(f"{folder}: no safetensors weights{found}")
    return files
