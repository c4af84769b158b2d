"""An engine without a model: instant coloured tiles, to test and benchmark everything around it."""

import hashlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

from zimage_models.engine.engine_stats import EngineStats, StatsCollector
from zimage_models.engine.request_handle import PreviewCallback, PreviewEvent, RequestHandle
from zimage_models.errors import BlankImage, EngineDead, OutOfMemory, ZImageError
from zimage_models.memory.process import process_peak_bytes
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest, ImageResult, Timings

_PREVIEW_SIDE = 64
_NO_TIME = Timings(queue_s=0.0, denoise_s=0.0, decode_s=0.0, total_s=0.0)

FAKE_FAILURES: dict[str, type[ZImageError]] = {
    "[fake: blank]": BlankImage,
    "[fake: out of memory]": OutOfMemory,
    "[fake: die]": EngineDead,
}
"""Failures that a prompt can ask for, to test how a host handles them."""


class FakeEngine:
    """Answers every request at once with two stripes coloured by its prompt and seed."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.compiled_forms: Path | None = None
        self.death: EngineDead | None = None
        self._closed = False
        self._stats = StatsCollector()

    def submit(self, request: ImageRequest, *, on_preview: PreviewCallback | None = None) -> RequestHandle:
        """Make the tile before returning; previews are smaller copies of it.

        Raises:
            EngineDead: the engine is closed.
        """
        if self._closed:
            raise EngineDead("the engine is closed")
        handle = RequestHandle(request=request, on_preview=on_preview, on_cancel=_do_nothing)
        outcome = self._outcome(request)
        if on_preview and request.preview_every and isinstance(outcome, ImageResult):
            _preview(outcome, on_preview)
        self._stats.record_outcome(outcome)
        handle.settle(outcome)
        return handle

    def _outcome(self, request: ImageRequest) -> ImageResult | ZImageError:
        for mark, failure in FAKE_FAILURES.items():
            if mark in request.prompt:
                return failure(f"the prompt asks for it: {mark}")
        pixels_HWC = draw_tile(request.prompt, request.seed, request.height, request.width)
        return ImageResult(
            pixels_HWC=pixels_HWC,
            request=request,
            num_computed_steps=request.num_computed_steps,
            timings=_NO_TIME,
        )

    def start(self) -> None:
        """Do nothing: there is no thread."""

    def close(self) -> None:
        """Refuse further requests."""
        self._closed = True

    def stats(self) -> EngineStats:
        """Report the tiles made."""
        return self._stats.report(
            num_open=0,
            num_online=0,
            queue_s=0.0,
            num_preemptions=0,
            num_caption_hits=0,
            num_caption_misses=0,
            memory_bytes=process_peak_bytes(),
        )


def _preview(result: ImageResult, on_preview: PreviewCallback) -> None:
    request = result.request
    stride = -(-max(request.height, request.width) // _PREVIEW_SIDE)
    pixels_HWC = result.pixels_HWC[::stride, ::stride]
    for step in range(request.preview_every, request.num_steps, request.preview_every):
        on_preview(PreviewEvent(step=step, num_steps=request.num_steps, pixels_HWC=pixels_HWC))


def draw_tile(prompt: str, seed: int, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Draw two stripes coloured by prompt and seed; uint8 (height, width, 3), RGB."""
    digest = hashlib.blake2b(f"{seed}|{prompt}".encode(), digest_size=6).digest()
    colours = np.frombuffer(digest, dtype=np.uint8).reshape(2, 3)
    pixels_HWC = np.empty((height, width, 3), dtype=np.uint8)
    pixels_HWC[: height // 2] = colours[0]
    pixels_HWC[height // 2 :] = colours[1]
    return pixels_HWC


def _do_nothing() -> None:
    """Do nothing: the request has already been answered."""
