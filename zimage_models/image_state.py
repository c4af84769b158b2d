"""One image on its way: what a preempted request keeps between its steps.

Shape legend: C latent channels, H W latent height and width, L caption tokens, D model width.
"""

from dataclasses import dataclass

from torch import Tensor

from zimage_models.prompts import TokenizedPrompt
from zimage_models.requests import ImageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The times of a whole denoising run, as float32 values."""

    sigmas: tuple[float, ...]
    """Noise levels, 1 (noise) .. 0 (image), one more than there are steps."""
    sigma_changes: tuple[float, ...]
    """What each step adds to the noise level; below 0."""
    times: tuple[float, ...]
    """Normalised times that the transformer sees, 0 (noise) .. 1 (image)."""


@dataclass(slots=True, kw_only=True, eq=False)
class Canvas:
    """The tensors of one image, on the runner's device."""

    latents_CHW: Tensor
    """float32."""
    caption_LD: Tensor
    negative_caption_LD: Tensor | None
    """None without guidance."""
    step_times: StepTimes
    estimate_CHW: Tensor | None = None
    """The latents less all their remaining noise; kept only for requests that want previews."""


@dataclass(slots=True, kw_only=True, eq=False)
class ImageState:
    """One image on its way."""

    request: ImageRequest
    prompt: TokenizedPrompt
    negative: TokenizedPrompt | None
    """None without guidance."""
    step: int = 0
    """Steps done."""
    canvas: Canvas | None = None
    """None until the runner has prepared it."""

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.request.num_inference_steps
