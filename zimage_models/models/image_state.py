"""The state of one image, which a preempted request keeps between its steps.

Shape legend: C latent channels, H W latent height and width.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from zimage_models.models.denoisers.condition import Condition
from zimage_models.models.denoisers.step_times import StepTimes
from zimage_models.models.prompt_tokenizer import TokenizedPrompt
from zimage_models.requests import ImageRequest


def add_noise(image_CHW: Tensor, noise_CHW: Tensor, sigma: float) -> Tensor:
    """Add noise to an image's latents up to a noise level (FlowMatchEulerDiscreteScheduler.scale_noise)."""
    return sigma * noise_CHW + (1.0 - sigma) * image_CHW


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Inpainting:
    """The tensors that keep the unmasked part of an image unchanged, on the runner's device."""

    image_CHW: Tensor
    """Latents of the image to start from; float32."""
    noise_CHW: Tensor
    """float32."""
    painted_HW: Tensor
    """bool; False where the image is kept."""

    def blend(self, latents_CHW: Tensor, sigma: float) -> Tensor:
        """Restore the part of the image that is kept, at the noise level of the latents."""
        return torch.where(self.painted_HW, latents_CHW, add_noise(self.image_CHW, self.noise_CHW, sigma))


@dataclass(slots=True, kw_only=True, eq=False)
class Canvas:
    """The tensors of one image, on the runner's device."""

    latents_CHW: Tensor
    """float32."""
    condition: Condition
    negative_condition: Condition | None
    """None without guidance."""
    step_times: StepTimes
    inpainting: Inpainting | None = None
    """None without a mask."""
    estimate_CHW: Tensor | None = None
    """The latents without their remaining noise; only for requests with previews."""


@dataclass(slots=True, kw_only=True, eq=False)
class ImageState:
    """The state of one image."""

    request: ImageRequest
    prompt: TokenizedPrompt
    negative: TokenizedPrompt | None
    """None without guidance."""
    step: int = field(init=False)
    """The denoising step to run next."""
    canvas: Canvas | None = None
    """None until the runner has prepared it."""

    def __post_init__(self) -> None:
        self.step = self.request.first_step

    @property
    def num_done(self) -> int:
        """Number of steps already run."""
        return self.step - self.request.first_step

    @property
    def num_left(self) -> int:
        """Number of steps still to run."""
        return self.request.num_inference_steps - self.step

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.num_left <= 0
