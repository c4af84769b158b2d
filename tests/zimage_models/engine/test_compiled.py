"""A compiled engine compiles while it warms up, and never again; its pictures stay what they are."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from torch._dynamo.utils import counters

from tests.zimage_models.diffusers_reference import assert_as_diffusers
from tests.zimage_models.engine.test_edits import picture
from tests.zimage_models.engine_parts import cpu_components, engine_around
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import warm_up
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.model_runner import ModelRunner
from zimage_models.requests import build_request

PipelineOf = Callable[[Path], ZImagePipeline]

LONG = "a red apple on a wooden table, " * 6
MIX: list[dict[str, Any]] = [
    {"prompt": "owl"},
    {"prompt": LONG, "size": "96x64"},
    {"prompt": "owl", "size": "80x80", "guidance_scale": 2.0, "negative_prompt": LONG},
    {"prompt": "红苹果", "size": "128x128"},
    {"prompt": LONG, "size": "48x48", "guidance_scale": 2.0},
]


@pytest.fixture
def nothing_compiled() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("model", ["tiny-zimage-base", "tiny-zimage-edit"])
def test_nothing_is_compiled_after_the_warm_up(
    pipeline_of: PipelineOf, nothing_compiled: None, model: str
) -> None:
    spec = resolve_model(EngineConfig(model=model))
    runner = ModelRunner(
        cpu_components(spec.directory),
        caption_cache_bytes=2**20,
        denoiser_class=denoiser_class(spec.variant),
    )
    runner.denoiser.compile(backend="eager")
    engine = engine_around(spec, runner)
    engine.start()
    try:
        warm_up(engine)
        compiled = counters["stats"]["unique_graphs"]
        assert compiled > 0
        values = [{"num_inference_steps": 2, **value} for value in MIX]
        if spec.variant.max_reference_images:
            values += [{**value, "reference_images": [picture(64, 80)]} for value in values[:3]]
            values.append({**values[0], "reference_images": [picture(64, 64), picture(64, 96, seed=1)]})
        requests = [build_request(spec, {"seed": seed, **value}) for seed, value in enumerate(values)]
        results = [handle.result(120) for handle in [engine.submit(request) for request in requests * 2]]
    finally:
        engine.close()
    assert counters["stats"]["unique_graphs"] == compiled
    for result in results[: len(MIX)]:
        assert_as_diffusers(pipeline_of(spec.directory), result)
