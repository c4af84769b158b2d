"""What a divided engine can be made of: other models, other places for the text encoder."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.zimage_models.tensor_parallel.divided_engine import (
    KeptLauncher,
    divided_config,
    divided_engine,
    divided_parts,
    make_all,
    relative_difference,
    whole_parts,
)
from tests.zimage_models.tensor_parallel.test_parallel import finished_latents, picture
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.request_handle import PreviewCallback, PreviewEvent, RequestHandle
from zimage_models.errors import Cancelled, InvalidRequest
from zimage_models.requests import ImageRequest, build_request

LONG = "a long way down " * 5


def test_the_text_encoder_may_stay_on_the_first_rank(six_heads: Path, rank_launcher: KeptLauncher) -> None:
    whole, pixels = load_engine(divided_config(six_heads, 1)), []
    with divided_parts(rank_launcher, six_heads, 2, text_encoder="first_rank") as divided:
        group: Any = divided.runner.ranks
        assert [set(group.loads[rank]) for rank in (0, 1)] == [{"transformer"}] * 2
        for engine in (divided.engine, whole):
            request = build_request(
                engine.spec, {"prompt": "owl", "seed": 1, "num_inference_steps": 2, "guidance_scale": 1}
            )
            [result] = make_all(engine, [request])
            pixels.append(result.pixels_HWC.astype(int))
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_the_embedded_models_divide_too(rank_launcher: KeptLauncher) -> None:
    # Three text heads over two ranks, and a trained model: an image that shows the wrong thing would differ.
    whole, pixels = load_engine(divided_config("tiny-zimage-base", 1)), []
    with divided_engine(rank_launcher, "tiny-zimage-base", 2) as divided:
        for engine in (divided, whole):
            request = build_request(
                engine.spec, {"prompt": "red apple", "seed": 1, "num_inference_steps": 4, "guidance_scale": 1}
            )
            [result] = make_all(engine, [request])
            pixels.append(result.pixels_HWC.astype(int))
    assert np.abs(pixels[0] - pixels[1]).max() <= 1


def test_float8_divides_too(rank_launcher: KeptLauncher) -> None:
    engines = [
        load_engine(
            replace(divided_config("tiny-zimage-turbo", num_ranks, variant=None), precision=precision),
            launcher=rank_launcher,
        )
        for num_ranks, precision in ((1, "auto"), (1, "fp8"), (2, "fp8"))
    ]
    try:
        values = {"prompt": "red apple", "seed": 1}
        exact, whole, divided = (
            make_all(engine, [build_request(engine.spec, values)])[0] for engine in engines
        )
    finally:
        for engine in engines:
            engine.close()
    assert divided.precision == "fp8"

    # Each rank rounds its part of the inputs by scales of its own.
    def distance(one, other):
        return np.square(one.pixels_HWC.astype(float) - other.pixels_HWC).mean() ** 0.5

    assert 0 < distance(divided, exact) < 2 * distance(whole, exact)


def test_previews_cancelling_and_mixed_sizes(six_heads: Path, rank_launcher: KeptLauncher) -> None:
    with divided_engine(rank_launcher, six_heads, 2) as engine:

        def ask(seed: int, on_preview: PreviewCallback | None = None, **values: Any) -> RequestHandle:
            common = {"prompt": "owl", "num_inference_steps": 3, "guidance_scale": 0.0, "seed": seed}
            hosting = {"preview_every": 1 if on_preview else 0}
            return engine.submit(
                build_request(engine.spec, {**common, **values}, **hosting), on_preview=on_preview
            )

        previews: list[PreviewEvent] = []
        handles = [
            ask(1, previews.append),
            ask(2, size="64x96"),
            ask(3, size="96x64", prompt=LONG),
            ask(4, prompt=LONG, guidance_scale=2.0),
        ]
        cancelled = ask(5)
        engine.step()
        cancelled.cancel()
        while engine.step():
            pass
        shapes = [handle.result(0).pixels_HWC.shape for handle in handles]
        assert shapes == [(64, 64, 3), (96, 64, 3), (64, 96, 3), (64, 64, 3)]
        assert [event.step for event in previews] == [1, 2]
        with pytest.raises(Cancelled):
            cancelled.result(0)
        assert engine.stats().num_rebuilds == 0


def test_more_ranks_than_heads_are_refused_before_any_starts(
    six_heads: Path, rank_launcher: KeptLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_launcher, "on_launch", lambda: pytest.fail("a rank was started"))
    with pytest.raises(InvalidRequest, match=r"^tensor_parallel_size: 8 is above the .* 6 attention"):
        load_engine(divided_config(six_heads, 8), launcher=rank_launcher)


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_edits_are_those_of_one_rank(
    siglip_checkpoint: Path, rank_launcher: KeptLauncher, num_ranks: int
) -> None:
    def requests_of(engine: Engine) -> list[ImageRequest]:
        images = [picture(64, 80), picture(96, 64)]
        values: list[dict[str, Any]] = [
            {"reference_images": images[:1], "guidance_scale": 0.0},
            {"reference_images": images, "guidance_scale": 2.0, "negative_prompt": LONG},
            {"guidance_scale": 0.0},
        ]
        common = {"prompt": "make it red", "num_inference_steps": 3, "size": "64x64"}
        return [
            build_request(engine.spec, {**common, **value, "seed": seed}) for seed, value in enumerate(values)
        ]

    with divided_parts(rank_launcher, siglip_checkpoint, num_ranks, variant=None) as divided:
        results, latents = finished_latents(divided, requests_of(divided.engine))
        assert divided.engine.stats().num_rebuilds == 0
    whole = whole_parts(siglip_checkpoint, variant=None)
    expected, expected_latents = finished_latents(whole, requests_of(whole.engine))
    for seed, (result, reference) in enumerate(zip(results, expected, strict=True)):
        assert relative_difference(latents[seed], expected_latents[seed]) < 1e-5
        assert np.abs(result.pixels_HWC.astype(int) - reference.pixels_HWC).max() <= 1
