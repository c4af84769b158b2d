"""Write a copy of a checkpoint with its weights in another floating-point type."""

import json
import shutil
import tempfile
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from zimage_models.checkpoints.check_files import check_files
from zimage_models.checkpoints.weight_files import (
    OTHER_WEIGHT_FORMATS,
    WeightFiles,
    weight_files,
    weight_parts,
)
from zimage_models.errors import CheckpointError
from zimage_models.model_spec import check_classes


def convert_checkpoint(source: Path, target: Path, *, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write a copy of a checkpoint with its floating-point weights cast, file by file.

    The Turbo release is float32 on disk (24.6 GB); its bfloat16 copy loads from half the bytes. Only one
    safetensors file is in memory at a time. Hidden files and weights that are not read are not copied. The
    names of the others lose the mark of a variant (``model.fp16.safetensors``).

    Returns:
        The size of the copy's weights in bytes.

    Raises:
        CheckpointError: the source is not a whole checkpoint, or the target already exists.
    """
    if target.exists():
        raise CheckpointError(f"target: {target} already exists", field="target")
    check_classes(source)
    check_files(source)
    weights = {part: weight_files(source, part) for part in weight_parts(source)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        # A folder inside it, because other users cannot read the temporary folder itself.
        copy = Path(temporary) / target.name
        num_bytes = sum(
            _convert_file(file, copy / part / _plain(file.name, found), dtype)
            for part, found in weights.items()
            for file in found.files
        )
        for file in sorted(source.rglob("*")):
            relative = file.relative_to(source)
            hidden = any(name.startswith(".") for name in relative.parts)
            if hidden or not file.is_file() or file.suffix in (".safetensors", *OTHER_WEIGHT_FORMATS):
                continue
            found = weights.get(str(relative.parent))
            if ".safetensors.index." in file.name and not (found and file == found.index):
                continue
            (copy / relative).parent.mkdir(parents=True, exist_ok=True)
            if found and file.suffix == ".json":
                _convert_json(file, (copy / relative).with_name(_plain(file.name, found)), found, dtype)
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


def _plain(name: str, weights: WeightFiles) -> str:
    """Return a file's name without the mark of a variant, which tells the type that it had."""
    return name.replace(f".{weights.variant}", "") if weights.variant else name


def _convert_json(source: Path, target: Path, weights: WeightFiles, dtype: torch.dtype) -> None:
    """Copy a JSON file, with the new dtype in a configuration and the new size in an index."""
    content = json.loads(source.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        for name in {"dtype", "torch_dtype"} & content.keys():
            content[name] = str(dtype).removeprefix("torch.")
        if "weight_map" in content:
            places = {name: _plain(file, weights) for name, file in content["weight_map"].items()}
            sizes = [(target.parent / file).stat().st_size for file in set(places.values())]
            content |= {"weight_map": places, "metadata": {"total_size": sum(sizes)}}
    target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
