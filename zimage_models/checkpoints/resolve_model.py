"""The checkpoint that an EngineConfig names: its limits and the identity of its weights."""

from dataclasses import replace
from pathlib import Path

from zimage_models.checkpoints.check_files import check_files, check_weights
from zimage_models.checkpoints.checkpoint_source import is_fetched, resolve_checkpoint
from zimage_models.checkpoints.pixel_settings import pixel_settings
from zimage_models.checkpoints.weights_hash import weights_sha256
from zimage_models.config import EngineConfig
from zimage_models.controlnet_spec import read_controlnet_spec
from zimage_models.errors import CheckpointError
from zimage_models.model_spec import ModelSpec, read_model_spec

FAKE_WEIGHTS = "fake"


def resolve_model(config: EngineConfig) -> ModelSpec:
    """Find or fetch a config's checkpoint, and its ControlNet if any, and read their limits.

    The headers of their weights are checked too, but for the fake engine, which reads none.

    Raises:
        CheckpointError: nothing has that name, or a file is missing, damaged or not a Z-Image checkpoint's.
    """
    directory = resolve_checkpoint(
        config.model, cache_dir=_cache_dir(config), s3_endpoint_url=config.s3_endpoint_url
    )
    spec = read_model_spec(
        directory, model_id=config.model, variant=config.variant, max_prompt_tokens=config.max_prompt_tokens
    )
    if not config.fake:
        check_files(directory)
    if config.controlnet is None:
        return replace(spec, pixel_settings=pixel_settings(spec))
    if spec.variant.max_reference_images:
        raise CheckpointError(
            f"controlnet: {spec.variant.name} reads reference images; there is no ControlNet for it",
            field="controlnet",
        )
    controlnet = resolve_checkpoint(
        config.controlnet,
        field="controlnet",
        cache_dir=_cache_dir(config),
        s3_endpoint_url=config.s3_endpoint_url,
    )
    if not config.fake:
        check_weights(controlnet, "")
    spec = replace(spec, controlnet=read_controlnet_spec(controlnet, directory))
    return replace(spec, pixel_settings=pixel_settings(spec))


def check_model(config: EngineConfig) -> None:
    """Check a config's checkpoint as :func:`resolve_model` does, but only one that need not be fetched.

    Raises:
        CheckpointError: as :func:`resolve_model`.
    """
    if not any(is_fetched(name) for name in (config.model, config.controlnet) if name):
        resolve_model(config)


def with_own_schedules(config: EngineConfig, spec: ModelSpec) -> ModelSpec:
    """Return a spec that refuses step schedules which were made for other weights than its checkpoint's.

    The first call may take as long as reading the weights, if there are schedules.
    """
    schedules = spec.step_schedules
    if not schedules.by_steps:
        return spec
    # Without a ControlNet, as they were made.
    weights = weights_sha256(spec.directory, cache_dir=_cache_dir(config))
    return replace(
        spec, step_schedules=replace(schedules, is_of_other_weights=schedules.weights_sha256 != weights)
    )


def model_weights_sha256(config: EngineConfig, spec: ModelSpec) -> str:
    """Return the hash of the weights that a config makes images with; ``"fake"`` for the fake engine."""
    if config.fake:
        return FAKE_WEIGHTS
    controlnet = spec.controlnet.directory if spec.controlnet else None
    return weights_sha256(spec.directory, controlnet=controlnet, cache_dir=_cache_dir(config))


def _cache_dir(config: EngineConfig) -> Path | None:
    return Path(config.cache_dir) if config.cache_dir else None
