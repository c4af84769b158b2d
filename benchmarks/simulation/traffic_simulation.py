"""Simulates online traffic on replicas that the real policy scales.

It follows the real endpoint: replicas run steps of up to ``max_batch`` requests in order of arrival
(zimage_models.engine.step_scheduler); a replica refuses requests that would wait longer than ``max_queue_s``;
requests go to the less busy of two replicas; the product's own policy decides the number of replicas, delayed
by Ray Serve's own rules (simulated_autoscaler). Like Serve, it records metrics every 2 s, sends them every
10 s and uses their mean over 30 s. The same seed gives the same run.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import IntEnum, auto

from ray.serve._private.common import ReplicaID

from benchmarks.simulation.simulated_autoscaler import SimulatedAutoscaler, replica_id
from benchmarks.simulation.simulated_endpoint import (
    SimulatedReplica,
    SimulatedScaling,
    TrafficOutcome,
    percentiles,
)

_RECORD_S = 2.0
_PUSHED_EVERY = 5
_WINDOW = 15
"""Samples in Serve's window of 30 s."""


class _Event(IntEnum):
    ARRIVAL = auto()
    STEP_ENDED = auto()
    REPLICA_UP = auto()
    CRASHED = auto()
    TICK = auto()


@dataclass(slots=True, eq=False)
class _Request:
    arrived_s: float
    steps_left: int


@dataclass(slots=True, eq=False)
class _Replica:
    identity: ReplicaID
    gpu_since_s: float
    is_up: bool = False
    is_leaving: bool = False
    is_gone: bool = False
    up_since_s: float = 0.0
    worked_s: float = 0.0
    open: deque[_Request] = field(default_factory=deque)
    batch: list[_Request] = field(default_factory=list)
    num_item_steps: int = 0
    """Steps left, over all open requests."""
    samples: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=_WINDOW))
    pushed: tuple[float, float] = (0.0, 0.0)

    def queue_s(self, speed: SimulatedReplica) -> float:
        """Estimate, as the engine does (zimage_models.engine.work_left), how long its open requests take."""
        if not self.open:
            return 0.0
        # The last to come has the most steps left.
        num_steps = max(self.open[-1].steps_left, -(-self.num_item_steps // speed.max_batch))
        return num_steps * speed.batch_s(self.num_item_steps / num_steps) + len(self.open) * speed.finish_s


def simulate_traffic(
    arrivals: Iterable[float],
    replica: SimulatedReplica,
    scaling: SimulatedScaling,
    *,
    seed: int = 0,
    settle_s: float = 0.0,
) -> TrafficOutcome:
    """Simulate until all requests are answered, then for another ``settle_s`` seconds.

    Args:
        arrivals: times in seconds, in order.
        replica: speed of one replica.
        scaling: bounds and delays.
        seed: seed of routing and crashes.
        settle_s: time in which replicas may be removed again.
    """
    return _TrafficSimulation(arrivals, replica, scaling, seed, settle_s).run()


class _TrafficSimulation:
    def __init__(
        self,
        arrivals: Iterable[float],
        replica: SimulatedReplica,
        scaling: SimulatedScaling,
        seed: int,
        settle_s: float,
    ) -> None:
        self._arrivals = iter(arrivals)
        self._replica = replica
        self._scaling = scaling
        self._random = random.Random(seed)
        self._settle_s = settle_s
        self._autoscaler = SimulatedAutoscaler(scaling)
        self._now_s = 0.0
        self._heap: list[tuple[float, int, _Event, _Replica | None]] = []
        self._num_events = self._num_ticks = self._num_made = 0
        self._replicas: list[_Replica] = []
        self._up: list[_Replica] = []
        self._idle_gpus: list[tuple[float, float]] = []
        """Since when each idle GPU has been paid for, and idle."""
        self._waiting: deque[_Request] = deque()
        self._history = [(0.0, scaling.min_replicas)]
        self._latencies: list[float] = []
        self._num_requests = self._num_rejected = self._num_retried = 0
        self._worked_s = self._there_s = self._gpu_s = 0.0
        self._last_activity_s = 0.0
        self._is_over = False
        self._handlers: dict[_Event, Callable[..., None]] = {
            _Event.ARRIVAL: self._arrived,
            _Event.STEP_ENDED: self._step_ended,
            _Event.REPLICA_UP: self._came_up,
            _Event.CRASHED: self._crashed,
            _Event.TICK: self._tick,
        }

    def run(self) -> TrafficOutcome:
        for _ in range(self._scaling.min_replicas):
            self._add_replica(starts_s=0.0)
        self._next_arrival()
        self._at(0.0, _Event.TICK)
        while self._heap:
            self._now_s, _, event, subject = heapq.heappop(self._heap)
            self._handlers[event](subject)
        for replica in self._replicas:
            self._leave(replica)
        self._gpu_s += sum(self._now_s - since_s for since_s, _ in self._idle_gpus)
        gpu_hours = self._gpu_s / 3600
        return TrafficOutcome(
            num_requests=self._num_requests,
            num_answered=len(self._latencies),
            num_rejected=self._num_rejected,
            num_retried=self._num_retried,
            latency_s=percentiles(self._latencies),
            utilisation=self._worked_s / self._there_s if self._there_s else 0.0,
            mean_replicas=self._there_s / self._now_s if self._now_s else 0.0,
            most_replicas=max(number for _, number in self._history),
            gpu_hours=gpu_hours,
            usd=gpu_hours * self._scaling.usd_per_gpu_h,
            history=tuple(self._history),
        )

    def _at(self, time_s: float, event: _Event, subject: _Replica | None = None) -> None:
        self._num_events += 1
        heapq.heappush(self._heap, (time_s, self._num_events, event, subject))

    def _next_arrival(self) -> None:
        time_s = next(self._arrivals, None)
        if time_s is not None:
            self._at(time_s, _Event.ARRIVAL)
        else:
            self._is_over = True

    def _arrived(self, _: object) -> None:
        self._num_requests += 1
        self._last_activity_s = self._now_s
        self._route(_Request(self._now_s, self._replica.num_steps))
        self._next_arrival()

    def _route(self, request: _Request) -> None:
        if not self._up:
            if len(self._waiting) >= self._scaling.max_waiting:
                self._num_rejected += 1
            else:
                self._waiting.append(request)
            return
        # Serve's router: the less busy of two.
        some = self._up if len(self._up) < 3 else self._random.sample(self._up, 2)
        replica = min(some, key=lambda one: len(one.open))
        if replica.queue_s(self._replica) > self._replica.max_queue_s:
            self._num_rejected += 1
            return
        replica.open.append(request)
        replica.num_item_steps += request.steps_left
        if not replica.batch:
            self._step(replica)

    def _step(self, replica: _Replica) -> None:
        """Start the next step with the first requests in the queue."""
        size = min(self._replica.max_batch, len(replica.open))
        replica.batch = [replica.open[index] for index in range(size)]
        num_ending = sum(request.steps_left == 1 for request in replica.batch)
        duration_s = self._replica.batch_s(size) + num_ending * self._replica.finish_s
        replica.worked_s += duration_s
        self._at(self._now_s + duration_s, _Event.STEP_ENDED, replica)

    def _step_ended(self, replica: _Replica) -> None:
        if replica.is_gone:
            return
        for request in replica.batch:
            request.steps_left -= 1
        replica.num_item_steps -= len(replica.batch)
        # The oldest requests have done the most steps.
        while replica.open and not replica.open[0].steps_left:
            self._latencies.append(self._now_s - replica.open.popleft().arrived_s)
            self._last_activity_s = self._now_s
        replica.batch = []
        if replica.open:
            self._step(replica)
        elif replica.is_leaving:
            self._leave(replica)

    def _add_replica(self, *, starts_s: float | None = None) -> None:
        """Start a replica on an idle GPU, or on a new one."""
        self._num_made += 1
        node_s = self._scaling.node_start_s
        since_s = self._now_s
        if self._idle_gpus:
            since_s, _ = self._idle_gpus.pop()
            node_s = 0.0
        replica = _Replica(replica_id(self._num_made), since_s)
        self._replicas.append(replica)
        after_s = self._replica.start_s + node_s if starts_s is None else starts_s
        self._at(self._now_s + after_s, _Event.REPLICA_UP, replica)

    def _came_up(self, replica: _Replica) -> None:
        if replica.is_gone:
            return
        replica.is_up = True
        replica.up_since_s = self._now_s
        self._up.append(replica)
        if self._replica.crashes_per_h:
            self._at(
                self._now_s + self._random.expovariate(self._replica.crashes_per_h / 3600),
                _Event.CRASHED,
                replica,
            )
        waiting, self._waiting = self._waiting, deque()
        for request in waiting:
            self._route(request)

    def _crashed(self, replica: _Replica) -> None:
        """Lose a replica; the autoscaler replaces it at the next tick, and others take its requests."""
        if replica.is_gone:
            return
        requests = list(replica.open)
        replica.open.clear()
        self._leave(replica)
        self._num_retried += len(requests)
        for request in requests:
            request.steps_left = self._replica.num_steps
            self._route(request)

    def _leave(self, replica: _Replica) -> None:
        if replica.is_gone:
            return
        replica.is_gone = True
        if replica in self._up:
            self._up.remove(replica)
        self._replicas = [one for one in self._replicas if one is not replica]
        if replica.is_up:
            self._there_s += self._now_s - replica.up_since_s
            self._worked_s += replica.worked_s
        self._idle_gpus.append((replica.gpu_since_s, self._now_s))

    def _tick(self, _: object) -> None:
        """Record metrics and ask the policy."""
        self._num_ticks += 1
        for replica in self._up:
            replica.samples.append((replica.queue_s(self._replica), len(replica.open)))
            if self._num_ticks % _PUSHED_EVERY == 0:
                number = len(replica.samples)
                replica.pushed = (
                    sum(queue_s for queue_s, _ in replica.samples) / number,
                    sum(num_open for _, num_open in replica.samples) / number,
                )
        target = self._autoscaler.decide(
            self._now_s,
            queue_s={replica.identity: replica.pushed[0] for replica in self._up},
            num_online={replica.identity: replica.pushed[1] for replica in self._up},
            num_waiting=len(self._waiting),
        )
        self._scale(target)
        kept = []
        for since_s, idle_s in self._idle_gpus:
            if self._now_s - idle_s >= self._scaling.node_idle_s:
                self._gpu_s += self._now_s - since_s
            else:
                kept.append((since_s, idle_s))
        self._idle_gpus = kept
        is_busy = self._waiting or any(replica.open for replica in self._replicas)
        if not self._is_over or is_busy or self._now_s - self._last_activity_s < self._settle_s:
            self._at(self._now_s + _RECORD_S, _Event.TICK)

    def _scale(self, target: int) -> None:
        if target != self._history[-1][1]:
            self._history.append((self._now_s, target))
        staying = [replica for replica in self._replicas if not replica.is_leaving]
        for _ in range(target - len(staying)):
            self._add_replica()
        # Replicas that are not up are removed first, then the least busy; they finish their requests.
        staying.sort(key=lambda one: (one.is_up, len(one.open)))
        for replica in staying[: max(0, len(staying) - target)]:
            replica.is_leaving = True
            if replica in self._up:
                self._up.remove(replica)
            if not replica.open:
                self._leave(replica)
