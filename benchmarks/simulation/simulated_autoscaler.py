"""Applies the product's own autoscaling policy and Ray Serve's own delays at a simulated time."""

import math
from collections.abc import Mapping

from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.autoscaling_policy import _apply_delay_logic
from ray.serve.config import AutoscalingConfig, AutoscalingContext

from benchmarks.simulation.simulated_endpoint import SimulatedScaling
from deployments.queue_seconds_policy import NUM_ONLINE, QUEUE_S, QueueSecondsPolicy

_DEPLOYMENT = DeploymentID(name="simulated", app_name="default")


def replica_id(number: int) -> ReplicaID:
    """Return a replica's ID in Serve's form."""
    return ReplicaID(unique_id=str(number), deployment_id=_DEPLOYMENT)


class SimulatedAutoscaler:
    """Decides how many replicas there should be."""

    def __init__(self, scaling: SimulatedScaling) -> None:
        self.target = scaling.min_replicas
        self._scaling = scaling
        self._policy = QueueSecondsPolicy(scaling.target_queue_s)
        self._config = AutoscalingConfig(
            min_replicas=scaling.min_replicas,
            max_replicas=scaling.max_replicas,
            upscale_delay_s=scaling.upscale_delay_s,
            downscale_delay_s=scaling.downscale_delay_s,
        )
        self._state: dict[str, object] = {}

    def decide(
        self,
        now_s: float,
        *,
        queue_s: Mapping[ReplicaID, float],
        num_online: Mapping[ReplicaID, float],
        num_waiting: int,
    ) -> int:
        """Return the number of replicas wanted from now on.

        Args:
            now_s: the simulated time.
            queue_s: seconds of work of each running replica, as Serve averages them.
            num_online: requests of each running replica, averaged likewise.
            num_waiting: requests that wait for a replica.
        """
        num_requests = num_waiting + sum(num_online.values())
        context = AutoscalingContext(
            deployment_id=_DEPLOYMENT,
            deployment_name=_DEPLOYMENT.name,
            app_name=_DEPLOYMENT.app_name,
            current_num_replicas=len(queue_s),
            target_num_replicas=self.target,
            running_replicas=list(queue_s),
            total_num_requests=num_requests,
            total_queued_requests=num_waiting,
            aggregated_metrics={QUEUE_S: dict(queue_s), NUM_ONLINE: dict(num_online)},
            raw_metrics=None,
            capacity_adjusted_min_replicas=self._scaling.min_replicas,
            capacity_adjusted_max_replicas=self._scaling.max_replicas,
            policy_state={},
            last_scale_up_time=None,
            last_scale_down_time=None,
            current_time=now_s,
            config=self._config,
        )
        if not queue_s and num_requests:
            # Serve's cold start: at once, without asking the policy.
            wanted = max(1, self.target)
        else:
            asked, _ = self._policy(context)
            wanted, self._state = _apply_delay_logic(
                math.ceil(asked), self.target, self._config, self._state, _now=now_s
            )
        self.target = max(self._scaling.min_replicas, min(self._scaling.max_replicas, int(wanted)))
        return self.target
