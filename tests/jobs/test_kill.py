"""Kills and interrupts of the real command in its own process: nothing is lost, little is made twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.dataset.manifest import read_manifest
from pipelines.dataset.parts import read_part
from pipelines.dataset.verify import verify
from pipelines.storage_address import open_storage
from tests.conditions import eventually
from tests.jobs.conftest import Zimage
from tests.rank_processes import gone

NUM_ROWS = 160
_MOST_REPEATED = 80
"""A stop may cost what up to two engines hold (32 rows) and what waits to be written; half on average."""


class Command:
    """A running `zimage generate` that prints JSON lines."""

    def __init__(self, *arguments: object, environment: dict[str, str] | None = None) -> None:
        inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.cli", "generate", *map(str, arguments), "--progress", "json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**inherited, **(environment or {})},
        )
        self.last_progress: dict[str, Any] = {"generated": 0, "written": 0}
        self.kept = 0
        """Images that runs before it made."""

    def events(self) -> Iterator[dict[str, Any]]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            if event["event"] == "progress":
                self.last_progress = event
            yield event

    def until(self, written: int) -> None:
        """Read events until so many images are written."""
        for event in self.events():
            if event["event"] == "progress" and event["written"] >= written:
                return
        raise AssertionError(f"ended before {written} images: {self.process.communicate()[1][-2000:]}")

    def planned(self) -> dict[str, Any]:
        """Read events until the plan is told."""
        for event in self.events():
            if event["event"] == "planned":
                return event
        raise AssertionError(f"ended without a plan: {self.process.communicate()[1][-2000:]}")

    def kill(self) -> None:
        """End the driver at once, then the Ray it left behind, which would take minutes to end itself."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait()
        for child in children:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()

    def finish(self) -> int:
        for _ in self.events():
            pass
        return self.process.wait(timeout=300)


def write_table(path: Path, num_rows: int) -> Path:
    names = ["red apple", "红苹果", "penguin", "企鹅", "pizza", "owl", "tulip", "西瓜"]
    rows = {"id": [f"row-{i}" for i in range(num_rows)], "prompt": [names[i % 8] for i in range(num_rows)]}
    pq.write_table(pa.table(rows), path)
    return path


def assert_whole(output: Path, count: int) -> None:
    storage = open_storage(str(output))
    manifest = read_manifest(storage)
    assert manifest is not None
    keys = [
        key for part in manifest.parts for key in read_part(storage, part.path, ["key"])["key"].to_pylist()
    ]
    assert len(keys) == count
    assert set(keys) == {f"row-{i}" for i in range(count)}
    assert verify(storage, manifest).problems == ()


def assert_kept(stopped: Command, planned: dict[str, Any]) -> int:
    """Check that what a stopped command wrote is kept, and most of what it made; returns how many images."""
    kept = planned["unchanged"]
    assert kept >= stopped.kept + stopped.last_progress["written"]
    assert kept >= stopped.kept + stopped.last_progress["generated"] - _MOST_REPEATED
    return int(kept)


def go_on(stopped: Command, *arguments: object) -> Command:
    """Run a command that was stopped again."""
    again = Command(*arguments)
    again.kept = assert_kept(stopped, again.planned())
    return again


def engines_below(root: psutil.Process) -> list[psutil.Process]:
    """Find the processes of all engines that jobs below a process run."""
    found = []
    for process in root.children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "MapWorker(MapBatches(GenerateStage))" in "".join(process.cmdline()):
                found.append(process)
    return found


def test_a_killed_driver_loses_nothing_and_repeats_little(
    zimage: Zimage, tmp_path: Path, chance: random.Random
) -> None:
    command, arguments = killed_driver(tmp_path, chance)
    done = zimage("generate", *arguments, "--progress", "json")
    assert done.code == 0, done.err
    assert_kept(command, done.event("planned"))
    assert_whole(tmp_path / "out", NUM_ROWS)


@pytest.mark.soak
def test_a_killed_engine_loses_nothing(zimage: Zimage, tmp_path: Path, chance: random.Random) -> None:
    command, arguments = killed_driver(tmp_path, chance)
    staging = tmp_path / "out" / "_staging"
    num_parts = len(list(staging.glob("*.parquet"))) + chance.randint(1, 4)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(zimage, "generate", *arguments, "--engines", "2:2", "--progress", "json")

        def written() -> bool:
            assert not job.done(), job.result().err
            return len(list(staging.glob("*.parquet"))) >= num_parts

        eventually(written, "more parts are written")
        victim = chance.choice(engines_below(psutil.Process()))
        victim.kill()
        done = job.result()
    assert done.code == 0, done.err
    assert_kept(command, done.event("planned"))
    assert gone([victim])
    assert_whole(tmp_path / "out", NUM_ROWS)


def killed_driver(folder: Path, chance: random.Random) -> tuple[Command, tuple[object, ...]]:
    """Kill a job in its midst; returns it and its arguments."""
    arguments = (write_table(folder / "table.parquet", NUM_ROWS), folder / "out")
    arguments += ("--steps", 1, "--commit-rows", 8)
    command = Command(*arguments)
    command.until(written=chance.randint(16, 64))
    command.kill()
    return command, arguments


@pytest.mark.soak
def test_an_interrupt_loses_nothing_and_says_how_to_go_on(tmp_path: Path, chance: random.Random) -> None:
    num_rows = 160
    arguments = (
        *(write_table(tmp_path / "table.parquet", num_rows), tmp_path / "out"),
        *("--engines", "2:2", "--steps", 1, "--commit-rows", 8),
    )
    command = Command(*arguments)
    command.until(written=chance.randint(16, 64))
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130
    assert command.process.stderr is not None
    told = command.process.stderr.read()
    assert "run the same command again to continue" in told
    assert "ray log level" not in told, "what Ray's processes say of themselves is no news"
    assert go_on(command, *arguments).finish() == 0
    assert_whole(tmp_path / "out", num_rows)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_twenty_kills_of_the_driver_lose_nothing_and_repeat_little(
    tmp_path: Path, chance: random.Random
) -> None:
    num_rows, num_kills = 2400, 20
    arguments = (
        *(write_table(tmp_path / "table.parquet", num_rows), tmp_path / "out"),
        *("--engines", "2:2", "--steps", 1, "--commit-rows", 8),
    )
    command = Command(*arguments)
    num_generated = 0
    for _ in range(num_kills):
        command.until(written=chance.randint(16, num_rows * 3 // 4 // num_kills))
        command.kill()
        num_generated += command.last_progress["generated"]
        command = go_on(command, *arguments)
    assert command.finish() == 0
    num_generated += command.last_progress["generated"]
    assert_whole(tmp_path / "out", num_rows)
    assert num_generated < num_rows + num_kills * _MOST_REPEATED / 2
