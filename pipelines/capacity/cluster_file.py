"""Machines that a Ray cluster file can start. It reads only the file and contacts no cloud."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from pipelines.capacity.accelerators import CPU_CORE
from pipelines.capacity.measured import CapacityTable
from zimage_models.errors import InvalidRequest

ACCELERATOR_LABEL = "ray.io/accelerator-type"
_DEFAULT_IDLE_MINUTES = 5
"""Ray's default, for a file that sets none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeType:
    """One kind of node with accelerators."""

    name: str
    instance_type: str | None
    accelerator: str
    num_accelerators: int
    max_nodes: int | None
    """Maximum number of nodes; None: no limit."""
    is_spot: bool
    usd_per_hour: float | None
    """List price; None if it is not in the table."""
    is_running: bool = False
    """Whether it is running already, so that it need not be started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """The nodes that a cluster offers."""

    node_types: tuple[NodeType, ...]
    max_nodes: int | None
    idle_s: float
    """How long a node stays, and is paid for, after its last work."""


def any_machine(table: CapacityTable) -> Cluster:
    """Return a cluster of all machines in the table, without limits, for choosing what to rent."""
    node_types = (
        NodeType(
            name=name,
            instance_type=name,
            accelerator=machine.accelerator,
            num_accelerators=machine.num_accelerators,
            max_nodes=None,
            is_spot=False,
            usd_per_hour=machine.usd_per_hour,
        )
        for name, machine in table.machines.items()
    )
    return Cluster(node_types=tuple(node_types), max_nodes=None, idle_s=60.0 * _DEFAULT_IDLE_MINUTES)


def this_machine(num_cpus: int) -> Cluster:
    """Return a cluster of this machine's CPUs."""
    node_type = NodeType(
        name="this machine",
        instance_type=None,
        accelerator=CPU_CORE,
        num_accelerators=num_cpus,
        max_nodes=1,
        is_spot=False,
        usd_per_hour=0.0,
        is_running=True,
    )
    return Cluster(node_types=(node_type,), max_nodes=1, idle_s=0.0)


def read_cluster(path: str, table: CapacityTable) -> Cluster:
    """Read a cluster-launcher file; node types without accelerators are left out.

    Raises:
        InvalidRequest: the file can't be read, has no accelerators, or has some that are not in the table.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidRequest(f"cluster: {path} cannot be read ({error})", field="cluster") from error
    types = content.get("available_node_types") if isinstance(content, dict) else None
    if not isinstance(types, dict):
        raise InvalidRequest(f"cluster: {path} has no available_node_types", field="cluster")
    found = tuple(
        node_type
        for name, entry in types.items()
        if (node_type := _node_type(path, str(name), entry, table)) is not None
    )
    if not found:
        raise InvalidRequest(f"cluster: {path} has no node type with GPUs and workers", field="cluster")
    idle_minutes = content.get("idle_timeout_minutes", _DEFAULT_IDLE_MINUTES)
    return Cluster(
        node_types=found,
        max_nodes=_integer(path, content, "max_workers", None),
        idle_s=60.0 * float(idle_minutes),
    )


def _node_type(path: str, name: str, entry: Any, table: CapacityTable) -> NodeType | None:
    where = f"{path}: {name}"
    if not isinstance(entry, dict):
        raise InvalidRequest(f"cluster: {where} is {entry!r}, not a node type", field="cluster")
    config = entry.get("node_config") or {}
    instance_type = config.get("InstanceType")
    machine = table.machines.get(str(instance_type))
    resources = entry.get("resources") or {}
    # Without resources, Ray asks AWS what the machine has.
    has_by_table = machine.num_accelerators if machine and "GPU" not in resources else 0
    num_accelerators = _integer(where, resources, "GPU", has_by_table) or 0
    # Ray's default is the whole cluster's limit.
    max_nodes = _integer(where, entry, "max_workers", None)
    if not num_accelerators or max_nodes == 0:
        return None
    accelerator = (entry.get("labels") or {}).get(ACCELERATOR_LABEL) or (machine and machine.accelerator)
    if accelerator is None:
        raise InvalidRequest(
            f"cluster: {where}: the accelerator of {instance_type} is unknown; name it in the label "
            f"{ACCELERATOR_LABEL}, or give the machine with --measured",
            field="cluster",
        )
    market = config.get("InstanceMarketOptions") or {}
    return NodeType(
        name=name,
        instance_type=instance_type,
        accelerator=table.accelerator(str(accelerator)).name,
        num_accelerators=num_accelerators,
        max_nodes=max_nodes,
        is_spot=market.get("MarketType") == "spot",
        usd_per_hour=machine.usd_per_hour if machine else None,
    )


def _integer(where: str, entry: dict[str, Any], name: str, default: int | None) -> int | None:
    value = entry.get(name, default)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(
            f"cluster: {where}: {name} is {value!r}, not a whole number of at least 0", field="cluster"
        )
    return value
