"""The end of this endpoint: what was accepted is answered, to slow clients, too."""

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import httpx2 as httpx
import openai
import pytest

from tests.conditions import eventually
from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.pictures import TURBO

ROUTE = "/v1/images/generations"


@contextmanager
def slow_client(endpoint: Endpoint, **body: object) -> Iterator[socket.socket]:
    """Send a request over a connection that holds next to nothing, and wait for the answer's first byte."""
    address = urlsplit(endpoint.url)
    content = json.dumps(body).encode()
    head = f"POST {ROUTE} HTTP/1.1\r\nHost: {address.netloc}\r\nConnection: close\r\n"
    head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((address.hostname, address.port))
        connection.sendall(head.encode() + content)
        connection.recv(1, socket.MSG_PEEK)
        yield connection


def test_stopped_endpoint_refuses_new_requests_and_finishes_accepted_ones(endpoint: Endpoint) -> None:
    long = {"prompt": "owl", "size": "256x256", "num_inference_steps": 50, "stream": True}
    large = {"model": TURBO, "prompt": "owl", "size": "384x384", "num_inference_steps": 1, "n": 4}
    with (
        endpoint.http() as http,
        slow_client(endpoint, **large) as slow,
        http.stream("POST", ROUTE, json=long | {"partial_images": 3}) as stream,
    ):
        events = stream.iter_lines()
        assert next(events) == "event: image_generation.partial_image"
        endpoint.process.send_signal(signal.SIGINT)

        ready = eventually(lambda: (answer := http.get("/ready")).status_code == 503 and answer, "it drains")
        assert ready.json()["status"] == "draining"
        assert http.get("/health").json()["status"] == "ok"
        with pytest.raises(openai.InternalServerError) as refused:
            endpoint.client().images.generate(prompt="owl")
        assert (refused.value.status_code, refused.value.code) == (503, "shutting_down")
        assert refused.value.response.headers["retry-after"] == "5"

        assert "event: image_generation.completed" in list(events)
        told = "clients that have not taken their answers yet (1)"
        eventually(lambda: told in endpoint.log.read_text(), "it waits for the slow one")
        with slow.makefile("rb") as answer:
            status, *_ = answer.readline().split(maxsplit=1)[1:]
            head = b"".join(iter(answer.readline, b"\r\n"))
            body = json.loads(answer.read())
        assert status.startswith(b"200")
        assert len(body["data"]) == 4, head
    assert endpoint.process.wait(timeout=60) == 0
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{endpoint.url}/health")
