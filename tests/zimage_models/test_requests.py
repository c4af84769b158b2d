import dataclasses
import math
import pickle
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from zimage_models.build_engine import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError, EngineOverloaded, InvalidRequest
from zimage_models.model_spec import ModelSpec
from zimage_models.requests import (
    GENERATION_FIELDS,
    MAX_PROMPT_CHARS,
    MAX_SEED,
    ImageRequest,
    Priority,
    build_request,
    parse_size,
)


@pytest.fixture(scope="module")
def turbo() -> ModelSpec:
    return resolve_model(EngineConfig(model="tiny-zimage-turbo"))


@pytest.fixture(scope="module")
def base() -> ModelSpec:
    return resolve_model(EngineConfig(model="tiny-zimage-base"))


def request(spec: ModelSpec, **values: Any) -> ImageRequest:
    return build_request(spec, {"prompt": "red apple", "seed": 7, **values})


def test_defaults_come_from_the_model(turbo: ModelSpec, base: ModelSpec) -> None:
    assert request(turbo) == ImageRequest(
        prompt="red apple", height=64, width=64, num_inference_steps=8, guidance_scale=0.0, seed=7
    )
    made = request(base)
    assert (made.num_inference_steps, made.guidance_scale) == (28, 1.0)


def test_none_counts_as_absent(turbo: ModelSpec) -> None:
    assert request(turbo, height=None, negative_prompt=None, size=None) == request(turbo)


def test_generation_fields_are_what_decides_the_picture() -> None:
    hosting = {"priority", "deadline_s", "preview_every"}
    assert {*GENERATION_FIELDS} == {f.name for f in dataclasses.fields(ImageRequest)} - hosting


def test_every_field_is_taken(base: ModelSpec) -> None:
    values = {
        "prompt": "一只红苹果",
        "negative_prompt": "blurry",
        "height": 96,
        "width": 32,
        "num_inference_steps": 200,
        "guidance_scale": 20.0,
        "seed": MAX_SEED,
        "cfg_normalization": 10.0,
        "cfg_truncation": 0.0,
        "truncate_prompt": True,
    }
    assert values.keys() == {*GENERATION_FIELDS}
    made = build_request(base, values, priority=Priority.ONLINE, deadline_s=2.5, preview_every=3)
    assert made == ImageRequest(**values, priority=Priority.ONLINE, deadline_s=2.5, preview_every=3)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        ("seed", "12", 12),
        ("seed", " 12 ", 12),
        ("seed", 12.0, 12),
        ("seed", np.int64(MAX_SEED), MAX_SEED),
        ("seed", np.uint8(3), 3),
        ("guidance_scale", np.float32(1.5), 1.5),
        ("guidance_scale", "1.5", 1.5),
        ("guidance_scale", 2, 2.0),
        ("truncate_prompt", "TRUE", True),
        ("truncate_prompt", "false", False),
        ("truncate_prompt", np.bool_(True), True),
        ("prompt", np.str_("pear"), "pear"),
    ],
)
def test_untyped_tables_are_understood(base: ModelSpec, name: str, given: Any, expected: Any) -> None:
    value = getattr(request(base, **{name: given}), name)
    assert value == expected
    assert type(value) is type(expected)


def test_size_is_width_times_height(turbo: ModelSpec) -> None:
    made = request(turbo, size="96x64")
    assert (made.width, made.height) == (96, 64)
    assert parse_size("96x64") == (64, 96)


TOO_LONG = "a" * (MAX_PROMPT_CHARS + 1)

# The field to change, its value, and what the message must say of it beside the field's name.
BAD_VALUES = [
    ("prompt", "", ["''", "empty"]),
    ("prompt", " \n\t", ["empty"]),
    ("prompt", 5, ["5", "int", "not text"]),
    ("prompt", ["a"], ["['a']", "list", "not text"]),
    ("prompt", math.nan, ["nan", "float", "not text"]),
    ("prompt", TOO_LONG, [f"{MAX_PROMPT_CHARS + 1} characters", str(MAX_PROMPT_CHARS)]),
    ("prompt", "a\x00b", ["NUL"]),
    ("prompt", "a\ud800b", ["not valid Unicode"]),
    ("negative_prompt", 1.5, ["1.5", "float", "not text"]),
    ("negative_prompt", TOO_LONG, [f"{MAX_PROMPT_CHARS + 1} characters", str(MAX_PROMPT_CHARS)]),
    ("height", 0, ["0", "1..4096"]),
    ("height", -8, ["-8", "1..4096"]),
    ("height", 7, ["7 px", "multiple of 8"]),
    ("height", 4104, ["4104", "1..4096"]),
    ("height", 64.5, ["64.5", "whole number"]),
    ("width", "wide", ["'wide'", "not a number"]),
    ("width", 12, ["12 px", "multiple of 8"]),
    ("width", True, ["True", "bool", "not a number"]),
    ("size", "64", ["'64'", "WIDTHxHEIGHT"]),
    ("size", "64x", ["'64x'", "WIDTHxHEIGHT"]),
    ("size", "64x64x64", ["WIDTHxHEIGHT"]),
    ("size", "-64x64", ["WIDTHxHEIGHT"]),
    ("size", "６４x64", ["WIDTHxHEIGHT"]),
    ("size", "64x9999999999", ["WIDTHxHEIGHT"]),
    ("size", "0x64", ["0 px", "1..4096"]),
    ("size", "64x4104", ["4104 px", "1..4096"]),
    ("size", "60x64", ["60 px", "multiple of 8"]),
    ("size", "4096x2048", ["4096x2048", str(4096 * 2048), str(2048 * 2048)]),
    ("size", 64, ["64", "int", "not text"]),
    ("num_inference_steps", 0, ["0", "1..200"]),
    ("num_inference_steps", -1, ["-1", "1..200"]),
    ("num_inference_steps", 201, ["201", "1..200"]),
    ("num_inference_steps", 2.5, ["2.5", "whole number"]),
    ("num_inference_steps", "many", ["'many'", "not a number"]),
    ("guidance_scale", -0.1, ["-0.1", "0..20"]),
    ("guidance_scale", 20.5, ["20.5", "0..20"]),
    ("guidance_scale", math.inf, ["inf", "finite"]),
    ("guidance_scale", 10**400, ["0..20"]),
    ("guidance_scale", False, ["False", "bool", "not a number"]),
    ("seed", -1, ["-1", f"0..{MAX_SEED}"]),
    ("seed", MAX_SEED + 1, [str(MAX_SEED + 1), f"0..{MAX_SEED}"]),
    ("seed", 1e300, ["1e+300", f"0..{MAX_SEED}"]),
    ("seed", math.nan, ["nan", "finite"]),
    ("seed", "nan", ["'nan'", "finite"]),
    ("seed", "9" * 5000, ["not a number"]),
    ("seed", 0.5, ["0.5", "whole number"]),
    ("seed", {}, ["{}", "dict", "not a number"]),
    ("seed", Decimal(3), ["Decimal", "not a number"]),
    ("seed", np.True_, ["True", "not a number"]),
    ("cfg_normalization", 10.5, ["10.5", "0..10"]),
    ("cfg_normalization", -1, ["-1", "0..10"]),
    ("cfg_truncation", 1.1, ["1.1", "0..1"]),
    ("cfg_truncation", "late", ["'late'", "not a number"]),
    ("truncate_prompt", 1, ["1", "true or false"]),
    ("truncate_prompt", "yes", ["'yes'", "true or false"]),
    ("steps", 8, ["unknown field", "num_inference_steps"]),
]


@pytest.mark.parametrize(("name", "value", "told"), BAD_VALUES)
def test_bad_values_are_told_by_field_value_and_limit(
    base: ModelSpec, name: str, value: Any, told: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(base, **{name: value})
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert [text for text in told if text not in message] == []
    assert caught.value.field == name
    assert len(message) < 300


@pytest.mark.parametrize("name", ["prompt", "seed"])
def test_required_fields_are_missed(turbo: ModelSpec, name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: missing$"):
        request(turbo, **{name: None})


def test_size_excludes_height_and_width(turbo: ModelSpec) -> None:
    with pytest.raises(InvalidRequest, match="not both"):
        request(turbo, size="64x64", height=64)


def test_turbo_takes_no_guidance(turbo: ModelSpec) -> None:
    with pytest.raises(InvalidRequest, match=r"^guidance_scale: 1\.0 must be 0$"):
        request(turbo, guidance_scale=1.0)
    assert request(turbo, guidance_scale=0).guidance_scale == 0.0


@pytest.mark.parametrize(
    ("name", "value"), [("negative_prompt", "blurry"), ("cfg_normalization", 1.0), ("cfg_truncation", 0.5)]
)
def test_settings_of_a_guidance_that_is_off_are_refused(
    turbo: ModelSpec, base: ModelSpec, name: str, value: Any
) -> None:
    for spec in (turbo, base):
        with pytest.raises(InvalidRequest, match=f"^{name}: .* has no effect at guidance_scale 0"):
            request(spec, guidance_scale=0, **{name: value})
    assert getattr(request(base, **{name: value}), name) == value


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, math.nan, math.inf])
def test_deadlines_are_checked(turbo: ModelSpec, deadline_s: float) -> None:
    with pytest.raises(InvalidRequest, match=r"^deadline_s: .* above 0"):
        build_request(turbo, {"prompt": "a", "seed": 1}, deadline_s=deadline_s)


def test_previews_are_checked(turbo: ModelSpec) -> None:
    with pytest.raises(InvalidRequest, match=r"^preview_every: -1 is below 0"):
        build_request(turbo, {"prompt": "a", "seed": 1}, preview_every=-1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"dtype": "float16"}, "^dtype: 'float16' is not one of auto, float32, bfloat16"),
        ({"vae_dtype": "half"}, "^vae_dtype: 'half'"),
        ({"max_step_tokens": 0}, "^max_step_tokens: 0 is below 1"),
        ({"max_queued": -1}, "^max_queued: -1 is below 1"),
        ({"caption_cache_bytes": 0}, "^caption_cache_bytes: 0 is below 1"),
        ({"num_threads": 0}, "^num_threads: 0 is below 1"),
        ({"ageing_s": 0.0}, r"^ageing_s: 0\.0 is not above 0"),
    ],
)
def test_engine_configs_are_checked(values: dict[str, Any], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        EngineConfig(**values)


@pytest.mark.parametrize(
    "error",
    [
        InvalidRequest("seed: -1 is outside", field="seed"),
        CheckpointError("model: gone", field="model"),
        EngineOverloaded("full", retry_after_s=2.5),
    ],
)
def test_errors_cross_processes(error: Exception) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)
