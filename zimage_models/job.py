"""One accepted request inside an engine: its handle, its state, and its place in the scheduler."""

import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zimage_models.image_state import ImageState
from zimage_models.model_spec import ModelSpec
from zimage_models.prompts import PromptTokenizer
from zimage_models.request_handle import RequestHandle
from zimage_models.requests import ImageResult, Timings
from zimage_models.sequence_layout import num_caption_tokens, num_image_tokens
from zimage_models.step_scheduler import Bucket, Entry


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """A request on its way through an engine."""

    handle: RequestHandle
    state: ImageState
    started_s: float | None = None
    """When its first step began, on the monotonic clock."""

    @property
    def size(self) -> str:
        """Its size, for messages."""
        return f"{self.handle.request.width}x{self.handle.request.height}"

    def result(self, pixels_HWC: npt.NDArray[np.uint8], *, denoised_s: float) -> ImageResult:
        """Put its image and its times together, the image having been decoded since ``denoised_s``."""
        submitted_s, now_s = self.handle.submitted_s, time.monotonic()
        started_s = submitted_s if self.started_s is None else self.started_s
        return ImageResult(
            pixels_HWC=pixels_HWC,
            request=self.handle.request,
            prompt_truncated=self.state.prompt.truncated,
            num_prompt_tokens=len(self.state.prompt.ids),
            timings=Timings(
                queue_s=started_s - submitted_s,
                denoise_s=denoised_s - started_s,
                decode_s=now_s - denoised_s,
                total_s=now_s - submitted_s,
            ),
        )


def enter(handle: RequestHandle, *, arrival: int, spec: ModelSpec, tokenizer: PromptTokenizer) -> Entry[Job]:
    """Tokenise a request's prompts, which decide its bucket, and make its scheduler entry.

    Raises:
        InvalidRequest: a prompt has too many tokens.
    """
    request = handle.request
    truncate = request.truncate_prompt
    prompt = tokenizer.tokenize(request.prompt, truncate=truncate)
    negative = None
    if request.guidance_scale > 0:
        negative = tokenizer.tokenize(request.negative_prompt, truncate=truncate, field="negative_prompt")
    image_tokens = num_image_tokens(request.height, request.width, spec.size_multiple)
    caption_tokens = num_caption_tokens(prompt.lengths)
    negative_tokens = num_caption_tokens(negative.lengths) if negative else 0
    return Entry(
        priority=int(request.priority),
        arrival=arrival,
        bucket=Bucket(
            height=request.height,
            width=request.width,
            caption_tokens=caption_tokens,
            negative_tokens=negative_tokens,
        ),
        # With guidance every step runs the image twice, once for each prompt.
        num_step_tokens=(2 if negative else 1) * image_tokens + caption_tokens + negative_tokens,
        payload=Job(handle=handle, state=ImageState(request=request, prompt=prompt, negative=negative)),
    )
