"""Ranks of an engine that spans several nodes: Ray actors, one in each bundle of a placement group.

On one node, the ranks are child processes of the engine (:mod:`zimage_models.tensor_parallel.local_ranks`),
which reserves all their GPUs. Only Serve replicas use bundles: Serve places a replica's group as a whole and
removes it with the replica. This module knows nothing about models.
"""

from typing import Any

import ray
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from zimage_models.config import EngineConfig
from zimage_models.tensor_parallel.rank_launcher import Rendezvous

_KILL_TIMEOUT_S = 10.0


class PlacedRank:
    """A rank that runs in an actor; it always ends with the process that started it."""

    def __init__(self, actor: Any, ended: Any) -> None:
        self._actor = actor
        self._ended = ended

    @property
    def alive(self) -> bool:
        """Whether the rank may still be running."""
        ended, _ = ray.wait([self._ended], timeout=0)
        return not ended

    def kill(self) -> None:
        """Kill the rank and wait until it has ended."""
        ray.kill(self._actor)
        ray.wait([self._ended], timeout=_KILL_TIMEOUT_S)


class PlacedRankLauncher:
    """Starts rank N in bundle N of a placement group; the first bundle holds the engine itself.

    Args:
        group: one bundle per rank; each rank reserves its whole bundle.
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


# A rank restarted by Ray could not rejoin its group.
@ray.remote(max_restarts=0)
class _RankActor:
    def run(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> None:
        from zimage_models.tensor_parallel.rank_follower import run_rank  # imports torch

        # Ray makes only the bundle's GPU visible to each actor.
        run_rank(rank, rendezvous, config, device_index=0)
