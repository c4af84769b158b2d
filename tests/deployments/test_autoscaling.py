"""How many replicas the queue asks for, and an endpoint that goes from none to two and back."""

import time
from collections.abc import Iterator

import httpx2 as httpx
import pytest
from ray.serve._private.common import DeploymentID, ReplicaID
from ray.serve.config import AutoscalingContext

from deployments.queue_seconds_policy import NUM_ONLINE, QUEUE_S, QueueSecondsPolicy
from tests.deployments.cluster import PROMPT_METRICS, Cluster, eventually, load
from tests.deployments.conftest import Endpoint, Serve

MODEL = "z-image-turbo"

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


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
        pytest.param(_context([0.0], num_online=[0], num_batch=64), 1, id="batch work keeps one, adds none"),
    ],
)
def test_replicas_are_as_many_as_the_queued_seconds_need(
    context: AutoscalingContext, num_replicas: int
) -> None:
    assert QueueSecondsPolicy(target_queue_s=5.0)(context) == (num_replicas, {})


@pytest.fixture(scope="module")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run a model that has no replica until asked."""
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_queue_s": 0.5,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
    }
    with pytest.MonkeyPatch.context() as environment:
        for name, value in PROMPT_METRICS.items():
            environment.setenv(name, value)
        models = [{"id": MODEL, "num_cpus": 1, "max_queue_s": 600, "scaling": scaling}]
        with serve_endpoint(models=models) as running:
            yield running


@pytest.fixture(scope="module")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


def _states(endpoint: Endpoint) -> dict[str, str]:
    answer = httpx.get(f"{endpoint.url}/ready", timeout=60)
    assert answer.status_code == 200
    states: dict[str, str] = answer.json()["models"]
    return states


def test_replicas_come_with_the_queue(endpoint: Endpoint, cluster: Cluster) -> None:
    # None of these starts one.
    assert _states(endpoint) == {MODEL: "cold"}
    assert httpx.get(f"{endpoint.url}/v1/models", timeout=60).json()["data"][0]["id"] == MODEL
    assert cluster.replicas(MODEL) == []

    first = httpx.post(f"{endpoint.url}/v1/images/generations", json={"prompt": "owl"}, timeout=90)
    assert first.status_code == 200
    assert 0 < float(first.headers["x-zimage-cold-start-s"]) <= first.elapsed.total_seconds()
    eventually(lambda: _states(endpoint) == {MODEL: "ready"}, "it is ready")
    second = httpx.post(f"{endpoint.url}/v1/images/generations", json={"prompt": "owl"}, timeout=90)
    assert "x-zimage-cold-start-s" not in second.headers

    with load(endpoint, clients=24) as many:
        eventually(lambda: len(cluster.replicas(MODEL)) == 2, "a second replica")
        many.stop()
        assert many.summary()["outcomes"].keys() == {"200"}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_replicas_go_without_work_and_lose_none(endpoint: Endpoint, cluster: Cluster) -> None:
    with load(endpoint, clients=24) as many, load(endpoint, clients=1) as few:
        eventually(lambda: len(cluster.samples("ray_zimage_open_requests")) == 2, "both replicas work")
        many.stop()
        # Serve goes by the mean of the last 30 s.
        eventually(lambda: len(cluster.replicas(MODEL)) == 1, "one replica is enough", timeout_s=180)
        few.stop()
        for summary in (many.summary(), few.summary()):
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}
    eventually(lambda: not cluster.replicas(MODEL), "none is needed", timeout_s=180)
    assert _states(endpoint) == {MODEL: "cold"}
