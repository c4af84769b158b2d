"""Measure rows/s and the driver's peak memory of whole fake-engine jobs at growing sizes, and resuming.

    python -m benchmarks.scale [--sizes 10000 100000 1000000] [--skip-resume] [--wide-rows 50000]

For each size, a bare `read_parquet -> map_batches -> write_parquet` makes and encodes the same tiles into the
same bytes; both have warm workers. Targets: rows/s flat within 20 %, driver memory growth under 300 MB, at
least 0.7 of the bare pipeline's rows/s. A table with a column of 1,024 floats per row, which is only copied,
must have 0.6 of the rows/s of the same table without it, from reading the table to the published data set.
"""

import argparse
import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import write_result
from benchmarks.timed_job import timed_job

BLOCK_ROWS = 1000
ENGINES = 2
WARM_UP_BLOCKS = 16
WIDTH = 1024
WIDE_RUNS = 3
JOB = ("--fake", "--size", "32x32", "--engines", f"{ENGINES}:{ENGINES}", "--commit-rows", BLOCK_ROWS)
# Other work on the machine disturbs shorter runs, so the median of three counts there.
LONG_ROWS = 1_000_000


def write_table(path: Path, num_rows: int, *, is_wide: bool = False) -> None:
    """Write a table of ``num_rows`` distinct prompts, each with a vector if it is wide."""
    columns: list[tuple[str, pa.DataType]] = [("id", pa.string()), ("prompt", pa.string())]
    if is_wide:
        columns.append(("embedding", pa.list_(pa.float32(), WIDTH)))
    generator = np.random.default_rng(0)
    with pq.ParquetWriter(path, pa.schema(columns)) as writer:
        for start in range(0, num_rows, 10_000):
            rows = range(start, min(start + 10_000, num_rows))
            arrays: list[Any] = [[f"row-{i}" for i in rows], [f"tile number {i}" for i in rows]]
            if is_wide:
                values = generator.random(len(rows) * WIDTH, dtype=np.float32)
                arrays.append(pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH))
            writer.write_table(pa.table(arrays, schema=pa.schema(columns)))


def measure_wide(num_rows: int, folder: Path) -> dict[str, Any]:
    """Measure a table without and with a column of vectors, in turns."""
    rows_per_s: dict[bool, list[float]] = {False: [], True: []}
    for run in range(WIDE_RUNS):
        for is_wide in (False, True):
            table, output = folder / f"{run}-{is_wide}.parquet", folder / f"{run}-{is_wide}"
            write_table(table, num_rows, is_wide=is_wide)
            # As wide and as long, so that no worker has yet to start: each takes seconds to import.
            warm_up = folder / "warm_up.parquet"
            write_table(warm_up, num_rows, is_wide=is_wide)
            report = timed_job(table, output, *JOB, warm_up=warm_up)
            assert report["manifest"]["counts"]["published"] == num_rows
            rows_per_s[is_wide].append(num_rows / report["wall_s"])
            shutil.rmtree(output)
    narrow, wide = (round(statistics.median(rows_per_s[is_wide]), 1) for is_wide in (False, True))
    result = {"rows": num_rows, "narrow_rows_per_s": narrow, "wide_rows_per_s": wide}
    result["ratio"] = round(wide / narrow, 3)
    print(json.dumps(result), flush=True)
    return result


def bare_rows_per_s(work: Path, output: Path, num_rows: int) -> float:
    """Measure plain Ray Data over the job's own work table, from the first file written to the last."""
    arguments = [str(work), str(output), str(BLOCK_ROWS), str(ENGINES + 4)]
    subprocess.run([sys.executable, "-m", "benchmarks.bare_pipeline", *arguments], check=True)
    times_s = sorted(path.stat().st_mtime for path in output.glob("*.parquet"))
    return (num_rows - num_rows / len(times_s)) / (times_s[-1] - times_s[0])


def measure(num_rows: int, folder: Path, *, resume: bool) -> dict[str, Any]:
    """Measure one table size: the job, the bare pipeline, and resuming with a tenth left to do."""
    folder.mkdir()
    write_table(folder / "table.parquet", num_rows)
    arguments = (folder / "table.parquet", folder / "out", *JOB)
    warm_up = folder / "warm_up.parquet"
    write_table(warm_up, WARM_UP_BLOCKS * BLOCK_ROWS)
    report = timed_job(*arguments, warm_up=warm_up)
    manifest = report["manifest"]
    assert report["exit_code"] == 0
    assert manifest["counts"]["published"] == num_rows
    bare = bare_rows_per_s(folder / "out" / Path(manifest["work_files"][0]).parent, folder / "bare", num_rows)
    result = {
        "rows": num_rows,
        "rows_per_s": manifest["speed"]["images_per_s"],
        "wall_s": report["wall_s"],
        "driver_peak_mb": report["driver_peak_mb"],
        "bare_rows_per_s": round(bare, 1),
        "ratio_to_bare": round(manifest["speed"]["images_per_s"] / bare, 3),
    }
    if resume:
        parts = sorted(part["path"] for part in manifest["parts"])
        for path in random.Random(0).sample(parts, len(parts) // 10):
            (folder / "out" / path).unlink()
        shutil.rmtree(folder / "out" / "_manifests")
        start_s = time.monotonic()
        again = timed_job(*arguments)
        assert again["manifest"]["counts"]["published"] == num_rows
        result["resume_wall_s"] = round(time.monotonic() - start_s, 1)
        result["resume_made"] = again["manifest"]["counts"]["new"]
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    """Measure every size and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--skip-resume", action="store_true")
    parser.add_argument("--wide-rows", type=int, default=50_000)
    arguments = parser.parse_args()
    results = []
    for num_rows in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            is_largest = num_rows == max(arguments.sizes)
            runs = [
                measure(num_rows, Path(folder, str(run)), resume=is_largest and not arguments.skip_resume)
                for run in range(3 if num_rows < LONG_ROWS else 1)
            ]
            results.append(sorted(runs, key=lambda run: run["rows_per_s"])[len(runs) // 2])
    with tempfile.TemporaryDirectory() as folder:
        wide = measure_wide(arguments.wide_rows, Path(folder))
    speeds = [result["rows_per_s"] for result in results]
    memory = [result["driver_peak_mb"] for result in results]
    summary = {
        "results": results,
        "flatness": round(min(speeds) / max(speeds), 3),
        "driver_memory_growth_mb": round(max(memory) - memory[0], 1),
        "lowest_ratio_to_bare": min(result["ratio_to_bare"] for result in results),
        "wide": wide,
        "targets": {
            "flatness": 0.8,
            "driver_memory_growth_mb": 300,
            "ratio_to_bare": 0.7,
            "wide_to_narrow": 0.6,
        },
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "results"}))
    write_result("scale", summary)


if __name__ == "__main__":
    main()
