"""Count the parameters of a checkpoint's models from their configuration files; no weights are read."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageControlNetModel, ZImageTransformer2DModel
from torch import nn
from transformers import Qwen3Config, Qwen3Model, Siglip2VisionConfig, Siglip2VisionModel

from zimage_models.errors import CheckpointError
from zimage_models.memory.sizes import ModelSizes
from zimage_models.model_spec import ModelSpec
from zimage_models.siglip_spec import has_siglip


def read_model_sizes(spec: ModelSpec) -> ModelSizes:
    """Count the parameters of a model, and of its ControlNet if it has one.

    Raises:
        CheckpointError: a configuration file cannot be read, or describes no model.
    """
    folder = spec.directory
    siglip = controlnet = None
    if has_siglip(folder):
        siglip = _build(Siglip2VisionModel, folder / "siglip", Siglip2VisionConfig)
    if spec.controlnet:
        controlnet = _build(ZImageControlNetModel, spec.controlnet.directory)
    return model_sizes(
        transformer=_build(ZImageTransformer2DModel, folder / "transformer"),
        text_encoder=_build(Qwen3Model, folder / "text_encoder", Qwen3Config),
        vae=_build(AutoencoderKL, folder / "vae"),
        siglip=siglip,
        controlnet=controlnet,
        reads_references=bool(spec.variant.max_reference_images),
    )


def model_sizes(
    *,
    transformer: Any,
    text_encoder: Any,
    vae: Any,
    siglip: Any = None,
    controlnet: Any = None,
    reads_references: bool = False,
) -> ModelSizes:
    """Count the parameters of models as they are saved: the text encoder has a layer that is never loaded."""
    first = transformer.layers[0]
    block = _count(first.attention) + _count(first.feed_forward)
    num_control_layers, num_refiners, num_caption_refiners = (
        sum(len(getattr(model, name, None) or ()) for model in (transformer, controlnet) for name in names)
        for names in (
            ("control_layers",),
            ("noise_refiner", "control_noise_refiner"),
            ("context_refiner", "siglip_refiner"),
        )
    )
    num_layers = len(transformer.layers)
    all_blocks = block * (num_layers + num_control_layers + num_refiners + num_caption_refiners)
    return ModelSizes(
        block=block,
        num_layers=num_layers,
        num_control_layers=num_control_layers,
        num_refiners=num_refiners,
        num_caption_refiners=num_caption_refiners,
        transformer_rest=_count(transformer) + _count(controlnet) - all_blocks,
        text_block=_count(text_encoder.layers[0]),
        num_text_blocks=len(text_encoder.layers) - 1,
        text_embedding=_count(text_encoder.get_input_embeddings()),
        siglip=_count(siglip),
        vae=_count(vae),
        width=transformer.dim,
        reads_references=reads_references,
        vae_channels=tuple(vae.config.block_out_channels),
    )


def _build(cls: Any, folder: Path, config_class: Any = None) -> Any:
    try:
        with torch.device("meta"):
            if config_class:
                return cls(config_class.from_pretrained(str(folder), local_files_only=True))
            return cls.from_config(cls.load_config(str(folder), local_files_only=True))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{folder}: cannot be loaded ({error})") from error


def _count(model: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in model.parameters()) if model else 0
