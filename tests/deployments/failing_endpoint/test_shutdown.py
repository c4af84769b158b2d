"""The end of this endpoint, under load."""

import signal

import pytest

from tests.conditions import eventually
from tests.deployments.cluster import Driver, load
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import PAIR

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def test_a_stopped_endpoint_loses_no_accepted_request(endpoint: Endpoint, driver: Driver) -> None:
    with (
        load(endpoint, clients=4, until_refused=True) as plain,
        load(endpoint, clients=2, stream=True, until_refused=True) as streams,
    ):
        eventually(lambda: driver.stats(PAIR)["num_online"] >= 3, "requests are in flight")
        endpoint.process.send_signal(signal.SIGTERM)
        for summary in (plain.summary(), streams.summary()):
            assert summary["outcomes"].keys() == {"200", "503"}
            assert summary["codes"].keys() == {"shutting_down"}
            assert summary["retry_after"].keys() == {"5"}
            assert summary["unanswered"] == {}
    assert endpoint.process.wait(timeout=60) == 0
