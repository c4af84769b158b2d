"""What HTTP costs: latency of instant images, requests/s of one proxy, images/s over the bare engine's.

    python -m benchmarks.online_overhead [--seconds 20]

The first two with the fake engine, so that all the time is ours and Serve's; the last with the embedded Turbo
on the same cores, in turns with the engine alone. Target: at least 0.95.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.endpoint import serving
from benchmarks.load import PROMPTS
from benchmarks.report import write_result
from zimage_models.build_engine import build_engine, warm_up
from zimage_models.config import EngineConfig
from zimage_models.requests import build_request


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


def bare_images_per_s(seconds: float, in_flight: int) -> float:
    """Measure the engine alone, so many requests in flight."""
    engine = build_engine(EngineConfig(num_threads=os.cpu_count()))
    warm_up(engine)
    start_s = time.monotonic()
    waiting = []
    num_images = 0
    while time.monotonic() - start_s < seconds:
        values = {"prompt": PROMPTS[num_images % len(PROMPTS)], "seed": num_images}
        waiting.append(engine.submit(build_request(engine.spec, values)))
        num_images += 1
        if len(waiting) >= in_flight:
            waiting.pop(0).result()
    for handle in waiting:
        handle.result()
    speed = num_images / (time.monotonic() - start_s)
    engine.close()
    return speed


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name), "--fake") as endpoint:
        load(endpoint.url, 4, 3)  # warm
        single = load(endpoint.url, 1, arguments.seconds)
        many = load(endpoint.url, 32, arguments.seconds)
    engine_ms = engine_latency_ms(EngineConfig(fake=True))
    http, bare = [], []
    with tempfile.TemporaryDirectory() as name:
        for _ in range(arguments.repeats):
            bare.append(bare_images_per_s(arguments.seconds, 32))
            with serving(Path(name)) as endpoint:
                load(endpoint.url, 32, 5)  # warm
                http.append(load(endpoint.url, 32, arguments.seconds)["images_per_s"])
    ratio = statistics.median(http) / statistics.median(bare)
    latency_s = single["latency_s"]["200"]
    result = {
        "http_minus_engine_p50_ms": round(1000 * latency_s["p50"] - engine_ms, 2),
        "http_minus_engine_p99_ms": round(1000 * latency_s["p99"] - engine_ms, 2),
        "engine_p50_ms": round(engine_ms, 3),
        "requests_per_s_one_proxy": many["images_per_s"],
        "saturated_images_per_s": http,
        "bare_engine_images_per_s": [round(speed, 2) for speed in bare],
        "ratio": round(ratio, 3),
        "target": 0.95,
    }
    print(json.dumps(result, indent=2))
    write_result("online_overhead", result)


if __name__ == "__main__":
    main()
