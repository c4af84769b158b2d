"""An engine outlives its ranks: lost and stuck ones are replaced, and nothing of them is left behind."""

import contextlib
import os
import random
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
import torch
import torch.distributed as dist
from diffusers.models.transformers.transformer_z_image import TimestepEmbedder
from torch.nn.modules.module import register_module_forward_pre_hook

from tests.conditions import eventually
from tests.rank_processes import gone, rank_processes
from tests.zimage_models.tensor_parallel.divided_engine import (
    KeptLauncher,
    divided_config,
    divided_engine,
    make_all,
)
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.errors import Cancelled, CheckpointError, EngineDead, InvalidRequest
from zimage_models.requests import ImageRequest, build_request

NUM_STEPS = 4


def requests_of(engine: Engine, num: int = 3) -> list[ImageRequest]:
    values = {"prompt": "owl", "num_inference_steps": NUM_STEPS, "guidance_scale": 0.0}
    return [build_request(engine.spec, {**values, "seed": seed}) for seed in range(num)]


@pytest.fixture(scope="module")
def expected(six_heads: Path) -> list[npt.NDArray[np.int64]]:
    """Make the requests' images on one rank."""
    engine = load_engine(divided_config(six_heads, 1))
    return [result.pixels_HWC.astype(int) for result in make_all(engine, requests_of(engine))]


def assert_complete(results: list[Any], expected: list[npt.NDArray[np.int64]]) -> None:
    assert len(results) == len(expected)
    for result, pixels in zip(results, expected, strict=True):
        assert np.abs(result.pixels_HWC.astype(int) - pixels).max() <= 1


def ranks(num_ranks: int) -> list[psutil.Process]:
    """Wait until a divided engine has so many processes beside its own; returns them, first started first."""
    found = eventually(
        lambda: len(there := rank_processes(psutil.Process())) == num_ranks and there, f"{num_ranks} ranks"
    )
    assert found
    return sorted(found, key=lambda process: (process.create_time(), process.pid))


Act = Callable[[], None]
InALayer = Callable[[int, Act], None]


@pytest.fixture
def in_a_layer() -> Iterator[InALayer]:
    """Act on rank 0, in the middle of the second layer of the transformer: at its so manieth run, or all."""
    with contextlib.ExitStack() as hooks:

        def act_at(run: int, act: Act) -> None:
            runs, sums = count(), count(start=LATER)

            def hook(module: Any, inputs: Any) -> None:
                nonlocal sums
                if isinstance(module, TimestepEmbedder):  # a forward begins
                    sums = count()
                elif hasattr(module, "reduction") and next(sums) == IN_THE_SECOND_LAYER:
                    number = next(runs)
                    if run in (number, ALWAYS):
                        sums = count()  # what fails here begins again
                        act()

            hooks.callback(register_module_forward_pre_hook(hook).remove)

        yield act_at


ALWAYS = -1
IN_THE_SECOND_LAYER, LATER = 6, 1000
"""Sums over the ranks in a forward: two in each block, and two blocks refine the image before the layers."""


@pytest.mark.parametrize("num_ranks", [2, 3])
def test_a_killed_rank_costs_no_request(
    six_heads: Path,
    rank_launcher: KeptLauncher,
    expected: list[Any],
    in_a_layer: InALayer,
    chance: random.Random,
    num_ranks: int,
) -> None:
    with divided_engine(rank_launcher, six_heads, num_ranks) as engine:
        in_a_layer(chance.randrange(NUM_STEPS), ranks(num_ranks - 1)[-1].kill)
        assert_complete(make_all(engine, requests_of(engine)), expected)
        assert engine.stats().num_rebuilds == 1
        assert engine.stats().num_failed == 0
        # Once more, between two steps; the new ranks have proven themselves since.
        before = {0: lambda: None, 1: lambda: ranks(num_ranks - 1)[0].kill()}
        results = make_all(engine, requests_of(engine), lambda step: before.get(step, before[0])())
        assert_complete(results, expected)
        assert engine.stats().num_rebuilds == 2


def test_a_stuck_rank_is_replaced(
    six_heads: Path, rank_launcher: KeptLauncher, expected: list[Any], in_a_layer: InALayer
) -> None:
    with divided_engine(rank_launcher, six_heads, 2, collective_timeout_s=4.0) as engine:
        [victim] = ranks(1)
        in_a_layer(1, victim.suspend)
        assert_complete(make_all(engine, requests_of(engine)), expected)
        assert engine.stats().num_rebuilds >= 1
        assert not victim.is_running()


def test_ranks_that_are_lost_twice_end_the_engine(
    six_heads: Path, rank_launcher: KeptLauncher, in_a_layer: InALayer
) -> None:
    with divided_engine(rank_launcher, six_heads, 2) as engine:
        in_a_layer(ALWAYS, lambda: ranks(1)[0].kill())
        handle = engine.submit(requests_of(engine)[0])
        engine.start()
        with pytest.raises(EngineDead, match="its ranks were lost twice without a step"):
            handle.result(60)
        assert engine.death is not None
        eventually(lambda: not rank_processes(psutil.Process()), "no rank is left")


def test_ranks_that_cannot_be_replaced_end_the_engine(
    six_heads: Path, rank_launcher: KeptLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise OSError("no room")

    with divided_engine(rank_launcher, six_heads, 2) as engine:
        ranks(1)[0].kill()
        monkeypatch.setattr(rank_launcher, "on_launch", refuse)
        engine.submit(requests_of(engine)[0])
        with pytest.raises(EngineDead, match=r"could not be replaced \(OSError: no room\)"):
            engine.step()


def test_memory_that_runs_out_halves_the_batch(
    six_heads: Path, rank_launcher: KeptLauncher, expected: list[Any], in_a_layer: InALayer
) -> None:
    def run_out() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with divided_engine(rank_launcher, six_heads, 2) as engine:
        # Twice in a row: that is no sign of a bad group.
        in_a_layer(1, run_out)
        in_a_layer(2, run_out)
        assert_complete(make_all(engine, requests_of(engine)), expected)
        assert engine.stats().num_rebuilds == 2


def test_a_rank_that_cannot_load_tells_why(
    six_heads: Path, rank_launcher: KeptLauncher, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "moved"

    def hide() -> None:
        # Rank 0 has read its limits and its tokenizer by now.
        folder.unlink(missing_ok=True)

    folder.symlink_to(six_heads)
    monkeypatch.setattr(rank_launcher, "on_launch", hide)
    with pytest.raises(CheckpointError, match=r"^rank 1 has not started: model: .*moved"):
        load_engine(divided_config(folder, 2), launcher=rank_launcher)
    assert not dist.is_initialized()


def test_nothing_is_left_after_closing(six_heads: Path, rank_launcher: KeptLauncher) -> None:
    def traces() -> Counter[str]:
        """Count open files and sockets by what they lead to, and shared memory."""
        descriptors = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
        open_files = [os.readlink(path) for path in descriptors if os.path.lexists(path)]
        return Counter(open_files + os.listdir("/dev/shm"))

    before = traces()
    with divided_engine(rank_launcher, six_heads, 3) as engine:
        make_all(engine, requests_of(engine, 1))
        ranks(2)[0].kill()
        make_all(engine, requests_of(engine, 1))
        handle = engine.submit(requests_of(engine)[0])
    with pytest.raises(Cancelled):
        handle.result(0)
    eventually(lambda: not rank_processes(psutil.Process()), "no rank is left")
    assert not dist.is_initialized()
    # What an earlier test left may be collected meanwhile: only what is new counts.
    assert traces() - before == Counter()


def test_two_divided_engines_do_not_share_a_process(six_heads: Path, rank_launcher: KeptLauncher) -> None:
    with divided_engine(rank_launcher, six_heads, 2) as engine:
        with pytest.raises(InvalidRequest, match=r"^tensor_parallel_size: 2 ranks need a process"):
            load_engine(divided_config(six_heads, 2), launcher=rank_launcher)
        assert len(make_all(engine, requests_of(engine))) == 3


START_A_RANK_AND_WAIT = """
import sys, time
from zimage_models.config import EngineConfig
from zimage_models.tensor_parallel.local_ranks import LocalRankLauncher
from zimage_models.tensor_parallel.rank_launcher import Rendezvous
launcher = LocalRankLauncher()
rendezvous = Rendezvous(host="127.0.0.1", port=int(sys.argv[1]), world_size=2, generation=0)
launcher.launch(1, rendezvous, EngineConfig())
print("launched", flush=True)
time.sleep(600)
"""


@pytest.fixture
def engine_process() -> Iterator[psutil.Process]:
    """Run a process with one rank, which waits for a store that never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        command = [sys.executable, "-c", START_A_RANK_AND_WAIT, str(silent.getsockname()[1])]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as started:
            assert started.stdout is not None
            assert started.stdout.readline() == b"launched\n"
            # The rank has come as far as the store.
            silent.settimeout(60)
            connection, _ = silent.accept()
            with connection:
                yield psutil.Process(started.pid)
            started.kill()


@pytest.mark.parametrize("which", ["engine", pytest.param("server", marks=pytest.mark.soak)])
def test_ranks_end_with_a_killed_process(engine_process: psutil.Process, which: str) -> None:
    [rank] = eventually(lambda: rank_processes(engine_process), "the rank is there")
    server = rank.parent()
    assert server is not None
    victim, others = (engine_process, [server, rank]) if which == "engine" else (server, [rank])
    victim.kill()
    assert gone(others)


@pytest.mark.soak
def test_idling_past_the_timeout_is_no_error(six_heads: Path, rank_launcher: KeptLauncher) -> None:
    with divided_engine(rank_launcher, six_heads, 2, collective_timeout_s=5.0) as engine:
        for _ in range(2):
            make_all(engine, requests_of(engine, 1))
            time.sleep(12.0)
        make_all(engine, requests_of(engine, 1))
        assert engine.stats().num_rebuilds == 0
