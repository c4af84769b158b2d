"""Measure what HTTP costs: latency of instant images, requests/s of one proxy, images/s over a bare engine's.

    python -m benchmarks.online_overhead [--seconds 15] [--rounds 7]

The first two use the fake engine, so that all the time is ours and Serve's. The last uses the embedded Turbo,
in turns with the same engine called directly in its process (target: at least 0.95). One engine has a single
thread, which leaves the other cores to HTTP as an accelerator does; it runs at two sizes, because HTTP costs
the same at any size. Another takes all cores, which HTTP and the client need too.
"""

import argparse
import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from deployments.http.server_protocol import CALLBACK

# Set as in `zimage serve`; Serve reads them when it is imported.
os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", CALLBACK)
import ray
from ray import serve

from benchmarks.endpoint import free_port, serving
from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from deployments import app
from deployments.app_args import AppArgs, ModelArgs
from deployments.model_server import ModelServer
from jobs.serve import APP_NAME
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import EngineLike, build_engine
from zimage_models.engine.request_handle import RequestHandle
from zimage_models.requests import build_request

_IN_FLIGHT = 32
_WARM_S = 5.0
_SIZES = ("64x64", "128x128")


def load(url: str, clients: int, seconds: float, size: str = _SIZES[0]) -> dict[str, Any]:
    """Keep ``clients`` requests in flight and return the report of the load."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.load", url),
            *("--clients", str(clients), "--duration", str(seconds), "--size", size),
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


class MeasuredServer(ModelServer):
    """A replica that can also measure its engine alone.

    It does so in the same process, because an engine's speed differs by a fifth between processes.
    """

    async def bare_images_per_s(self, seconds: float, size: str) -> float:
        """Return the engine's speed with as many requests in flight as the load has."""
        return await asyncio.to_thread(_bare_images_per_s, self._engine._engine, seconds, size)


def _bare_images_per_s(engine: EngineLike, seconds: float, size: str) -> float:
    start_s = time.monotonic()
    waiting: list[RequestHandle] = []
    num_images = 0
    while time.monotonic() - start_s < seconds:
        values = {"prompt": PROMPTS[num_images % len(PROMPTS)], "seed": num_images, "size": size}
        waiting.append(engine.submit(build_request(engine.spec, values)))
        num_images += 1
        if len(waiting) >= _IN_FLIGHT:
            waiting.pop(0).result()
    for handle in waiting:
        handle.result()
    return num_images / (time.monotonic() - start_s)


def saturated(*, num_threads: int, size: str, rounds: int, seconds: float) -> dict[str, Any]:
    """Compare the endpoint's images/s with its engine's alone, in turns because a machine's speed drifts."""
    http: list[float] = []
    bare: list[float] = []
    with _measured_endpoint(num_threads) as (url, replica):
        load(url, _IN_FLIGHT, _WARM_S, size)
        for _ in range(rounds):
            bare.append(replica.bare_images_per_s.remote(seconds, size).result())
            http.append(load(url, _IN_FLIGHT, seconds, size)["images_per_s"])
    ratios = [over_http / alone for over_http, alone in zip(http, bare, strict=True)]
    return {
        "engine_threads": num_threads,
        "size": size,
        "images_per_s": round(statistics.median(http), 2),
        "bare_engine_images_per_s": round(statistics.median(bare), 2),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "ratio": round(statistics.median(ratios), 3),
    }


@contextmanager
def _measured_endpoint(num_threads: int) -> Iterator[tuple[str, Any]]:
    """Run the endpoint as ``zimage serve`` does, with measuring replicas; yield its URL and their handle."""
    args = AppArgs(models=(ModelArgs(id="z-image-turbo", num_cpus=num_threads, num_gpus=0),))
    port = free_port()
    ray.init(
        address="local",
        num_cpus=num_threads + 2,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    try:
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        with patch.object(app, "ModelServer", MeasuredServer):
            built = app.build_app(args)
        serve.run(built, name=APP_NAME, route_prefix="/")
        yield f"http://127.0.0.1:{port}", serve.get_deployment_handle(args.models[0].id, APP_NAME)
    finally:
        serve.shutdown()  # type: ignore[no-untyped-call]
        ray.shutdown()


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--rounds", type=int, default=7)
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
        "saturated": [
            saturated(num_threads=threads, size=size, rounds=arguments.rounds, seconds=arguments.seconds)
            for threads, size in ((1, _SIZES[0]), (1, _SIZES[1]), (os.cpu_count() or 1, _SIZES[0]))
        ],
        "target": 0.95,
    }
    print(json.dumps(result, indent=2))
    write_result("online_overhead", result)


if __name__ == "__main__":
    main()
