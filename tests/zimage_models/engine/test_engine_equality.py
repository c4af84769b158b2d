"""Every image is what diffusers.ZImagePipeline makes of its request alone, whatever shared its steps."""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline

from tests.zimage_models.diffusers_reference import assert_as_diffusers, max_difference, reference_pixels
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import ImageRequest, ImageResult, build_request

PipelineOf = Callable[[Path], ZImagePipeline]

# Of three caption buckets on either tokenizer, in two languages.
SHORT, MIDDLE, LONG = "owl", "一只红色的狐狸站在雪地里" * 3, "a picture of pizza, " * 12


def make_together(engine: Engine, requests: Sequence[ImageRequest], seed: int = 0) -> list[ImageResult]:
    """Submit some at once and the others while they run, in shuffled order."""
    order = random.Random(seed).sample(range(len(requests)), len(requests))
    handles = {}
    for number in order[: len(order) // 2]:
        handles[number] = engine.submit(requests[number])
    for number in order[len(order) // 2 :]:
        engine.step()
        handles[number] = engine.submit(requests[number])
    while engine.step():
        pass
    return [handles[number].result(0) for number in range(len(requests))]


def build(engine: Engine, values: Sequence[dict[str, Any]]) -> list[ImageRequest]:
    return [build_request(engine.spec, {"seed": seed, **value}) for seed, value in enumerate(values)]


def test_embedded_turbo(pipeline_of: PipelineOf) -> None:
    engine = load_engine(EngineConfig(model="tiny-zimage-turbo"))
    requests = build(
        engine,
        [
            {"prompt": "red apple"},
            {"prompt": "红苹果"},
            {"prompt": "a picture of pizza, " * 12},
            {"prompt": "penguin", "size": "96x64"},
            {"prompt": "red apple"},
        ],
    )
    for result in make_together(engine, requests):
        assert result.request.num_inference_steps == 8
        assert_as_diffusers(pipeline_of(engine.spec.directory), result)
    assert engine.stats().num_item_steps > engine.stats().num_steps


def test_embedded_base_with_guidance(pipeline_of: PipelineOf) -> None:
    engine = load_engine(EngineConfig(model="tiny-zimage-base"))
    apple = {"prompt": "red apple on a blue background", "num_inference_steps": 6}
    requests = build(
        engine,
        [
            apple | {"guidance_scale": 1.0},
            apple | {"guidance_scale": 3.0, "negative_prompt": "blue"},
            apple | {"guidance_scale": 3.0, "negative_prompt": "blurry, ugly, " * 12},
            apple | {"guidance_scale": 3.0, "cfg_normalization": 1.0, "num_inference_steps": 4},
            apple | {"guidance_scale": 3.0, "cfg_normalization": 0.5, "negative_prompt": "blurry " * 30},
            apple | {"guidance_scale": 3.0, "cfg_truncation": 0.3},
            apple | {"guidance_scale": 2.0, "cfg_truncation": 0.0, "negative_prompt": "blurry " * 30},
            apple | {"guidance_scale": 0.0},
            {"prompt": "tiger face " * 20, "guidance_scale": 1.0, "num_inference_steps": 3},
        ],
    )
    pipeline = pipeline_of(engine.spec.directory)
    for result in make_together(engine, requests):
        assert_as_diffusers(pipeline, result)
    assert engine.stats().num_item_steps > engine.stats().num_steps


@pytest.mark.parametrize("order", [0, 1])
def test_random_checkpoint_with_all_mixed(tiny_checkpoint: Path, pipeline_of: PipelineOf, order: int) -> None:
    engine = load_engine(EngineConfig(model=str(tiny_checkpoint), variant="base", max_step_tokens=512))
    guided = {"guidance_scale": 2.5, "negative_prompt": "一只狗"}
    requests = build(
        engine,
        [
            {"prompt": SHORT, "size": "64x64", "num_inference_steps": 6, "guidance_scale": 0.0},
            {"prompt": SHORT, "size": "64x64", "num_inference_steps": 2, **guided},
            # 15 image tokens, padded to 32; 35, padded to 64; 1, padded to 32.
            {"prompt": SHORT, "size": "80x48", "num_inference_steps": 4, "guidance_scale": 0.0},
            {"prompt": MIDDLE, "size": "80x48", "num_inference_steps": 5, "guidance_scale": 0.0},
            {"prompt": "dog", "size": "80x48", "num_inference_steps": 3, "guidance_scale": 0.0},
            {"prompt": "猫", "size": "80x112", "num_inference_steps": 4, **guided},
            {"prompt": LONG, "size": "80x112", "num_inference_steps": 4, **guided},
            {"prompt": "x", "size": "16x16", "num_inference_steps": 1, **guided},
            {"prompt": LONG, "size": "64x64", "num_inference_steps": 3, "guidance_scale": 0.0},
            {"prompt": "fish", "size": "64x64", "num_inference_steps": 4, "guidance_scale": 0.0},
        ],
    )
    pipeline = pipeline_of(tiny_checkpoint)
    for result in make_together(engine, requests, seed=order):
        assert_as_diffusers(pipeline, result)
    assert engine.stats().num_item_steps > engine.stats().num_steps


@pytest.mark.parametrize(("dim", "num_heads"), [(96, 3), (96, 6), (480, 30)])
def test_odd_numbers_of_heads(tmp_path: Path, pipeline_of: PipelineOf, dim: int, num_heads: int) -> None:
    directory = build_tiny_checkpoint(
        tmp_path / "m", dim=dim, num_heads=num_heads, num_layers=1, num_refiner_layers=1, vae_levels=3
    )
    engine = load_engine(EngineConfig(model=str(directory), variant="turbo"))
    requests = build(engine, [{"prompt": prompt, "num_inference_steps": 2} for prompt in ("owl", "猫")])
    for result in make_together(engine, requests):
        assert_as_diffusers(pipeline_of(directory), result)


def test_the_comparison_can_fail(tiny_checkpoint: Path, pipeline_of: PipelineOf) -> None:
    spec = resolve_model(EngineConfig(model=str(tiny_checkpoint), variant="turbo"))
    pipeline = pipeline_of(tiny_checkpoint)

    def pixels(**values: Any) -> Any:
        values = {"prompt": "owl", "seed": 1, "num_inference_steps": 2} | values
        return reference_pixels(pipeline, build_request(spec, values))

    for other in ({"prompt": "cat"}, {"seed": 2}, {"num_inference_steps": 3}):
        assert max_difference(pixels(), pixels(**other)) > 20


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
@pytest.mark.parametrize("compiled", [False, True])
def test_a_gpu_makes_the_same_pictures(
    pipeline_of: PipelineOf, monkeypatch: pytest.MonkeyPatch, compiled: bool
) -> None:
    # TensorFloat-32 alone moves pixels by more than two levels.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    config = EngineConfig(model="tiny-zimage-base", device="cuda", dtype="float32", compile=compiled)
    engine = load_engine(config)
    values = {"num_inference_steps": 4, "guidance_scale": 2.0}
    requests = build(
        engine,
        [
            {"prompt": "red apple", **values},
            {"prompt": "tiger face " * 20, **values},
            {"prompt": "红苹果", "size": "96x64", "negative_prompt": "blurry " * 30, **values},
            {"prompt": "penguin", "num_inference_steps": 3, "guidance_scale": 0.0},
        ],
    )
    for result in make_together(engine, requests):
        assert_as_diffusers(pipeline_of(engine.spec.directory), result)
    assert engine.stats().memory_bytes > 2**20
