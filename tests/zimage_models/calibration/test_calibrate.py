"""Schedules as they are measured and written: from the errors of final latents, the same file every time."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from zimage_models.calibration.calibrate import budget, calibrate
from zimage_models.calibration.edge_errors import edge_errors, num_edges
from zimage_models.checkpoints.resolve_model import resolve_model, with_own_schedules
from zimage_models.config import EngineConfig
from zimage_models.engine.job import enter
from zimage_models.engine.load_engine import LoadedModels, load_models
from zimage_models.engine.request_handle import RequestHandle
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import ImageRequest, build_request
from zimage_models.step_schedules import SCHEDULE_FILE

PROMPTS = ("owl", "猫")


@pytest.fixture(scope="module")
def checkpoint(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the checkpoint, to write beside its weights."""
    return shutil.copytree(tiny_checkpoint, tmp_path_factory.mktemp("calibrated") / "tiny")


def config_of(checkpoint: Path, **options: Any) -> EngineConfig:
    return EngineConfig(model=str(checkpoint), variant="base", **options)


@pytest.fixture(scope="module")
def written(checkpoint: Path) -> Path:
    """Calibrate the checkpoint for 4 and for 6 steps."""
    for num_steps in (6, 4):
        values = {"num_inference_steps": num_steps, "guidance_scale": 2.0, "size": "32x32"}
        path, _ = calibrate(config_of(checkpoint), values, prompts=PROMPTS)
    return path


def final_latents(models: LoadedModels, spec: ModelSpec, request: ImageRequest) -> torch.Tensor:
    """Make an image by its own schedule, with the runner alone."""
    handle = RequestHandle(request=request, on_preview=None, on_cancel=lambda: None)
    state = enter(handle, arrival=0, spec=spec, tokenizer=models.tokenizer).payload.state
    models.runner.prepare([state])
    while not state.finished:
        (models.runner.reuse_step if state.reuses else models.runner.denoise_step)([state])
    return state.drawn.latents_CHW


def test_an_error_is_that_of_the_final_latents_of_a_run_with_one_skip(checkpoint: Path) -> None:
    config = config_of(checkpoint)
    spec = resolve_model(config)
    models = load_models(config, spec)
    values = {"prompt": "owl", "seed": 3, "num_inference_steps": 5, "guidance_scale": 2.0, "size": "32x48"}
    request = build_request(spec, values)
    exact = final_latents(models, spec, request)
    found = dict(edge_errors(models, spec, request))
    assert len(found) == num_edges(5) == 6
    for (start, end), error in found.items():
        steps = tuple(step for step in range(5) if not start < step < end)
        skipping = final_latents(models, spec, replace(request, quality_mode="fast", step_schedule=steps))
        expected = (skipping - exact).abs().mean() / exact.abs().mean()
        assert error == pytest.approx(float(expected), rel=1e-3)
        assert error > 0.001


def test_long_skips_are_not_measured() -> None:
    assert num_edges(3) == 1
    assert num_edges(50) == 41 * 8 + sum(range(1, 8))


def test_modes_compute_three_quarters_and_half_of_the_steps() -> None:
    budgets = {steps: (budget("high", steps), budget("fast", steps)) for steps in (3, 4, 7, 8, 50)}
    assert budgets == {3: (3, 2), 4: (3, 2), 7: (6, 4), 8: (6, 4), 50: (38, 25)}


def test_the_file_is_read_with_its_checkpoint(written: Path, checkpoint: Path) -> None:
    assert written == checkpoint / SCHEDULE_FILE
    config = config_of(checkpoint)
    spec = with_own_schedules(config, resolve_model(config))
    assert spec.step_schedules.num_steps == [4, 6]
    values = {"prompt": "owl", "seed": 1, "num_inference_steps": 6}
    for mode, num_computed in (("high", 5), ("fast", 3), ("exact", 6)):
        assert build_request(spec, {**values, "quality_mode": mode}).num_computed_steps == num_computed


def test_the_same_call_writes_the_same_file(written: Path, checkpoint: Path) -> None:
    before = written.read_bytes()
    values = {"num_inference_steps": 4, "guidance_scale": 2.0, "size": "32x32"}
    told: list[tuple[int, int]] = []
    calibrate(
        config_of(checkpoint), values, prompts=PROMPTS, on_progress=lambda *progress: told.append(progress)
    )
    assert written.read_bytes() == before
    assert told == [(number, 6) for number in range(1, 7)]


def test_the_file_says_what_was_measured(written: Path) -> None:
    entry = json.loads(written.read_text())["schedules"]["6"]
    told = {name: entry[name] for name in ("guidance_scale", "size", "dtype", "num_prompts")}
    assert told == {"guidance_scale": 2.0, "size": "32x32", "dtype": "float32", "num_prompts": 2}
    for mode in ("high", "fast"):
        errors = entry[mode]["errors"]
        assert errors == sorted(errors, reverse=True)
        assert errors[0] > 0


def test_schedules_of_other_weights_are_refused(written: Path, checkpoint: Path, tmp_path: Path) -> None:
    changed = shutil.copytree(checkpoint, tmp_path / "changed")
    [weights] = (changed / "transformer").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    config = config_of(changed)
    spec = with_own_schedules(config, resolve_model(config))
    values = {"prompt": "owl", "seed": 1, "num_inference_steps": 6}
    with pytest.raises(InvalidRequest, match=r"made for other weights .*zimage calibrate .* --steps 6"):
        build_request(spec, {**values, "quality_mode": "fast"})
    assert build_request(spec, values).step_schedule is None
    # Calibrated again, it has schedules of its own, and none of the others.
    values = {"num_inference_steps": 3, "size": "32x32"}
    calibrate(config, values, prompts=PROMPTS[:1])
    assert with_own_schedules(config, resolve_model(config)).step_schedules.num_steps == [3]


@pytest.mark.soak
def test_the_embedded_schedules_are_found_again(tmp_path: Path) -> None:
    path, entry = calibrate(EngineConfig(), {}, output=tmp_path / "schedules.json")
    shipped = resolve_model(EngineConfig()).step_schedules
    assert json.loads(path.read_text())["weights_sha256"] == shipped.weights_sha256
    for mode in ("high", "fast"):
        assert tuple(entry[mode]["computed_steps"]) == shipped.by_steps[8][mode]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"values": {"num_inference_steps": 2}}, "steps: 2 steps leave none to reuse; at least 3"),
        ({"prompts": ()}, "prompts: there is none"),
        ({"values": {"guidance_scale": 99.0}}, "guidance_scale: 99.0 is outside"),
        ({"output": Path("/nowhere/file.json")}, "output: /nowhere/file.json cannot be written"),
    ],
)
def test_bad_calls_are_refused_before_anything_is_loaded(
    checkpoint: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidRequest, match=message):
        calibrate(config_of(checkpoint), **{"values": {}, **options})
