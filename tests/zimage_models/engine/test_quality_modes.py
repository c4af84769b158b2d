"""Images that reuse some steps: how many they compute, what they look like, and what they leave alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.zimage_models.engine.conftest import Ask, MakeEngine, RecordingRunner, run
from tests.zimage_models.engine.test_edits import picture
from tests.zimage_models.engine.test_engine_equality import make_together
from tests.zimage_models.engine.test_image_to_image import disc
from zimage_models.checkpoints.resolve_model import resolve_model, with_own_schedules
from zimage_models.checkpoints.tiny import build_tiny_controlnet
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.engine.request_handle import PreviewEvent
from zimage_models.errors import Cancelled, InvalidRequest
from zimage_models.models.image_state import ImageState
from zimage_models.pictures import painted
from zimage_models.requests import ImageRequest, ImageResult, Priority, build_request
from zimage_models.step_schedules import StepSchedules

EMBEDDED = {"tiny-zimage-turbo": [8], "tiny-zimage-base": [28, 50], "tiny-zimage-edit": [8]}
SCHEDULES = StepSchedules(
    by_steps={
        4: {"high": (0, 1, 3), "fast": (0, 3)},
        6: {"high": (0, 1, 2, 4, 5), "fast": (0, 1, 5)},
    }
)
GUIDED = {"guidance_scale": 2.0, "negative_prompt": "dog"}
OTHER_BUCKET = {"guidance_scale": 2.0, "negative_prompt": "blurry, ugly, " * 12}


def psnr(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> float:
    """Return the peak signal-to-noise ratio in dB."""
    error = np.square(one.astype(float) - other).mean()
    return float("inf") if error == 0 else 10 * np.log10(255**2 / error)


@pytest.fixture
def ask_fast(ask: Ask) -> Callable[..., ImageRequest]:
    """Ask for an image in a mode; without one, for the same image as ``ask`` makes it."""

    def ask_fast(seed: int, mode: str = "fast", **values: Any) -> ImageRequest:
        request = ask(seed, **{"num_inference_steps": 6, **values})
        steps = SCHEDULES.steps_of(mode, request.num_inference_steps, model="tiny")
        return replace(request, quality_mode=mode, step_schedule=steps)

    return ask_fast


def exact(request: ImageRequest) -> ImageRequest:
    return replace(request, quality_mode="exact", step_schedule=None)


def made_alone(engine: Engine, request: ImageRequest) -> ImageResult:
    handle = engine.submit(request)
    run(engine)
    return handle.result(0)


def assert_same(one: ImageResult, other: ImageResult) -> None:
    assert np.abs(one.pixels_HWC.astype(int) - other.pixels_HWC).max() <= 1


def test_as_many_steps_are_computed_as_promised(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, runner = make_engine()
    for number, (mode, values, num_computed) in enumerate(
        [
            ("fast", {}, 3),
            ("high", {}, 5),
            ("fast", {"num_inference_steps": 4}, 2),
            ("fast", GUIDED, 3),
            ("fast", {**OTHER_BUCKET, "cfg_truncation": 0.3}, 3),
        ]
    ):
        runner.steps.clear()
        request = ask_fast(number, mode, **values)
        result = made_alone(engine, request)
        assert result.num_computed_steps == request.num_computed_steps == num_computed
        assert runner.steps == [[number]] * num_computed
        assert result.request.quality_mode == mode
    assert engine.stats().num_item_steps == 3 + 5 + 2 + 3 + 3


def test_images_are_the_same_in_any_company(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, runner = make_engine(max_step_tokens=2048)
    requests = [
        ask_fast(number, mode, **values)
        for number, (mode, values) in enumerate(
            [
                ("fast", {}),
                ("high", {}),
                ("fast", {"num_inference_steps": 4}),
                ("fast", GUIDED),
                ("high", {**GUIDED, "cfg_truncation": 0.3}),
                ("fast", OTHER_BUCKET),
                ("fast", {"size": "96x64"}),
            ]
        )
    ]
    mixed = [*requests, *map(exact, requests)]
    together = make_together(engine, mixed)
    for result, request in zip(together, mixed, strict=True):
        assert result.request == request
        assert_same(result, made_alone(engine, request))
        assert result.num_computed_steps == request.num_computed_steps
    for fast, plain in zip(together[: len(requests)], together[len(requests) :], strict=True):
        assert 12 < psnr(fast.pixels_HWC, plain.pixels_HWC) < 60
    batches = [batch for batch in runner.steps if len(batch) > len(set(batch))]
    assert batches, "an image's fast and exact form shared a step"


def test_a_reused_step_is_the_last_computed_one_on_new_patches(
    make_engine: MakeEngine, ask_fast: Ask
) -> None:
    """Repeat one run by hand, from the denoiser's three functions alone."""
    engine, runner = make_engine()
    request = ask_fast(3, **OTHER_BUCKET, cfg_truncation=0.6)
    finished: list[ImageState] = []
    decode = runner.decode
    runner.decode = lambda states: finished.extend(states) or decode(states)  # type: ignore[method-assign]
    made_alone(engine, request)
    canvas = finished[0].drawn
    assert canvas.negative is not None
    times, changes = canvas.step_times.times, canvas.step_times.sigma_changes
    x = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(3))
    residuals: dict[int, torch.Tensor] = {}

    def velocity(step: int, number: int, half: Any) -> torch.Tensor:
        time_B = torch.tensor([times[step]])
        if step in (0, 1, 5):
            found, tokens = runner.denoiser.predict(x, time_B, [half.condition])
            residuals[number] = runner.denoiser.residual(x, tokens)
            again = runner.denoiser.predict_again(x, time_B, residuals[number])
            assert torch.allclose(again, found, atol=1e-5), "at its own step, a residual changes nothing"
            return found
        return runner.denoiser.predict_again(x, time_B, residuals[number])

    num_guided = 0
    for step in range(6):
        positive = velocity(step, 0, canvas.positive)
        if times[step] <= 0.6:
            positive = positive + 2.0 * (positive - velocity(step, 1, canvas.negative))
            num_guided += 1
        x = x + changes[step] * positive
    assert 2 < num_guided < 6
    assert torch.allclose(canvas.latents_CHW, x[0], atol=1e-4)
    assert all(half.residual_ND is None for half in canvas.halves)


def test_a_schedule_of_all_steps_is_exact(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, _ = make_engine()
    request = replace(ask_fast(1, **GUIDED), step_schedule=tuple(range(6)))
    result = made_alone(engine, request)
    assert result.num_computed_steps == 6
    assert np.array_equal(result.pixels_HWC, made_alone(engine, exact(request)).pixels_HWC)


def test_the_first_step_that_is_run_is_computed(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, runner = make_engine()
    image = picture(64, 64)
    # Of steps 0, 1 and 5: with strength 0.5 steps 3, 4, 5 are run, and with 0.8 steps 1 to 5.
    for strength, num_computed in ((0.5, 2), (0.8, 2), (1.0, 3)):
        runner.steps.clear()
        request = ask_fast(1, reference_images=[image], strength=strength, mask=disc())
        result = made_alone(engine, request)
        assert result.num_computed_steps == request.num_computed_steps == len(runner.steps) == num_computed
        kept = ~painted(disc())
        assert np.array_equal(result.pixels_HWC[kept], image.pixels[kept])
        assert 12 < psnr(result.pixels_HWC, made_alone(engine, exact(request)).pixels_HWC) < 60


@pytest.mark.parametrize("is_edit", [False, True], ids=["controlled", "edit"])
def test_control_images_and_edits_reuse_steps_too(
    is_edit: bool, tiny_checkpoint: Path, omni_checkpoint: Path, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"prompt": "owl", "num_inference_steps": 4, **GUIDED, "size": "64x64", "seed": 1}
    if is_edit:
        config = EngineConfig(model=str(omni_checkpoint))
        values["reference_images"] = [picture(64, 64)]
    else:
        controlnet = build_tiny_controlnet(tmp_path / "controlnet")
        config = EngineConfig(model=str(tiny_checkpoint), variant="base", controlnet=str(controlnet))
        values["control_image"] = picture(64, 64)
    spec = replace(resolve_model(config), step_schedules=SCHEDULES)
    engine = load_engine(config, spec=spec)
    requests = [build_request(spec, {**values, "quality_mode": mode}) for mode in ("fast", "exact")]
    fast, plain = make_together(engine, requests)
    assert (fast.num_computed_steps, plain.num_computed_steps) == (2, 4)
    assert 12 < psnr(fast.pixels_HWC, plain.pixels_HWC) < 60


def test_an_image_that_goes_changes_nothing_for_others(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, _ = make_engine()
    wanted = [ask_fast(1), exact(ask_fast(2)), ask_fast(3, "high")]
    expected = [made_alone(engine, request) for request in wanted]
    handles = [engine.submit(request) for request in wanted]
    leaving = engine.submit(ask_fast(1))
    for _ in range(2):
        engine.step()
    leaving.cancel()
    run(engine)
    with pytest.raises(Cancelled):
        leaving.result(0)
    for handle, before in zip(handles, expected, strict=True):
        assert_same(handle.result(0), before)
        assert handle.result(0).num_computed_steps == before.num_computed_steps
    assert_same(made_alone(engine, wanted[0]), expected[0])


def test_a_fast_image_that_is_passed_goes_on_where_it_was(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, runner = make_engine()
    request = ask_fast(1, priority=Priority.BATCH)
    expected = made_alone(engine, request)
    runner.steps.clear()
    batch = engine.submit(request)
    engine.step()
    online = engine.submit(ask_fast(2, num_inference_steps=4, priority=Priority.ONLINE))
    run(engine)
    assert runner.steps == [[1], [2], [2], [1], [1]]
    assert online.result(0).num_computed_steps == 2
    assert batch.result(0).num_computed_steps == 3
    assert_same(batch.result(0), expected)


class OutOfMemoryRunner(RecordingRunner):
    """Has room for one image in a step."""

    def denoise_step(self, states: Sequence[ImageState]) -> None:
        if len(states) > 1:
            raise torch.OutOfMemoryError("too many")
        super().denoise_step(states)


def test_a_step_that_is_tried_again_is_computed_once(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, _ = make_engine(OutOfMemoryRunner)
    requests = [ask_fast(1), ask_fast(2), exact(ask_fast(3))]
    handles = [engine.submit(request) for request in requests]
    run(engine)
    assert [handle.result(0).num_computed_steps for handle in handles] == [3, 3, 6]
    for handle, request in zip(handles, requests, strict=True):
        assert_same(handle.result(0), made_alone(engine, request))


def test_reused_steps_have_previews(make_engine: MakeEngine, ask_fast: Ask) -> None:
    engine, _ = make_engine()
    events: list[PreviewEvent] = []
    engine.submit(ask_fast(1, preview_every=1), on_preview=events.append)
    run(engine)
    assert [(event.step, event.num_steps) for event in events] == [(step, 6) for step in range(1, 6)]


@pytest.mark.parametrize("model", EMBEDDED)
def test_embedded_models_have_schedules_of_their_own(model: str) -> None:
    config = EngineConfig(model=model)
    spec = with_own_schedules(config, resolve_model(config))
    # If this fails after the weights have changed: calibrate them again (docs/quality.md).
    assert spec.step_schedules.num_steps == EMBEDDED[model]
    for mode, share in (("high", 0.75), ("fast", 0.5)):
        request = build_request(spec, {"prompt": "owl", "seed": 1, "quality_mode": mode})
        assert request.num_computed_steps == share * request.num_inference_steps
    with pytest.raises(InvalidRequest, match=f"'fast' has no schedule for 5 steps of {model}"):
        build_request(spec, {"prompt": "owl", "seed": 1, "quality_mode": "fast", "num_inference_steps": 5})


def test_modes_of_the_embedded_turbo_are_close_to_exact() -> None:
    engine = load_engine(EngineConfig())
    prompts, seeds = ("red apple", "企鹅", "a picture of pizza"), count()
    limits = {"high": 45.0, "fast": 35.0}
    for prompt, seed in zip(prompts, seeds, strict=False):
        values = {"prompt": prompt, "seed": seed}
        requests = [
            build_request(engine.spec, {**values, "quality_mode": mode}) for mode in ("exact", *limits)
        ]
        plain, *others = make_together(engine, requests)
        for result, limit in zip(others, limits.values(), strict=True):
            assert limit < psnr(result.pixels_HWC, plain.pixels_HWC) < float("inf")
