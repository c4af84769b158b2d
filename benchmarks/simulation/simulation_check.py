"""Compares the simulated job with real ones: small `zimage generate` runs of the tiny model on this machine.

No value is fitted to a predicted run. An engine's speed comes from bare engines without a job, its speed
within a job from the result of benchmarks.pipeline_overhead, and the driver's speed from a job with the fake
engine. Start-up and end come from the events of a short job with as many engines, because models that load at
the same time share the cores.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.pipeline_overhead import DEFAULT_SIZE, OBJECTS, bare_images_per_s
from benchmarks.report import RESULTS
from benchmarks.scale import write_table
from benchmarks.simulation.batch_simulation import SimulatedFleet, SimulatedJob, simulate_job
from benchmarks.timed_job import timed_job

LIMIT = 0.15
_SEEDS = range(5)
_BARE_ROWS = 80
"""Per engine."""
_IDLE_SHARE = 0.9
_ENGINES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One real job."""

    rows: int
    engines: int
    commit_rows: int


_SHORT_JOB_ROWS = 96
_COMMIT_ROWS = 16
CASES = (
    Case(rows=512, engines=2, commit_rows=16),
    Case(rows=640, engines=2, commit_rows=64),
    Case(rows=256, engines=1, commit_rows=16),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RealRun:
    """What a real job's events report, in seconds from its start."""

    first_seen_s: float
    first_images: int
    """Images made by then."""
    last_written_s: float
    ended_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """The simulator's parameters for this machine and a number of engines."""

    engines: int
    job_ratio: float
    """Speed of engines within a job over bare ones: the result of benchmarks.pipeline_overhead if they fill
    the cores, 1 if Ray's processes have a separate core."""
    driver_blocks_per_s: float
    """Blocks of 16 rows per second that one driver handles with the fake engine."""
    start_s: float
    """From the command to the first denoising step."""
    end_s: float
    """From the last part to the command's end."""


def check() -> dict[str, Any]:
    """Calibrate, run the cases for real, and compare."""
    blocks_per_s = driver_blocks_per_s()
    calibrations = {engines: calibrate(engines, blocks_per_s) for engines in {case.engines for case in CASES}}
    print(f"calibration: {json.dumps([asdict(each) for each in calibrations.values()])}", flush=True)
    results = []
    for case in CASES:
        # A rented core's speed drifts, so bare engines run before and after the job.
        bare = [_bare_speed(case.engines)]
        real = run_job(case)
        bare.append(_bare_speed(case.engines))
        calibration = calibrations[case.engines]
        simulated_s = predict(case, calibration, statistics.mean(bare))
        generating_s = real.last_written_s - calibration.start_s
        results.append(
            {
                **asdict(case),
                "bare_engine_images_per_s": [round(speed, 3) for speed in bare],
                "real_makespan_s": round(real.ended_s, 2),
                "simulated_makespan_s": round(simulated_s, 2),
                "error": round(simulated_s / real.ended_s - 1, 4),
                "error_without_start_and_end": round(
                    (simulated_s - calibration.start_s - calibration.end_s) / generating_s - 1, 4
                ),
            }
        )
        print(json.dumps(results[-1]), flush=True)
    largest = max(abs(result["error"]) for result in results)
    return {
        "calibration": [asdict(each) for each in calibrations.values()],
        "cases": results,
        "largest_error": largest,
        "limit": LIMIT,
        "met": largest <= LIMIT,
    }


def predict(case: Case, calibration: Calibration, bare_images_per_s: float) -> float:
    """Simulate a case and return the seconds from the command's start to its end."""
    job = SimulatedJob(
        num_images=case.rows,
        commit_rows=case.commit_rows,
        images_per_s=bare_images_per_s * calibration.job_ratio,
        driver_s_per_block=1 / calibration.driver_blocks_per_s,
    )
    fleet = SimulatedFleet(nodes=1, engines_per_node=case.engines, engine_start_s=calibration.start_s)
    runs = [simulate_job(fleet, job, seed=seed).makespan_s for seed in _SEEDS]
    return statistics.mean(runs) + calibration.end_s


def _bare_speed(engines: int) -> float:
    """Measure the speed per engine of bare engines, each with one thread."""
    wait_until_idle()
    speed = bare_images_per_s(_BARE_ROWS * engines, engines, size=DEFAULT_SIZE, num_threads=1)
    return speed / engines


def calibrate(engines: int, blocks_per_s: float) -> Calibration:
    """Measure start and end with a short job on ``engines`` engines."""
    bare = _bare_speed(engines)
    short = run_job(Case(rows=_SHORT_JOB_ROWS, engines=engines, commit_rows=_COMMIT_ROWS))
    overhead = json.loads((RESULTS / "pipeline_overhead.json").read_text(encoding="utf-8"))
    job_ratio = overhead["ratio"] if engines >= (os.cpu_count() or 1) else 1.0
    return Calibration(
        engines=engines,
        job_ratio=job_ratio,
        driver_blocks_per_s=blocks_per_s,
        start_s=short.first_seen_s - short.first_images / (bare * job_ratio * engines),
        end_s=short.ended_s - short.last_written_s,
    )


def wait_until_idle(limit_s: float = 300.0) -> None:
    """Wait while others use this machine, because they would distort a measured speed."""
    give_up_s = time.monotonic() + limit_s
    while time.monotonic() < give_up_s:
        before = _core_ticks()
        time.sleep(2.0)
        idle, total = (after - first for after, first in zip(_core_ticks(), before, strict=True))
        if idle >= _IDLE_SHARE * total:
            return
    print("this machine does not become idle; its figures are unreliable", file=sys.stderr)


def _core_ticks() -> tuple[int, int]:
    """Read the idle and the total ticks of the cores (proc(5): idle and iowait, fields 4 and 5)."""
    numbers = [
        int(text) for text in Path("/proc/stat").read_text(encoding="utf-8").split("\n")[0].split()[1:]
    ]
    return numbers[3] + numbers[4], sum(numbers)


def driver_blocks_per_s(rows: int = 4000, commit_rows: int = _COMMIT_ROWS) -> float:
    """Measure how many blocks per second a job handles if its engines cost nothing."""
    wait_until_idle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_table(folder / "table.parquet", rows)
        write_table(folder / "warm_up.parquet", 8 * commit_rows)
        engines = ("--engines", f"{_ENGINES}:{_ENGINES}", "--commit-rows", commit_rows)
        report = timed_job(
            folder / "table.parquet", folder / "out", "--fake", *engines, warm_up=folder / "warm_up.parquet"
        )
    return float(report["manifest"]["speed"]["images_per_s"]) / commit_rows


def run_job(case: Case) -> RealRun:
    """Run a real job with engines of one core each, and record when its events come."""
    wait_until_idle()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [OBJECTS[row % len(OBJECTS)] for row in range(case.rows)]
        table = pa.table({"id": [str(row) for row in range(case.rows)], "prompt": prompts})
        pq.write_table(table, folder / "table.parquet")
        command = [sys.executable, "-m", "jobs.cli", "generate", folder / "table.parquet", folder / "out"]
        options = ["--engines", f"{case.engines}:{case.engines}", "--engine-cpus", "1"]
        options += ["--commit-rows", str(case.commit_rows), "--progress", "json"]
        return _timed([*map(str, command), *options])


def _timed(command: Sequence[str]) -> RealRun:
    first: tuple[float, int] | None = None
    last_written_s = 0.0
    start_s = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        for now_s, event in _events(process, start_s):
            if event["event"] != "progress":
                continue
            if first is None and event["generated"]:
                first = now_s, event["generated"]
            last_written_s = now_s
    assert process.returncode == 0
    assert first is not None
    return RealRun(
        first_seen_s=first[0],
        first_images=first[1],
        last_written_s=last_written_s,
        ended_s=time.monotonic() - start_s,
    )


def _events(process: "subprocess.Popen[str]", start_s: float) -> Iterator[tuple[float, dict[str, Any]]]:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{"):
            yield time.monotonic() - start_s, json.loads(line)
