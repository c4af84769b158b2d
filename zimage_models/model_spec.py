"""What a checkpoint's configuration files say about the requests it takes. It loads no weights."""

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
    known = _known_model(model_id) or _known_model(directory.name)
    variant_name = variant or (known.variant if known else None)
    if variant_name is None:
        raise CheckpointError(
            f"variant: {model_id} is not known by name; say which variant it is: {', '.join(VARIANTS)}",
            field="variant",
        )
    if variant_name not in VARIANTS:
        raise CheckpointError(
            f"variant: {variant_name!r} is unknown; variants are {', '.join(VARIANTS)}", field="variant"
        )
    spec = VARIANTS[variant_name]
    _check_classes(directory)
    transformer = _Config(directory, "transformer")
    vae = _Config(directory, "vae")
    text_encoder = _Config(directory, "text_encoder")
    scheduler = _Config(directory, "scheduler")
    for name in ("use_dynamic_shifting", "stochastic_sampling"):
        if scheduler.content.get(name):
            raise CheckpointError(f"{scheduler.path}: {name} is not supported")
    vae_scale = 2 ** (len(vae.integers("block_out_channels")) - 1)
    if text_encoder.integer("hidden_size") != transformer.integer("cap_feat_dim"):
        raise CheckpointError(
            f"{directory}: text_encoder hidden_size {text_encoder.integer('hidden_size')} does not fit "
            f"transformer cap_feat_dim {transformer.integer('cap_feat_dim')}"
        )
    if PATCH_SIZE not in transformer.integers("all_patch_size"):
        raise CheckpointError(f"{transformer.path}: all_patch_size lacks {PATCH_SIZE}")
    axes_lens = transformer.integers("axes_lens")
    if len(axes_lens) != 3:
        raise CheckpointError(f"{transformer.path}: axes_lens is {axes_lens}, not three numbers")
    caption_positions, *side_positions = axes_lens
    # Position 0 is for padding, captions take 1 .. ceil32(tokens), the image sits one past them.
    longest_caption = (caption_positions - 2) // CAPTION_MULTIPLE * CAPTION_MULTIPLE
    token_ceiling = min(longest_caption, text_encoder.integer("max_position_embeddings"))
    limit = min(RELEASED_PROMPT_TOKENS, token_ceiling) if max_prompt_tokens is None else max_prompt_tokens
    if not 1 <= limit <= token_ceiling:
        raise CheckpointError(
            f"max_prompt_tokens: {limit} is outside 1..{token_ceiling} for {model_id}",
            field="max_prompt_tokens",
        )
    default_steps = known.num_inference_steps if known else None
    default_guidance = known.guidance_scale if known else None
    return ModelSpec(
        model_id=model_id,
        variant=spec,
        directory=directory,
        size_multiple=vae_scale * PATCH_SIZE,
        max_side=min(side_positions) * vae_scale * PATCH_SIZE,
        default_height=vae.integer("sample_size"),
        default_width=vae.integer("sample_size"),
        default_num_inference_steps=(
            spec.default_num_inference_steps if default_steps is None else default_steps
        ),
        default_guidance_scale=spec.default_guidance_scale if default_guidance is None else default_guidance,
        max_prompt_tokens=limit,
        shift=scheduler.number("shift"),
    )


def released_spec(model_id: str) -> ModelSpec:
    """Return what a released model's configuration files say, for planning without them.

    Args:
        model_id: one of the known models that are not embedded.
    """
    variant = VARIANTS[KNOWN_MODELS[model_id].variant]
    return ModelSpec(
        model_id=model_id,
        variant=variant,
        directory=Path(),
        size_multiple=8 * PATCH_SIZE,
        max_side=512 * 8 * PATCH_SIZE,
        default_height=1024,
        default_width=1024,
        default_num_inference_steps=variant.default_num_inference_steps,
        default_guidance_scale=variant.default_guidance_scale,
        max_prompt_tokens=RELEASED_PROMPT_TOKENS,
        shift=variant.released_shift,
    )


def _known_model(name: str) -> KnownModel | None:
    """Look a model up by its name, or by the last component of it, as in a folder or bucket of that name."""
    wanted = name.rstrip("/").rsplit("/", 1)[-1]
    matches = (model for known, model in KNOWN_MODELS.items() if known.rsplit("/", 1)[-1] == wanted)
    return KNOWN_MODELS.get(name) or next(matches, None)


_CLASSES = {
    "transformer": ("ZImageTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
}


def _check_classes(directory: Path) -> None:
    path = directory / "model_index.json"
    index = _read_json(path)
    if not str(index.get("_class_name", "")).startswith("ZImage"):
        raise CheckpointError(f"{path}: _class_name is {index.get('_class_name')!r}, not a Z-Image pipeline")
    for part, classes in _CLASSES.items():
        entry = index.get(part)
        if not (isinstance(entry, list) and len(entry) == 2 and entry[1] in classes):
            raise CheckpointError(f"{path}: {part} is {entry!r}, expected {' or '.join(classes)}")
        config = _Config(directory, part)
        # diffusers names the class itself, transformers a list of them; either may be left out.
        names = config.content.get("_class_name") or config.content.get("architectures")
        if names and not set(classes) & set([names] if isinstance(names, str) else names):
            raise CheckpointError(f"{config.path}: its class is {names!r}, expected {' or '.join(classes)}")


class _Config:
    """One component's configuration file."""

    def __init__(self, directory: Path, part: str) -> None:
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        self.path = directory / part / name
        self.content = _read_json(self.path)

    def integer(self, name: str) -> int:
        value = self.content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a whole number above 0")
        return value

    def number(self, name: str) -> float:
        value = self.content.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a number above 0")
        return float(value)

    def integers(self, name: str) -> list[int]:
        value = self.content.get(name)
        if not (isinstance(value, list) and value and all(isinstance(item, int) for item in value)):
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a list of whole numbers")
        return value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; a Z-Image checkpoint is a folder in diffusers layout"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: unreadable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content
