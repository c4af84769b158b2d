"""Simulates a bulk job on many engines: blocks, start-up, failures, stragglers, one driver.

It follows the real job (pipelines.run.run_plan): work is handed out in blocks of ``commit_rows``; an engine
holds several blocks and makes their images in order of arrival; the least busy engine gets the next block; a
block counts when its part is written; if its engine or node is lost, a block is made again from its start,
row by row. The same seed gives the same run.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum, auto

HOUR_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedFleet:
    """Nodes and engines; failures are memoryless, so the times between them are exponential."""

    nodes: int
    engines_per_node: int = 1
    node_start_s: float = 0.0
    node_start_spread_s: float = 0.0
    """Mean of a node's additional start time."""
    nodes_per_s: float = float("inf")
    """How fast the cloud provides nodes."""
    engine_start_s: float = 0.0
    node_losses_per_h: float = 0.0
    """Per node: spot interruptions and broken machines. A lost node is replaced."""
    engine_crashes_per_h: float = 0.0
    """Per engine; its process is restarted."""
    usd_per_node_h: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedJob:
    """The work of a job, and its speed."""

    num_images: int
    commit_rows: int
    images_per_s: float
    """Per engine."""
    blocks_per_engine: int = 4
    """Two in progress and two waiting: Ray Data's default for two concurrent calls."""
    retry_speed: float = 0.9
    """Speed of a block that is made again, row by row, relative to others."""
    engine_spread: float = 0.03
    """Standard deviation of the engines' speeds, relative to their mean."""
    block_spread: float = 0.03
    """The same for the blocks of one engine."""
    commit_s: float = 0.0
    """Time from a block's last image to its part in storage; until then, a lost node loses the block."""
    driver_s_per_block: float = 0.0
    driver_s_per_row: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOutcome:
    """The outcome of a simulated job."""

    makespan_s: float
    """Time from the first request for a node to the last part."""
    first_block_s: float
    tail_s: float
    """Time from when an engine first had nothing left to do until the end."""
    utilisation: float
    """Share of all engine time that was spent on images that count."""
    lost_share: float
    """Engine time of lost images, relative to that of images that count."""
    driver_share: float
    """Share of the time in which the driver was busy."""
    num_node_losses: int
    num_engine_crashes: int
    num_blocks: int
    num_redone: int
    """Attempts beyond the first of each block."""
    node_hours: float
    usd: float
    attempts: bytes = field(repr=False)
    """Attempts per block; 255 also means more."""
    committed_images: int


class _Event(IntEnum):
    NODE_UP = auto()
    ENGINE_UP = auto()
    NODE_LOST = auto()
    ENGINE_CRASHED = auto()
    DISPATCHED = auto()
    BLOCK_MADE = auto()
    BLOCK_COMMITTED = auto()


@dataclass(slots=True, eq=False)
class _Engine:
    node: "_Node"
    is_up: bool = False
    incarnation: int = 0
    speed: float = 0.0
    load: int = 0
    """Blocks assigned or on their way."""
    queue: deque[int] = field(default_factory=deque)
    began_s: float = 0.0


@dataclass(slots=True, eq=False)
class _Node:
    engines: list[_Engine] = field(default_factory=list)
    incarnation: int = 0
    uncommitted: dict[int, float] = field(default_factory=dict)
    """Engine time of each block that is made but not yet written."""


def simulate_job(fleet: SimulatedFleet, job: SimulatedJob, *, seed: int = 0) -> JobOutcome:
    """Simulate a job to its end."""
    return _JobSimulation(fleet, job, seed).run()


class _JobSimulation:
    def __init__(self, fleet: SimulatedFleet, job: SimulatedJob, seed: int) -> None:
        self._fleet = fleet
        self._job = job
        self._random = random.Random(seed)
        self._now_s = 0.0
        self._heap: list[tuple[float, int, _Event, object, int, int]] = []
        self._num_events = 0
        self._num_blocks = -(-job.num_images // job.commit_rows)
        self._pending: deque[int] = deque(range(self._num_blocks))
        self._attempts = bytearray(self._num_blocks)
        self._num_committed = self._num_committed_images = 0
        self._num_redone = self._num_node_losses = self._num_engine_crashes = 0
        self._useful_s = self._lost_s = self._driver_s = 0.0
        self._driver_is_busy = False
        self._first_block_s = 0.0
        self._first_idle_s: float | None = None
        # Engines that can take a block, by the number they have; outdated entries are skipped.
        self._by_load: list[deque[tuple[_Engine, int]]] = [deque() for _ in range(job.blocks_per_engine)]
        self._handlers: dict[_Event, Callable[..., None]] = {
            _Event.NODE_UP: self._node_up,
            _Event.ENGINE_UP: self._engine_up,
            _Event.NODE_LOST: self._node_lost,
            _Event.ENGINE_CRASHED: self._engine_crashed,
            _Event.DISPATCHED: self._dispatched,
            _Event.BLOCK_MADE: self._block_made,
            _Event.BLOCK_COMMITTED: self._block_committed,
        }

    def run(self) -> JobOutcome:
        fleet = self._fleet
        for number in range(fleet.nodes):
            node = _Node()
            node.engines = [_Engine(node) for _ in range(fleet.engines_per_node)]
            self._at(number / fleet.nodes_per_s + self._node_start_s(), _Event.NODE_UP, node, 0)
        while self._num_committed < self._num_blocks:
            self._now_s, _, event, subject, block, incarnation = heapq.heappop(self._heap)
            self._handlers[event](subject, block, incarnation)
        engine_s = self._now_s * fleet.nodes * fleet.engines_per_node
        idle_s = self._now_s if self._first_idle_s is None else self._first_idle_s
        node_hours = fleet.nodes * self._now_s / HOUR_S
        return JobOutcome(
            makespan_s=self._now_s,
            first_block_s=self._first_block_s,
            tail_s=self._now_s - idle_s,
            utilisation=self._useful_s / engine_s,
            lost_share=self._lost_s / self._useful_s,
            driver_share=self._driver_s / self._now_s,
            num_node_losses=self._num_node_losses,
            num_engine_crashes=self._num_engine_crashes,
            num_blocks=self._num_blocks,
            num_redone=self._num_redone,
            node_hours=node_hours,
            usd=node_hours * fleet.usd_per_node_h,
            attempts=bytes(self._attempts),
            committed_images=self._num_committed_images,
        )

    def _at(self, time_s: float, event: _Event, subject: object, incarnation: int, block: int = -1) -> None:
        self._num_events += 1
        heapq.heappush(self._heap, (time_s, self._num_events, event, subject, block, incarnation))

    def _node_start_s(self) -> float:
        fleet = self._fleet
        spread = fleet.node_start_spread_s
        return fleet.node_start_s + (self._random.expovariate(1 / spread) if spread else 0.0)

    def _node_up(self, node: _Node, _: int, incarnation: int) -> None:
        if self._fleet.node_losses_per_h:
            after_s = self._random.expovariate(self._fleet.node_losses_per_h / HOUR_S)
            self._at(self._now_s + after_s, _Event.NODE_LOST, node, incarnation)
        for engine in node.engines:
            self._start(engine)

    def _start(self, engine: _Engine) -> None:
        self._at(self._now_s + self._fleet.engine_start_s, _Event.ENGINE_UP, engine, engine.incarnation)

    def _engine_up(self, engine: _Engine, _: int, incarnation: int) -> None:
        if engine.incarnation != incarnation:
            return
        engine.is_up = True
        spread = max(0.2, self._random.gauss(1.0, self._job.engine_spread))
        engine.speed = self._job.images_per_s * spread
        if self._fleet.engine_crashes_per_h:
            after_s = self._random.expovariate(self._fleet.engine_crashes_per_h / HOUR_S)
            self._at(self._now_s + after_s, _Event.ENGINE_CRASHED, engine, incarnation)
        self._offer(engine)
        self._dispatch()

    def _node_lost(self, node: _Node, _: int, incarnation: int) -> None:
        if node.incarnation != incarnation:
            return
        self._num_node_losses += 1
        node.incarnation += 1
        for block, took_s in node.uncommitted.items():
            self._lost_s += took_s
            self._pending.appendleft(block)
        node.uncommitted.clear()
        for engine in node.engines:
            self._stop(engine)
        self._at(self._now_s + self._node_start_s(), _Event.NODE_UP, node, node.incarnation)
        self._dispatch()

    def _engine_crashed(self, engine: _Engine, _: int, incarnation: int) -> None:
        if engine.incarnation != incarnation:
            return
        self._num_engine_crashes += 1
        self._stop(engine)
        self._start(engine)
        self._dispatch()

    def _stop(self, engine: _Engine) -> None:
        """Return an engine's blocks to the queue; only the one in progress has cost time."""
        if engine.queue:
            self._lost_s += self._now_s - engine.began_s
        self._pending.extendleft(reversed(engine.queue))
        engine.queue.clear()
        engine.is_up = False
        engine.load = 0
        engine.incarnation += 1

    def _offer(self, engine: _Engine) -> None:
        if engine.is_up and engine.load < self._job.blocks_per_engine:
            self._by_load[engine.load].append((engine, engine.incarnation))

    def _dispatch(self) -> None:
        """Let the driver hand out the next block, if it is free and an engine can take one."""
        if self._driver_is_busy or not self._pending:
            return
        for load, engines in enumerate(self._by_load):
            while engines:
                engine, incarnation = engines.popleft()
                if engine.is_up and engine.incarnation == incarnation and engine.load == load:
                    block = self._pending.popleft()
                    engine.load += 1
                    self._offer(engine)
                    took_s = self._job.driver_s_per_block + self._job.driver_s_per_row * self._rows(block)
                    self._driver_s += took_s
                    self._driver_is_busy = True
                    self._at(self._now_s + took_s, _Event.DISPATCHED, engine, incarnation, block)
                    return

    def _dispatched(self, engine: _Engine, block: int, incarnation: int) -> None:
        self._driver_is_busy = False
        if engine.incarnation == incarnation:
            engine.queue.append(block)
            if len(engine.queue) == 1:
                self._begin(engine)
        else:
            self._pending.appendleft(block)
        self._dispatch()

    def _rows(self, block: int) -> int:
        return min(self._job.commit_rows, self._job.num_images - block * self._job.commit_rows)

    def _begin(self, engine: _Engine) -> None:
        block = engine.queue[0]
        self._num_redone += self._attempts[block] > 0
        self._attempts[block] = min(255, self._attempts[block] + 1)
        speed = engine.speed * max(0.2, self._random.gauss(1.0, self._job.block_spread))
        if self._attempts[block] > 1:
            speed *= self._job.retry_speed
        engine.began_s = self._now_s
        ends_s = self._now_s + self._rows(block) / speed
        self._at(ends_s, _Event.BLOCK_MADE, engine, engine.incarnation, block)

    def _block_made(self, engine: _Engine, block: int, incarnation: int) -> None:
        if engine.incarnation != incarnation:
            return
        took_s = self._now_s - engine.began_s
        engine.queue.popleft()
        engine.load -= 1
        node = engine.node
        node.uncommitted[block] = took_s
        self._at(self._now_s + self._job.commit_s, _Event.BLOCK_COMMITTED, node, node.incarnation, block)
        if engine.queue:
            self._begin(engine)
        elif not self._pending and self._first_idle_s is None:
            self._first_idle_s = self._now_s
        self._offer(engine)
        self._dispatch()

    def _block_committed(self, node: _Node, block: int, incarnation: int) -> None:
        if node.incarnation != incarnation:
            return
        self._useful_s += node.uncommitted.pop(block)
        self._num_committed += 1
        self._num_committed_images += self._rows(block)
        self._first_block_s = self._first_block_s or self._now_s
