"""Edits are what diffusers' img2img and inpainting pipelines make of them, whatever shares their steps."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImagePipeline

from tests.zimage_models.diffusers_reference import assert_as_diffusers, max_difference, reference_pixels
from tests.zimage_models.engine.test_engine_equality import build, make_together
from tests.zimage_models.engine_parts import CountingVae, cpu_components, tokenizer_of
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.models.image_encoder import ImageEncoder
from zimage_models.pictures import Picture, fit, painted
from zimage_models.requests import build_request

PipelineOf = Callable[[Path], ZImagePipeline]

EMBEDDED = ["tiny-zimage-turbo", "tiny-zimage-base"]


@cache
def made(prompt: str, height: int = 64, width: int = 64) -> Picture:
    """Make a picture to start from with the embedded Turbo."""
    engine = load_engine(EngineConfig())
    handle = engine.submit(
        build_request(engine.spec, {"prompt": prompt, "seed": 3, "height": height, "width": width})
    )
    finish(engine)
    return Picture(pixels=handle.result(0).pixels_HWC)


def finish(engine: Engine) -> None:
    while engine.step():
        pass


def disc(height: int = 64, width: int = 64) -> Picture:
    """Draw a mask: a disc, whose edge runs through the VAE's blocks."""
    rows, columns = np.ogrid[:height, :width]
    inside = np.hypot(rows - 0.55 * height, columns - 0.45 * width) < 0.3 * min(height, width)
    return Picture(pixels=np.where(inside, 255, 0).astype(np.uint8))


def edits(model: str) -> list[dict[str, Any]]:
    start: dict[str, Any] = {"prompt": "green apple", "reference_images": [made("red apple")]}
    options: list[dict[str, Any]] = [{}]
    if model == "tiny-zimage-base":
        start["num_inference_steps"] = 6
        options = [{"guidance_scale": 0.0}, {"guidance_scale": 2.5, "negative_prompt": "blurry " * 30}]
    return [
        {**start, **option, **mask, "strength": strength}
        for option in options
        for mask in ({}, {"mask": disc()})
        for strength in (0.3, 0.6, 1.0)
    ]


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("model", EMBEDDED)
def test_each_alone(pipeline_of: PipelineOf, model: str, masked: bool) -> None:
    engine = load_engine(EngineConfig(model=model))
    for request in build(engine, [values for values in edits(model) if ("mask" in values) == masked]):
        handle = engine.submit(request)
        finish(engine)
        result = handle.result(0)
        assert result.request == request
        assert_as_diffusers(pipeline_of(engine.spec.directory), result)


@pytest.mark.parametrize("model", EMBEDDED)
def test_mixed_with_plain_ones_and_other_sizes(pipeline_of: PipelineOf, model: str) -> None:
    engine = load_engine(EngineConfig(model=model))
    wide = {"prompt": "owl", "reference_images": [made("penguin", 64, 96)]}
    values: list[dict[str, Any]] = [
        *edits(model)[::2],
        {"prompt": "red apple"},
        {"prompt": "一只红苹果", "size": "96x64"},
        wide,
        {**wide, "mask": disc(64, 96), "strength": 0.7},
    ]
    requests = build(engine, [{"num_inference_steps": 6, **value} for value in values])
    for result in make_together(engine, requests):
        assert_as_diffusers(pipeline_of(engine.spec.directory), result)
    assert engine.stats().num_item_steps == sum(request.num_steps for request in requests)
    assert engine.stats().num_item_steps > engine.stats().num_steps


def test_a_vae_of_another_scale(tiny_checkpoint: Path, pipeline_of: PipelineOf) -> None:
    engine = load_engine(EngineConfig(model=str(tiny_checkpoint), variant="base"))
    image, mask = fit(made("red apple"), 48, 80), disc(48, 80)
    common = {"prompt": "owl", "num_inference_steps": 5, "reference_images": [image]}
    requests = build(engine, [common, {**common, "mask": mask}, {**common, "mask": mask, "strength": 0.5}])
    for result in make_together(engine, requests):
        assert_as_diffusers(pipeline_of(tiny_checkpoint), result)


def test_what_is_not_painted_stays_as_it_was() -> None:
    engine = load_engine(EngineConfig())
    image, mask = made("red apple"), disc()
    [request] = build(engine, [{"prompt": "owl", "reference_images": [image], "mask": mask}])
    handle = engine.submit(request)
    finish(engine)
    result = handle.result(0)
    inside = painted(mask)
    assert np.array_equal(result.pixels_HWC[~inside], image.pixels[~inside])
    assert np.abs(result.pixels_HWC[inside].astype(int) - image.pixels[inside]).mean() > 20
    assert result.num_prompt_tokens == tokenizer_of(engine.spec).count(["owl"])[0]


def test_a_weaker_edit_stays_closer_to_its_image() -> None:
    engine = load_engine(EngineConfig())
    image = made("red apple")
    values = [{"prompt": "owl", "reference_images": [image], "strength": s} for s in (0.125, 1.0)]
    differences = [
        np.abs(result.pixels_HWC.astype(int) - image.pixels).mean()
        for result in make_together(engine, build(engine, values))
    ]
    assert differences[0] < 0.5 * differences[1]


def test_results_are_of_the_size_asked_for() -> None:
    engine = load_engine(EngineConfig())
    image = Picture(pixels=np.random.default_rng(0).integers(0, 256, (61, 99, 3), dtype=np.uint8))
    mask = disc(61, 99)
    values = {"prompt": "owl", "reference_images": [image], "mask": mask}
    for result, height, width in zip(
        make_together(engine, build(engine, [values, {**values, "size": "48x80"}])),
        (64, 80),
        (96, 48),
        strict=True,
    ):
        assert result.pixels_HWC.shape == (height, width, 3)
        outside = ~painted(fit(mask, height, width))
        assert np.array_equal(result.pixels_HWC[outside], fit(image, height, width).pixels[outside])
        assert result.request.reference_images == (fit(image, height, width),)


def test_previews_count_the_steps_that_are_run() -> None:
    engine = load_engine(EngineConfig())
    image, mask = made("red apple"), disc()
    values = {"prompt": "owl", "seed": 1, "reference_images": [image], "mask": mask, "strength": 0.7}
    request = build_request(engine.spec, values, preview_every=2)
    events: list[PreviewEvent] = []
    handle = engine.submit(request, on_preview=events.append)
    finish(engine)
    assert [(event.step, event.num_steps) for event in events] == [(2, 6), (4, 6)]
    errors = [np.abs(e.pixels_HWC - handle.result(0).pixels_HWC.astype(int)) for e in events]
    outside = ~painted(mask)
    # Previews too show what is kept, as the VAE renders it.
    assert errors[0][outside].mean() < 12
    assert errors[1].mean() < 12


def test_a_read_only_picture_is_taken() -> None:
    engine = load_engine(EngineConfig())
    pixels = made("red apple").pixels.copy()
    pixels.flags.writeable = False
    [request] = build(engine, [{"prompt": "owl", "reference_images": [Picture(pixels=pixels)]}])
    handle = engine.submit(request)
    finish(engine)
    assert handle.result(0).pixels_HWC.any()


def test_the_comparison_can_fail(pipeline_of: PipelineOf) -> None:
    engine = load_engine(EngineConfig())
    pipeline = pipeline_of(engine.spec.directory)

    def pixels(**values: Any) -> Any:
        common = {"prompt": "owl", "seed": 1, "reference_images": [made("red apple")], "mask": disc()}
        return reference_pixels(pipeline, build_request(engine.spec, common | values))

    for other in ({"reference_images": [made("penguin")]}, {"mask": None}, {"strength": 0.6}, {"seed": 2}):
        assert max_difference(pixels(), pixels(**other)) > 20


def test_pictures_are_encoded_once_within_bounds(tiny_checkpoint: Path) -> None:
    components = cpu_components(tiny_checkpoint)
    vae = CountingVae(components.vae)
    one_posterior = 2 * components.vae.config.latent_channels * 8 * 8 * 4
    encoder = ImageEncoder(vae, cache_bytes=2 * one_posterior + 5)
    pictures = {name: Picture(pixels=np.full((64, 64, 3), ord(name), np.uint8)) for name in "abc"}

    def encode(names: Sequence[str]) -> int:
        before = vae.num_encoded
        for name in names:
            encoder.encode(pictures[name], torch.Generator("cpu").manual_seed(1))
        return vae.num_encoded - before

    assert encode("aab") == 2
    # c drives out b: a was used since.
    assert encode("acac") == 1
    assert encode("b") == 1
    # Another seed is another sample of what is kept.
    first, second = (
        encoder.encode(pictures["b"], torch.Generator("cpu").manual_seed(seed)) for seed in (1, 2)
    )
    assert vae.num_encoded == 4
    assert not torch.equal(first, second)
