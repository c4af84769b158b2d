"""What the process that runs the app asks it: how far its start is, and to end without losing a request."""

import http.client
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import Any

from ray import serve
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from deployments.access.front_desk import FrontDesk
from zimage_models.errors import InvalidRequest

_POLL_S = 0.1
_ANSWER_S = 5.0
_LISTENING = "0A"


def starting(app_name: str) -> dict[str, list[str]]:
    """Return what the engines that are starting do, by model ID; nothing before the front desk is up."""
    return _ask(app_name, "starting")


def failed(app_name: str) -> dict[str, str]:
    """Return why engines could not start, by model ID."""
    return _ask(app_name, "failed")


def _ask(app_name: str, method: str) -> dict[str, Any]:
    try:
        desk = serve.get_deployment_handle(FrontDesk.__name__, app_name).options(method_name=method)
        answer: dict[str, Any] = desk.remote().result(timeout_s=_ANSWER_S)
    except (KeyError, RayServeException, RayError, TimeoutError):  # KeyError: there is no desk yet
        return {}
    return answer


def num_replicas(app_name: str, deployment: str, state: str) -> int:
    """Count the replicas of a deployment that are in one of Serve's states, such as RUNNING."""
    states = serve.status().applications[app_name].deployments[deployment].replica_states
    return sum(count for name, count in states.items() if name == state)


def drain(app_name: str) -> Iterator[int]:
    """Make an app refuse requests; report several times a second how many accepted ones are open, down to 0.

    It is at least 1 while a replica does not answer, or one that an update has replaced still finishes.

    Serve can't do this itself (2.60): `serve.shutdown` kills the proxies at once, whatever they are sending.
    `serve.delete` finishes what engines have, but answers 404 at once, also to requests on their way to one.

    Raises:
        InvalidRequest: no such app is running.
    """
    ingress = _ingress(app_name)
    num_open = 1
    while num_open:
        try:
            # All are told again each time, because Serve replaces replicas that die. Those that an update has
            # replaced can't be called, but finish their requests.
            num_open = sum(ingress.broadcast("drain").results(timeout_s=_ANSWER_S))
            num_open = num_open or num_replicas(app_name, ingress.deployment_name, "STOPPING")
        except (DeploymentUnavailableError, KeyError):  # KeyError: the app has gone
            num_open = 0
        except (TimeoutError, RayActorError):
            pass  # the next time
        yield num_open
        time.sleep(_POLL_S * bool(num_open))


def accept(app_name: str) -> None:
    """Let an app that drains take requests again.

    Raises:
        InvalidRequest: no such app is running.
    """
    _ingress(app_name).broadcast("accept").results(timeout_s=_ANSWER_S)


def _ingress(app_name: str) -> DeploymentHandle[Any]:
    try:
        return serve.get_app_handle(app_name)
    except RayServeException as error:
        message = f"serve_app: no Serve application {app_name!r} is running here"
        raise InvalidRequest(message, field="serve_app") from error


def undelivered(host: str, port: int) -> Iterator[int]:
    """Report how many of the answers that this machine's proxy has got are still on their way, down to 0.

    A slow client's answer waits in the proxy's memory, which a proxy that is killed takes along; only Linux
    shows which connections have unsent bytes.
    """
    with (
        suppress(OSError, http.client.HTTPException),
        closing(http.client.HTTPConnection(host, port, timeout=_ANSWER_S)) as connection,
    ):
        # Passes through the same proxy and replicas after the last answer.
        connection.request("GET", "/health")
        connection.getresponse().read()
    waiting = _with_unsent_bytes(port)
    while waiting:
        yield len(waiting)
        time.sleep(_POLL_S)
        # The proxy may just be about to refill a buffer: only one that is empty twice is.
        again = _with_unsent_bytes(port)
        time.sleep(_POLL_S)
        waiting &= again | _with_unsent_bytes(port)
    yield 0


def _with_unsent_bytes(port: int) -> set[tuple[str, str]]:
    """Find the connections to a port that hold bytes for their clients."""
    found = set()
    for name in ("tcp", "tcp6"):
        with suppress(FileNotFoundError), open(f"/proc/net/{name}", encoding="ascii") as table:
            for line in list(table)[1:]:
                _, local, remote, state, queues, *_ = line.split()
                unsent = int(queues.split(":")[0], 16)
                if int(local.rpartition(":")[2], 16) == port and state != _LISTENING and unsent:
                    found.add((local, remote))
    return found
