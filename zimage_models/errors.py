"""The error tree, with the row class or HTTP status of each error. It knows nothing about HTTP or tables.

ZImageError
├── InvalidRequest      the caller's fault (HTTP 400; row class ``bad_input``)
│   ├── CheckpointError a checkpoint is missing, damaged or not a Z-Image one
│   └── FetchFailed     a picture could not be fetched (row class ``fetch_failed``)
├── EngineOverloaded    the queue is full (HTTP 429/503 with Retry-After)
├── Cancelled           cancelled by its caller
│   └── DeadlineExceeded
├── GenerationFailed    this image could not be made (row class ``engine_error``)
│   ├── OutOfMemory     (row class ``out_of_memory``)
│   └── BlankImage      NaN or uniform pixels (row class ``blank_image``)
└── EngineDead          the engine cannot continue; its host replaces it
"""

from typing import Any


class ZImageError(Exception):
    """Base class of every error this product raises on purpose."""

    error_class = "engine_error"
    details: tuple[str, ...] = ()
    """Keyword arguments beside the message, which are attributes too."""

    def __reduce__(self) -> tuple[object, ...]:
        """Cross a process border as the class it is."""
        return _rebuild, (type(self), str(self), {name: getattr(self, name) for name in self.details})


class InvalidRequest(ZImageError):
    """Bad input; the message names the field, the value and the limit."""

    error_class = "bad_input"
    details: tuple[str, ...] = ("field",)

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class CheckpointError(InvalidRequest):
    """A checkpoint is missing, damaged or not a Z-Image one."""


class FetchFailed(InvalidRequest):
    """A picture could not be fetched; after a transient failure, a later try may succeed."""

    error_class = "fetch_failed"
    details = ("field", "is_transient")

    def __init__(self, message: str, *, field: str | None = None, is_transient: bool = False) -> None:
        super().__init__(message, field=field)
        self.is_transient = is_transient


class EngineOverloaded(ZImageError):
    """The engine's queue is full; try again after ``retry_after_s`` seconds."""

    details = ("retry_after_s",)

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Cancelled(ZImageError):
    """The request was cancelled before its image was finished."""

    error_class = "cancelled"


class DeadlineExceeded(Cancelled):
    """The request's deadline passed before its image was finished."""

    details = ("has_started",)

    def __init__(self, message: str, *, has_started: bool) -> None:
        super().__init__(message)
        self.has_started = has_started

    @classmethod
    def of(cls, deadline_s: float, *, has_started: bool) -> "DeadlineExceeded":
        """Make the error of a request, for the deadline that it was given."""
        deadline = f"{1000 * deadline_s:g} ms" if deadline_s < 1 else f"{deadline_s:g} s"
        when = "passed before its image was finished" if has_started else "had passed before it started"
        return cls(f"the request's deadline of {deadline} {when}", has_started=has_started)


class GenerationFailed(ZImageError):
    """This one image could not be made; the engine continues."""


class OutOfMemory(GenerationFailed):
    """The accelerator ran out of memory on this image alone."""

    error_class = "out_of_memory"


class BlankImage(GenerationFailed):
    """The image's pixels are NaN or uniform."""

    error_class = "blank_image"


class EngineDead(ZImageError):
    """The engine cannot continue; always re-raised so that its host replaces it."""


def _rebuild(cls: type[ZImageError], message: str, details: dict[str, Any]) -> ZImageError:
    return cls(message, **details)


ROW_CLASSES = tuple(
    kind.error_class for kind in (InvalidRequest, FetchFailed, OutOfMemory, BlankImage, GenerationFailed)
)
"""Classes of the errors that a row of a batch may end in."""
