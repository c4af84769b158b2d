"""A caller's handle on a submitted request: its future, its cancellation and its previews."""

import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from zimage_models.errors import ZImageError
from zimage_models.requests import ImageRequest, ImageResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PreviewEvent:
    """A small preview of a running image; ``pixels_HWC`` is uint8 RGB."""

    step: int
    num_steps: int
    pixels_HWC: npt.NDArray[np.uint8]


PreviewCallback = Callable[[PreviewEvent], None]


class _ImageFuture(Future[ImageResult]):
    """A future that reports its cancellation, such as by an asyncio task awaiting it, to the engine."""

    def __init__(self, on_cancel: Callable[[], None]) -> None:
        super().__init__()
        self._on_cancel = on_cancel

    def cancel(self) -> bool:
        """Cancel the future if it is not done yet."""
        cancelled = super().cancel()
        if cancelled:
            self._on_cancel()
        return cancelled


@dataclass(slots=True, kw_only=True, eq=False)
class RequestHandle:
    """A submitted request: wait for its result, or cancel it.

    Cancelling the future, as an asyncio task awaiting it does, also cancels the request.
    """

    request: ImageRequest
    on_preview: PreviewCallback | None
    on_cancel: Callable[[], None]
    """Callback that runs in the thread that cancels."""
    future: Future[ImageResult] = field(init=False)
    submitted_s: float = field(init=False, default_factory=time.monotonic)
    _dropped: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        # Not a method of the handle: in a reference cycle, a finished image would wait for the collector.
        self.future = _ImageFuture(self.on_cancel)

    @property
    def cancelled(self) -> bool:
        """Whether the request or its future was cancelled."""
        return self._dropped or self.future.cancelled()

    def result(self, timeout_s: float | None = None) -> ImageResult:
        """Wait for the image and return it, or raise the request's error."""
        return self.future.result(timeout_s)

    def cancel(self) -> None:
        """Drop the request at the next step; its future then raises :class:`Cancelled`."""
        if not self.future.done():
            self._dropped = True
            self.on_cancel()

    def settle(self, outcome: ImageResult | ZImageError) -> None:
        """Give the waiting caller its image or its error."""
        if not self.future.set_running_or_notify_cancel():
            return
        if isinstance(outcome, ZImageError):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)
