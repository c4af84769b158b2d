"""Autoscaling by seconds of queued online work, the thing users feel. It knows no engine."""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

QUEUE_S = "queue_s"
"""What replicas report: seconds of online work ahead of a request that came now."""
NUM_ONLINE = "num_online"
"""What replicas report: online requests waiting or running."""


class QueueSecondsPolicy:
    """A Serve autoscaling policy: as many replicas as make every queue ``target_queue_s`` long.

    The queued work of all replicas, in seconds, is shared out; requests that wait at their callers for a
    place count like those that have one. Batch work adds no replica (it takes what is idle), but keeps the
    last one. Bounds and delays are Serve's.
    """

    def __init__(self, target_queue_s: float) -> None:
        self._target_queue_s = target_queue_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas wanted, and no state."""
        metrics = context.aggregated_metrics or {}
        queued_s = sum(metrics.get(QUEUE_S, {}).values())
        num_online = sum(metrics.get(NUM_ONLINE, {}).values())
        if num_online:
            queued_s *= 1 + (context.total_queued_requests or 0) / num_online
        busy = context.total_num_requests > 0
        return max(1 if busy else 0, math.ceil(queued_s / self._target_queue_s)), {}
