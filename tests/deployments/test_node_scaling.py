"""An endpoint on a cluster without GPU nodes: those of a model come with its requests and go after them."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from tests.conditions import eventually
from tests.deployments.cluster import PROMPT_METRICS, Load, load
from tests.deployments.conftest import Endpoint, Serve
from tests.fake_cluster import FakeCluster, fake_cluster, gpu_node

TURBO, BASE = "z-image-turbo", "z-image-base"

# Without the time that cluster and endpoint take to start. The jobs' twin of these tests is no soak.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    types = {"l40s": gpu_node("L40S", max_nodes=2), "h100": gpu_node("H100", max_nodes=2, gpus=2)}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in PROMPT_METRICS.items():
            environment.setenv(name, value)
        with fake_cluster(types) as running:
            yield running


@pytest.fixture(scope="module")
def endpoint(cluster: FakeCluster, serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run Turbo on nodes with an L40S, Base on two H100 of one node; neither has a replica until asked."""
    scaling = {"min_replicas": 0, "target_queue_s": 0.5, "upscale_delay_s": 0, "downscale_delay_s": 1}
    both: dict[str, Any] = {"num_cpus": 1, "max_queue_s": 600, "scaling": scaling | {"look_back_s": 3}}
    turbo = {"id": TURBO, "num_gpus": 1, "accelerator_type": "L40S", "engine": {"device": "cpu"}}
    base = {"id": BASE, "num_gpus": 2, "node_labels": {"ray.io/accelerator-type": "H100"}}
    turbo, base = both | turbo, both | base | {"model": "tiny-zimage-base", "engine": {"fake": True}}
    turbo["scaling"] = turbo["scaling"] | {"max_replicas": 2}
    front = {"num_cpus": 0.5, "node_labels": {"pool": "head"}}
    with serve_endpoint(environment=cluster.environment, models=[turbo, base], ingress=front) as running:
        yield running


def test_nodes_come_with_a_burst_and_go_after_it(cluster: FakeCluster, endpoint: Endpoint) -> None:
    assert cluster.nodes() == Counter()
    body = {"prompt": "owl", "model": BASE}
    answer = httpx.post(f"{endpoint.url}/v1/images/generations", json=body, timeout=180)
    assert answer.status_code == 200
    assert 0 < float(answer.headers["x-zimage-cold-start-s"]) <= answer.elapsed.total_seconds()
    assert cluster.nodes() == {"h100": 1}
    with load(endpoint, clients=16) as burst:
        eventually(
            lambda: cluster.workers(f":{TURBO}") == {"l40s": 2},
            "a replica on each of two nodes",
            timeout_s=180,
        )
        burst.stop()
        _assert_all_answered(burst)
    eventually(lambda: not cluster.nodes(), "no node is kept", timeout_s=120)
    assert max(nodes["l40s"] for _, nodes in cluster.history()) == 2


@pytest.mark.timeout(600)
def test_a_node_goes_while_requests_go_on(cluster: FakeCluster, endpoint: Endpoint) -> None:
    with load(endpoint, clients=24) as many, load(endpoint, clients=1) as few:
        eventually(lambda: cluster.workers(f":{TURBO}") == {"l40s": 2}, "two replicas", timeout_s=180)
        many.stop()
        _assert_all_answered(many)
        eventually(lambda: cluster.nodes() == {"l40s": 1}, "one node is enough", timeout_s=180)
        few.stop()
        _assert_all_answered(few)
    eventually(lambda: not cluster.nodes(), "no node is kept", timeout_s=180)


def _assert_all_answered(requests: Load) -> None:
    summary = requests.summary()
    assert summary["outcomes"].keys() == {"200"}
    assert summary["unanswered"] == {}
