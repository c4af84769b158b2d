"""Jobs whose engines are divided over several ranks: the same images, whatever becomes of a rank."""

import contextlib
import io
import random
import signal
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.jobs.conftest import Zimage, published
from tests.jobs.test_kill import Command, assert_whole
from tests.rank_processes import gone, rank_processes

NAMES = ("red apple", "红苹果", "penguin", "企鹅", "pizza", "owl", "tulip", "西瓜")

pytestmark = pytest.mark.timeout(600)


def write_table(path: Path, num_rows: int) -> Path:
    rows = range(num_rows)
    columns = {"id": [f"row-{i}" for i in rows], "prompt": [NAMES[i % len(NAMES)] for i in rows]}
    pq.write_table(pa.table(columns), path)
    return path


def ranks_of(command: Command) -> list[psutil.Process]:
    return rank_processes(psutil.Process(command.process.pid))


@pytest.mark.parametrize(
    "model", [pytest.param("tiny-zimage-turbo", marks=pytest.mark.soak), "tiny-zimage-base"]
)
def test_divided_engines_make_the_same_images(zimage: Zimage, tmp_path: Path, model: str) -> None:
    table = write_table(tmp_path / "table.parquet", 8)
    arguments = ("--model", model, "--steps", 8, "--progress", "json")
    assert zimage("generate", table, tmp_path / "whole", *arguments).code == 0
    done = zimage("generate", table, tmp_path / "divided", "--tp", 2, *arguments)
    assert done.code == 0, done.err
    whole, divided = published(tmp_path / "whole").by_key, published(tmp_path / "divided").by_key
    assert whole.keys() == divided.keys()
    for key, row in whole.items():
        assert row["unit_id"] == divided[key]["unit_id"]
        one, other = (
            np.asarray(Image.open(io.BytesIO(made["image"]["bytes"]))).astype(int)
            for made in (row, divided[key])
        )
        assert abs(one - other).max() <= 2
    assert rank_processes(psutil.Process()) == []


@pytest.mark.parametrize(
    "num_kills", [1, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_killed_ranks_cost_no_row(tmp_path: Path, num_kills: int) -> None:
    num_rows = 80 * num_kills
    table = write_table(tmp_path / "table.parquet", num_rows)
    command = Command(table, tmp_path / "out", "--tp", 2, "--steps", 2, "--commit-rows", 8)
    lost = []
    for kill in range(num_kills):
        # From the first kill on, there is a rank again before there are more images.
        command.until(written=80 * kill + random.randint(8, 40))
        [rank] = ranks_of(command)
        rank.kill()
        lost.append(rank)
    assert command.finish() == 0
    assert len({rank.pid for rank in lost}) == num_kills
    assert_whole(tmp_path / "out", num_rows)


@pytest.mark.parametrize("end", [pytest.param("interrupted", marks=pytest.mark.soak), "killed"])
def test_an_ended_job_leaves_no_rank_behind(tmp_path: Path, end: str) -> None:
    table = write_table(tmp_path / "table.parquet", 400)
    command = Command(table, tmp_path / "out", "--tp", 2, "--steps", 2, "--commit-rows", 8)
    command.until(written=8)
    ranks = ranks_of(command)
    assert ranks
    if end == "interrupted":
        command.process.send_signal(signal.SIGINT)
        assert command.finish() == 130
    else:
        # The driver goes at once; the Ray it leaves behind, the engine with it, would take minutes.
        processes = psutil.Process(command.process.pid).children(recursive=True)
        titles = {process: " ".join(process.cmdline()) for process in processes if process.is_running()}
        command.process.kill()
        command.process.wait()
        for process, title in titles.items():
            if "rank_server" not in title:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
    assert gone(ranks)
