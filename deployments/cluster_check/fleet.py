"""The nodes that a cluster may have, and whether engines find room on them."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from ray.autoscaler._private.node_provider_availability_tracker import NodeAvailabilitySummary
from ray.autoscaler._private.resource_demand_scheduler import (
    _default_utilization_scorer,
    get_bin_pack_residual,
    get_nodes_for,
)

from deployments.cluster_check.demand import ACCELERATOR_PREFIX, Demand


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Node types with ``resources`` and ``max_workers`` each, as Ray's autoscaler holds them."""

    name: str
    """The file or manifest, for messages."""
    node_types: dict[str, dict[str, Any]]
    head: str
    max_workers: int

    def misfit(self, demand: Demand) -> str | None:
        """Return why not even one process finds a node, None if one does."""
        usable = {name: self._resources(name) for name in self.node_types if self._may_run(name)}
        if demand.accelerator_type:
            wanted = ACCELERATOR_PREFIX + demand.accelerator_type
            having = [name for name in self.node_types if self._resources(name).get(wanted)]
            if not having:
                there = ", ".join(
                    sorted({key for r in usable.values() for key in r if ACCELERATOR_PREFIX in key})
                )
                return f"no node of {self.name} has {wanted}; there are: {there or 'none'}"
            usable = {name: usable[name] for name in having if name in usable}
            if not usable:
                return f"of {self.name} only {', '.join(having)} has {wanted}, and may have no workers"
        bundle = demand.bundle
        if any(all(r.get(key, 0) >= amount for key, amount in bundle.items()) for r in usable.values()):
            return None
        largest = max(usable.items(), key=lambda item: (item[1].get("GPU", 0), item[1].get("CPU", 0)))
        return (
            f"{demand.what} needs {_spelled(bundle)} on one node; the largest that {self.name} has for it is "
            f"{largest[0]} with {_spelled(largest[1])}"
        )

    def left_over(self, demands: Iterable[Demand]) -> Counter[str]:
        """Return how many of each find no place when all node types are at their maximum."""
        named: dict[Any, list[str]] = {}
        wanted: list[dict[str, Any]] = []
        # Ray places the hard ones first, too.
        for demand in sorted(demands, key=lambda demand: (demand.num_gpus, demand.num_cpus), reverse=True):
            named.setdefault(tuple(sorted(demand.bundle.items())), []).append(demand.what)
            wanted += [demand.bundle] * demand.count
        wanted = [bundle for bundle in wanted if bundle]
        head: list[dict[str, Any]] = [self._resources(self.head)]
        wanted, _ = get_bin_pack_residual(head, wanted)
        # No node type has been found to be sold out.
        scorer: Any = partial(
            _default_utilization_scorer, node_availability_summary=NodeAvailabilitySummary({})
        )
        _, unplaced = get_nodes_for(
            self.node_types,
            {self.head: 1},
            self.head,
            self.max_workers,
            wanted,
            scorer,
        )
        return Counter(" or ".join(named[tuple(sorted(bundle.items()))]) for bundle in unplaced)

    def _resources(self, name: str) -> dict[str, float]:
        resources: dict[str, float] = self.node_types[name].get("resources", {})
        return resources

    def _may_run(self, name: str) -> bool:
        return name == self.head or (self.max_workers > 0 and self.node_types[name].get("max_workers", 0) > 0)


def _spelled(resources: dict[str, float]) -> str:
    parts = [f"{resources.get(name, 0):g} {name}s" for name in ("GPU", "CPU")]
    return " and ".join(parts)
