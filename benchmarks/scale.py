"""Rows/s and the driver's peak memory of whole jobs with the fake engine, at growing table sizes, and resuming.

    python -m benchmarks.scale [--sizes 10000 100000 1000000] [--skip-resume]

Beside each size runs a bare `read_parquet -> map_batches -> write_parquet` that makes and encodes the same tiles
into the same bytes. Targets: rows/s flat within 20 %, driver memory growth under 300 MB, at least 0.7 of the bare
pipeline's rows/s.
"""

import argparse
import json
import multiprocessing
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.report import write_result
from benchmarks.timed_job import timed_job

BLOCK_ROWS = 1000
ENGINES = 2


def write_table(path: Path, num_rows: int) -> None:
    """Write a table of that many distinct prompts."""
    with pq.ParquetWriter(path, pa.schema([("id", pa.string()), ("prompt", pa.string())])) as writer:
        for start in range(0, num_rows, 100_000):
            rows = range(start, min(start + 100_000, num_rows))
            writer.write_table(
                pa.table({"id": [f"row-{i}" for i in rows], "prompt": [f"tile number {i}" for i in rows]})
            )


def bare_pipeline(work: str, output: str, num_rows: int) -> float:
    """Run plain Ray Data over the job's own work table, making the same bytes; returns rows/s after start-up."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        return pool.apply(_bare_pipeline, (work, output, num_rows))


def _bare_pipeline(work: str, output: str, num_rows: int) -> float:
    import ray
    import ray.data

    ray.init(address="local", num_cpus=ENGINES + 4, include_dashboard=False, logging_level="ERROR")
    ray.data.DataContext.get_current().enable_progress_bars = False
    rows = ray.data.read_parquet(work).repartition(target_num_rows_per_block=BLOCK_ROWS)
    tiles = rows.map_batches(_make_tiles, batch_size=BLOCK_ROWS, batch_format="pyarrow")
    written = tiles.map_batches(_noted, batch_size=None, batch_format="pyarrow")
    written.write_parquet(output)
    ray.shutdown()
    times = sorted(path.stat().st_mtime for path in Path(output).glob("*.parquet"))
    return (num_rows - BLOCK_ROWS) / (times[-1] - times[0])


def _noted(table: pa.Table) -> pa.Table:
    return table


def _make_tiles(table: pa.Table) -> pa.Table:
    from zimage_models.fake_engine import draw_tile
    from zimage_models.image_codec import Encoding, encode_image

    encoding = Encoding()
    names = ("prompt", "negative_prompt", "width", "height", "num_inference_steps", "guidance_scale", "seed")
    images = []
    for row in table.to_pylist():
        pixels_HWC = draw_tile(row["prompt"], row["seed"], row["height"], row["width"])
        parameters = {name: row[name] for name in (*names, "unit_id")}
        parameters |= {"model": "tiny-zimage-turbo", "weights_sha256": "fake"}
        data = encode_image(pixels_HWC, encoding, parameters=parameters)
        images.append({"bytes": data, "path": row["file_name"]})
    return table.append_column("image", pa.array(images))


def measure(num_rows: int, folder: Path, *, resume: bool) -> dict[str, Any]:
    """Measure one table size: the job, the bare pipeline, and resuming with a tenth left to do."""
    write_table(folder / "table.parquet", num_rows)
    arguments = (folder / "table.parquet", folder / "out", "--fake")
    arguments += ("--engines", f"{ENGINES}:{ENGINES}", "--commit-rows", BLOCK_ROWS)
    report = timed_job(*arguments)
    manifest = report["manifest"]
    assert report["exit_code"] == 0
    assert manifest["counts"]["published"] == num_rows
    bare = bare_pipeline(str(folder / "out" / Path(manifest["work_files"][0]).parent), str(folder / "bare"), num_rows)
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
    arguments = parser.parse_args()
    results = []
    for num_rows in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            is_largest = num_rows == max(arguments.sizes)
            results.append(measure(num_rows, Path(folder), resume=is_largest and not arguments.skip_resume))
    speeds = [result["rows_per_s"] for result in results]
    memory = [result["driver_peak_mb"] for result in results]
    summary = {
        "results": results,
        "flatness": round(min(speeds) / max(speeds), 3),
        "driver_memory_growth_mb": round(max(memory) - memory[0], 1),
        "lowest_ratio_to_bare": min(result["ratio_to_bare"] for result in results),
        "targets": {"flatness": 0.8, "driver_memory_growth_mb": 300, "ratio_to_bare": 0.7},
    }
    print(json.dumps({name: value for name, value in summary.items() if name != "results"}))
    write_result("scale", summary)


if __name__ == "__main__":
    main()
