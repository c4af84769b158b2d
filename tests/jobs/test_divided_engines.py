"""Jobs whose engines are divided over several ranks: the same images, whatever becomes of a rank."""

import contextlib
import io
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.conditions import eventually
from tests.jobs.conftest import Zimage, published
from tests.jobs.test_kill import Command, assert_whole, write_table
from tests.rank_processes import gone, rank_processes
from zimage_models.config import EngineConfig
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import build_request

DIVIDED = ("--tp", 2, "--commit-rows", 8, "--progress", "json")


def ranks_of(command: Command) -> list[psutil.Process]:
    return rank_processes(psutil.Process(command.process.pid))


@pytest.mark.parametrize(
    "model", [pytest.param("tiny-zimage-turbo", marks=pytest.mark.soak), "tiny-zimage-base"]
)
def test_a_killed_rank_costs_no_row_and_changes_no_image(
    zimage: Zimage, tmp_path: Path, chance: random.Random, model: str
) -> None:
    table, out = write_table(tmp_path / "table.parquet", 24), tmp_path / "out"
    command = ("generate", table, out, "--model", model, "--steps", 4, "--size", "64x64")
    num_parts = chance.randint(1, 2)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(zimage, *command, *DIVIDED)

        def written() -> bool:
            assert not job.done(), job.result().err
            return len(list((out / "_staging").glob("*.parquet"))) >= num_parts

        eventually(written, f"{num_parts} parts are written")
        [rank] = rank_processes(psutil.Process())
        rank.kill()
        done = job.result()
    assert done.code == 0, done.err
    assert gone([rank])
    assert rank_processes(psutil.Process()) == []
    assert_whole(out, 24)
    # For an engine that is whole nothing is left to make, and it would make the same.
    assert zimage(*command, "--progress", "json").event("planned")["new"] == 0
    engine = load_engine(EngineConfig(model=model, num_threads=1))
    rows = published(out).rows
    handles = [
        engine.submit(
            build_request(
                engine.spec,
                {"prompt": row["prompt"], "seed": row["seed"], "num_inference_steps": 4, "size": "64x64"},
            )
        )
        for row in rows
    ]
    while engine.step():
        pass
    for row, handle in zip(rows, handles, strict=True):
        made = np.asarray(Image.open(io.BytesIO(row["image"]["bytes"]))).astype(int)
        assert abs(made - handle.result(0).pixels_HWC).max() <= 2


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_killed_ranks_cost_no_row(tmp_path: Path, chance: random.Random) -> None:
    num_kills = 10
    num_rows = 80 * num_kills
    table = write_table(tmp_path / "table.parquet", num_rows)
    command = Command(table, tmp_path / "out", "--tp", 2, "--steps", 2, "--commit-rows", 8)
    lost = []
    for kill in range(num_kills):
        # From the first kill on, there is a rank again before there are more images.
        command.until(written=80 * kill + chance.randint(8, 40))
        [rank] = ranks_of(command)
        rank.kill()
        lost.append(rank)
    assert command.finish() == 0
    assert len({rank.pid for rank in lost}) == num_kills
    assert_whole(tmp_path / "out", num_rows)


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("end", ["interrupted", "killed"])
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
