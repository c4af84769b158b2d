"""Replicas that die, and replicas that are replaced or let go, under load."""

from collections.abc import Iterator
from typing import Any

import httpx2 as httpx
import pytest

from tests.conditions import eventually
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint, Serve

MODEL = "z-image-turbo"
FAKE = "fake"

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def _args(*, num_replicas: int = 2, max_queue_s: float = 120.0) -> dict[str, Any]:
    scaling = {"min_replicas": num_replicas, "max_replicas": num_replicas, "downscale_delay_s": 0}
    return {
        "models": [
            {"id": MODEL, "num_cpus": 1, "max_queue_s": max_queue_s, "scaling": scaling},
            {"id": FAKE, "num_cpus": 0, "engine": {"fake": True}},
        ]
    }


@pytest.fixture(scope="module")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    with serve_endpoint(**_args()) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture(scope="module")
def driver(cluster: Cluster) -> Iterator[Driver]:
    with cluster.driver() as driver:
        yield driver


def _post(endpoint: Endpoint, **body: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.url}/v1/images/generations", json=body, timeout=60)


def test_killed_replica_under_load_leaves_no_request_unanswered(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    with load(endpoint, clients=3) as plain, load(endpoint, clients=2, stream=True) as streams:
        # Asked at random, either replica has some.
        eventually(lambda: driver.stats(MODEL)["num_online"], "requests are in flight")
        victim, _ = cluster.replicas(MODEL)
        victim.kill()
        eventually(lambda: driver.num_running(MODEL) == 1, "the loss is noticed")
        eventually(lambda: driver.num_running(MODEL) == 2, "it is replaced")
        plain.stop()
        streams.stop()
        for summary in (plain.summary(), streams.summary()):
            # Tried again on the other replica.
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}


def test_request_that_kills_two_engines_fails_for_good_and_others_go_on(endpoint: Endpoint) -> None:
    with load(endpoint, clients=1, model=MODEL) as others:
        answer = _post(endpoint, model=FAKE, prompt="[fake: die]")
        others.stop()
        assert others.summary()["outcomes"].keys() == {"200"}
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_died")
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-should-retry"] == "false"
    assert _post(endpoint, model=FAKE, prompt="owl").status_code == 200


def test_redeploy_with_fewer_replicas_loses_no_accepted_request(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    before = {replica.pid for replica in cluster.replicas(MODEL)}
    with load(endpoint, clients=3) as plain, load(endpoint, clients=1, stream=True) as streams:
        eventually(lambda: driver.stats(MODEL)["num_online"], "requests are in flight")
        driver.deploy(**_args(num_replicas=1, max_queue_s=100.0))
        eventually(lambda: len(cluster.replicas(MODEL)) == 1, "the old ones are gone")
        plain.stop()
        streams.stop()
        for summary in (plain.summary(), streams.summary()):
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}
    assert before.isdisjoint(replica.pid for replica in cluster.replicas(MODEL))
