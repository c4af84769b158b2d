"""The stage that makes images: which rows of blocks in flight together are blamed for a dead engine."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipelines.run import generate_stage
from pipelines.run.generate_stage import GenerateStage
from pipelines.run.run_monitor import RunMonitor
from pipelines.run.served_engine import ServedModel
from pipelines.work_table import WORK_FIELDS
from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError, EngineDead, InvalidRequest
from zimage_models.requests import ImageRequest, ImageResult, Timings

_NO_TIME = Timings(queue_s=0.0, denoise_s=0.0, decode_s=0.0, total_s=0.0)


class Endpoint:
    """One replica: everything in it fails when a request for its death is at the third of its three steps."""

    def __init__(self, served: ServedModel) -> None:
        self._death = asyncio.Event()

    async def generate(self, requests: Sequence[ImageRequest]) -> AsyncIterator[tuple[int, ImageResult]]:
        death = self._death
        for _ in range(3):
            await asyncio.sleep(0)
            if death.is_set():
                raise EngineDead("the endpoint's replica is gone")
        if any(request.prompt == "die" for request in requests):
            self._death = asyncio.Event()
            death.set()
            raise EngineDead("the endpoint's replica is gone")
        for index, request in enumerate(requests):
            pixels_HWC = np.zeros((request.height, request.width, 3), np.uint8)
            yield (
                index,
                ImageResult(pixels_HWC=pixels_HWC, request=request, num_computed_steps=1, timings=_NO_TIME),
            )


class Handle:
    """Calls a :class:`RunMonitor` as its actor's handle does."""

    def __init__(self) -> None:
        self._monitor = RunMonitor()

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=partial(_answer, getattr(self._monitor, name)))


def _answer(method: Callable[..., Any], *arguments: Any, **named: Any) -> "asyncio.Future[Any]":
    answer = asyncio.get_running_loop().create_future()
    answer.set_result(method(*arguments, **named))
    return answer


def block(name: str, prompts: Sequence[str]) -> pa.Table:
    common = {"width": 16, "height": 16, "num_inference_steps": 3, "guidance_scale": 0.0, "seed": 1}
    common |= {
        "negative_prompt": "",
        "cfg_normalization": 0.0,
        "cfg_truncation": 1.0,
        "truncate_prompt": False,
        "quality_mode": "exact",
    }
    rows = [
        {"unit_id": f"{name}{i}", "key": f"{name}{i}", "prompt": prompt, "truncate_prompt": False, **common}
        for i, prompt in enumerate(prompts)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema(WORK_FIELDS))


def test_rows_that_share_an_engine_with_one_that_kills_it_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate_stage, "ServedEngine", Endpoint)

    async def run() -> list[pa.Table]:
        stage = GenerateStage(ServedModel(app_name="app", model_id="model"), Handle())  # type: ignore[arg-type]
        blocks = [block("a", ["x", "x", "die"]), block("b", ["x"] * 4), block("c", ["x", "die", "x"])]
        return await asyncio.gather(*map(stage, blocks))

    failed = {
        row["key"]: row["message"]
        for table in asyncio.run(run())
        for row in table.to_pylist()
        if row["error_class"]
    }
    assert failed == dict.fromkeys(("a2", "c1"), "its engine died 3 times on this row")


def test_an_engine_that_cannot_be_made_is_told_to_the_run() -> None:
    async def run() -> InvalidRequest | None:
        monitor = Handle()
        stage = GenerateStage(EngineConfig(model="nowhere"), monitor)  # type: ignore[arg-type]
        assert await monitor.refusal.remote() is None
        with pytest.raises(CheckpointError, match="'nowhere' is neither embedded"):
            await stage(block("a", ["x"]))
        refusal: InvalidRequest | None = await monitor.refusal.remote()
        return refusal

    assert isinstance(asyncio.run(run()), CheckpointError)
