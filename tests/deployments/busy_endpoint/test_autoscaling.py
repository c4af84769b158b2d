"""A model that goes from no replica to two and back."""

import httpx2 as httpx
import pytest

from tests.conditions import eventually
from tests.deployments.busy_endpoint.conftest import SCALED
from tests.deployments.cluster import Cluster, load
from tests.deployments.conftest import Endpoint

# Without the time that an endpoint takes to start.


def _state(endpoint: Endpoint) -> str:
    answer = httpx.get(f"{endpoint.url}/ready", timeout=60)
    assert answer.status_code == 200
    state: str = answer.json()["models"][SCALED]
    return state


def test_replicas_come_with_the_queue(endpoint: Endpoint, cluster: Cluster) -> None:
    # None of these starts one.
    assert _state(endpoint) == "cold"
    told = httpx.get(f"{endpoint.url}/v1/models/{SCALED}", timeout=60).json()
    assert (told["id"], told["capabilities"]) == (SCALED, None)
    assert cluster.replicas(SCALED) == []

    body = {"model": SCALED, "prompt": "owl"}
    first = httpx.post(f"{endpoint.url}/v1/images/generations", json=body, timeout=90)
    assert first.status_code == 200
    assert 0 < float(first.headers["x-zimage-cold-start-s"]) <= first.elapsed.total_seconds()
    eventually(lambda: _state(endpoint) == "ready", "it is ready")
    second = httpx.post(f"{endpoint.url}/v1/images/generations", json=body, timeout=90)
    assert "x-zimage-cold-start-s" not in second.headers

    with load(endpoint, clients=24, model=SCALED) as many:
        eventually(lambda: len(cluster.replicas(SCALED)) == 2, "a second replica")
        many.stop()
        assert many.summary()["outcomes"].keys() == {"200"}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_replicas_go_without_work_and_lose_none(endpoint: Endpoint, cluster: Cluster) -> None:
    with load(endpoint, clients=24, model=SCALED) as many, load(endpoint, clients=1, model=SCALED) as few:
        eventually(
            lambda: len(cluster.samples("ray_zimage_open_requests", model=SCALED)) == 2, "both replicas work"
        )
        many.stop()
        # Serve goes by the mean of the last 30 s.
        eventually(lambda: len(cluster.replicas(SCALED)) == 1, "one replica is enough", timeout_s=180)
        few.stop()
        for summary in (many.summary(), few.summary()):
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}
    eventually(lambda: not cluster.replicas(SCALED), "none is needed", timeout_s=180)
    assert _state(endpoint) == "cold"
