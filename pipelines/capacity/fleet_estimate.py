"""Data types of a fleet estimate: the assumptions, one node type's option, and the whole estimate."""

import math
from dataclasses import dataclass

from pipelines.capacity.cluster_file import NodeType
from pipelines.capacity.engine_speed import EngineEstimate

DEGREES = (1, 2, 3, 4, 5, 6, 8, 10)
"""Engine sizes, in GPUs, that are exact for the released model, with heads padded where necessary."""
Range = tuple[float, float]
"""The fast (or cheap) end and the slow (or expensive) end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """Values that an estimate assumes; each can be set."""

    node_start_s: float = 300.0
    """Time from requesting a machine until Ray runs on it: boot, image, setup commands."""
    engine_start_s: float = 60.0
    """Time to fetch a converted checkpoint to the node, plus 28 s to load it (SGLang CI, H100)."""
    job_ratio: float = 0.84
    """Speed of the whole job relative to its engines', measured on a CPU (benchmarks.pipeline_overhead)."""
    interruptions_per_h: float = 0.05
    """Interruptions of one spot node."""
    commit_rows: int = 256
    driver_blocks_per_s: float = 20.0
    """Blocks that one driver can hand out and commit, as benchmarks.simulation.simulate_cluster measures."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOption:
    """One node type for the whole job, or for a share of it."""

    node_type: NodeType
    engine: EngineEstimate
    engine_why: str
    """Why the engine has this degree."""
    images_per_s: float
    """Speed of one engine within the job, spot interruptions included."""
    engines_per_node: int
    nodes: int
    finish_s: Range
    usd: Range | None
    """Cost; None without a price."""
    problem: str | None
    """Why the option cannot be used, or None."""

    @property
    def engines(self) -> int:
        """Number of engines on all nodes."""
        return self.nodes * self.engines_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEstimate:
    """An option for each node type, and the choice."""

    options: tuple[FleetOption, ...]
    chosen: tuple[FleetOption, ...]
    """One node type, several together, or none if the deadline cannot be met."""
    why: str

    @property
    def finish_s(self) -> Range | None:
        """When the chosen nodes finish."""
        return self.chosen[0].finish_s if self.chosen else None

    @property
    def usd(self) -> Range | None:
        """Cost of the chosen nodes; None if a price is unknown."""
        costs = [option.usd for option in self.chosen if option.usd]
        if len(costs) < len(self.chosen) or not costs:
            return None
        return math.fsum(low for low, _ in costs), math.fsum(high for _, high in costs)
