"""The nouns of a fleet estimate: what is assumed, one node type's part, and the whole."""

import math
from dataclasses import dataclass

from pipelines.capacity.cluster_file import NodeType
from pipelines.capacity.engine_speed import EngineEstimate

DEGREES = (1, 2, 3, 4, 5, 6, 8, 10)
"""Sizes of one engine that are exact for the released model, heads padded where need be."""
Range = tuple[float, float]
"""From the fast (or cheap) end to the slow (or dear) one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What an estimate takes for granted; every one may be given."""

    node_start_s: float = 300.0
    """From asking for a machine to Ray running on it: boot, image, setup commands."""
    engine_start_s: float = 60.0
    """Fetching a converted checkpoint to the node, and 28 s of loading (SGLang CI, H100)."""
    job_ratio: float = 0.84
    """Speed of the whole job over its engines', measured on a CPU (benchmarks.pipeline_overhead)."""
    interruptions_per_h: float = 0.05
    """Of one spot node."""
    commit_rows: int = 256
    driver_blocks_per_s: float = 20.0
    """Blocks that one driver can hand out and commit (benchmarks.simulation.simulate_cluster measures it)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetOption:
    """One node type for the whole job, or for a share of it."""

    node_type: NodeType
    engine: EngineEstimate
    engine_why: str
    """Why the engine is of this degree."""
    images_per_s: float
    """One engine within the job, spot interruptions paid."""
    engines_per_node: int
    nodes: int
    finish_s: Range
    usd: Range | None
    """None without a price."""
    problem: str | None
    """Why it doesn't do, if so."""

    @property
    def engines(self) -> int:
        """Engines on all nodes."""
        return self.nodes * self.engines_per_node


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEstimate:
    """Every node type by itself, and what was chosen."""

    options: tuple[FleetOption, ...]
    chosen: tuple[FleetOption, ...]
    """One node type, several together, or none that meets the deadline."""
    why: str

    @property
    def finish_s(self) -> Range | None:
        """When the chosen nodes are done."""
        return self.chosen[0].finish_s if self.chosen else None

    @property
    def usd(self) -> Range | None:
        """What they cost; None where a price is unknown."""
        costs = [option.usd for option in self.chosen if option.usd]
        if len(costs) < len(self.chosen) or not costs:
            return None
        return math.fsum(low for low, _ in costs), math.fsum(high for _, high in costs)
