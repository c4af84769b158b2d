"""Edits are what diffusers' omni pipeline makes of them alone, whatever shares their steps."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline
from PIL import Image

from tests.zimage_models.diffusers_reference import max_difference, reference_pixels
from tests.zimage_models.engine.test_engine_equality import build, make_together
from tests.zimage_models.engine_parts import (
    CountingVae,
    Wrapped,
    cpu_components,
    engine_of,
    tokenizer_of,
)
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import Cancelled, OutOfMemory
from zimage_models.models.image_state import ImageState
from zimage_models.models.model_runner import ModelRunner
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, ImageResult, Priority, build_request

PipelineOf = Callable[[Path], ZImagePipeline]
AssertAsPipeline = Callable[[Path, ImageResult], None]

LONG = "blurry, ugly, " * 12


@pytest.fixture(params=["omni", "siglip"], scope="module")
def checkpoint(request: pytest.FixtureRequest, omni_checkpoint: Path, siglip_checkpoint: Path) -> Path:
    """One without SigLIP2, and one with it."""
    return omni_checkpoint if request.param == "omni" else siglip_checkpoint


@cache
def picture(height: int, width: int, seed: int = 0) -> Picture:
    """Draw soft blobs of colour, as an image has."""
    small = np.random.default_rng(seed).integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((width, height), Image.Resampling.BILINEAR)
    return Picture(pixels=np.asarray(large))


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def edits() -> list[dict[str, Any]]:
    """Values for 0, 1 and 3 references of several sizes, guided or not."""
    one, other = [picture(64, 64)], [picture(80, 64, seed=1)]
    three = [picture(70, 100), picture(64, 64, seed=2), picture(130, 75)]
    guided = {"guidance_scale": 2.5, "negative_prompt": "dog"}
    return [
        {"reference_images": one},
        {"reference_images": one, **guided},
        {"reference_images": other, **guided, "negative_prompt": LONG, "size": "64x64"},
        {"reference_images": other, "size": "64x64", "num_inference_steps": 4},
        {"reference_images": three},
        {"reference_images": three, **guided, "cfg_normalization": 0.5, "prompt": LONG},
        {"reference_images": three[::-1], **guided, "cfg_truncation": 0.3, "size": "96x64"},
        # 15 image tokens, padded to 32.
        {"reference_images": one, "size": "80x48", "prompt": "把背景变成红色"},
        {"reference_images": [picture(64, 64, seed=5)], "size": "80x48"},
        {"size": "64x64"},
        {"size": "80x48", **guided, "negative_prompt": LONG},
        {"size": "64x64", **guided},
    ]


@pytest.fixture(scope="module")
def assert_as_pipeline(pipeline_of: PipelineOf) -> Callable[[Path, ImageResult], None]:
    """Compare a result with a pipeline call of its own, which is made once."""

    @cache
    def expected(directory: Path, request: ImageRequest) -> Any:
        return reference_pixels(pipeline_of(directory), request)

    def check(directory: Path, result: ImageResult) -> None:
        difference = max_difference(result.pixels_HWC, expected(directory, result.request))
        assert difference <= 2, f"{difference}/255 on {result.request}"

    return check


def requests_for(engine: Engine) -> list[ImageRequest]:
    common = {"prompt": "make it red", "num_inference_steps": 3, "guidance_scale": 0.0}
    return build(engine, [{**common, **value} for value in edits()])


def test_each_alone(checkpoint: Path, assert_as_pipeline: AssertAsPipeline) -> None:
    engine = load_engine(EngineConfig(model=str(checkpoint)))
    # With one reference, with one of another size, with three, with none.
    for request in requests_for(engine)[::3]:
        handle = engine.submit(request)
        finish(engine)
        assert handle.result(0).request == request
        assert_as_pipeline(checkpoint, handle.result(0))


def test_together_and_with_plain_ones(checkpoint: Path, assert_as_pipeline: AssertAsPipeline) -> None:
    engine = load_engine(EngineConfig(model=str(checkpoint)))
    requests = requests_for(engine)
    for result in make_together(engine, requests):
        assert_as_pipeline(checkpoint, result)
    assert engine.stats().num_item_steps == sum(request.num_steps for request in requests)
    assert engine.stats().num_item_steps > engine.stats().num_steps


def test_different_references_share_a_step(checkpoint: Path) -> None:
    small, other, large = picture(64, 64), picture(64, 64, seed=1), picture(96, 128)
    for references in ([[small], [other]], [[small, large], [large, other]]):
        engine = load_engine(EngineConfig(model=str(checkpoint), max_step_tokens=4096))
        common = {"prompt": "red", "size": "64x64", "num_inference_steps": 2}
        make_all(engine, build(engine, [{**common, "reference_images": images} for images in references]))
        assert (engine.stats().num_steps, engine.stats().num_item_steps) == (2, 4)


def make_all(engine: Engine, requests: Sequence[ImageRequest]) -> list[np.ndarray[Any, Any]]:
    handles = [engine.submit(request) for request in requests]
    finish(engine)
    return [handle.result(0).pixels_HWC for handle in handles]


def test_a_large_reference_is_shrunk_to_the_area_of_the_output(
    checkpoint: Path, pipeline_of: PipelineOf
) -> None:
    engine = load_engine(EngineConfig(model=str(checkpoint)))
    image = picture(1040, 1200)
    values = {"prompt": "red", "reference_images": [image], "size": "112x64", "num_inference_steps": 2}
    [request] = build(engine, [{**values, "guidance_scale": 0.0}])
    [pixels] = make_all(engine, [request])
    # The pipeline is given the image as it is, and so shrinks it.
    [theirs] = pipeline_of(checkpoint)(
        prompt=["red"],
        image=[Image.fromarray(image.pixels)],
        height=64,
        width=112,
        num_inference_steps=2,
        guidance_scale=0.0,
        generator=torch.Generator("cpu").manual_seed(request.seed),
    ).images
    assert max_difference(pixels, np.asarray(theirs)) <= 2


def test_the_comparison_can_fail(siglip_checkpoint: Path, pipeline_of: PipelineOf) -> None:
    engine = load_engine(EngineConfig(model=str(siglip_checkpoint)))
    pipeline = pipeline_of(siglip_checkpoint)

    def pixels(**values: Any) -> Any:
        common = {"prompt": "red", "seed": 1, "reference_images": [picture(64, 64), picture(64, 64, seed=1)]}
        values = {**common, "num_inference_steps": 3, "guidance_scale": 2.5, **values}
        return reference_pixels(pipeline, build_request(engine.spec, values))

    others: list[dict[str, Any]] = [
        {"reference_images": [picture(64, 64, seed=1), picture(64, 64)]},
        {"reference_images": [picture(64, 64)]},
        {"prompt": "blue"},
        {"seed": 2},
    ]
    for other in others:
        assert max_difference(pixels(), pixels(**other)) > 20


def test_priorities_cancelling_and_previews(omni_checkpoint: Path) -> None:
    engine = load_engine(EngineConfig(model=str(omni_checkpoint)))
    common = {"prompt": "red", "num_inference_steps": 3, "guidance_scale": 2.0, "size": "64x64"}

    def ask(seed: int, **hosting: Any) -> ImageRequest:
        values = {**common, "seed": seed, "reference_images": [picture(64, 64, seed=seed)]}
        return build_request(engine.spec, values, **hosting)

    events: list[PreviewEvent] = []
    first = engine.submit(ask(1, preview_every=1), on_preview=events.append)
    cancelled = engine.submit(ask(2))
    engine.step()
    online = engine.submit(ask(3, priority=Priority.ONLINE))
    cancelled.cancel()
    engine.step()
    assert engine.stats().num_preemptions == 1
    finish(engine)
    assert [event.step for event in events] == [1, 2]
    assert [handle.result(0).request.seed for handle in (first, online)] == [1, 3]
    with pytest.raises(Cancelled):
        cancelled.result(0)
    [alone] = make_all(engine, [ask(1)])
    assert max_difference(first.result(0).pixels_HWC, alone) <= 2


class TwoReferencesRunner(ModelRunner):
    """Runs out of memory on more than two references in a step."""

    def denoise_step(self, states: Sequence[ImageState]) -> None:
        if sum(len(state.request.reference_images) for state in states) > 2:
            raise torch.OutOfMemoryError("references")
        super().denoise_step(states)


def test_steps_are_halved_when_memory_runs_out(omni_checkpoint: Path) -> None:
    engine = engine_of(omni_checkpoint, cpu_components(omni_checkpoint), TwoReferencesRunner)
    common = {"prompt": "red", "num_inference_steps": 2, "guidance_scale": 0.0, "size": "64x64"}
    values = [{**common, "reference_images": [picture(64, 64, seed=seed)]} for seed in range(4)]
    values.append({**common, "reference_images": [picture(64, 64)] * 3})
    handles = [engine.submit(request) for request in build(engine, values)]
    finish(engine)
    assert [handle.result(0).request.seed for handle in handles[:4]] == [0, 1, 2, 3]
    with pytest.raises(OutOfMemory, match="64x64"):
        handles[4].result(0)


class CountingSiglip(Wrapped):
    """A SigLIP2 encoder that counts its calls."""

    num_calls = 0

    def __call__(self, **inputs: Any) -> Any:
        self.num_calls += 1
        return self.model(**inputs)


def test_references_are_encoded_once(siglip_checkpoint: Path) -> None:
    components = cpu_components(siglip_checkpoint)
    vae, siglip = CountingVae(components.vae), CountingSiglip(components.siglip)
    engine = engine_of(siglip_checkpoint, replace(components, vae=vae, siglip=siglip))
    common = {"prompt": "red", "num_inference_steps": 1, "size": "64x64"}
    references = [[picture(70, 64)], [picture(70, 64)], [picture(70, 64), picture(64, 64)]]
    make_all(engine, build(engine, [{**common, "reference_images": r} for r in references]))
    # The fresh copy is another object of the same content.
    copy = Picture(pixels=picture(70, 64).pixels.copy())
    make_all(engine, build(engine, [{**common, "reference_images": [copy]}]))
    assert (vae.num_encoded, siglip.num_calls) == (2, 2)


def test_results_say_what_was_used(omni_checkpoint: Path) -> None:
    engine = load_engine(EngineConfig(model=str(omni_checkpoint)))
    values = {"prompt": "red", "seed": 1, "num_inference_steps": 1, "reference_images": [picture(70, 100)]}
    handle = engine.submit(build_request(engine.spec, values))
    finish(engine)
    result = handle.result(0)
    assert result.pixels_HWC.shape == (64, 96, 3)
    prompt = tokenizer_of(engine.spec).tokenize("red", truncate=False, num_references=1)
    assert (result.num_prompt_tokens, result.prompt_truncated) == (len(prompt.ids), False)
    assert len(prompt.segments) == 3


def test_a_prompt_past_the_limit_is_cut_or_refused(omni_checkpoint: Path) -> None:
    engine = load_engine(EngineConfig(model=str(omni_checkpoint), max_prompt_tokens=128))
    common = {"prompt": LONG, "num_inference_steps": 1, "reference_images": [picture(64, 64)]}
    requests = build(engine, [common, {**common, "truncate_prompt": True}])
    handles = [engine.submit(request) for request in requests]
    finish(engine)
    assert "the limit is 128" in str(handles[0].future.exception())
    assert handles[1].result(0).prompt_truncated


def test_warming_up_reads_references(tmp_path: Path) -> None:
    directory = build_tiny_checkpoint(
        tmp_path / "m", num_layers=1, num_refiner_layers=1, reads_references=True, siglip_width=16
    )
    engine = build_engine(EngineConfig(model=str(directory)))
    try:
        warm_up(engine)
        # Seven, of one, two and three at once; guided or not; with a reference or without.
        assert engine.stats().num_images == 2 * 2 * 7
    finally:
        engine.close()
