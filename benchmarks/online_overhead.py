"""What HTTP costs: latency of instant images, requests/s of one proxy, images/s over the bare engine's.

    python -m benchmarks.online_overhead [--seconds 8] [--rounds 9]

The first two with the fake engine, so that all the time is ours and Serve's. The last with the embedded
Turbo, in turns with the engine alone, twice: an engine of one thread, which leaves the other cores to HTTP as
an accelerator does (target: at least 0.95); and one that takes all cores, which HTTP and the client need too.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.endpoint import serving
from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from zimage_models.build_engine import EngineLike, build_engine, warm_up
from zimage_models.config import EngineConfig
from zimage_models.request_handle import RequestHandle
from zimage_models.requests import build_request

_IN_FLIGHT = 32


def load(url: str, clients: int, seconds: float) -> dict[str, Any]:
    """Keep so many requests in flight."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", url),
            *("--clients", str(clients), "--duration", str(seconds)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["outcomes"].keys() == {"200"}, report
    return report


def engine_latency_ms(config: EngineConfig, num_requests: int = 200) -> float:
    """Return the median time of one request in the engine alone."""
    engine = build_engine(config)
    request = build_request(engine.spec, {"prompt": PROMPTS[0], "seed": 0})
    times_s = []
    for _ in range(num_requests):
        start_s = time.perf_counter()
        engine.submit(request).result()
        times_s.append(time.perf_counter() - start_s)
    engine.close()
    return 1000 * statistics.median(times_s)


def saturated(*, num_threads: int, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare the endpoint's images/s with those of its engine alone, in turns of some seconds.

    Both are up all the time: a shared machine's speed drifts, and less so within a round.
    """
    http: list[float] = []
    bare: list[float] = []
    alone = ProcessPoolExecutor(
        1, multiprocessing.get_context("spawn"), initializer=_build_bare_engine, initargs=(num_threads,)
    )
    with alone, tempfile.TemporaryDirectory() as name:
        alone.submit(_bare_images_per_s, 3).result()  # warm
        with serving(Path(name), "--engine-cpus", str(num_threads)) as endpoint:
            load(endpoint.url, _IN_FLIGHT, 5)  # warm
            for _ in range(rounds):
                bare.append(alone.submit(_bare_images_per_s, seconds).result())
                http.append(load(endpoint.url, _IN_FLIGHT, seconds)["images_per_s"])
    ratios = [fast / slow for fast, slow in zip(http, bare, strict=True)]
    return {
        "engine_threads": num_threads,
        "images_per_s": round(statistics.median(http), 2),
        "bare_engine_images_per_s": round(statistics.median(bare), 2),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
    }


def _build_bare_engine(num_threads: int) -> None:
    # As the endpoint's engine waits (deployments.engine_actor).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    engine = build_engine(EngineConfig(num_threads=num_threads))
    warm_up(engine)
    globals()["_bare_engine"] = engine


def _bare_images_per_s(seconds: float) -> float:
    """Measure the engine of this process, as many requests in flight as the load has."""
    engine: EngineLike = globals()["_bare_engine"]
    start_s = time.monotonic()
    waiting: list[RequestHandle] = []
    num_images = 0
    while time.monotonic() - start_s < seconds:
        values = {"prompt": PROMPTS[num_images % len(PROMPTS)], "seed": num_images}
        waiting.append(engine.submit(build_request(engine.spec, values)))
        num_images += 1
        if len(waiting) >= _IN_FLIGHT:
            waiting.pop(0).result()
    for handle in waiting:
        handle.result()
    return num_images / (time.monotonic() - start_s)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name), "--fake") as endpoint:
        load(endpoint.url, 4, 3)  # warm
        single = load(endpoint.url, 1, arguments.seconds)
        many = load(endpoint.url, _IN_FLIGHT, arguments.seconds)
    engine_ms = engine_latency_ms(EngineConfig(fake=True))
    latency_s = single["latency_s"]["200"]
    result = {
        "http_minus_engine_p50_ms": round(1000 * latency_s["p50"] - engine_ms, 2),
        "http_minus_engine_p99_ms": round(1000 * latency_s["p99"] - engine_ms, 2),
        "engine_p50_ms": round(engine_ms, 3),
        "requests_per_s_one_proxy": many["images_per_s"],
        "engine_of_one_thread": saturated(num_threads=1, rounds=arguments.rounds, seconds=arguments.seconds),
        "engine_of_all_cores": saturated(
            num_threads=os.cpu_count() or 1, rounds=arguments.rounds, seconds=arguments.seconds
        ),
        "target": 0.95,
    }
    print(json.dumps(result, indent=2))
    write_result("online_overhead", result)


if __name__ == "__main__":
    main()
