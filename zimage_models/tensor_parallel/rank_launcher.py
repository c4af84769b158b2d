"""The interface that rank 0 uses to start the other ranks. It knows nothing about tensors or models."""

from dataclasses import dataclass
from typing import Protocol

from zimage_models.config import EngineConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Rendezvous:
    """The place where the ranks of one group meet: a store in rank 0's process, on its own port."""

    host: str
    port: int
    world_size: int
    generation: int
    """Number of the group in its engine: 0 at first, one more after each rebuild."""


class RankProcess(Protocol):
    """A rank that was started."""

    @property
    def alive(self) -> bool:
        """Whether it may still be running; it answers at once, in any thread."""
        ...

    def kill(self) -> None:
        """Kill it, and return when it is gone; harmless if it is already gone."""


class RankLauncher(Protocol):
    """Starts ranks; each runs :func:`.rank_follower.run_rank` in its own process."""

    host: str
    """The address of rank 0's machine, as the other ranks reach it."""

    def launch(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> RankProcess:
        """Start one rank and return without waiting for it."""
        ...

    def close(self) -> None:
        """Release what starts the ranks; they are already gone."""
