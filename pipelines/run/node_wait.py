"""Detection of runs that make no progress because their engines have no nodes."""

import logging
import time

from ray.exceptions import RaySystemError, RpcError

from deployments.autoscaler import describe_wait
from deployments.engine_resources import EngineResources
from pipelines.run.run_monitor import RunCounts

logger = logging.getLogger(__name__)

_STILL_S = 10.0
"""Time without progress before the cluster is asked; a running node places an engine well within it."""
_REPEAT_S = 60.0


class NodeWait:
    """Watches a run's counts and asks the cluster only while they do not change."""

    def __init__(self, resources: EngineResources) -> None:
        self._resources = resources
        self._counts: RunCounts | None = None
        self._checked_s = 0.0
        self._reported: tuple[str, float] | None = None

    def look(self, counts: RunCounts) -> str | None:
        """Return what the engines are waiting for if that is news, else None."""
        now_s = time.monotonic()
        if counts != self._counts:
            self._counts, self._checked_s, self._reported = counts, now_s, None
            return None
        if now_s - self._checked_s < _STILL_S:
            return None
        self._checked_s = now_s
        try:
            message = describe_wait(self._resources)
        except (RpcError, RaySystemError) as error:
            logger.warning("the cluster's state is unknown: %s", error)
            return None
        if message is None or (
            self._reported and self._reported[0] == message and now_s - self._reported[1] < _REPEAT_S
        ):
            return None
        self._reported = (message, now_s)
        return message
