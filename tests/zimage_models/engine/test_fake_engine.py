from pathlib import Path
from typing import Any

import numpy as np
import pytest

from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.engine.fake_engine import FakeEngine
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import EngineDead
from zimage_models.pictures import Picture
from zimage_models.requests import build_request


@pytest.fixture
def engine() -> FakeEngine:
    engine = build_engine(EngineConfig(fake=True))
    assert isinstance(engine, FakeEngine)
    return engine


def test_tiles_are_of_the_size_asked_for_and_not_blank(engine: FakeEngine) -> None:
    result = engine.submit(build_request(engine.spec, {"prompt": "a", "seed": 1, "size": "96x64"})).result(0)
    assert (result.pixels_HWC.shape, result.pixels_HWC.dtype) == ((64, 96, 3), np.uint8)
    assert (result.pixels_HWC[0] != result.pixels_HWC[-1]).any()


def test_a_tile_is_decided_by_prompt_and_seed(engine: FakeEngine) -> None:
    def colours(prompt: str, seed: int) -> bytes:
        request = build_request(engine.spec, {"prompt": prompt, "seed": seed})
        return engine.submit(request).result(0).pixels_HWC.tobytes()

    assert colours("a", 1) == colours("a", 1)
    assert len({colours(prompt, seed) for prompt in "abc" for seed in range(3)}) == 9


def test_requests_are_counted_and_finished_at_once(engine: FakeEngine) -> None:
    handle = engine.submit(build_request(engine.spec, {"prompt": "a", "seed": 1}))
    handle.cancel()
    assert handle.result(0).request.prompt == "a"
    stats = engine.stats()
    assert (stats.num_images, stats.num_open, stats.num_cancelled) == (1, 0, 0)


def test_previews_are_sent_when_asked_for(engine: FakeEngine) -> None:
    values = {"prompt": "a", "seed": 1, "size": "512x256"}
    image = Picture(pixels=np.zeros((256, 512, 3), np.uint8))
    events: list[PreviewEvent] = []

    def steps(**hosting: Any) -> list[tuple[int, int]]:
        events.clear()
        engine.submit(build_request(engine.spec, values, **hosting), on_preview=events.append)
        return [(event.step, event.num_steps) for event in events]

    assert steps(preview_every=3) == [(3, 8), (6, 8)]
    assert events[0].pixels_HWC.shape == (32, 64, 3)
    assert (events[0].pixels_HWC[0] != events[0].pixels_HWC[-1]).any()
    assert steps() == []
    values |= {"reference_images": [image], "strength": 0.6}
    assert steps(preview_every=2) == [(2, 5), (4, 5)]


def test_edits_are_answered_too(omni_checkpoint: Path) -> None:
    engine = build_engine(EngineConfig(model=str(omni_checkpoint), fake=True))
    images = [Picture(pixels=np.zeros((64, 80, 3), np.uint8))]
    request = build_request(engine.spec, {"prompt": "a", "seed": 1, "reference_images": images})
    assert engine.submit(request).result(0).pixels_HWC.shape == (64, 80, 3)


def test_it_is_hosted_like_a_real_one(engine: FakeEngine) -> None:
    engine.start()
    warm_up(engine)
    assert engine.death is None
    engine.close()
    with pytest.raises(EngineDead, match="closed"):
        engine.submit(build_request(engine.spec, {"prompt": "a", "seed": 1}))
