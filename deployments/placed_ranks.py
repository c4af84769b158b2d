"""Ranks of an engine that is divided over several nodes: Ray actors, one in each bundle of a placement group.

On one node the ranks are child processes of the engine's own
(:mod:`zimage_models.tensor_parallel.local_ranks`), and the engine reserves the GPUs of them all. Bundles are
for replicas of Serve, which places a replica's group as a whole and takes it away with the replica. It knows
no model.
"""

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from zimage_models.config import EngineConfig
from zimage_models.tensor_parallel.rank_launcher import Rendezvous

_KILL_TIMEOUT_S = 10.0


class PlacedRank:
    """A rank that runs in an actor; it ends with the process that started it, however that ends."""

    def __init__(self, actor: Any, ended: Any) -> None:
        self._actor = actor
        self._ended = ended

    @property
    def alive(self) -> bool:
        """Whether it may still be there."""
        ended, _ = ray.wait([self._ended], timeout=0)
        return not ended

    def kill(self) -> None:
        """End it without asking, and return when it is gone."""
        ray.kill(self._actor)
        ray.wait([self._ended], timeout=_KILL_TIMEOUT_S)


class PlacedRankLauncher:
    """Starts rank N in bundle N of a placement group, whose first bundle holds the engine itself.

    Args:
        group: one bundle for each rank; a rank reserves all of its own.
    """

    def __init__(self, group: PlacementGroup) -> None:
        self.host: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
        self._group = group

    def launch(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> PlacedRank:
        """Start one rank and return without waiting for it."""
        bundle: dict[str, float] = self._group.bundle_specs[rank]
        actor_class: Any = _RankActor
        actor = actor_class.options(
            num_cpus=bundle.get("CPU", 0),
            num_gpus=bundle.get("GPU", 0),
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                self._group, placement_group_bundle_index=rank
            ),
        ).remote()
        return PlacedRank(actor, actor.run.remote(rank, rendezvous, config))

    def close(self) -> None:
        """Do nothing: the group belongs to the replica."""


# A rank that was started again by Ray could not join the group it has left.
@ray.remote(max_restarts=0)
class _RankActor:
    def run(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> None:
        from zimage_models.tensor_parallel.rank_follower import run_rank  # imports torch

        # Ray shows each actor the GPU of its bundle alone.
        run_rank(rank, rendezvous, config, device_index=0)
