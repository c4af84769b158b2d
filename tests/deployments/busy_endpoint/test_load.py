"""One engine under more load than it can take, and what its operator sees of it.

It refuses in time, and what it gives up costs no further step.
"""

import asyncio
import json
import statistics
import time
from typing import Any

import httpx2 as httpx
import pytest

from tests.conditions import eventually
from tests.deployments.busy_endpoint.conftest import FAKE, MAX_QUEUE_S, MODEL
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint

ROUTE = "/v1/images/generations"
SECRET = "a purple hippopotamus"
# A step of it takes long enough to see one pass.
LONG_STEPS = 50
LONG = {"prompt": "a red apple", "size": "384x384", "num_inference_steps": LONG_STEPS}

# Without the time that an endpoint takes to start.


def _overload(endpoint: Endpoint, cluster: Cluster, *, duration_s: float) -> dict[str, list[float]]:
    """Send four times what the engine can make, check every answer; returns what was seen meanwhile."""
    with load(endpoint, clients=16, duration=2) as measuring:
        capacity = measuring.summary()["images_per_s"]
    (replica,) = cluster.replicas(MODEL)
    seen: dict[str, list[float]] = {"queue_s": [], "num_open": [], "resident_bytes": [], "health_s": []}
    with load(endpoint, rate=4 * capacity, duration=duration_s) as overload, endpoint.http() as http:
        while overload.running():
            seen["queue_s"].append(cluster.metric("ray_zimage_queue_estimate_seconds", model=MODEL))
            seen["num_open"].append(cluster.metric("ray_zimage_open_requests", model=MODEL))
            seen["resident_bytes"].append(replica.memory_info().rss)
            start_s = time.monotonic()
            assert http.get("/health").status_code == 200
            seen["health_s"].append(time.monotonic() - start_s)
        summary = overload.summary()
    assert summary["unanswered"] == {}
    assert summary["outcomes"].keys() == {"200", "503"}
    assert summary["codes"].keys() == {"engine_overloaded"}
    assert all(1 <= int(seconds) <= 2 * MAX_QUEUE_S for seconds in summary["retry_after"])
    # The estimate moves with the speed; it is exact when a request is let in.
    assert max(seen["queue_s"]) < 2 * MAX_QUEUE_S
    assert max(seen["num_open"]) < 4 * MAX_QUEUE_S * capacity
    return seen


def test_overload_is_refused_and_the_rest_is_answered(endpoint: Endpoint, cluster: Cluster) -> None:
    _overload(endpoint, cluster, duration_s=5)
    answer = httpx.post(f"{endpoint.url}{ROUTE}", json={"prompt": "owl"}, timeout=60)
    assert answer.status_code == 200


@pytest.mark.soak
def test_a_minute_of_overload_leaves_no_trace(endpoint: Endpoint, cluster: Cluster) -> None:
    def latency_s() -> float:
        answer = httpx.post(f"{endpoint.url}{ROUTE}", json={"prompt": "owl"}, timeout=60)
        assert answer.status_code == 200
        return answer.elapsed.total_seconds()

    normal_s = max(latency_s() for _ in range(5))
    seen = _overload(endpoint, cluster, duration_s=60)
    eventually(lambda: latency_s() <= 1.5 * normal_s, "normal latency", timeout_s=5)
    assert statistics.median(seen["health_s"]) < 1
    third = len(seen["resident_bytes"]) // 3
    assert max(seen["resident_bytes"][-third:]) < 1.1 * max(seen["resident_bytes"][:third])


@pytest.mark.parametrize("stream", [False, True])
def test_client_that_leaves_frees_its_slot_early(
    stream: bool, endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    before = driver.stats(MODEL)

    def num_steps() -> int:
        return int(driver.stats(MODEL)["num_item_steps"] - before["num_item_steps"])

    async def leave_at_the_first_step() -> int:
        async with httpx.AsyncClient(base_url=endpoint.url, timeout=60) as client:
            request = asyncio.create_task(client.post(ROUTE, json=LONG | {"stream": stream}))
            seen = await asyncio.to_thread(eventually, num_steps, "a first step")
            request.cancel()
            await asyncio.wait([request])
        return seen

    seen = asyncio.run(leave_at_the_first_step())
    eventually(lambda: driver.stats(MODEL)["num_open"] == 0, "the slot is free")
    after = driver.stats(MODEL)
    # Two steps on a quiet machine: that the client has left comes through three processes.
    assert after["num_item_steps"] - before["num_item_steps"] <= seen + LONG_STEPS // 4
    assert after["num_cancelled"] == before["num_cancelled"] + 1
    eventually(
        lambda: cluster.metric("ray_zimage_steps_total", model=MODEL) == after["num_item_steps"], "exported"
    )
    assert cluster.metric("ray_zimage_images_cancelled_total", model=MODEL) == after["num_cancelled"]
    assert cluster.metric("ray_zimage_open_requests", model=MODEL) == 0


def test_deadline_ends_a_request_at_the_next_step(endpoint: Endpoint, driver: Driver) -> None:
    before = driver.stats(MODEL)
    with endpoint.http() as http:
        answer = http.post(ROUTE, json=LONG, headers={"X-Request-Timeout": "0.5"})
    eventually(lambda: driver.stats(MODEL)["num_open"] == 0, "the slot is free")
    after = driver.stats(MODEL)
    error: dict[str, Any] = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (504, "deadline_exceeded")
    assert answer.headers["x-should-retry"] == "false"
    assert after["num_item_steps"] - before["num_item_steps"] < LONG["num_inference_steps"] / 2


def test_metrics_count_requests_images_and_pixels_by_model(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    names = ("images_total", "images_failed_total", "pixels_total")
    statuses = ("200", "400", "500")

    def metric(name: str, **labels: str) -> float:
        return cluster.metric(f"ray_zimage_{name}", model=FAKE, **labels)

    def answers(status: str) -> float:
        return metric("http_requests_total", route=ROUTE, status=status)

    good = {"model": FAKE, "prompt": SECRET, "n": 2, "size": "64x64"}
    bad = {"size": "65x65"}
    with endpoint.http() as http:
        num_refused = answers("400")
        assert http.post(ROUTE, json=good).status_code == 200
        assert http.post(ROUTE, json=good | bad).status_code == 400
        # Each process exports all its counts together.
        eventually(lambda: answers("400") == num_refused + 1, "all answers so far are exported")
        num_images = driver.stats(FAKE)["num_images"]
        eventually(lambda: metric("images_total") == num_images, "all images so far are exported")
        before = {name: metric(name) for name in names} | {status: answers(status) for status in statuses}
        for change, status in (({}, 200), ({}, 200), (bad, 400), ({"prompt": "[fake: blank]"}, 500)):
            assert http.post(ROUTE, json=good | change).status_code == status

    for status, num_answers in zip(statuses, (2, 1, 1), strict=True):
        eventually(
            lambda status=status, num_answers=num_answers: answers(status) == before[status] + num_answers,
            f"{num_answers} more answers {status}",
        )
    for name, more in zip(names, (4, 2, 4 * 64 * 64), strict=True):
        eventually(lambda name=name, more=more: metric(name) == before[name] + more, f"{more} more {name}")
    with endpoint.http() as http:
        # Ray exports a gauge only for the interval in which it was set: a slow test would come too late.
        eventually(
            lambda: http.get("/health") and cluster.samples("ray_zimage_http_in_flight") == [0],
            "none in flight",
        )


def test_access_log_names_the_request_and_holds_no_prompt(endpoint: Endpoint, cluster: Cluster) -> None:
    with endpoint.http() as http:
        answer = http.post(ROUTE, json={"model": FAKE, "prompt": SECRET, "seed": 5})
    request_id = answer.headers["x-request-id"]

    def logged() -> dict[str, Any] | None:
        lines = (line for line in cluster.log().splitlines() if '"event": "access"' in line)
        entries = (json.loads(line.partition(" -- ")[2]) for line in lines)
        return next((entry for entry in entries if entry["request_id"] == request_id), None)

    entry = eventually(logged, "the request is logged")
    assert entry is not None
    assert entry.pop("duration_s") >= 0
    assert entry == {
        "event": "access",
        "request_id": request_id,
        "method": "POST",
        "route": ROUTE,
        "status": 200,
        "model": FAKE,
        "num_images": 1,
        "seed": 5,
    }
    assert SECRET not in cluster.log()
