"""Write a copy of a checkpoint with its weights in another floating-point type."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zimage_models.checkpoints.weight_files import OTHER_WEIGHT_FORMATS, weight_files, weight_parts
from zimage_models.errors import CheckpointError


def convert_checkpoint(source: Path, target: Path, *, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write a copy of a checkpoint with its floating-point weights cast, file by file.

    The Turbo release is float32 on disk (24.6 GB); its bfloat16 copy loads from half the bytes. Only one
    safetensors file is in memory at a time. Hidden files and weights in other formats are not copied.

    Returns:
        The size of the copy's weights in bytes.

    Raises:
        CheckpointError: the source is not a checkpoint, or the target already exists.
    """
    if target.exists():
        raise CheckpointError(f"target: {target} already exists", field="target")
    parts = weight_parts(source)
    weights = {file for part in parts for file in weight_files(source, part)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        # A folder inside it, because other users cannot read the temporary folder itself.
        copy = Path(temporary) / target.name
        num_bytes = sum(
            _convert_file(file, copy / file.relative_to(source), dtype) for file in sorted(weights)
        )
        for file in sorted(source.rglob("*")):
            relative = file.relative_to(source)
            hidden = any(name.startswith(".") for name in relative.parts)
            if hidden or not file.is_file() or file.suffix in (".safetensors", *OTHER_WEIGHT_FORMATS):
                continue
            (copy / relative).parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json" and file.parent.name in parts:
                _convert_json(file, copy / relative, dtype)
            else:
                shutil.copyfile(file, copy / relative)
        copy.rename(target)
    return num_bytes


def _convert_file(source: Path, target: Path, dtype: torch.dtype) -> int:
    try:
        with safe_open(source, framework="pt") as stream:
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 - not a dict
            metadata = stream.metadata()
    except SafetensorError as error:
        raise CheckpointError(f"{source}: cannot be read ({error})") from error
    tensors = {name: t.to(dtype) if t.is_floating_point() else t for name, t in tensors.items()}
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, target, metadata=metadata)
    return sum(t.nbytes for t in tensors.values())


def _convert_json(source: Path, target: Path, dtype: torch.dtype) -> None:
    """Copy a JSON file, with the new dtype in a configuration and the new size in an index."""
    content = json.loads(source.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        for name in {"dtype", "torch_dtype"} & content.keys():
            content[name] = str(dtype).removeprefix("torch.")
        if "weight_map" in content:
            files = {target.parent / name for name in content["weight_map"].values()}
            content["metadata"] = {"total_size": sum(file.stat().st_size for file in files)}
    target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
