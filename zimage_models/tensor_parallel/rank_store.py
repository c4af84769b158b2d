"""The store where ranks meet and tell rank 0 how far they are; rank 0's process keeps it, on a free port."""

import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from zimage_models.tensor_parallel.rank_launcher import Rendezvous

STARTED, LOADED, FAILED = "started", "loaded", "failed"
"""What a rank tells: with nothing, with a report of its loading, with the reason."""


class RankStore:
    """One process' end of the store."""

    def __init__(self, store: Any) -> None:
        self.store = store
        """A torch.distributed.TCPStore."""

    @classmethod
    def open(cls, host: str, *, world_size: int, timeout_s: float) -> "RankStore":
        """Open one in this process."""
        # A listening socket of our own: the store would listen on every interface, and its port be a guess.
        with socket.create_server((host, 0)) as listener:
            port = listener.getsockname()[1]
            descriptor = listener.detach()
        return cls(
            dist.TCPStore(  # type: ignore[attr-defined]  # its home is private
                host,
                port,
                world_size,
                is_master=True,
                wait_for_workers=False,
                timeout=timedelta(seconds=timeout_s),
                master_listen_fd=descriptor,
            )
        )

    @classmethod
    def reach(cls, rendezvous: Rendezvous, *, timeout_s: float) -> "RankStore":
        """Connect to that of rank 0."""
        return cls(
            dist.TCPStore(  # type: ignore[attr-defined]  # its home is private
                rendezvous.host,
                rendezvous.port,
                rendezvous.world_size,
                is_master=False,
                timeout=timedelta(seconds=timeout_s),
            )
        )

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.store.port)

    def tell(self, rank: int, state: str, text: str = "") -> None:
        """Say how far a rank is."""
        self.store.set(f"{state}/{rank}", text)

    def told(self, rank: int, state: str) -> str | None:
        """Look up what a rank has said of a state; at once."""
        key = f"{state}/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else None
