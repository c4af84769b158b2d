"""Notices that a run stands still because its engines have no nodes."""

import logging
import time

from ray.exceptions import RaySystemError, RpcError

from deployments.autoscaler import describe_wait
from deployments.engine_resources import EngineResources
from pipelines.run.run_monitor import RunCounts

logger = logging.getLogger(__name__)

_STILL_S = 10.0
"""A node that runs gives an engine a place well within this."""
_REPEAT_S = 60.0


class NodeWait:
    """Looks at a run's counts, again and again, and asks the cluster only while they stand still."""

    def __init__(self, resources: EngineResources) -> None:
        self._resources = resources
        self._counts: RunCounts | None = None
        self._looked_s = 0.0
        self._told: tuple[str, float] | None = None

    def look(self, counts: RunCounts) -> str | None:
        """Return what the engines wait for, when that is news; else None."""
        now_s = time.monotonic()
        if counts != self._counts:
            self._counts, self._looked_s, self._told = counts, now_s, None
            return None
        if now_s - self._looked_s < _STILL_S:
            return None
        self._looked_s = now_s
        try:
            message = describe_wait(self._resources)
        except (RpcError, RaySystemError) as error:
            logger.warning("the cluster's state is not known: %s", error)
            return None
        if message is None or (self._told and self._told[0] == message and now_s - self._told[1] < _REPEAT_S):
            return None
        self._told = (message, now_s)
        return message
