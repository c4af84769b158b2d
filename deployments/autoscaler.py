"""What Ray's autoscaler reports about nodes that have not started yet."""

from collections import Counter

import ray
from ray.autoscaler.v2.schema import ClusterStatus
from ray.autoscaler.v2.sdk import get_cluster_status

from deployments.engine_resources import EngineResources


def has_autoscaler() -> bool:
    """Return whether an autoscaler (version 2: `ray up`, KubeRay) may add nodes; Ray must be initialised.

    Ray 2.60 does not report to drivers which node types it may start.
    """
    # A cluster without an autoscaler also has a monitor, but it never reports a state.
    return int(_status().stats.autoscaler_version or 0) > 0


def describe_wait(resources: EngineResources) -> str | None:
    """Describe how many engines have no node and what is being done about it; None if all have one."""
    status = _status()
    bundle = resources.bundle()
    num_waiting = sum(
        shape.count
        for demand in status.resource_demands.ray_task_actor_demand
        for shape in demand.bundles_by_count
        if shape.bundle == bundle
    )
    if not num_waiting:
        return None
    return f"{num_waiting} engine{'s' * (num_waiting > 1)} of {resources}; {_supply(status)}"


def _supply(status: ClusterStatus) -> str:
    starting = Counter(node.ray_node_type_name for node in status.pending_nodes)
    for launch in status.pending_launches:
        starting[launch.ray_node_type_name] += launch.count
    if starting:
        return "starting: " + ", ".join(f"{count} x {name}" for name, count in sorted(starting.items()))
    if status.failed_launches:
        last = max(status.failed_launches, key=lambda launch: launch.failed_ts_s or 0)
        return f"none is starting; the last start of {last.ray_node_type_name} failed: {last.details}"
    return "none is starting: no node type has these resources, or all allowed nodes are in use"


def _status() -> ClusterStatus:
    return get_cluster_status(ray.get_runtime_context().gcs_address)
