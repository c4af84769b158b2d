"""The types of a simulated endpoint: a replica, the scaling of replicas, and the outcome."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReplica:
    """The speed of one replica."""

    num_steps: int
    step_s: float
    """Time of one step of one image."""
    finish_s: float
    """Time of text encoder and decoder, once per image."""
    max_batch: int = 4
    batch_gain: float = 0.08
    """Share of a step's time that does not grow with the batch."""
    max_queue_s: float = 60.0
    start_s: float = 60.0
    crashes_per_h: float = 0.0

    def batch_s(self, num_images: float) -> float:
        """Return the time of one step of a batch."""
        return self.step_s * (self.batch_gain + (1 - self.batch_gain) * num_images)

    @property
    def images_per_s(self) -> float:
        """The highest speed of one replica."""
        return self.max_batch / (
            self.num_steps * self.batch_s(self.max_batch) + self.max_batch * self.finish_s
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedScaling:
    """Bounds and delays of the autoscaler (deployments.app_args.ScalingArgs), and of the nodes under it."""

    min_replicas: int = 1
    max_replicas: int = 8
    target_queue_s: float = 5.0
    upscale_delay_s: float = 5.0
    downscale_delay_s: float = 300.0
    max_waiting: int = 1024
    """Requests that may wait while there is no replica."""
    node_start_s: float = 300.0
    node_idle_s: float = 600.0
    """How long a GPU is kept, and paid for, without a replica."""
    usd_per_gpu_h: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOutcome:
    """The outcome of a simulated endpoint."""

    num_requests: int
    num_answered: int
    num_rejected: int
    num_retried: int
    """Started again after a replica crashed."""
    latency_s: dict[str, float]
    """``p50``, ``p95``, ``p99`` and ``max``."""
    utilisation: float
    """Share of the replicas' lifetime in which they worked."""
    mean_replicas: float
    most_replicas: int
    gpu_hours: float
    usd: float
    history: tuple[tuple[float, int], ...] = field(repr=False)
    """(Time, replicas wanted) at each change."""


def percentiles(values: list[float]) -> dict[str, float]:
    """Return ``p50``, ``p95``, ``p99`` and ``max``; zeros if there are no values."""
    ordered = sorted(values) or [0.0]
    last = len(ordered) - 1
    found = {f"p{percent}": ordered[round(last * percent / 100)] for percent in (50, 95, 99)}
    return {**found, "max": ordered[-1]}
