"""Replicas and engines that die under load."""

from typing import Any

import httpx2 as httpx
import pytest

from tests.conditions import eventually
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import FAKE, PAIR

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def _post(endpoint: Endpoint, **body: Any) -> httpx.Response:
    return httpx.post(f"{endpoint.url}/v1/images/generations", json=body, timeout=60)


def test_killed_replica_under_load_leaves_no_request_unanswered(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    with load(endpoint, clients=3) as plain, load(endpoint, clients=2, stream=True) as streams:
        # Asked at random, either replica has some.
        eventually(lambda: driver.stats(PAIR)["num_online"], "requests are in flight")
        victim, _ = cluster.replicas(PAIR)
        victim.kill()
        eventually(lambda: driver.num_running(PAIR) == 1, "the loss is noticed")
        eventually(lambda: driver.num_running(PAIR) == 2, "it is replaced")
        plain.stop()
        streams.stop()
        for summary in (plain.summary(), streams.summary()):
            # Tried again on the other replica.
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}


def test_request_that_kills_two_engines_fails_for_good_and_others_go_on(endpoint: Endpoint) -> None:
    with load(endpoint, clients=1, model=PAIR) as others:
        answer = _post(endpoint, model=FAKE, prompt="[fake: die]")
        others.stop()
        assert others.summary()["outcomes"].keys() == {"200"}
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_died")
    assert answer.json()["error"]["type"] == "server_error"
    assert answer.headers["x-should-retry"] == "false"
    assert _post(endpoint, model=FAKE, prompt="owl").status_code == 200
