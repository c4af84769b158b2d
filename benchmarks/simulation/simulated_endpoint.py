"""The nouns of a simulated endpoint: one replica, how replicas are scaled, how it went."""

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatedReplica:
    """How fast one replica is."""

    num_steps: int
    step_s: float
    """One step of one image."""
    finish_s: float
    """Text encoder and decoder, once an image."""
    max_batch: int = 4
    batch_gain: float = 0.08
    """Share of a step that a fuller batch does not repeat."""
    max_queue_s: float = 60.0
    start_s: float = 60.0
    crashes_per_h: float = 0.0

    def batch_s(self, num_images: int) -> float:
        """Time one step of a batch."""
        return self.step_s * (self.batch_gain + (1 - self.batch_gain) * num_images)

    @property
    def images_per_s(self) -> float:
        """The most one replica makes."""
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
    """How long a GPU is kept, and paid, without a replica."""
    usd_per_gpu_h: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficOutcome:
    """How a simulated endpoint did."""

    num_requests: int
    num_answered: int
    num_rejected: int
    num_retried: int
    """Begun again after a replica's crash."""
    latency_s: dict[str, float]
    """``p50``, ``p95``, ``p99`` and ``max``."""
    utilisation: float
    """Time that replicas worked, of the time they were there."""
    mean_replicas: float
    most_replicas: int
    gpu_hours: float
    usd: float
    history: tuple[tuple[float, int], ...] = field(repr=False)
    """Replicas wanted, at each change."""


def percentiles(values: list[float]) -> dict[str, float]:
    """Return ``p50``, ``p95``, ``p99`` and ``max``; zeros of nothing."""
    ordered = sorted(values) or [0.0]
    last = len(ordered) - 1
    found = {f"p{percent}": ordered[round(last * percent / 100)] for percent in (50, 95, 99)}
    return {**found, "max": ordered[-1]}
