"""The end of this endpoint, under load."""

import signal

import pytest

from tests.conditions import eventually
from tests.deployments.cluster import Driver, load
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import PAIR

NOBODY_THERE = {"ClientConnectorError"}
"""How a request ends that comes after the endpoint's end."""

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def test_a_stopped_endpoint_loses_no_accepted_request(endpoint: Endpoint, driver: Driver) -> None:
    with load(endpoint, clients=2, stream=True, until_refused=True) as streams:
        eventually(lambda: driver.stats(PAIR)["num_online"], "a stream is in flight")
        with load(endpoint, clients=4, until_refused=True) as plain:
            eventually(lambda: driver.stats(PAIR)["num_online"] >= 3, "others are in flight")
            endpoint.process.send_signal(signal.SIGTERM)
            for summary in (plain.summary(), streams.summary()):
                assert {"200"} <= summary["outcomes"].keys() <= {"200", "503"}
                assert summary["codes"].keys() <= {"shutting_down"}
                assert summary["unanswered"].keys() <= NOBODY_THERE
    assert endpoint.process.wait(timeout=60) == 0
