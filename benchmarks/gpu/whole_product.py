"""Measure the whole product at the released size: a job and an endpoint, through Ray, beside the bare engine.

    python -m benchmarks.gpu.whole_product [--rows 40] [--clients 8] [--checkpoint FOLDER | --folder FOLDER]

The weights are random, in the released layout. It measures how long an engine takes to start for the first
time and again; ``zimage generate`` and ``zimage serve``, each beside the bare engine's images/s; and for the
job, the share of the time in which the GPU runs no kernel. Targets: 0.95 of the bare engine, and under 3 %.
``--tiny`` does the same with a small model on the CPU.
"""

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from datetime import datetime
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.endpoint import serving
from benchmarks.gpu.sharded_load import write_released
from benchmarks.report import RESULTS, device_name, write_result
from benchmarks.timed_job import timed_job
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.requests import build_request

_START_TIMEOUT_S = 400


def start_and_run(config: EngineConfig, num_images: int, side: int) -> dict[str, float]:
    """Start an engine, make images and return its seconds to load and to warm up, and its images/s."""
    started_s = time.perf_counter()
    engine = build_engine(config)
    loaded_s = time.perf_counter()
    warm_up(engine)
    warm_s = time.perf_counter()
    requests = [
        build_request(engine.spec, {"prompt": f"tile {n}", "seed": n, "height": side, "width": side})
        for n in range(num_images)
    ]
    for handle in [engine.submit(request) for request in requests]:
        handle.result()
    images_per_s = num_images / (time.perf_counter() - warm_s)
    engine.close()
    return {"load_s": loaded_s - started_s, "warm_up_s": warm_s - loaded_s, "images_per_s": images_per_s}


def alone(config: EngineConfig, num_images: int, side: int) -> dict[str, float]:
    """Run :func:`start_and_run` in a process of its own, so that its memory is free afterwards."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(start_and_run, config, num_images, side).result()


def run_job(model: Path, folder: Path, num_rows: int, side: int, *options: str) -> dict[str, Any]:
    """Run `zimage generate` over a table of distinct prompts; return its speed and the GPU's idle share."""
    table, output = folder / "table.csv", folder / "out"
    table.write_text("prompt\n" + "".join(f"tile {number}\n" for number in range(num_rows)))
    with busy_percents(folder / "busy.csv") as busy:
        arguments = ("--model", model, "--variant", "turbo", "--size", f"{side}x{side}", *options)
        report = timed_job(table, output, *arguments)
    assert report["exit_code"] == 0, report
    result = {"wall_s": report["wall_s"], "images_per_s": report["manifest"]["speed"]["images_per_s"]}
    written_s = [path.stat().st_mtime for path in (output / "data").glob("*.parquet")]
    while_writing = [percent for at_s, percent in busy if min(written_s) <= at_s <= max(written_s)]
    if while_writing:
        result["gpu_idle_share"] = round(1 - statistics.fmean(while_writing) / 100, 4)
    return result


@contextmanager
def busy_percents(file: Path) -> Iterator[list[tuple[float, float]]]:
    """Sample the share of time in which the GPU runs a kernel, in percent; nothing without nvidia-smi.

    Yields:
        A list of (seconds since 1970, percent), which is filled when the block ends.
    """
    samples: list[tuple[float, float]] = []
    if shutil.which("nvidia-smi") is None:
        yield samples
        return
    query = ("--query-gpu=timestamp,utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200")
    with file.open("wb") as output:
        sampler = subprocess.Popen(["nvidia-smi", *query], stdout=output)
        try:
            yield samples
        finally:
            sampler.terminate()
            sampler.wait()
    for line in file.read_text().splitlines():
        at, _, percent = line.partition(", ")
        samples.append((datetime.strptime(at, "%Y/%m/%d %H:%M:%S.%f").timestamp(), float(percent)))


def run_endpoint(config: EngineConfig, folder: Path, num_clients: int, side: int, load_s: float) -> Any:
    """Run `zimage serve` under clients that each send a request when they have their answer."""
    engine = {"variant": config.variant, "cache_dir": config.cache_dir}
    served = {"id": "random", "model": config.model, "engine": engine}
    with serving(folder, start_timeout_s=_START_TIMEOUT_S, models=[served]) as endpoint:
        command = [sys.executable, "-m", "benchmarks.load", endpoint.url, "--clients", str(num_clients)]
        command += ["--duration", str(load_s), "--size", f"{side}x{side}"]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(model: Path, folder: Path, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure one thing after the other; yield the figures so far after each."""
    config = EngineConfig(model=str(model), variant="turbo", cache_dir=str(folder / "cache"))
    side, num_images = (64, 16) if arguments.tiny else (1024, 12)
    result: dict[str, Any] = {"size": f"{side}x{side}"}
    for name in ("first_start", "second_start"):
        result[name] = alone(config, num_images, side)
        yield result
    result["job"] = run_job(model, folder, arguments.rows, side, "--cache-dir", config.cache_dir or "")
    yield result
    result["endpoint"] = run_endpoint(config, folder, arguments.clients, side, 5 if arguments.tiny else 40)
    bare = result["second_start"]["images_per_s"]
    result["of_bare_engine"] = {
        way: round(result[way]["images_per_s"] / bare, 3) for way in ("job", "endpoint")
    }
    yield result


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a real Turbo checkpoint in diffusers layout")
    parser.add_argument("--folder", type=Path, help="folder of the random one, written if missing (21 GB)")
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="measure a small model on the CPU")
    arguments = parser.parse_args()
    arguments.tiny |= not torch.cuda.is_available()
    device = torch.device("cpu" if arguments.tiny else "cuda")
    results = Path("out") if arguments.tiny else RESULTS
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if arguments.tiny:
            model = build_tiny_checkpoint(folder / "tiny")
        else:
            model = arguments.checkpoint or write_released(arguments.folder or folder / "released", device)
            torch.accelerator.empty_cache()
        shown: set[str] = set()
        for result in measure(model, folder, arguments):
            for name in result.keys() - shown:
                print(f"{name}: {json.dumps(result[name])}", flush=True)
            shown = set(result)
            write_result("whole_product", {**result, "device": device_name(device)}, folder=results)


if __name__ == "__main__":
    main()
