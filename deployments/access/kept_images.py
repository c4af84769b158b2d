"""Images kept in memory for a while, each behind a signed address; the oldest leave when there is no room.

It knows nothing about HTTP frameworks or Ray.
"""

import base64
import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from deployments.errors import UnknownImage


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptImage:
    """An encoded image."""

    data: bytes
    media_type: str
    expires_at: int
    """Unix time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageTicket:
    """What an address says: which image, until when, and the proof that its store has said so."""

    name: str
    expires_at: int
    """Unix time."""
    signature: str


class KeptImages:
    """Keeps images by tickets that nobody can make up.

    Args:
        max_bytes: limit of all images together.
        keep_s: how long an image is kept at most.
        clock: Unix time in seconds.
    """

    def __init__(self, *, max_bytes: int, keep_s: float, clock: Callable[[], float] = time.time) -> None:
        self._max_bytes = max_bytes
        self._keep_s = keep_s
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._images: OrderedDict[str, KeptImage] = OrderedDict()
        self._num_bytes = 0

    @property
    def num_bytes(self) -> int:
        """Size of all images."""
        return self._num_bytes

    def keep(self, data: bytes, *, media_type: str, suffix: str) -> ImageTicket:
        """Keep an image and return its ticket; one larger than the limit is gone at once."""
        expires_at = int(self._clock() + self._keep_s)
        name = secrets.token_urlsafe(18) + suffix
        self._images[name] = KeptImage(data=data, media_type=media_type, expires_at=expires_at)
        self._num_bytes += len(data)
        self._make_room()
        return ImageTicket(name=name, expires_at=expires_at, signature=self._sign(name, expires_at))

    def find(self, ticket: ImageTicket) -> KeptImage | None:
        """Return a ticket's image, or None if it is no longer kept.

        Raises:
            UnknownImage: this store has issued no such ticket.
        """
        proof = self._sign(ticket.name, ticket.expires_at)
        if not hmac.compare_digest(ticket.signature.encode(), proof.encode()):
            raise UnknownImage(
                "image: this address was not given out here, or before a restart", field="image"
            )
        self._make_room()
        return self._images.get(ticket.name)

    def _sign(self, name: str, expires_at: int) -> str:
        digest = hmac.digest(self._secret, f"{expires_at} {name}".encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _make_room(self) -> None:
        # All are kept equally long, so the first to come are the first to go.
        now = self._clock()
        while self._images:
            name, oldest = next(iter(self._images.items()))
            if oldest.expires_at > now and self._num_bytes <= self._max_bytes:
                return
            del self._images[name]
            self._num_bytes -= len(oldest.data)
