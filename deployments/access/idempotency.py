"""Answers by idempotency key: a repeated request gets the answer of the first.

It knows nothing about HTTP frameworks or Ray; all calls come from one event loop.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from deployments.errors import IdempotencyKeyReused

_FIELD = "Idempotency-Key"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A finished HTTP answer that can be sent again."""

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str
    body: bytes

    @property
    def num_bytes(self) -> int:
        """Size of its headers, media type and body."""
        return (
            len(self.body) + len(self.media_type) + sum(len(name) + len(text) for name, text in self.headers)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """The caller must do the work, then complete or abandon the key."""

    key: str


class IdempotencyStore:
    """Keeps answers; drops the least recently used first.

    Args:
        max_entries: keys to keep; keys in progress stay, however many.
        max_bytes: limit of all answers together.
        ttl_s: how long an answer is kept.
        claim_ttl_s: how long until a claim's owner counts as dead; longer than any deadline.
        clock: monotonic, in seconds.
    """

    def __init__(
        self,
        *,
        max_entries: int,
        max_bytes: int,
        ttl_s: float,
        claim_ttl_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._claim_ttl_s = claim_ttl_s
        self._clock = clock
        self._entries: OrderedDict[str, _Entry] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_entries(self) -> int:
        """Number of keys, answered or in progress."""
        return len(self._entries)

    @property
    def num_bytes(self) -> int:
        """Size of all answers."""
        return self._num_bytes

    async def claim(self, key: str, fingerprint: str) -> Claimed | Answer:
        """Claim the work for a key, or return its answer, waiting while another caller does the work.

        Args:
            key: the client's key, made unique across clients.
            fingerprint: a digest of everything that determines the answer.

        Raises:
            IdempotencyKeyReused: the key was used with another fingerprint.
        """
        while True:
            entry = self._entries.get(key)
            if entry is None or entry.expires_at <= self._clock():
                self._remove(key)
                self._entries[key] = _Entry(
                    fingerprint=fingerprint, expires_at=self._clock() + self._claim_ttl_s
                )
                self._make_room()
                return Claimed(key=key)
            if entry.fingerprint != fingerprint:
                raise IdempotencyKeyReused(f"{_FIELD}: was used before, with another request", field=_FIELD)
            if entry.answer is None:
                await entry.wait_until_settled(entry.expires_at - self._clock())
            # Read from the entry: an answer too large to keep still serves the callers that waited for it.
            if entry.answer is not None:
                if key in self._entries:
                    self._entries.move_to_end(key)
                return entry.answer

    def complete(self, key: str, answer: Answer) -> None:
        """Store the answer of claimed work; do nothing without a claim, as after it expired."""
        entry = self._entries.get(key)
        if entry is None or entry.answer is not None:
            return
        entry.answer = answer
        entry.expires_at = self._clock() + self._ttl_s
        entry.settled.set()
        self._num_bytes += answer.num_bytes
        # An answer too large to keep is dropped first, not after all the others.
        self._entries.move_to_end(key, last=answer.num_bytes <= self._max_bytes)
        self._make_room()

    def abandon(self, key: str) -> None:
        """Give up claimed work, so that the next caller or a waiting one claims it."""
        entry = self._entries.get(key)
        if entry is not None and entry.answer is None:
            self._remove(key)

    def _remove(self, key: str) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:
            return
        entry.settled.set()
        if entry.answer is not None:
            self._num_bytes -= entry.answer.num_bytes

    def _make_room(self) -> None:
        now = self._clock()
        for key, entry in list(self._entries.items()):
            if len(self._entries) <= self._max_entries and self._num_bytes <= self._max_bytes:
                return
            if entry.answer is not None or entry.expires_at <= now:
                self._remove(key)


@dataclass(slots=True, kw_only=True)
class _Entry:
    fingerprint: str
    expires_at: float
    answer: Answer | None = None
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    async def wait_until_settled(self, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s):
                await self.settled.wait()
        except TimeoutError:
            return
