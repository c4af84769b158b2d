"""Load the models of a checkpoint in diffusers layout.

Only safetensors are read, and strictly: a missing, unexpected or misshapen tensor is an error, so a wrong
checkpoint never makes an image. This module knows nothing about requests or engines.
"""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ModelMixin,
    ZImageControlNetModel,
    ZImageTransformer2DModel,
)
from safetensors import SafetensorError
from transformers import Qwen3Model, Siglip2ImageProcessorPil, Siglip2VisionModel
from transformers.utils import logging as transformers_logging

from zimage_models.checkpoints.check_files import check_files, check_weights
from zimage_models.checkpoints.weight_files import weight_files
from zimage_models.errors import CheckpointError
from zimage_models.siglip_spec import has_siglip


@dataclass(frozen=True, slots=True, kw_only=True)
class Components:
    """A checkpoint's loaded models, in eval mode.

    Their types are Any because type checkers cannot see the modules and settings that diffusers adds.
    """

    transformer: Any
    """A ZImageTransformer2DModel."""
    text_encoder: Any
    """A Qwen3Model after :func:`without_unread_layers`."""
    vae: Any
    """An AutoencoderKL."""
    scheduler: Any
    """A FlowMatchEulerDiscreteScheduler."""
    siglip: Any = None
    """A Siglip2VisionModel; None if the transformer reads no features."""
    siglip_processor: Any = None
    """A Siglip2ImageProcessorPil."""
    controlnet: Any = None
    """A ZImageControlNetModel; None without control images."""


def load_components(
    directory: Path,
    *,
    device: torch.device,
    dtype: torch.dtype,
    vae_dtype: torch.dtype,
    place_transformer: Callable[[Any, torch.device], Any] | None = None,
    on_host: Collection[str] = (),
) -> Components:
    """Load a checkpoint's weights strictly.

    Args:
        directory: local folder in diffusers layout.
        device: for all models but those ``on_host``.
        dtype: of all models but the VAE.
        vae_dtype: of the VAE.
        place_transformer: puts the transformer on its device in another form; None to leave its form.
        on_host: ``transformer`` or ``text_encoder``, to have them in host memory.

    Raises:
        CheckpointError: a file is missing or damaged, or its tensors do not match its configuration.
    """
    check_files(directory)
    device_of = {part: torch.device("cpu") for part in on_host}
    place = place_transformer or _on_device
    transformer = _load(ZImageTransformer2DModel, directory, "transformer", dtype)
    return Components(
        transformer=place(transformer, device_of.get("transformer", device)),
        text_encoder=load_text_encoder(directory, device=device_of.get("text_encoder", device), dtype=dtype),
        vae=load_vae(directory, device=device, dtype=vae_dtype),
        scheduler=load_scheduler(directory),
        **load_siglip(directory, device=device, dtype=dtype),
    )


def load_text_encoder(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a Qwen3Model as strictly as :func:`load_components`; apply :func:`without_unread_layers`."""
    transformers_logging.disable_progress_bar()
    text_encoder = _load(Qwen3Model, directory, "text_encoder", dtype)
    return _on_device(without_unread_layers(text_encoder), device)


def load_vae(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load an AutoencoderKL as strictly as :func:`load_components`."""
    return _on_device(_load(AutoencoderKL, directory, "vae", dtype), device)


def load_scheduler(directory: Path) -> Any:
    """Load the FlowMatchEulerDiscreteScheduler, which has no weights.

    Raises:
        CheckpointError: its configuration asks for what it cannot do.
    """
    try:
        return FlowMatchEulerDiscreteScheduler.from_pretrained(str(directory), subfolder="scheduler")
    # ImportError: beta sigmas need scipy.
    except (OSError, ValueError, ImportError) as error:
        raise CheckpointError(f"{directory / 'scheduler'}: cannot be loaded ({error})") from error


def load_siglip(directory: Path, *, device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """Load a checkpoint's SigLIP2 encoder and processor for :class:`Components`; empty without them."""
    if not has_siglip(directory):
        return {}
    transformers_logging.disable_progress_bar()
    # PIL's processor: torchvision's scales pictures slightly differently.
    processor = Siglip2ImageProcessorPil.from_pretrained(
        str(directory / "siglip_processor"), local_files_only=True
    )
    siglip = _on_device(_load(Siglip2VisionModel, directory, "siglip", dtype), device)
    return {"siglip": siglip, "siglip_processor": processor}


def load_controlnet(directory: Path, *, device: torch.device, dtype: torch.dtype) -> Any:
    """Load a ZImageControlNetModel as strictly as :func:`load_components`."""
    check_weights(directory, "")
    return _on_device(_load(ZImageControlNetModel, directory, "", dtype), device)


def without_unread_layers(text_encoder: Any) -> Any:
    """Remove a Qwen3 encoder's last layer and final norm, because Z-Image never reads their outputs.

    The rest returns the hidden state that diffusers takes as ``hidden_states[-2]``.
    """
    del text_encoder.layers[-1]
    text_encoder.norm = torch.nn.Identity()
    return text_encoder


def _load(cls: Any, directory: Path, part: str, dtype: torch.dtype) -> Any:
    options: dict[str, Any] = {}
    if issubclass(cls, ModelMixin):
        # Set explicitly; otherwise diffusers prints a paragraph about accelerate for each model.
        options["low_cpu_mem_usage"] = find_spec("accelerate") is not None
    try:
        model, report = cls.from_pretrained(
            str(directory / part),
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            dtype=dtype,
            variant=weight_files(directory, part).variant,
            **options,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{directory / part}: cannot be loaded ({error})") from error
    problems = {
        "missing": report["missing_keys"],
        # A causal-LM checkpoint has an output head that an encoder does not need.
        "unexpected": [name for name in report["unexpected_keys"] if not name.startswith("lm_head.")],
        "misshapen": report["mismatched_keys"],
    }
    counts = [
        f"{len(names)} {kind} (such as {min(map(str, names))})" for kind, names in problems.items() if names
    ]
    if counts:
        raise CheckpointError(
            f"{directory / part}: the tensors do not match its config.json: {', '.join(counts)}"
        )
    return model


def _on_device(model: Any, device: torch.device) -> Any:
    return model.to(device).eval().requires_grad_(False)
