"""The noise levels and times of a denoising run, as diffusers' scheduler has them."""

from dataclasses import dataclass
from typing import Any

from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift, get_default_z_image_sigmas

from zimage_models.model_spec import PATCH_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The times of a whole denoising run, as float32 values."""

    sigmas: tuple[float, ...]
    """Noise levels, 1 (noise) .. 0 (image), one more than the number of steps."""
    sigma_changes: tuple[float, ...]
    """Change of the noise level in each step; below 0."""
    times: tuple[float, ...]
    """Normalised times that the transformer sees, 0 (noise) .. 1 (image)."""


def shift_exponent(scheduler: Any, height: int, width: int) -> float | None:
    """Return what a dynamic shift depends on: diffusers' ``mu``; None if the shift is fixed.

    Args:
        scheduler: a FlowMatchEulerDiscreteScheduler.
        height: of the image's latents.
        width: of the image's latents.
    """
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return None
    num_tokens = (height // PATCH_SIZE) * (width // PATCH_SIZE)
    limits = config.base_image_seq_len, config.max_image_seq_len, config.base_shift, config.max_shift
    return float(calculate_shift(num_tokens, *limits))


def compute_step_times(scheduler: Any, num_steps: int, exponent: float | None) -> StepTimes:
    """Return the times of a run with the number of steps and :func:`shift_exponent`."""
    own = type(scheduler).from_config(scheduler.config)
    own.set_timesteps(sigmas=get_default_z_image_sigmas(num_steps), mu=exponent)
    sigmas = own.sigmas.float()
    return StepTimes(
        sigmas=tuple(sigmas.tolist()),
        sigma_changes=tuple(sigmas.diff().tolist()),
        times=tuple(((1000 - own.timesteps.float()) / 1000).tolist()),
    )
