"""Autoscaling by seconds of queued online work, which is what users notice."""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

QUEUE_S = "queue_s"
"""Reported by replicas: seconds of online work ahead of a new request."""
NUM_ONLINE = "num_online"
"""Reported by replicas: online requests waiting or running."""


class QueueSecondsPolicy:
    """A Serve autoscaling policy that wants enough replicas to make every queue ``target_queue_s`` long.

    It divides the queued seconds of all replicas by the target. Requests that still wait at their callers
    count like queued ones. Batch work adds no replicas (it uses idle capacity), but keeps the last one. Serve
    applies bounds and delays.
    """

    def __init__(self, target_queue_s: float) -> None:
        self._target_queue_s = target_queue_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas wanted and an empty state."""
        metrics = context.aggregated_metrics or {}
        queued_s = sum(metrics.get(QUEUE_S, {}).values())
        num_online = sum(metrics.get(NUM_ONLINE, {}).values())
        if num_online:
            queued_s *= 1 + (context.total_queued_requests or 0) / num_online
        busy = context.total_num_requests > 0
        return max(1 if busy else 0, math.ceil(queued_s / self._target_queue_s)), {}
