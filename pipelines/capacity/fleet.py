"""The engines and nodes that a job needs to meet a deadline, how long it takes with them, and the cost.

The formulas are in docs/capacity.md. An estimate uses the slow end of a speed's range, so that
the deadline holds there too; more nodes for less time cost nearly the same.
"""

import math
from collections.abc import Sequence
from dataclasses import replace

from pipelines.capacity.accelerators import SPOT_SHARE, Accelerator
from pipelines.capacity.cluster_file import Cluster, NodeType
from pipelines.capacity.engine_speed import EngineEstimate
from pipelines.capacity.fleet_estimate import DEGREES, Assumptions, FleetEstimate, FleetOption, Range
from pipelines.capacity.measured import CapacityTable
from pipelines.capacity.workload import Workload
from zimage_models.errors import InvalidRequest

_HOUR_S = 3600.0
_DEFAULTS = Assumptions()


def estimate_fleet(
    workload: Workload,
    cluster: Cluster,
    table: CapacityTable,
    *,
    deadline_s: float | None,
    degree: int | None = None,
    max_latency_s: float | None = None,
    assumptions: Assumptions = _DEFAULTS,
) -> FleetEstimate:
    """Estimate the engines and nodes of a job.

    Args:
        workload: the images to generate.
        cluster: the available nodes.
        table: speeds and prices.
        deadline_s: seconds from now; None takes all nodes of a limited type, or one of an unlimited type.
        degree: accelerators per engine; None for as few as memory and ``max_latency_s`` allow.
        max_latency_s: longest allowed time of one image.
        assumptions: the values that are assumed.
    """
    estimator = _Estimator(workload, cluster, table, deadline_s, degree, max_latency_s, assumptions)
    options = tuple(estimator.option(node_type) for node_type in cluster.node_types)
    usable = [option for option in options if option.problem is None]
    if usable:
        best = min(usable, key=_preference)
        reason = "the cheapest" if best.usd else "the fastest"
        among = f" of {len(usable)} node types" if len(usable) > 1 else ""
        why = f"{reason}{among} that {'meet' if len(usable) > 1 else 'meets'} the deadline"
        return FleetEstimate(options=options, chosen=(best,), why=why if deadline_s else f"{reason}{among}")
    return estimator.together(options)


def _preference(option: FleetOption) -> tuple[float, float, int]:
    """Order by cost to the dollar, then by time to the minute, then fewer nodes."""
    cost = round(option.usd[1]) if option.usd else math.inf
    return cost, round(option.finish_s[1] / 60), option.nodes


class _Estimator:
    def __init__(
        self,
        workload: Workload,
        cluster: Cluster,
        table: CapacityTable,
        deadline_s: float | None,
        degree: int | None,
        max_latency_s: float | None,
        assumptions: Assumptions,
    ) -> None:
        self._workload = workload
        self._cluster = cluster
        self._table = table
        self._deadline_s = deadline_s
        self._degree = degree
        self._max_latency_s = max_latency_s
        self._given = assumptions
        soonest_s = min(map(self._start_s, cluster.node_types))
        if deadline_s is not None and deadline_s <= soonest_s:
            raise InvalidRequest(
                f"deadline: {deadline_s:g} s is not above the {soonest_s:g} s that nodes and engines "
                "take to start (--node-start, --engine-start)",
                field="deadline",
            )

    def _start_s(self, node_type: NodeType) -> float:
        given = self._given
        return given.engine_start_s + (0.0 if node_type.is_running else given.node_start_s)

    def option(self, node_type: NodeType) -> FleetOption:
        accelerator = self._table.accelerator(node_type.accelerator)
        engine, why, problem = self._engine(node_type, accelerator)
        option = FleetOption(
            node_type=node_type,
            engine=engine,
            engine_why=why,
            images_per_s=self._job_speed(engine, node_type),
            engines_per_node=node_type.num_accelerators // engine.degree,
            nodes=0,
            finish_s=(math.inf, math.inf),
            usd=None,
            problem=problem,
        )
        if problem:
            return option
        limits = [number for number in (node_type.max_nodes, self._cluster.max_nodes) if number is not None]
        limit = min(limits) if limits else None
        if limit == 0:
            return replace(option, problem="max_workers: 0 allows no node of this type")
        wanted = self._nodes_wanted(option) if self._deadline_s else limit or 1
        # With more engines than blocks, some would have nothing to do.
        num_blocks = math.ceil(self._workload.num_images / self._given.commit_rows)
        useful = math.ceil(num_blocks / option.engines_per_node)
        nodes = min(number for number in (wanted, limit, useful) if number is not None)
        option = self._sized([replace(option, nodes=nodes)])[0]
        return replace(option, problem=self._too_slow(option, limit, useful, wanted))

    def together(self, options: Sequence[FleetOption]) -> FleetEstimate:
        """Combine node types, the cheapest first, until the deadline is met."""
        fitting = [option for option in options if option.nodes]
        if not fitting:
            return FleetEstimate(options=tuple(options), chosen=(), why=options[0].problem or "")
        by_price = sorted(fitting, key=lambda option: (self._usd_per_image(option), -option.images_per_s))
        left = self._cluster.max_nodes or sum(option.nodes for option in fitting)
        chosen: list[FleetOption] = []
        for option in by_price:
            limit = min(left, option.node_type.max_nodes or left)
            for nodes in (self._nodes_missing(chosen, option), limit):
                if 0 < nodes <= limit:
                    chosen.append(replace(option, nodes=nodes, problem=None))
                    left -= nodes
                    break
            chosen = self._sized(chosen)
            if self._deadline_s is not None and chosen and chosen[0].finish_s[1] <= self._deadline_s:
                return FleetEstimate(
                    options=tuple(options),
                    chosen=tuple(chosen),
                    why="no node type meets the deadline alone; the cheapest ones together do",
                )
        soonest = chosen[0].finish_s[1] / _HOUR_S
        return FleetEstimate(
            options=tuple(options),
            chosen=(),
            why=f"all nodes together take up to {soonest:.3g} h; raise max_workers or the deadline",
        )

    def _engine(
        self, node_type: NodeType, accelerator: Accelerator
    ) -> tuple[EngineEstimate, str, str | None]:
        degrees = [self._degree] if self._degree else [n for n in DEGREES if n <= node_type.num_accelerators]
        engines = [self._workload.engine(accelerator, degree) for degree in degrees]
        first = engines[0]
        if first.degree > node_type.num_accelerators:
            problem = f"--tp {first.degree} needs more than the {node_type.num_accelerators} GPUs of a node"
            return replace(first, degree=node_type.num_accelerators), "", problem
        fitting = [engine for engine in engines if engine.fits]
        if not fitting:
            least = min(engines, key=lambda engine: engine.memory_gb)
            problem = (
                f"needs {least.memory_gb:.1f} GB on one GPU; {accelerator.name} has {accelerator.memory_gb:g}"
            )
            return least, "", problem
        if self._degree:
            return fitting[0], "as requested", None
        if self._max_latency_s is not None and fitting[0].image_s > self._max_latency_s:
            fast = [engine for engine in fitting if engine.image_s <= self._max_latency_s]
            if not fast:
                best = min(fitting, key=lambda engine: engine.image_s)
                return (
                    best,
                    "",
                    f"{best.image_s:.2f} s per image at best; the limit is {self._max_latency_s:g} s",
                )
            slow_s = fitting[0].image_s
            return fast[0], f"latency: {slow_s:.2f} s at degree {fitting[0].degree}", None
        if fitting[0].degree > 1:
            return fitting[0], f"memory: one GPU would need {first.memory_gb:.1f} GB", None
        return fitting[0], "it fits one GPU, and more engines make more images than larger ones", None

    def _job_speed(self, engine: EngineEstimate, node_type: NodeType) -> float:
        speed = engine.images_per_s * self._given.job_ratio
        if not node_type.is_spot:
            return speed
        lost_s = self._block_s(speed) / 2 + self._start_s(node_type)
        return speed / (1 + self._given.interruptions_per_h * lost_s / _HOUR_S)

    def _block_s(self, images_per_s: float) -> float:
        return min(self._given.commit_rows, self._workload.num_images) / images_per_s

    def _ends(self, option: FleetOption) -> Range:
        """Return the speed of one engine at the fast and at the slow end."""
        spread = self._table.accelerator(option.node_type.accelerator).spread
        return option.images_per_s * (1 + spread), option.images_per_s * (1 - spread)

    def _nodes_wanted(self, option: FleetOption) -> int | None:
        return self._nodes_missing([], option) or None

    def _nodes_missing(self, others: Sequence[FleetOption], option: FleetOption) -> int:
        """Count the nodes of an option that, with the others, meet the deadline; 0 if no number does."""
        assert self._deadline_s is not None
        slow = self._ends(option)[1]
        tail_s = max(self._block_s(self._ends(one)[1]) for one in (*others, option))
        start_s = max(self._start_s(one.node_type) for one in (*others, option))
        left_s = self._deadline_s - start_s - tail_s
        if left_s <= 0:
            return 0
        rate = self._workload.num_images / left_s
        rate -= sum(one.engines * self._ends(one)[1] for one in others)
        return max(1, math.ceil(rate / (slow * option.engines_per_node)))

    def _sized(self, options: Sequence[FleetOption]) -> list[FleetOption]:
        """Fill in when options that share the job finish, and what each costs."""
        finish = []
        start_s = max(self._start_s(option.node_type) for option in options)
        for end in (0, 1):
            speed = sum(option.engines * self._ends(option)[end] for option in options)
            tail_s = max(self._block_s(self._ends(option)[end]) for option in options)
            driver_rows_per_s = self._given.driver_blocks_per_s * self._given.commit_rows
            finish.append(start_s + self._workload.num_images / min(speed, driver_rows_per_s) + tail_s)
        fast_s, slow_s = finish
        return [
            replace(option, finish_s=(fast_s, slow_s), usd=self._usd(option, fast_s, slow_s))
            for option in options
        ]

    def _usd(self, option: FleetOption, fast_s: float, slow_s: float) -> Range | None:
        price = option.node_type.usd_per_hour
        if price is None:
            return None
        low, high = SPOT_SHARE if option.node_type.is_spot else (1.0, 1.0)
        hours = [option.nodes * (end_s + self._cluster.idle_s) / _HOUR_S for end_s in (fast_s, slow_s)]
        return hours[0] * price * low, hours[1] * price * high

    def _usd_per_image(self, option: FleetOption) -> float:
        price = option.node_type.usd_per_hour
        if price is None:
            return math.inf
        price *= SPOT_SHARE[1] if option.node_type.is_spot else 1.0
        return price / (option.engines_per_node * option.images_per_s)

    def _too_slow(
        self, option: FleetOption, limit: int | None, useful: int, wanted: int | None
    ) -> str | None:
        if self._deadline_s is None or option.finish_s[1] <= self._deadline_s:
            return None
        if wanted is None or wanted > useful:
            return f"one block of {self._given.commit_rows} takes too long: lower --commit-rows"
        if limit is not None and wanted > limit:
            return f"needs {wanted} nodes; the limit is {limit}"
        return "one driver hands out blocks too slowly: raise --commit-rows, or split the table"
