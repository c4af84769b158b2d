"""How ranks 1 and up come to be: what rank 0 asks of whoever starts them. It knows no tensor and no model."""

from dataclasses import dataclass
from typing import Protocol

from zimage_models.config import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """Where the ranks of one group meet: a store that rank 0 keeps, on a port of its own."""

    host: str
    port: int
    world_size: int
    generation: int
    """Counts the groups of one engine: 0 at first, one more each time it is rebuilt."""


class RankProcess(Protocol):
    """A rank that was started."""

    @property
    def alive(self) -> bool:
        """Whether it may still be there; at once, from any thread."""
        ...

    def kill(self) -> None:
        """End it without asking, and return when it is gone; harmless when it is gone already."""


class RankLauncher(Protocol):
    """Starts ranks; each runs :func:`.rank_follower.run_rank` in a process of its own."""

    host: str
    """The address of rank 0's machine, as the other ranks reach it."""

    def launch(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> RankProcess:
        """Start one rank and return without waiting for it."""
        ...

    def close(self) -> None:
        """Let go of whatever starts the ranks; they are gone already."""
