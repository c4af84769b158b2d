"""Signals at any moment, each to an endpoint of its own; the shared endpoints' ends are tested with them."""

import os
import random
import signal
import time
from contextlib import ExitStack

import pytest

from tests.deployments.cluster import load
from tests.deployments.conftest import Serve
from tests.deployments.failing_endpoint.test_shutdown import NOBODY_THERE
from tests.fake_cluster import fake_cluster

pytestmark = pytest.mark.soak


@pytest.mark.parametrize("joins", [False, True], ids=["own Ray", "joined cluster"])
@pytest.mark.parametrize("seed", range(10))
def test_no_accepted_request_is_lost_whenever_the_signal_comes(
    serve_endpoint: Serve, seed: int, joins: bool
) -> None:
    choice = random.Random(seed)
    with ExitStack() as running:
        environment = running.enter_context(fake_cluster({})).environment if joins else {}
        model = {"id": "z-image-turbo", "num_cpus": 1, "max_queue_s": 600}
        endpoint = running.enter_context(
            serve_endpoint(
                environment=environment, models=[model], ingress={"num_replicas": 2, "num_cpus": 0.5}
            )
        )
        loads = [
            running.enter_context(load(endpoint, clients=clients, until_refused=True, seed=seed, **options))
            for clients, options in ((4, {}), (2, {"stream": True}), (1, {"size": "256x256", "steps": 20}))
        ]
        time.sleep(choice.uniform(0, 3))  # the moment
        if choice.random() < 0.5:
            endpoint.process.send_signal(signal.SIGTERM)
        else:
            os.killpg(endpoint.process.pid, signal.SIGINT)  # as Ctrl-C in a terminal
        for sent in loads:
            summary = sent.summary()
            # A cluster's proxy outlives the app, and answers what comes then.
            assert summary["outcomes"].keys() <= {"200", "503", "404"}
            assert summary["codes"].keys() <= {"shutting_down", "shapeless"}
            assert summary["unanswered"].keys() <= NOBODY_THERE
        assert endpoint.process.wait(timeout=60) == 0
