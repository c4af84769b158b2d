"""Measure images/s of the whole job, after start-up, over bare engines on the same cores, in one run.

    python -m benchmarks.pipeline_overhead [--size 64x64] [--rows 1024] [--repeats 3] [--engines 2]

Bare engines and the job take turns, with the same number of engines and the same threads per engine. Each
job is compared with the mean of the bare runs before and after it, because a shared machine's speed drifts.
In the job, reading, encoding and writing compete for the same cores, as they do on a machine without a GPU.
Target: at least 0.9.
"""

import argparse
import itertools
import multiprocessing
import os
import statistics
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import write_result
from benchmarks.timed_job import timed_job
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.requests import build_request

DEFAULT_SIZE = "64x64"
OBJECTS = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")


def bare_images_per_s(num_rows: int, num_engines: int, *, size: str, num_threads: int | None = None) -> float:
    """Measure engines alone, each in its own process with a queue of 256 requests."""
    num_threads = num_threads or _threads(num_engines)
    context = multiprocessing.get_context("spawn")
    ready = context.Barrier(num_engines)
    with ProcessPoolExecutor(num_engines, context, initializer=_share, initargs=(ready,)) as pool:
        spans = list(
            pool.map(
                _run_engine,
                [num_rows // num_engines] * num_engines,
                [num_threads] * num_engines,
                [size] * num_engines,
            )
        )
    return num_rows / (max(end for _, end in spans) - min(start for start, _ in spans))


def _share(ready: Any) -> None:
    # Set as for the job's engines (deployments.engine_actor).
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    globals()["_ready"] = ready


def _run_engine(num_rows: int, num_threads: int, size: str) -> tuple[float, float]:
    engine = build_engine(EngineConfig(num_threads=num_threads))
    warm_up(engine)
    requests = [
        build_request(engine.spec, {"prompt": OBJECTS[row % len(OBJECTS)], "seed": row, "size": size})
        for row in range(num_rows)
    ]
    globals()["_ready"].wait()
    start_s = time.monotonic()
    waiting = []
    for request in requests:
        waiting.append(engine.submit(request))
        if len(waiting) >= 256:
            waiting.pop(0).result()
    for handle in waiting:
        handle.result()
    end_s = time.monotonic()
    engine.close()
    return start_s, end_s


def _threads(num_engines: int) -> int:
    return max(1, (os.cpu_count() or 1) // num_engines)


def job_images_per_s(num_rows: int, num_engines: int, folder: Path, *, size: str) -> float:
    """Measure the job on the same prompts, from its first part to its last."""
    table = pa.table(
        {
            "id": [str(row) for row in range(num_rows)],
            "prompt": [OBJECTS[row % len(OBJECTS)] for row in range(num_rows)],
            "seed": list(range(num_rows)),
        }
    )
    pq.write_table(table, folder / "table.parquet")
    engines = ("--engines", f"{num_engines}:{num_engines}")
    report = timed_job(folder / "table.parquet", folder / "out", *engines, "--size", size)
    assert report["exit_code"] == 0
    return float(report["manifest"]["speed"]["images_per_s"])


def main() -> None:
    """Run both in turn and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", default=DEFAULT_SIZE)
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--engines", type=int, default=2)
    arguments = parser.parse_args()
    bare: list[float] = []
    job: list[float] = []
    for _ in range(arguments.repeats):
        bare.append(bare_images_per_s(arguments.rows, arguments.engines, size=arguments.size))
        with tempfile.TemporaryDirectory() as folder:
            job.append(job_images_per_s(arguments.rows, arguments.engines, Path(folder), size=arguments.size))
    bare.append(bare_images_per_s(arguments.rows, arguments.engines, size=arguments.size))
    ratios = [
        speed / statistics.mean(around) for speed, around in zip(job, itertools.pairwise(bare), strict=True)
    ]
    ratio = statistics.median(ratios)
    print(f"images/s: bare engines {statistics.median(bare):.2f}, whole job {statistics.median(job):.2f}")
    print(f"ratio {ratio:.3f} (target 0.9) of {', '.join(f'{each:.3f}' for each in ratios)}")
    write_result(
        "pipeline_overhead" if arguments.size == DEFAULT_SIZE else f"pipeline_overhead_{arguments.size}",
        {
            "size": arguments.size,
            "rows": arguments.rows,
            "engines": arguments.engines,
            "threads_per_engine": _threads(arguments.engines),
            "bare_images_per_s": bare,
            "job_images_per_s": job,
            "ratios": ratios,
            "ratio": ratio,
            "target": 0.9,
        },
    )


if __name__ == "__main__":
    main()
