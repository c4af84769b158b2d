"""The state of one image, which a preempted request keeps between its steps.

Shape legend: C latent channels, H W latent height and width, N image tokens, D model width.
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
class Half:
    """What one forward of an image needs: for its prompt or, with guidance, for its negative prompt."""

    condition: Condition
    residual_ND: Tensor | None = None
    """What the last computed step added to the image's tokens (:meth:`.Denoiser.residual`), in the model's
    dtype: 30 MiB at 1024 x 1024 as released. None unless the next step reuses it."""

    @property
    def kept_residual(self) -> Tensor:
        """The residual, which must be there."""
        assert self.residual_ND is not None, "a step is computed before one that reuses it"
        return self.residual_ND


@dataclass(slots=True, kw_only=True, eq=False)
class Canvas:
    """The tensors of one image, on the runner's device."""

    latents_CHW: Tensor
    """float32."""
    positive: Half
    negative: Half | None
    """None without guidance."""
    step_times: StepTimes
    inpainting: Inpainting | None = None
    """None without a mask."""
    estimate_CHW: Tensor | None = None
    """The latents without their remaining noise; only for requests with previews."""

    @property
    def halves(self) -> tuple[Half, ...]:
        """Both halves of a guided image, or its only one."""
        return (self.positive, self.negative) if self.negative else (self.positive,)


@dataclass(slots=True, kw_only=True, eq=False)
class ImageState:
    """The state of one image."""

    request: ImageRequest
    prompt: TokenizedPrompt
    negative: TokenizedPrompt | None
    """None without guidance."""
    step: int = field(init=False)
    """The denoising step to run next."""
    num_computed: int = 0
    """Number of steps computed so far; the others reused one of these."""
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
        """Number of steps still to compute; 0 when all steps are done, as the last one is computed."""
        return self.request.num_computed_from(self.step)

    @property
    def reuses(self) -> bool:
        """Whether the step to run next reuses what the last computed one added."""
        return self._reuses(self.step)

    @property
    def is_reused(self) -> bool:
        """Whether the step after the one to run next reuses what that adds."""
        return self._reuses(self.step + 1)

    def _reuses(self, step: int) -> bool:
        return step < self.request.num_inference_steps and not self.request.computes(step)

    @property
    def drawn(self) -> Canvas:
        """The canvas, which must be prepared."""
        assert self.canvas is not None, "prepare() comes first"
        return self.canvas

    @property
    def finished(self) -> bool:
        """Whether all steps are done."""
        return self.step >= self.request.num_inference_steps
