"""The end of this endpoint, at once."""

import signal

from tests.conditions import eventually
from tests.deployments.busy_endpoint.conftest import MODEL
from tests.deployments.busy_endpoint.test_load import LONG
from tests.deployments.cluster import Driver, load
from tests.deployments.conftest import Endpoint


def test_a_second_signal_ends_the_endpoint_at_once(endpoint: Endpoint, driver: Driver) -> None:
    with load(endpoint, clients=1, size=LONG["size"], steps=LONG["num_inference_steps"]) as requests:
        eventually(lambda: driver.stats(MODEL)["num_open"], "a request is in flight")
        endpoint.process.send_signal(signal.SIGTERM)
        eventually(lambda: "a second signal ends them at once" in endpoint.log.read_text(), "it drains")
        endpoint.process.send_signal(signal.SIGTERM)
        assert endpoint.process.wait(timeout=60) == 130
        requests.stop()
        assert requests.summary()["outcomes"].keys() <= {"503"}
