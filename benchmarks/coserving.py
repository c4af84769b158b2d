"""Compare online latency during a saturating batch job with an idle replica and with plain FIFO, in one run.

    python -m benchmarks.coserving [--requests 60] [--rows 400]

It uses one replica of the embedded Turbo. Online requests come one at a time, with pauses: alone; during
`zimage generate --engine serve`; and against as many requests of online priority as the job has in flight
(first come, first served). Targets: p95 during the job is at most idle p95 + 2 full steps; the job loses at
most the online work + 5 %.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.endpoint import Endpoint, serving
from benchmarks.load import PROMPTS
from benchmarks.report import write_result

_PAUSE_S = 0.4
_IMAGES_PER_FULL_STEP = 10
"""Images of 96 tokens each within the CPU's budget of 1,024 tokens per step."""
_STEPS = 8
_JOB_IN_FLIGHT = 32
"""Two blocks of 16 rows."""


def online_latencies_s(endpoint: Endpoint, more: Callable[[int], bool]) -> list[float]:
    """Send requests one at a time, with random pauses, while ``more(number)`` is true."""
    latencies_s: list[float] = []
    pauses = random.Random(0)
    with httpx.Client(timeout=120) as client:
        while more(len(latencies_s)):
            time.sleep(pauses.uniform(0.5, 1.5) * _PAUSE_S)
            body = {"prompt": PROMPTS[len(latencies_s) % len(PROMPTS)], "seed": len(latencies_s)}
            start_s = time.monotonic()
            answer = client.post(f"{endpoint.url}/v1/images/generations", json=body)
            latencies_s.append(time.monotonic() - start_s)
            assert answer.status_code == 200, answer.text
    return latencies_s


def start_job(endpoint: Endpoint, folder: Path, num_rows: int) -> "subprocess.Popen[str]":
    """Start a batch job on the endpoint's engines and wait until its first images are written."""
    folder.mkdir()
    rows = range(num_rows)
    table = {"id": [str(i) for i in rows], "prompt": [PROMPTS[i % len(PROMPTS)] for i in rows], "seed": rows}
    pq.write_table(pa.table(table), folder / "table.parquet")
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "generate",
        str(folder / "table.parquet"),
        str(folder / "out"),
    ]
    job = subprocess.Popen(
        [*command, "--engine", "serve", "--progress", "json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **endpoint.batch_environment},
    )
    assert job.stdout is not None
    for line in job.stdout:
        if json.loads(line).get("written"):
            return job
    raise AssertionError("the job ended early")


def images_per_s(job: "subprocess.Popen[str]", folder: Path) -> float:
    """Wait for a job and return its speed from its first part to its last."""
    job.communicate()
    assert job.returncode == 0
    manifest = json.loads((folder / "out" / "_manifests" / "000001.json").read_text(encoding="utf-8"))
    return float(manifest["speed"]["images_per_s"])


def quantiles_ms(latencies_s: list[float]) -> dict[str, float]:
    """Return p50 and p95 in milliseconds."""
    cuts = statistics.quantiles(latencies_s, n=20, method="inclusive")
    return {
        "p50_ms": round(1000 * cuts[9], 1),
        "p95_ms": round(1000 * cuts[18], 1),
        "requests": len(latencies_s),
    }


def measure(endpoint: Endpoint, folder: Path, *, num_requests: int, num_rows: int) -> dict[str, Any]:
    """Measure all four situations."""
    online_latencies_s(endpoint, lambda number: number < 5)  # warm
    idle_s = online_latencies_s(endpoint, lambda number: number < num_requests)
    alone = images_per_s(start_job(endpoint, folder / "alone", num_rows), folder / "alone")
    job = start_job(endpoint, folder / "shared", num_rows)
    start_s = time.monotonic()
    # Until the job is done, so that all of it runs against online requests.
    beside_s = online_latencies_s(endpoint, lambda _: job.poll() is None)
    wall_s = time.monotonic() - start_s
    shared = images_per_s(job, folder / "shared")
    command = [sys.executable, "-m", "benchmarks.load", endpoint.url, "--clients", str(_JOB_IN_FLIGHT)]
    with subprocess.Popen([*command, "--duration", "600"], stdout=subprocess.DEVNULL) as crowd:
        online_latencies_s(endpoint, lambda number: number < 3)
        fifo_s = online_latencies_s(endpoint, lambda number: number < num_requests // 3)
        crowd.send_signal(2)
    # The last answer came after the job's end.
    idle_p50_s = statistics.median(idle_s)
    online_share = (len(beside_s) - 1) * idle_p50_s / wall_s
    full_step_ms = 1000 * _IMAGES_PER_FULL_STEP / (alone * _STEPS)
    idle, beside = quantiles_ms(idle_s), quantiles_ms(beside_s)
    return {
        "idle": idle,
        "beside_batch": beside,
        "fifo": quantiles_ms(fifo_s),
        "full_step_ms": round(full_step_ms, 1),
        "p95_limit_ms": round(idle["p95_ms"] + 2 * full_step_ms, 1),
        "batch_alone_images_per_s": alone,
        "batch_shared_images_per_s": shared,
        "batch_loss": round(1 - shared / alone, 3),
        "batch_loss_limit": round(online_share + 0.05, 3),
        "met": {
            "latency": beside["p95_ms"] <= idle["p95_ms"] + 2 * full_step_ms,
            "throughput": 1 - shared / alone <= online_share + 0.05,
        },
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--requests", type=int, default=60)
    parser.add_argument("--rows", type=int, default=400)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serving(Path(name)) as endpoint:
        result = measure(endpoint, Path(name), num_requests=arguments.requests, num_rows=arguments.rows)
    print(json.dumps(result, indent=2))
    write_result("coserving", result)


if __name__ == "__main__":
    main()
