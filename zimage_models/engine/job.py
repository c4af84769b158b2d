"""One accepted request inside an engine: its handle, its state, and its place in the scheduler."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zimage_models.engine.request_handle import RequestHandle
from zimage_models.engine.step_scheduler import Bucket, Entry
from zimage_models.model_spec import ModelSpec
from zimage_models.models.denoisers.omni_denoiser import TARGET_FEATURES
from zimage_models.models.feature_encoder import feature_grid
from zimage_models.models.image_state import ImageState
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.models.sequence_layout import num_caption_tokens, num_image_tokens, padded_length
from zimage_models.pictures import Picture
from zimage_models.requests import ImageResult, Timings
from zimage_models.siglip_spec import SiglipSpec


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A request inside an engine."""

    handle: RequestHandle
    state: ImageState
    started_s: float | None = None
    """When its first step began, on the monotonic clock."""

    @property
    def num_pictures(self) -> int:
        """Number of pictures to encode before its first step."""
        return len(self.handle.request.pictures)

    @property
    def size(self) -> str:
        """Size of the image, for messages."""
        return f"{self.handle.request.width}x{self.handle.request.height}"

    def result(self, pixels_HWC: npt.NDArray[np.uint8], *, denoised_s: float, precision: str) -> ImageResult:
        """Build the request's result; its image was denoised at ``denoised_s`` and has just been decoded."""
        submitted_s, now_s = self.handle.submitted_s, time.monotonic()
        started_s = submitted_s if self.started_s is None else self.started_s
        return ImageResult(
            pixels_HWC=pixels_HWC,
            request=self.handle.request,
            prompt_truncated=self.state.prompt.truncated,
            num_prompt_tokens=len(self.state.prompt.ids),
            precision=precision,
            num_computed_steps=self.state.num_computed,
            timings=Timings(
                queue_s=started_s - submitted_s,
                denoise_s=denoised_s - started_s,
                decode_s=now_s - denoised_s,
                total_s=now_s - submitted_s,
            ),
        )


def enter(handle: RequestHandle, *, arrival: int, spec: ModelSpec, tokenizer: PromptTokenizer) -> Entry[Job]:
    """Tokenise a request's prompts, choose its bucket and make its scheduler entry.

    Raises:
        InvalidRequest: a prompt has too many tokens.
    """
    request = handle.request
    truncate, num_references = request.truncate_prompt, len(request.condition_images)
    prompt = tokenizer.tokenize(request.prompt, truncate=truncate, num_references=num_references)
    negative = None
    if request.is_guided:
        negative = tokenizer.tokenize(
            request.negative_prompt,
            truncate=truncate,
            field="negative_prompt",
            num_references=num_references,
        )
    caption_tokens = num_caption_tokens(prompt.lengths)
    negative_tokens = num_caption_tokens(negative.lengths) if negative else 0
    reference_tokens = sum(
        num_image_tokens(image.height, image.width, spec.size_multiple) for image in request.condition_images
    )
    feature_tokens = _num_feature_tokens(request.condition_images, spec.siglip)
    image_tokens = num_image_tokens(request.height, request.width, spec.size_multiple)
    image_tokens += reference_tokens + feature_tokens
    bucket = Bucket(
        height=request.height,
        width=request.width,
        caption_tokens=caption_tokens,
        negative_tokens=negative_tokens,
        reference_tokens=reference_tokens,
        feature_tokens=feature_tokens,
        controlled=request.control_image is not None,
        # With guidance, every step runs the images twice, once for each prompt.
        num_tokens=(2 if negative else 1) * image_tokens + caption_tokens + negative_tokens,
    )
    return Entry(
        priority=int(request.priority),
        arrival=arrival,
        bucket=bucket,
        payload=Job(handle=handle, state=ImageState(request=request, prompt=prompt, negative=negative)),
    )


def _num_feature_tokens(images: Sequence[Picture], siglip: SiglipSpec | None) -> int:
    if siglip is None or not images:
        return 0
    grids = (feature_grid(image.height, image.width, siglip) for image in images)
    return sum(padded_length(rows * columns) for rows, columns in grids) + TARGET_FEATURES
