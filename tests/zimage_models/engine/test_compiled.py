"""A compiled engine compiles while it warms up, and never again; its pictures stay what they are."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline
from torch._dynamo.utils import counters

from tests.zimage_models.diffusers_reference import assert_as_diffusers
from tests.zimage_models.engine.test_controlnet import LAYOUTS
from tests.zimage_models.engine.test_edits import picture
from tests.zimage_models.engine.test_fp8 import make, psnr_db
from tests.zimage_models.engine_parts import cpu_components, engine_around
from zimage_models.checkpoints.components import load_controlnet
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_controlnet
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import warm_up
from zimage_models.models.denoisers.fp8_layers import place_in_fp8
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.model_runner import ModelRunner
from zimage_models.requests import ImageResult, build_request

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


def make_with_nothing_compiled_after_the_warm_up(
    config: EngineConfig, values: list[dict[str, Any]], controlnet: Any = None
) -> list[ImageResult]:
    spec = resolve_model(config)
    components = replace(cpu_components(spec.directory), controlnet=controlnet)
    if config.precision == "fp8":
        place_in_fp8(components.transformer, torch.device("cpu"))
    runner = ModelRunner(
        components,
        caption_cache_bytes=2**20,
        denoiser_class=denoiser_class(spec.variant),
    )
    runner.compile(backend="eager")
    engine = engine_around(spec, runner)
    engine.start()
    try:
        warm_up(engine)
        compiled = engine.stats().num_compiled
        assert compiled > 0
        requests = [
            build_request(spec, {"seed": seed, "num_inference_steps": 2, **value})
            for seed, value in enumerate(values)
        ]
        results = [handle.result(120) for handle in [engine.submit(request) for request in requests * 2]]
        assert engine.stats().num_compiled == compiled
    finally:
        engine.close()
    return results[: len(values)]


def assert_nothing_is_compiled_after_the_warm_up(
    config: EngineConfig, values: list[dict[str, Any]], pipeline_of: PipelineOf, controlnet: Any = None
) -> None:
    spec = resolve_model(config)
    for result in make_with_nothing_compiled_after_the_warm_up(config, values, controlnet):
        assert_as_diffusers(pipeline_of(spec.directory), result, controlnet=controlnet)


def test_base(pipeline_of: PipelineOf, nothing_compiled: None) -> None:
    assert_nothing_is_compiled_after_the_warm_up(EngineConfig(model="tiny-zimage-base"), MIX, pipeline_of)


def test_float8(nothing_compiled: None) -> None:
    values = [value for value in MIX if "guidance_scale" not in value]
    found = make_with_nothing_compiled_after_the_warm_up(EngineConfig(precision="fp8"), values)
    expected = make([{"num_inference_steps": 2, **value} for value in values], precision="fp8")
    assert {result.precision for result in found} == {"fp8"}
    assert min(psnr_db(found, expected)) > 40


def test_edit(pipeline_of: PipelineOf, nothing_compiled: None) -> None:
    edits = [{**value, "reference_images": [picture(96, 96)]} for value in MIX[:3]]
    edits.append({**MIX[3], "reference_images": [picture(64, 64), picture(96, 128, seed=1)]})
    config = EngineConfig(model="tiny-zimage-edit")
    assert_nothing_is_compiled_after_the_warm_up(config, MIX + edits, pipeline_of)


@pytest.mark.parametrize(
    "layout",
    [pytest.param("1.0", marks=pytest.mark.soak), pytest.param("2.0", marks=pytest.mark.soak), "2.1"],
)
def test_controlnets(
    tiny_checkpoint: Path, tmp_path: Path, pipeline_of: PipelineOf, nothing_compiled: None, layout: str
) -> None:
    folder = build_tiny_controlnet(tmp_path / "c", **LAYOUTS[layout])
    controlled = [
        {**value, "size": "64x64", "control_image": picture(64, 64, seed=seed)}
        for seed, value in enumerate(MIX[:3])
    ]
    assert_nothing_is_compiled_after_the_warm_up(
        EngineConfig(model=str(tiny_checkpoint), variant="base", controlnet=str(folder)),
        MIX[:2] + controlled,
        pipeline_of,
        load_controlnet(folder, device=torch.device("cpu"), dtype=torch.float32),
    )


@pytest.mark.soak
def test_second_start_compiles_nothing_anew(tmp_path: Path) -> None:
    """Measure real compilation, by inductor: how often it found nothing kept."""
    program = f"""
from torch._dynamo.utils import counters
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
engine = build_engine(EngineConfig(compile=True, cache_dir={str(tmp_path)!r}))
warm_up(engine)
engine.close()
print("missed", counters["inductor"]["fxgraph_cache_miss"])
"""
    environment = {name: value for name, value in os.environ.items() if name != "TORCHINDUCTOR_CACHE_DIR"}
    runs = [
        subprocess.run(
            [sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True
        )
        for _ in range(2)
    ]
    missed = [int(run.stdout.rpartition("missed ")[2]) for run in runs]
    assert missed[0] > 0
    assert missed[1] == 0
