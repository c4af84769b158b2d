"""The endpoint's own errors, in addition to the engine's; ``openai_errors`` translates them to HTTP.

ZImageError
├── InvalidRequest
│   ├── UnknownModel           no model of that name is served (HTTP 404)
│   ├── UnknownImage           no image was ever kept at that address (HTTP 404)
│   ├── ImageGone              the image at that address is no longer kept (HTTP 410)
│   └── IdempotencyKeyReused   the key was used with another request (HTTP 409)
├── Unauthorized               no API key, or an unknown one (HTTP 401)
├── RateLimited                the key's own limits are reached (HTTP 429 with Retry-After)
├── EngineOverloaded
│   ├── NoReplica              no replica took the request in time (HTTP 503 with Retry-After)
│   └── ShuttingDown           the endpoint drains (HTTP 503 with Retry-After)
├── GenerationFailed
│   ├── ReplicaLost            two replicas in a row died during the request (HTTP 500)
│   └── ObjectStoreFailed      the image was made, but could not be kept for its URL (HTTP 500)
└── RayNotStarted              there is no Ray to host engines; before any request
"""

from zimage_models.errors import EngineOverloaded, GenerationFailed, InvalidRequest, ZImageError


class UnknownModel(InvalidRequest):
    """The endpoint serves no model of that name."""


class UnknownImage(InvalidRequest):
    """An address that no kept image ever had."""


class ImageGone(InvalidRequest):
    """The address of an image that is no longer kept."""


class IdempotencyKeyReused(InvalidRequest):
    """An idempotency key was already used with another request."""


class Unauthorized(ZImageError):
    """A request without an API key, or with an unknown one."""


class RateLimited(ZImageError):
    """A caller's own limits are reached; try again after ``retry_after_s`` seconds."""

    details = ("retry_after_s",)

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class NoReplica(EngineOverloaded):
    """No replica took the request before its deadline."""


class ShuttingDown(EngineOverloaded):
    """The endpoint finishes the requests that it has accepted and takes no others."""


class ReplicaLost(GenerationFailed):
    """Two replicas in a row died while making an image."""

    error_class = "engine_died"


class ObjectStoreFailed(GenerationFailed):
    """The image was made, but neither the object store nor the front desk has kept it."""

    error_class = "object_store_failed"


class RayNotStarted(ZImageError):
    """A local Ray could not be started."""
