"""A model's defaults and limits, read from its checkpoint's configuration files. It loads no weights."""

from dataclasses import dataclass, field
from pathlib import Path

from zimage_models.component_config import (
    ComponentConfig,
    names_class,
    read_json,
    scheduler_settings,
    scheduler_shift,
)
from zimage_models.controlnet_spec import ControlNetSpec
from zimage_models.errors import CheckpointError
from zimage_models.siglip_spec import SiglipSpec, read_siglip_spec
from zimage_models.step_schedules import StepSchedules, read_step_schedules
from zimage_models.variants import VARIANTS, TrainedSizes, VariantSpec

# Captions are padded to this multiple with attended pad tokens (diffusers transformer_z_image.SEQ_MULTI_OF).
CAPTION_MULTIPLE = 32
PATCH_SIZE = 2
RELEASED_PROMPT_TOKENS = 512
# Tongyi-MAI/Z-Image-Turbo: axes_lens of the transformer, max_position_embeddings of the text encoder.
_RELEASED_CAPTION_POSITIONS = 1536
_RELEASED_TEXT_POSITIONS = 40_960


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """A model that can be loaded: its variant, and the limits and defaults that its checkpoint sets."""

    model_id: str
    variant: VariantSpec
    directory: Path
    """Local folder in diffusers layout."""
    size_multiple: int
    """Pixels that every height and width must be a multiple of."""
    max_side: int
    """Largest height or width in pixels that the positional encoding covers."""
    default_height: int
    default_width: int
    default_num_inference_steps: int
    default_guidance_scale: float
    max_prompt_tokens: int
    """Largest prompt in tokens, chat template included."""
    default_prompt_tokens: int
    """The same without ``--max-prompt-tokens``."""
    shift: float
    """The scheduler's time shift, from this checkpoint's own scheduler config."""
    scheduler: str = ""
    """Other settings of the scheduler that are not its class's defaults, as canonical JSON."""
    pixel_settings: str = ""
    """Further settings of its files that decide pixels and are not the release's or the embedded models'
    (:func:`.pixel_settings.pixel_settings`), as canonical JSON."""
    num_caption_positions: int
    """Positions that a caption and its images may take, 0 included."""
    siglip: SiglipSpec | None = None
    """How features of reference images are made; None if the transformer reads none."""
    controlnet: ControlNetSpec | None = None
    """The engine's ControlNet, or None (:attr:`EngineConfig.controlnet`)."""
    step_schedules: StepSchedules = field(default_factory=StepSchedules)

    @property
    def max_reference_pixels(self) -> int:
        """Pixels above which a reference image is shrunk: the model's own size, 1024 x 1024 as released."""
        return self.default_height * self.default_width

    @property
    def trained_sizes(self) -> TrainedSizes:
        """The sizes that it was trained on: the release's, or only its own if that is another one."""
        own = self.default_width, self.default_height
        released = self.variant.released_sizes
        return released if own == released.best[0] else TrainedSizes(best=(own,))

    @property
    def max_reference_side(self) -> int:
        """Largest height or width of a reference image that the positional encoding covers."""
        # Features get the positions of latents, and a patch is two latents wide and high.
        return self.max_side // PATCH_SIZE if self.siglip else self.max_side


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownModel:
    """A model with a known name and variant; ``directory`` is set for embedded models."""

    variant: str
    directory: Path | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None


_EMBEDDED = Path(__file__).parent / "checkpoints" / "embedded"

KNOWN_MODELS: dict[str, KnownModel] = {
    "tiny-zimage-turbo": KnownModel(variant="turbo", directory=_EMBEDDED / "tiny-zimage-turbo"),
    "tiny-zimage-base": KnownModel(
        variant="base", directory=_EMBEDDED / "tiny-zimage-base", num_inference_steps=28, guidance_scale=1.0
    ),
    "tiny-zimage-edit": KnownModel(
        variant="edit", directory=_EMBEDDED / "tiny-zimage-edit", num_inference_steps=8, guidance_scale=2.0
    ),
    "Tongyi-MAI/Z-Image-Turbo": KnownModel(variant="turbo"),
    "Tongyi-MAI/Z-Image": KnownModel(variant="base"),
}
DEFAULT_MODEL = "tiny-zimage-turbo"
_OMNI_PIPELINE = "ZImageOmniPipeline"
"""The pipeline of checkpoints that read reference images as conditions."""


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
        variant: ``turbo``, ``base`` or ``edit``; required for checkpoints that are not known by name.
        max_prompt_tokens: replaces the released limit of 512 tokens; at most what the checkpoint's positional
            encoding and text encoder cover.

    Raises:
        CheckpointError: a file is missing or not a Z-Image checkpoint's, or the variant is unknown.
    """
    index_path = directory / "model_index.json"
    pipeline = read_json(index_path).get("_class_name")
    known = _known_model(model_id) or _known_model(directory.name)
    variant_name = variant or _variant_of(pipeline) or (known.variant if known else None)
    if variant_name is None:
        raise CheckpointError(
            f"variant: {model_id} is not known by name, so it needs a variant: {', '.join(VARIANTS)}",
            field="variant",
        )
    spec = _variant(variant_name)
    check_classes(directory)
    if bool(spec.max_reference_images) != (pipeline == _OMNI_PIPELINE):
        needed = _OMNI_PIPELINE if spec.max_reference_images else "another pipeline"
        raise CheckpointError(
            f"variant: {variant_name} needs a checkpoint of {needed}; {index_path} says {pipeline}",
            field="variant",
        )
    transformer = ComponentConfig(directory, "transformer")
    vae = ComponentConfig(directory, "vae")
    text_encoder = ComponentConfig(directory, "text_encoder")
    scheduler = ComponentConfig(directory, "scheduler")
    if scheduler.content.get("stochastic_sampling"):
        raise CheckpointError(f"{scheduler.path}: stochastic_sampling is not supported")
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
    text_positions = text_encoder.integer("max_position_embeddings")
    token_limit, default_token_limit = (
        _token_limit(model_id, wanted, caption_positions, text_positions)
        for wanted in (max_prompt_tokens, None)
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
        max_prompt_tokens=token_limit,
        default_prompt_tokens=default_token_limit,
        shift=scheduler_shift(scheduler),
        scheduler=scheduler_settings(scheduler),
        num_caption_positions=caption_positions,
        siglip=read_siglip_spec(directory) if spec.max_reference_images else None,
        step_schedules=read_step_schedules(directory),
    )


def released_spec(
    model_id: str, *, variant: str | None = None, max_prompt_tokens: int | None = None
) -> ModelSpec:
    """Return a released model's spec without reading its configuration files, for estimates.

    Args:
        model_id: a known model that is not embedded.
        variant: as for :func:`read_model_spec`.
        max_prompt_tokens: as for :func:`read_model_spec`.

    Raises:
        CheckpointError: an unknown variant, or a token limit that the model does not cover.
    """
    chosen = _variant(variant or KNOWN_MODELS[model_id].variant)
    return ModelSpec(
        model_id=model_id,
        variant=chosen,
        directory=Path(),
        size_multiple=8 * PATCH_SIZE,
        max_side=512 * 8 * PATCH_SIZE,
        default_height=1024,
        default_width=1024,
        default_num_inference_steps=chosen.default_num_inference_steps,
        default_guidance_scale=chosen.default_guidance_scale,
        max_prompt_tokens=_token_limit(
            model_id, max_prompt_tokens, _RELEASED_CAPTION_POSITIONS, _RELEASED_TEXT_POSITIONS
        ),
        default_prompt_tokens=RELEASED_PROMPT_TOKENS,
        shift=chosen.released_shift,
        num_caption_positions=_RELEASED_CAPTION_POSITIONS,
    )


def _variant(name: str) -> VariantSpec:
    if name not in VARIANTS:
        raise CheckpointError(
            f"variant: {name!r} is unknown; variants are {', '.join(VARIANTS)}", field="variant"
        )
    return VARIANTS[name]


def _token_limit(model_id: str, wanted: int | None, caption_positions: int, text_positions: int) -> int:
    """Return the token limit of prompts: the wanted one, or the release's if the checkpoint covers it."""
    # Position 0 is for padding, captions take 1 .. ceil32(tokens), the image has the next position.
    longest_caption = (caption_positions - 2) // CAPTION_MULTIPLE * CAPTION_MULTIPLE
    ceiling = min(longest_caption, text_positions)
    limit = min(RELEASED_PROMPT_TOKENS, ceiling) if wanted is None else wanted
    if not 1 <= limit <= ceiling:
        raise CheckpointError(
            f"max_prompt_tokens: {limit} is outside 1..{ceiling} for {model_id}", field="max_prompt_tokens"
        )
    return limit


def _variant_of(pipeline: object) -> str | None:
    """Return the variant of a pipeline, or None if the pipeline alone does not decide it."""
    readers = (name for name, variant in VARIANTS.items() if variant.max_reference_images)
    return next(readers) if pipeline == _OMNI_PIPELINE else None


def _known_model(name: str) -> KnownModel | None:
    """Find a model by its name, or by the last component of it, such as the name of a folder or bucket."""
    wanted = name.rstrip("/").rsplit("/", 1)[-1]
    matches = (model for known, model in KNOWN_MODELS.items() if known.rsplit("/", 1)[-1] == wanted)
    return KNOWN_MODELS.get(name) or next(matches, None)


_CLASSES = {
    "transformer": ("ZImageTransformer2DModel",),
    "vae": ("AutoencoderKL",),
    "scheduler": ("FlowMatchEulerDiscreteScheduler",),
    "text_encoder": ("Qwen3Model", "Qwen3ForCausalLM"),
}


def check_classes(directory: Path) -> None:
    """Check the classes that a checkpoint names for its pipeline and components.

    Raises:
        CheckpointError: one is not Z-Image's, or a configuration file is missing or unreadable.
    """
    path = directory / "model_index.json"
    index = read_json(path)
    if not str(index.get("_class_name", "")).startswith("ZImage"):
        raise CheckpointError(f"{path}: _class_name is {index.get('_class_name')!r}, not a Z-Image pipeline")
    for part, classes in _CLASSES.items():
        if not names_class(index, part, classes):
            raise CheckpointError(f"{path}: {part} is {index.get(part)!r}, expected {' or '.join(classes)}")
        config = ComponentConfig(directory, part)
        # diffusers writes one class name, transformers a list of names; either may be missing.
        names = config.content.get("_class_name") or config.content.get("architectures")
        if names and not set(classes) & set([names] if isinstance(names, str) else names):
            raise CheckpointError(f"{config.path}: its class is {names!r}, expected {' or '.join(classes)}")
