"""Load, identify and convert checkpoints in diffusers layout.

Only safetensors are read, and strictly: a missing, unexpected or misshapen tensor is an error, so a wrong
checkpoint never draws something. This module knows no request and no engine.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImageControlNetModel,
    ZImageTransformer2DModel,
)
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import Qwen3Model, Siglip2ImageProcessorPil, Siglip2VisionModel
from transformers.utils import logging as transformers_logging

from zimage_models.checkpoints.checkpoint_source import default_cache_dir
from zimage_models.errors import CheckpointError
from zimage_models.siglip_spec import has_siglip

logger = logging.getLogger(__name__)

_WEIGHT_PARTS = ("text_encoder", "transformer", "vae")
_OTHER_WEIGHT_FORMATS = (".bin", ".pt", ".pth", ".ckpt", ".gguf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """A checkpoint's loaded models, in eval mode.

    Their types are Any because diffusers sets a model's modules and settings where no type checker sees them.
    """

    transformer: Any
    """A ZImageTransformer2DModel."""
    text_encoder: Any
    """A Qwen3Model :func:`without_unread_layers`."""
    vae: Any
    """An AutoencoderKL."""
    scheduler: Any
    """A FlowMatchEulerDiscreteScheduler."""
    siglip: Any = None
    """A Siglip2VisionModel; None where the transformer reads no features."""
    siglip_processor: Any = None
    """A Siglip2ImageProcessorPil."""
    controlnet: Any = None
    """A ZImageControlNetModel; None without control images."""


def load_components(
    directory: Path, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype
) -> Components:
    """Load a checkpoint's weights strictly.

    Raises:
        CheckpointError: a file is missing, damaged, or holds other tensors than its configuration says.
    """
    check_files(directory)
    return Components(
        transformer=_on_device(_load(ZImageTransformer2DModel, directory, "transformer", dtype), device),
        text_encoder=load_text_encoder(directory, device=device, dtype=dtype),
        vae=load_vae(directory, device=device, dtype=vae_dtype),
        scheduler=load_scheduler(directory),
        **load_siglip(directory, device=device, dtype=dtype),
    )


def check_files(directory: Path) -> None:
    """See that all components have weights, before any of them is read."""
    for part in _weight_parts(directory):
        weight_files(directory, part)


def _weight_parts(directory: Path) -> tuple[str, ...]:
    return (*_WEIGHT_PARTS, "siglip") if has_siglip(directory) else _WEIGHT_PARTS


def load_text_encoder(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a Qwen3Model :func:`without_unread_layers`, as strictly as :func:`load_components`."""
    transformers_logging.disable_progress_bar()
    text_encoder = _load(Qwen3Model, directory, "text_encoder", dtype)
    return _on_device(without_unread_layers(text_encoder), device)


def load_vae(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load an AutoencoderKL, as strictly as :func:`load_components`."""
    return _on_device(_load(AutoencoderKL, directory, "vae", dtype), device)


def load_scheduler(directory: Path) -> Any:
    """Load the FlowMatchEulerDiscreteScheduler, which has no weights."""
    return FlowMatchEulerDiscreteScheduler.from_pretrained(str(directory), subfolder="scheduler")


def load_siglip(directory: Path, *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Load the SigLIP2 encoder of :class:`Components` and its processor, where a checkpoint has them."""
    if not has_siglip(directory):
        return {}
    transformers_logging.disable_progress_bar()
    # The processor on PIL: the one on torchvision scales a picture a little differently.
    processor = Siglip2ImageProcessorPil.from_pretrained(
        str(directory / "siglip_processor"), local_files_only=True
    )
    siglip = _on_device(_load(Siglip2VisionModel, directory, "siglip", dtype), device)
    return {"siglip": siglip, "siglip_processor": processor}


def load_controlnet(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a ZImageControlNetModel, as strictly as :func:`load_components`."""
    weight_files(directory, "")
    return _on_device(_load(ZImageControlNetModel, directory, "", dtype), device)


def without_unread_layers(text_encoder: Any) -> Any:
    """Cut off a Qwen3 encoder's last layer and final norm, whose outputs Z-Image never reads.

    What remains ends in the hidden state that diffusers takes as ``hidden_states[-2]``.
    """
    del text_encoder.layers[-1]
    text_encoder.norm = torch.nn.Identity()
    return text_encoder


def _load(cls: Any, directory: Path, part: str, dtype: torch.dtype) -> Any:
    try:
        model, report = cls.from_pretrained(
            str(directory / part),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=dtype,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory / part}: cannot be loaded ({error})") from error
    problems = {
        "missing": report["missing_keys"],
        # A causal-LM checkpoint has an output head that an encoder does not need.
        "unexpected": [name for name in report["unexpected_keys"] if not name.startswith("lm_head.")],
        "misshapen": report["mismatched_keys"],
    }
    told = [
        f"{len(names)} {kind} (such as {min(map(str, names))})" for kind, names in problems.items() if names
    ]
    if told:
        raise CheckpointError(f"{directory / part}: not the tensors of its config.json: {', '.join(told)}")
    return model


def _on_device(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)


def weight_files(directory: Path, part: str) -> list[Path]:
    """List a component's safetensors files, checking that all its index names are there."""
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
        other = sorted(file.name for file in folder.glob("*") if file.suffix in _OTHER_WEIGHT_FORMATS)
        found = f"; {other[0]} is not read, only safetensors are" if other else ""
        raise CheckpointError(f"{folder}: no safetensors weights{found}")
    return files


def weights_sha256(directory: Path, *, controlnet: Path | None = None, cache_dir: Path | None = None) -> str:
    """Identify a checkpoint, and the ControlNet beside it if any, by the content of their safetensors files.

    Digests are cached by path, size and modification time, so that a large checkpoint is read once.

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
    files = [(part, file) for part in _weight_parts(directory) for file in weight_files(directory, part)]
    if controlnet:
        files += [("controlnet", file) for file in weight_files(controlnet, "")]
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


def convert_checkpoint(source: Path, target: Path, *, dtype: torch.dtype = torch.bfloat16) -> int:
    """Write a copy of a checkpoint with its floating-point weights cast, file by file.

    The Turbo release is float32 on disk (24.6 GB); its bfloat16 copy loads from half the bytes. Only one
    safetensors file is in memory at a time. Hidden files and weights in other formats are left out.

    Returns:
        The size of the copy's weights in bytes.

    Raises:
        CheckpointError: the source is not a checkpoint, or the target exists.
    """
    if target.exists():
        raise CheckpointError(f"target: {target} exists", field="target")
    weight_parts = _weight_parts(source)
    weights = {file for part in weight_parts for file in weight_files(source, part)}
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}-") as temporary:
        # A folder inside it: the temporary one itself is closed to other users.
        copy = Path(temporary) / target.name
        num_bytes = sum(
            _convert_file(file, copy / file.relative_to(source), dtype) for file in sorted(weights)
        )
        for file in sorted(source.rglob("*")):
            relative = file.relative_to(source)
            hidden = any(name.startswith(".") for name in relative.parts)
            if hidden or not file.is_file() or file.suffix in (".safetensors", *_OTHER_WEIGHT_FORMATS):
                continue
            (copy / relative).parent.mkdir(parents=True, exist_ok=True)
            if file.suffix == ".json" and file.parent.name in weight_parts:
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
    """Copy a JSON file; a configuration then names the new dtype, and an index the new size."""
    content = json.loads(source.read_text(encoding="utf-8"))
    if isinstance(content, dict):
        for name in {"dtype", "torch_dtype"} & content.keys():
            content[name] = str(dtype).removeprefix("torch.")
        if "weight_map" in content:
            files = {target.parent / name for name in content["weight_map"].values()}
            content["metadata"] = {"total_size": sum(file.stat().st_size for file in files)}
    target.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
