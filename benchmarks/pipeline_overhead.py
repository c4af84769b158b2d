"""Images/s of the whole job, after start-up, over the bare engine on the same cores, in one run.

    python -m benchmarks.pipeline_overhead [--rows 512] [--repeats 2]

The bare engine and the job take turns. Both have all cores as engine threads; encoding and writing compete
for the same cores in the job, as they do on a machine without a GPU. Target: at least 0.9.
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import write_result
from benchmarks.timed_job import timed_job
from zimage_models.build_engine import build_engine, warm_up
from zimage_models.config import EngineConfig
from zimage_models.requests import build_request

OBJECTS = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")


def bare_images_per_s(num_rows: int) -> float:
    """Measure the engine alone, all requests submitted at once."""
    engine = build_engine(EngineConfig(num_threads=os.cpu_count()))
    warm_up(engine)
    requests = [
        build_request(engine.spec, {"prompt": OBJECTS[row % len(OBJECTS)], "seed": row})
        for row in range(num_rows)
    ]
    start_s = time.monotonic()
    waiting = []
    for request in requests:
        waiting.append(engine.submit(request))
        if len(waiting) >= 256:
            waiting.pop(0).result()
    for handle in waiting:
        handle.result()
    speed = num_rows / (time.monotonic() - start_s)
    engine.close()
    return speed


def job_images_per_s(num_rows: int, folder: Path) -> float:
    """Measure the job on the same prompts, from its first part to its last."""
    table = pa.table(
        {
            "id": [str(row) for row in range(num_rows)],
            "prompt": [OBJECTS[row % len(OBJECTS)] for row in range(num_rows)],
            "seed": list(range(num_rows)),
        }
    )
    pq.write_table(table, folder / "table.parquet")
    report = timed_job(folder / "table.parquet", folder / "out")
    assert report["exit_code"] == 0
    return float(report["manifest"]["speed"]["images_per_s"])


def main() -> None:
    """Run both in turn and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    bare: list[float] = []
    job: list[float] = []
    for _ in range(arguments.repeats):
        bare.append(bare_images_per_s(arguments.rows))
        with tempfile.TemporaryDirectory() as folder:
            job.append(job_images_per_s(arguments.rows, Path(folder)))
    bare.append(bare_images_per_s(arguments.rows))
    ratio = statistics.median(job) / statistics.median(bare)
    print(
        f"bare engine {statistics.median(bare):.2f} images/s, whole job {statistics.median(job):.2f} images/s"
    )
    print(f"ratio {ratio:.3f} (target 0.9)")
    write_result(
        "pipeline_overhead",
        {
            "rows": arguments.rows,
            "bare_images_per_s": bare,
            "job_images_per_s": job,
            "ratio": ratio,
            "target": 0.9,
        },
    )


if __name__ == "__main__":
    main()
