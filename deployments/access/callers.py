"""Identifies callers by their API keys and applies the keys' limits."""

import contextvars
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from deployments.access.api_keys import ApiKey, ApiKeys
from deployments.access.idempotency import Answer
from deployments.errors import IdempotencyKeyReused, RateLimited, Unauthorized

ANYONE = "anyone"
_bearer = HTTPBearer(auto_error=False, description="An API key; open endpoints need none.")
# As Anthropic's clients and many gateways send keys, and as Azure's do.
_x_api_key, _api_key = (
    APIKeyHeader(name=name, scheme_name=name, auto_error=False, description="The same, in another header.")
    for name in ("x-api-key", "api-key")
)


class Callers:
    """Admits requests; ``identify`` is a FastAPI dependency."""

    def __init__(self, keys: ApiKeys, desk: Any) -> None:
        self._keys = keys
        self._desk = desk

    async def identify(
        self,
        request: Request,
        credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
        x_api_key: Annotated[str | None, Depends(_x_api_key)],
        api_key: Annotated[str | None, Depends(_api_key)],
    ) -> ApiKey | None:
        """Return the key that came with a request, or None if no keys are needed.

        Of several headers one with a known key is enough: a client may have to send something in each.

        Raises:
            Unauthorized: a key is needed, but it is missing or unknown.
        """
        if not self._keys.enabled:
            return None
        given = [credentials.credentials if credentials else None, x_api_key, api_key]
        presented = [text for text in given if text]
        if not presented:
            raise Unauthorized(
                "Authorization: missing; send 'Bearer' and an API key, or the key as x-api-key or api-key"
            )
        key = next((key for text in presented if (key := self._keys.identify(text))), None)
        if key is None:
            raise Unauthorized("Authorization: this API key is not known")
        request.state.caller = key.name
        return key

    @asynccontextmanager
    async def admitted(self, key: ApiKey | None) -> AsyncIterator[str]:
        """Count a request against its key's limits while the block runs; yield the caller's name.

        Raises:
            RateLimited: one of the limits is reached.
        """
        if key is None or not (key.requests_per_minute or key.max_concurrent):
            yield ANYONE if key is None else key.name
            return
        wait_s = await self._desk.acquire.remote(key.name, key.requests_per_minute, key.max_concurrent)
        if wait_s is not None:
            limits = {"requests_per_minute": key.requests_per_minute, "max_concurrent": key.max_concurrent}
            listed = ", ".join(f"{name} {limit}" for name, limit in limits.items() if limit)
            raise RateLimited(
                f"too many requests with this key; its limits are: {listed}", retry_after_s=wait_s
            )
        try:
            yield key.name
        finally:
            _notify(self._desk.release, key.name)

    @asynccontextmanager
    async def claimed(
        self, caller: str, operation: str, idempotency_key: str, fingerprint: str
    ) -> AsyncIterator["Claim"]:
        """Claim a repeatable request while the block runs, or wait for the answer of an earlier claim.

        Raises:
            IdempotencyKeyReused: the key was already used with another request.
        """
        key = _digest(caller, operation, idempotency_key)
        found = await self._desk.claim.remote(key, _digest(fingerprint))
        if isinstance(found, IdempotencyKeyReused):
            raise found
        claim = Claim(answer=found if isinstance(found, Answer) else None)
        try:
            yield claim
        finally:
            if claim.kept is not None:
                _notify(self._desk.complete, key, claim.kept)
            elif claim.answer is None:
                _notify(self._desk.abandon, key)


class Claim:
    """A repeatable request: its earlier answer, or the right to make it and keep its answer."""

    def __init__(self, *, answer: Answer | None) -> None:
        self.answer = answer
        self.kept: Answer | None = None

    def keep(self, answer: Answer) -> None:
        """Keep the answer for repeats of the request."""
        self.kept = answer


def _notify(method: Any, *arguments: Any) -> None:
    """Call the desk without waiting, outside any request: Serve cancels a request's calls with it."""
    contextvars.Context().run(method.remote, *arguments)


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
