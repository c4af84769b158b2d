"""Kills and interrupts of the real command in its own process: nothing is lost, little is made twice."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
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

pytestmark = pytest.mark.timeout(600)

_NUM_ROWS = 2400
"""A kill may cost what two engines hold (32 rows) and what waits to be written: a few hundredths of these."""


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

    def engine_pids(self) -> list[int]:
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if "MapWorker" in "".join(child.cmdline())]

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


@pytest.fixture
def source(tmp_path: Path) -> Path:
    names = ["red apple", "红苹果", "penguin", "企鹅", "pizza", "owl", "tulip", "西瓜"]
    rows = {"id": [f"row-{i}" for i in range(_NUM_ROWS)], "prompt": [names[i % 8] for i in range(_NUM_ROWS)]}
    pq.write_table(pa.table(rows), tmp_path / "table.parquet")
    return tmp_path / "table.parquet"


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


@pytest.mark.parametrize(
    "num_kills", [3, pytest.param(20, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_kills_of_the_driver_lose_nothing_and_repeat_little(
    source: Path, tmp_path: Path, num_kills: int
) -> None:
    output = tmp_path / "out"
    arguments = (source, output, "--engines", "2:2", "--steps", 1, "--commit-rows", 8)
    num_generated = 0
    chance = random.Random()
    for _ in range(num_kills):
        command = Command(*arguments)
        command.until(written=chance.randint(16, _NUM_ROWS * 3 // 4 // num_kills))
        command.kill()
        num_generated += command.last_progress["generated"]
    command = Command(*arguments)
    assert command.finish() == 0
    num_generated += command.last_progress["generated"]
    assert_whole(output, _NUM_ROWS)
    # Three kills may cost a twentieth of the work, all in all.
    assert num_generated < _NUM_ROWS * (1 + 0.05 * num_kills / 3)


def test_killed_engine_is_replaced_and_every_row_made_once(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    command = Command(source, output, "--engines", "2:2", "--steps", 1, "--limit", 400, "--commit-rows", 8)
    command.until(written=64)
    victims = command.engine_pids()
    assert victims
    os.kill(random.choice(victims), signal.SIGKILL)
    assert command.finish() == 0
    assert_whole(output, 400)


def test_interrupt_ends_with_130_and_the_same_command_continues(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = (source, output, "--steps", 1, "--limit", 160, "--commit-rows", 8)
    command = Command(*arguments)
    command.until(written=32)
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130
    assert command.process.stderr is not None
    assert "continues where it stopped" in command.process.stderr.read()
    again = Command(*arguments)
    planned = next(event for event in again.events() if event["event"] == "planned")
    assert planned["unchanged"] >= 32
    assert again.finish() == 0
    assert_whole(output, 160)
