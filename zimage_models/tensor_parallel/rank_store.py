"""The store where ranks meet and report their state to rank 0. It is in rank 0's process, on a free port."""

import socket
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from zimage_models.tensor_parallel.rank_launcher import Rendezvous

STARTED, LOADED, FAILED = "started", "loaded", "failed"
"""The states that a rank reports: with no text, with a report of what it loaded, and with the reason."""


class RankStore:
    """One process's end of the store."""

    def __init__(self, store: Any) -> None:
        self.store = store
        """A torch.distributed.TCPStore."""

    @classmethod
    def open(cls, host: str, *, world_size: int, timeout_s: float) -> "RankStore":
        """Open a store in this process."""
        # Our own listening socket: the store would listen on every interface, and we would guess its port.
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
        """Connect to rank 0's store."""
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
        """Port that it listens on."""
        return int(self.store.port)

    def tell(self, rank: int, state: str, text: str = "") -> None:
        """Report a state of a rank."""
        self.store.set(f"{state}/{rank}", text)

    def told(self, rank: int, state: str) -> str | None:
        """Return what a rank has reported for a state, or None; do not wait for it."""
        key = f"{state}/{rank}"
        return self.store.get(key).decode() if self.store.check([key]) else None
