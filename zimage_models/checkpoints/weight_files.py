"""Find the safetensors files of a checkpoint's weights. It reads no tensors and does not need torch."""

import json
import os
from dataclasses import dataclass
from pathlib import Path

from zimage_models.errors import CheckpointError
from zimage_models.siglip_spec import has_siglip

OTHER_WEIGHT_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf")
"""Suffixes of weights in other formats, which are never read."""
VARIANTS = ("bf16", "fp32", "fp16")
"""Marks in the names of weights that are read if there are none without a mark, in this order."""
_WEIGHT_PARTS = ("text_encoder", "transformer", "vae")
_TRANSFORMERS_PARTS = ("text_encoder", "siglip")


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFiles:
    """The files that a component's weights are read from; others beside them are not."""

    files: tuple[Path, ...]
    """In the order of their names."""
    index: Path | None = None
    """The file that names them, if there are several."""
    variant: str | None = None
    """The mark in their names: diffusers' and transformers' ``variant``."""


def weight_parts(directory: Path) -> tuple[str, ...]:
    """List the components of a checkpoint that have weights."""
    return (*_WEIGHT_PARTS, "siglip") if has_siglip(directory) else _WEIGHT_PARTS


def weight_files(directory: Path, part: str) -> WeightFiles:
    """Find a component's safetensors files as ``from_pretrained`` does, with or without a variant.

    Raises:
        CheckpointError: there are none, or a file is missing that the index names.
    """
    folder = directory / part
    in_transformers = part in _TRANSFORMERS_PARTS
    stem = "model" if in_transformers else "diffusion_pytorch_model"
    for variant in (None, *VARIANTS):
        mark = f".{variant}" if variant else ""
        whole, index = folder / f"{stem}{mark}.safetensors", folder / f"{stem}.safetensors.index{mark}.json"
        # diffusers looks for an index first, transformers for one file.
        if os.path.lexists(whole) and (in_transformers or not index.exists()):
            return WeightFiles(files=(whole,), variant=variant)
        if index.exists():
            return WeightFiles(files=_named_files(index), index=index, variant=variant)
    raise CheckpointError(f"{folder}: no safetensors weights{_hint(folder, stem)}")


def _named_files(index: Path) -> tuple[Path, ...]:
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        files = tuple(index.parent / name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index}: not a safetensors index ({error})") from error
    if not files:
        raise CheckpointError(f"{index}: not a safetensors index (it names no files)")
    for file in files:
        if not os.path.lexists(file):
            raise CheckpointError(f"{file}: missing, though {index.name} names it")
    return files


def _hint(folder: Path, stem: str) -> str:
    """Return which other files there are, as the end of a message; empty if none."""
    names = sorted(file.name for file in folder.glob("*"))
    if found := [name for name in names if name.endswith(OTHER_WEIGHT_FORMATS)]:
        return f"; {found[0]} is not read, only safetensors are"
    if found := [name for name in names if name.endswith(".safetensors")]:
        return f"; {found[0]} is not read, only {stem}.safetensors or the files of its index are"
    return ""
