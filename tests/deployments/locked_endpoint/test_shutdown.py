"""The end of this endpoint, which has less time than its last request needs."""

import signal

import httpx2 as httpx
import pytest

from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import GENERATIONS, KEY
from tests.deployments.locked_endpoint.conftest import DRAIN_TIMEOUT, SMALL


def test_what_takes_longer_than_the_drain_is_cut_and_counted(endpoint: Endpoint) -> None:
    long = {"model": SMALL, "prompt": "owl", "size": "256x256", "num_inference_steps": 50, "stream": True}
    headers = {"Authorization": f"Bearer {KEY}"}
    with (
        endpoint.http(headers=headers) as http,
        http.stream("POST", GENERATIONS, json=long | {"partial_images": 3}) as answer,
    ):
        events = answer.iter_lines()
        assert next(events) == "event: image_generation.partial_image"
        endpoint.process.send_signal(signal.SIGTERM)
        with pytest.raises(httpx.RemoteProtocolError):
            list(events)
    assert endpoint.process.wait(timeout=60) == 0
    assert f"{DRAIN_TIMEOUT} s are over; requests that are cut: 1\n" in endpoint.log.read_text()
