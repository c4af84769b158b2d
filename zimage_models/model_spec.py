"""What a checkpoint's configuration files say about the requests it can take. It loads no weights and no torch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zimage_models.errors import CheckpointError
from zimage_models.variants import VARIANTS, VariantSpec

# Captions are padded to this multiple with attended pad tokens (diffusers transformer_z_image.SEQ_MULTI_OF).
CAPTION_MULTIPLE = 32
PATCH_SIZE = 2
RELEASED_PROMPT_TOKENS = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """One loaded-able model: its variant, and the limits and defaults its checkpoint sets."""

    model_id: str
    variant: VariantSpec
    directory: Path
    """Local folder in diffusers layout."""
    size_multiple: int
    """Heights and widths are multiples of this many pixels."""
    max_side: int
    """Largest height or width in pixels that the positional encoding covers."""
    default_height: int
    default_width: int
    default_num_inference_steps: int
    default_guidance_scale: float
    max_prompt_tokens: int
    """Largest prompt in tokens, chat template included."""
    shift: float
    """The scheduler's time shift, from this checkpoint's own scheduler config."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model whose variant is known by its name; ``directory`` is set for the embedded ones."""

    variant: str
    directory: Path | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None


_EMBEDDED = Path(__file__).parent / "embedded"

KNOWN_MODELS: dict[str, KnownModel] = {
    "tiny-zimage-turbo": KnownModel(variant="turbo", directory=_EMBEDDED / "tiny-zimage-turbo"),
    "tiny-zimage-base": KnownModel(
        variant="base", directory=_EMBEDDED / "tiny-zimage-base", num_inference_steps=28, guidance_scale=1.0
    ),
    "Tongyi-MAI/Z-Image-Turbo": KnownModel(variant="turbo"),
    "Tongyi-MAI/Z-Image": KnownModel(variant="base"),
}
DEFAULT_MODEL = "tiny-zimage-turbo"


def read_model_spec(
    directory: Path,
    *,
    model_id: str,
    variant: str | None = None,
    max_prompt_tokens: int | None = None,
) -> ModelSpec:
    """Read a checkpoint's configuration files.

    Args:
        directory: local folder in diffusers layout.
        model_id: the name the user gave; decides the variant of known models.
        variant: ``turbo``, ``base`` or ``edit``; needed for checkpoints that are not known by name.
        max_prompt_tokens: raises or lowers the released limit of 512 tokens, up to what the checkpoint's
            positional encoding and text encoder cover.

    Raises:
        CheckpointError: a missing or foreign file, or an unknown variant.
    """
    known = KNOWN_MODELS.get(model_id) or KNOWN_MODELS.get(directory.name)
    variant_name = variant or (known.variant if known else None)
    if variant_name is None:
        raise CheckpointError(
            f"variant: {model_id} is not a model known by name; say which variant it is: {', '.join(VARIANTS)}",
            field="variant",
        )
    if variant_name not in VARIANTS:
        raise CheckpointError(
            f"variant: {variant_name!r} is unknown; variants are {', '.join(VARIANTS)}", field="variant"
        )
    spec = VARIANTS[variant_name]
    _check_classes(directory)
    transformer = read_config(directory, "transformer")
    vae = read_config(directory, "vae")
    text_encoder = read_config(directory, "text_encoder")
    scheduler = read_config(directory, "scheduler")
    vae_scale = 2 ** (len(vae["block_out_channels"]) - 1)
    if text_encoder["hidden_size"] != transformer["cap_feat_dim"]:
        raise CheckpointError(
            f"{directory}: text_encoder hidden_size {text_encoder['hidden_size']} does not fit "
            f"transformer cap_feat_dim {transformer['cap_feat_dim']}"
        )
    # Caption positions run to ceil32(tokens), the image sits one past them: both index axes_lens[0].
    rope_limit = transformer["axes_lens"][0] // CAPTION_MULTIPLE * CAPTION_MULTIPLE - CAPTION_MULTIPLE
    token_ceiling = min(rope_limit, text_encoder["max_position_embeddings"])
    limit = min(RELEASED_PROMPT_TOKENS, token_ceiling) if max_prompt_tokens is None else max_prompt_tokens
    if not 1 <= limit <= token_ceiling:
        raise CheckpointError(
            f"max_prompt_tokens: {limit} is outside 1..{token_ceiling} for {model_id}", field="max_prompt_tokens"
        )
    side = int(vae["sample_size"])
    return ModelSpec(
        model_id=model_id,
        variant=spec,
        directory=directory,
        size_multiple=vae_scale * PATCH_SIZE,
        max_side=min(transformer["axes_lens"][1:]) * vae_scale * PATCH_SIZE,
        default_height=side,
        default_width=side,
        default_num_inference_steps=(known and known.num_inference_steps) or spec.default_num_inference_steps,
        default_guidance_scale=(known and known.guidance_scale) or spec.default_guidance_scale,
        max_prompt_tokens=limit,
        shift=float(scheduler["shift"]),
    )


_CLASSES = {
    "transformer": ("ZImageTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
}


def _check_classes(directory: Path) -> None:
    index = _read_json(directory / "model_index.json")
    if not str(index.get("_class_name", "")).startswith("ZImage"):
        raise CheckpointError(
            f"{directory / 'model_index.json'}: _class_name is {index.get('_class_name')!r}, not a Z-Image pipeline"
        )
    for part, classes in _CLASSES.items():
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[1] in classes):
            raise CheckpointError(
                f"{directory / 'model_index.json'}: {part} is {entry!r}, expected {' or '.join(classes)}"
            )


def read_config(directory: Path, part: str) -> dict[str, Any]:
    """Read one component's configuration file.

    Raises:
        CheckpointError: the file is missing or not JSON.
    """
    name = "scheduler_config.json" if part == "scheduler" else "config.json"
    return _read_json(directory / part / name)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{path}: missing; a Z-Image checkpoint is a folder in diffusers layout") from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: unreadable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content
