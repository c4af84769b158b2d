"""State that all replicas share: rate limits, answers to repeat, images to fetch, and what starts."""

from deployments.access.idempotency import Answer, Claimed, IdempotencyStore
from deployments.access.kept_images import ImageTicket, KeptImage, KeptImages
from deployments.access.rate_limits import RateLimiter
from deployments.app_args import AppArgs, LocalUrlArgs
from deployments.errors import IdempotencyKeyReused, UnknownImage
from zimage_models.config import EngineConfig


class FrontDesk:
    """A deployment with one replica.

    HTTP replicas call it only for limited keys and repeatable requests, and engines while they start.
    """

    def __init__(self, args: AppArgs, *, max_run_s: float) -> None:
        self._engines = {model.id: model.engine_config() for model in args.models}
        self._starting: dict[str, dict[str, str]] = {}
        self._failed: dict[str, str] = {}
        self._limiter = RateLimiter(max_run_s=max_run_s)
        kept = args.idempotency
        self._answers = IdempotencyStore(
            max_entries=kept.max_answers, max_bytes=kept.max_bytes, ttl_s=kept.keep_s, claim_ttl_s=max_run_s
        )
        images = args.local_urls or LocalUrlArgs()
        self._images = KeptImages(max_bytes=images.max_bytes, keep_s=images.valid_s)

    async def engines(self) -> dict[str, EngineConfig]:
        """Return the configuration of each model's engines by model ID."""
        return self._engines

    async def report(
        self, model_id: str, replica: str, phase: str | None, *, failure: str | None = None
    ) -> None:
        """Note what a replica of a model that starts is doing, None when it is ready, or why it could not."""
        phases = self._starting.setdefault(model_id, {})
        phases.pop(replica, None)
        if phase is not None:
            phases[replica] = phase
        elif failure is None:
            self._failed.pop(model_id, None)
        else:
            self._failed[model_id] = failure

    async def starting(self) -> dict[str, list[str]]:
        """Return what the replicas that are starting do, by model ID."""
        return {model_id: list(phases.values()) for model_id, phases in self._starting.items() if phases}

    async def failed(self) -> dict[str, str]:
        """Return why replicas could not start, by model ID, as long as no later one could."""
        return self._failed

    async def acquire(
        self, name: str, requests_per_minute: int | None, max_concurrent: int | None
    ) -> float | None:
        """Admit a caller's request and return None, or return the seconds until a retry."""
        return self._limiter.acquire(name, requests_per_minute, max_concurrent)

    async def release(self, name: str) -> None:
        """End an admitted request."""
        self._limiter.release(name)

    async def claim(self, key: str, fingerprint: str) -> Claimed | Answer | IdempotencyKeyReused:
        """Claim a repeatable request, or wait for the answer of an earlier claim."""
        try:
            return await self._answers.claim(key, fingerprint)
        except IdempotencyKeyReused as error:
            return error  # if raised, it would arrive wrapped in a Ray error

    async def complete(self, key: str, answer: Answer) -> None:
        """Keep the answer of a claimed request."""
        self._answers.complete(key, answer)

    async def abandon(self, key: str) -> None:
        """Give up a claim without an answer worth keeping."""
        self._answers.abandon(key)

    async def keep_image(self, data: bytes, media_type: str, suffix: str) -> ImageTicket:
        """Keep an image, and return what its address must say."""
        return self._images.keep(data, media_type=media_type, suffix=suffix)

    async def image(self, ticket: ImageTicket) -> KeptImage | UnknownImage | None:
        """Return a kept image; None if it is no longer kept."""
        try:
            return self._images.find(ticket)
        except UnknownImage as error:
            return error
