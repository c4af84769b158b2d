import time

import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from deployments.queue_seconds_policy import NUM_ONLINE, QUEUE_S, QueueSecondsPolicy

MODEL = "z-image-turbo"


def _context(
    queue_s: list[float], *, num_online: list[int], num_at_callers: int = 0, num_batch: int = 0
) -> AutoscalingContext:
    """Describe replicas with this much online work each, and requests that are no online ones of theirs."""
    deployment = DeploymentID(name=MODEL, app_name="default")
    replicas = [ReplicaID(unique_id=str(index), deployment_id=deployment) for index in range(len(queue_s))]
    return AutoscalingContext(
        deployment_id=deployment,
        deployment_name=MODEL,
        app_name="default",
        current_num_replicas=len(replicas),
        target_num_replicas=len(replicas),
        running_replicas=replicas,
        total_num_requests=sum(num_online) + num_at_callers + num_batch,
        total_queued_requests=num_at_callers,
        aggregated_metrics={
            QUEUE_S: dict(zip(replicas, queue_s, strict=True)),
            NUM_ONLINE: dict(zip(replicas, map(float, num_online), strict=True)),
        },
        raw_metrics=None,
        capacity_adjusted_min_replicas=0,
        capacity_adjusted_max_replicas=8,
        policy_state={},
        last_scale_up_time=None,
        last_scale_down_time=None,
        current_time=time.time(),
        config=None,
    )


@pytest.mark.parametrize(
    ("context", "num_replicas"),
    [
        pytest.param(_context([], num_online=[]), 0, id="nothing at all"),
        pytest.param(_context([0.0], num_online=[0]), 0, id="idle"),
        pytest.param(_context([], num_online=[], num_at_callers=3), 1, id="cold, and asked for"),
        pytest.param(_context([4.0], num_online=[8]), 1, id="under the target"),
        pytest.param(_context([5.0], num_online=[8]), 1, id="at the target"),
        pytest.param(_context([5.1], num_online=[8]), 2, id="over the target"),
        pytest.param(_context([20.0], num_online=[30]), 4, id="as many as bring it to the target"),
        pytest.param(_context([6.0, 0.0], num_online=[8, 0]), 2, id="all replicas' work is shared out"),
        pytest.param(_context([4.0], num_online=[8], num_at_callers=8), 2, id="who waits at a caller counts"),
        pytest.param(_context([60.0], num_online=[1]), 1, id="one long image is not shared out"),
        pytest.param(
            _context([60.0], num_online=[1], num_at_callers=2), 3, id="but others need not wait for it"
        ),
        pytest.param(_context([0.0], num_online=[0], num_batch=64), 1, id="batch work keeps one, adds none"),
    ],
)
def test_replicas_are_as_many_as_the_queued_seconds_need(
    context: AutoscalingContext, num_replicas: int
) -> None:
    assert QueueSecondsPolicy(target_queue_s=5.0)(context) == (num_replicas, {})
