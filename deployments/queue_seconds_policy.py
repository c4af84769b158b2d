"""Autoscaling by seconds of queued online work, which is what users notice."""

import math
from typing import Any

from ray.serve.config import AutoscalingContext

QUEUE_S = "queue_s"
"""Reported by replicas: seconds that the online work left takes."""
NUM_ONLINE = "num_online"
"""Reported by replicas: online requests waiting or running."""


class QueueSecondsPolicy:
    """A Serve autoscaling policy that wants enough replicas to make every queue ``target_queue_s`` long.

    It divides the queued seconds of all replicas by the target, but wants no more replicas than there are
    requests, because one replica makes an image, however long that takes. Requests that still wait at their
    callers count like queued ones. Batch work adds no replicas (it uses idle capacity), but keeps the last
    one. Serve applies bounds and delays.
    """

    def __init__(self, target_queue_s: float) -> None:
        self._target_queue_s = target_queue_s

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        """Return the number of replicas wanted and an empty state."""
        metrics = context.aggregated_metrics or {}
        queued_s = sum(metrics.get(QUEUE_S, {}).values())
        num_online = sum(metrics.get(NUM_ONLINE, {}).values())
        num_at_callers = context.total_queued_requests or 0
        if num_online:
            queued_s *= 1 + num_at_callers / num_online
        busy = context.total_num_requests > 0
        wanted = min(math.ceil(queued_s / self._target_queue_s), math.ceil(num_online + num_at_callers))
        return max(1 if busy else 0, wanted), {}
