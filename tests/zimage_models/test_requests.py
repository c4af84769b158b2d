import dataclasses
import math
import pickle
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.flux2.image_processor import Flux2ImageProcessor
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import MAX_PROMPT_CHARS, parse_size
from zimage_models.model_spec import ModelSpec, released_spec
from zimage_models.pictures import Picture, fit
from zimage_models.request_fields import EDIT_FIELDS, GENERATION_FIELDS, MAX_SEED
from zimage_models.requests import ImageRequest, Priority, build_request


@pytest.fixture(scope="module")
def turbo() -> ModelSpec:
    return resolve_model(EngineConfig(model="tiny-zimage-turbo"))


@pytest.fixture(scope="module")
def base() -> ModelSpec:
    return resolve_model(EngineConfig(model="tiny-zimage-base"))


@pytest.fixture(scope="module")
def release_sized() -> ModelSpec:
    return released_spec("Tongyi-MAI/Z-Image-Turbo")


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


@pytest.mark.parametrize(
    "changes",
    [
        {"quality_mode": "fast"},
        {"step_schedule": (0, 7)},
        {"quality_mode": "fast", "step_schedule": (0, 4)},  # of 5 steps
        {"quality_mode": "fast", "step_schedule": ()},
        {"quality_mode": "fast", "step_schedule": (0, 3, 7), "num_inference_steps": 9},
    ],
    ids=str,
)
def test_a_mode_has_a_schedule_for_its_number_of_steps(turbo: ModelSpec, changes: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match=r"quality_mode: .* does not fit the step_schedule"):
        dataclasses.replace(request(turbo), **changes)


def test_generation_fields_are_what_decides_the_picture() -> None:
    others = {"priority", "deadline_s", "preview_every", "step_schedule", *EDIT_FIELDS}
    assert {*GENERATION_FIELDS} == {f.name for f in dataclasses.fields(ImageRequest)} - others


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
        "quality_mode": "exact",
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
        ("seed", "42.0", 42),
        ("seed", "42.", 42),
        ("seed", "+42", 42),
        ("seed", "007", 7),
        ("seed", Decimal("42.0"), 42),
        ("guidance_scale", Decimal("3.5"), 3.5),
        ("guidance_scale", " 3.5 ", 3.5),
        ("guidance_scale", ".5", 0.5),
        ("guidance_scale", "5e-1", 0.5),
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


@pytest.mark.parametrize(
    "text",
    [
        *(
            "96x64",
            "96X64",
            "96*64",
            "96×64",
            "96✕64",
            "96 by 64 pixels",
            "96 X 64 PX",
            "96 x 64",
            " 96x64\t",
            "96\u00a0×\u00a064",
            "９６ｘ６４",
            "96х64",
        ),
        *("96х64", "96x64px", "96 px * 64 px", np.str_("96x64")),
    ],
)
def test_sizes_are_read_as_people_write_them(turbo: ModelSpec, text: str) -> None:
    made = request(turbo, size=text)
    assert (made.width, made.height) == (96, 64)
    assert parse_size(text) == (64, 96)


SIDES = st.integers(0, 5000)


@given(height=SIDES, width=SIDES)
def test_a_size_that_is_named_instead_can_be_made(height: int, width: int) -> None:
    spec = resolve_model(EngineConfig())
    try:
        made = request(spec, size=f"{width}x{height}")
    except InvalidRequest as error:
        named = re.findall(r"[0-9]+x[0-9]+", str(error).partition(": use ")[2])
        assert 1 <= len(named) <= 2
        for size in named:
            made = request(spec, size=size)
            if max(height, width) <= 4096 and min(height, width) > 0 and height * width <= 2048 * 2048:
                assert max(abs(made.height - height), abs(made.width - width)) < 8
    else:
        assert (made.height, made.width) == (height, width)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": "1920x1080"}, "size: 1920x1080 is not a multiple of 16 px: use 1920x1088 or 1920x1072"),
        ({"size": "1000*1000"}, "size: 1000x1000 is not a multiple of 16 px: use 1008x1008 or 992x992"),
        ({"size": "1021x768"}, "size: 1021x768 is not a multiple of 16 px: use 1024x768 or 1008x768"),
        ({"size": "7x64"}, "size: 7x64 is not a multiple of 16 px: use 16x64"),
        # One step up would be too many pixels.
        ({"size": "2048x2047"}, "size: 2048x2047 is not a multiple of 16 px: use 2048x2048 or 2048x2032"),
        ({"size": "2040x2056"}, "size: 2040x2056 is not a multiple of 16 px: use 2032x2048 or 2048x2048"),
        ({"size": "16384x4096"}, "size: 16384x4096 is outside 1..8192 px per side: use 4096x1024"),
        ({"size": "0x64"}, "size: 0x64 is outside 1..8192 px per side: use 16x64"),
        ({"size": "3840x2160"}, "size: 3840x2160 is 8294400 px; the limit is 4194304: use 2720x1536"),
        ({"height": 1080}, "height: 1080 px is not a multiple of 16: use 1088 or 1072"),
        ({"width": "8190"}, "width: 8190 px is not a multiple of 16: use 8192 or 8176"),
        ({"height": 9000}, "height: 9000 is outside 1..8192 px: use 8192"),
        ({"width": -5}, "width: -5 is outside 1..8192 px: use 16"),
        (
            {"height": 2160, "width": 3840},
            "height: 3840x2160 is 8294400 px; the limit is 4194304: use 2720x1536",
        ),
    ],
)
def test_the_nearest_sizes_are_named(release_sized: ModelSpec, values: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(release_sized, **values)
    assert str(caught.value) == message


def test_a_seed_past_the_largest_would_repeat_the_noise_of_a_smaller_one() -> None:
    def noise(seed: int) -> list[float]:
        return torch.randn(8, generator=torch.Generator("cpu").manual_seed(seed)).tolist()

    assert noise(MAX_SEED + 1 + 5) == noise(5) != noise(MAX_SEED)


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
    ("size", "1:1", ["'1:1'", "WIDTHxHEIGHT, such as 1024x768"]),
    ("size", "auto", ["WIDTHxHEIGHT"]),
    ("size", "64x64cm", ["WIDTHxHEIGHT"]),
    ("size", "64.0x64.0", ["WIDTHxHEIGHT"]),
    ("size", "XL", ["WIDTHxHEIGHT"]),
    ("size", "1" * 5000, ["WIDTHxHEIGHT"]),
    ("size", "", ["''", "WIDTHxHEIGHT"]),
    ("size", [64, 64], ["[64, 64]", "WIDTHxHEIGHT"]),
    ("size", "64x9999999999", ["WIDTHxHEIGHT"]),
    ("size", "0x64", ["0x64", "1..4096"]),
    ("size", "64x4104", ["64x4104", "1..4096"]),
    ("size", "60x64", ["60x64", "multiple of 8"]),
    ("size", "4096x2048", ["4096x2048", str(4096 * 2048), str(2048 * 2048)]),
    ("size", 64, ["64", "WIDTHxHEIGHT"]),
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
    ("seed", -1, ["-1", f"0..{MAX_SEED}; leave it empty for a seed of its own"]),
    ("seed", "-1", ["-1", f"0..{MAX_SEED}; leave it empty for a seed of its own"]),
    ("seed", "random", ["'random' is not a number; leave it empty for a seed of its own"]),
    ("seed", MAX_SEED + 1, [f"{MAX_SEED + 1} is outside 0..{MAX_SEED}; larger seeds repeat the noise"]),
    ("seed", "18446744073709551615", [f"is outside 0..{MAX_SEED}; larger seeds repeat the noise of smaller"]),
    ("seed", "1e3", ["'1e3' is not a whole number in plain digits: write 1000"]),
    ("seed", "1e300", ["'1e300' is not a whole number in plain digits"]),
    ("seed", "1e-3", ["'1e-3' is not a whole number"]),
    ("seed", "42.5", ["'42.5' is not a whole number"]),
    ("seed", "1,000", ["'1,000' is not a number: write 1000"]),
    ("seed", "1_000", ["'1_000' is not a number"]),
    ("seed", "0x10", ["'0x10' is not a number"]),
    ("num_inference_steps", "1e1", ["'1e1'", "write 10"]),
    ("guidance_scale", "3,5", ["'3,5' is not a number: write 3.5"]),
    ("guidance_scale", "1_0", ["'1_0' is not a number"]),
    ("cfg_truncation", "0,5", ["write 0.5"]),
    ("seed", 1e300, ["1e+300", f"0..{MAX_SEED}"]),
    ("seed", math.nan, ["nan", "leave it empty"]),
    ("seed", "nan", ["'nan' is not a number; leave it empty"]),
    ("cfg_truncation", "nan", ["'nan' is not a finite number"]),
    ("seed", "9" * 5000, ["outside"]),
    ("seed", 0.5, ["0.5", "whole number"]),
    ("seed", {}, ["{}", "dict", "not a number"]),
    ("seed", Decimal("3.5"), ["3.5", "whole number"]),
    ("seed", Decimal("nan"), ["NaN", "finite"]),
    ("guidance_scale", Decimal("1e400"), ["finite"]),
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


def test_a_blank_negative_prompt_is_none(turbo: ModelSpec, base: ModelSpec) -> None:
    for blank in ("", " ", "\n\t\u3000"):
        assert request(turbo, negative_prompt=blank) == request(turbo)
        assert request(base, negative_prompt=blank) == request(base)
    assert request(base, negative_prompt=" dull ").negative_prompt == " dull "


def test_short_names_of_dtypes_mean_the_long_ones() -> None:
    given = EngineConfig(dtype="bf16", vae_dtype="fp32")
    assert given == EngineConfig(dtype="bfloat16", vae_dtype="float32")


def test_turbo_takes_no_guidance(turbo: ModelSpec) -> None:
    for value in (1.0, 5):
        told = rf"^guidance_scale: {value} must be 0; .*guidance 0 \(cfg 1 in ComfyUI\); use Base for more$"
        with pytest.raises(InvalidRequest, match=told):
            request(turbo, guidance_scale=value)
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


def picture(height: int, width: int, value: int = 200) -> Picture:
    return Picture(pixels=np.full((height, width, 3), value, np.uint8))


def mask(height: int, width: int, value: int = 255) -> Picture:
    return Picture(pixels=np.full((height, width), value, np.uint8))


def test_edits_have_the_defaults_of_diffusers(turbo: ModelSpec, base: ModelSpec) -> None:
    image = picture(64, 64)
    assert request(turbo).strength is None
    assert request(turbo, reference_images=[image]).strength == 0.6
    painted = request(base, reference_images=(image,), mask=mask(64, 64))
    assert (painted.strength, painted.mask) == (1.0, mask(64, 64))
    assert request(base, reference_images=[image], mask=mask(64, 64), strength="0.25").strength == 0.25
    assert request(turbo, reference_images=[]) == request(turbo)


@pytest.mark.parametrize(
    ("num_inference_steps", "strength", "num_steps"),
    # The figures of diffusers 0.42 (N - int(N - N * strength)).
    [(8, 0.3, 3), (8, 0.6, 5), (8, 1.0, 8), (8, 0.125, 1), (50, 0.6, 30), (28, 0.1, 3), (1, 1.0, 1)],
)
def test_strength_says_how_many_steps_are_run(
    base: ModelSpec, num_inference_steps: int, strength: float, num_steps: int
) -> None:
    made = request(
        base,
        reference_images=[picture(8, 8)],
        strength=strength,
        num_inference_steps=num_inference_steps,
    )
    assert (made.num_steps, made.first_step) == (num_steps, num_inference_steps - num_steps)
    plain = request(base, num_inference_steps=num_inference_steps)
    assert (plain.num_steps, plain.first_step) == (num_inference_steps, 0)


def test_the_size_comes_from_the_reference_image(turbo: ModelSpec) -> None:
    image, painted = picture(61, 99), mask(61, 99)
    made = request(turbo, reference_images=[image], mask=painted)
    assert (made.height, made.width) == (64, 96)
    assert made.reference_images == (fit(image, 64, 96),)
    assert made.mask == fit(painted, 64, 96)
    large = request(turbo, reference_images=[picture(3000, 3000)])
    assert (large.height, large.width) == (2048, 2048)


def test_pictures_are_fitted_to_a_size_that_is_given(turbo: ModelSpec) -> None:
    image, painted = picture(61, 99), mask(61, 99)
    made = request(turbo, reference_images=[image], mask=painted, size="40x80")
    assert (made.height, made.width) == (80, 40)
    assert made.reference_images == (fit(image, 80, 40),)
    assert made.mask == fit(painted, 80, 40)


def test_edits_cross_processes(turbo: ModelSpec) -> None:
    made = request(turbo, reference_images=[picture(64, 64)], mask=mask(64, 64))
    assert pickle.loads(pickle.dumps(made)) == made


BAD_EDITS = [
    ({"reference_images": [picture(8, 8)] * 2}, "reference_images", ["2 images", "turbo takes at most 1"]),
    ({"reference_images": [mask(8, 8)]}, "reference_images", ["not a list of RGB pictures"]),
    ({"reference_images": ["cat.png"]}, "reference_images", ["cat.png", "not a list of RGB pictures"]),
    ({"reference_images": picture(8, 8)}, "reference_images", ["Picture", "not a list"]),
    ({"strength": 0.5}, "strength", ["0.5", "without reference_images"]),
    ({"strength": 0.5, "reference_images": []}, "strength", ["0.5", "without reference_images"]),
    ({"mask": mask(8, 8)}, "mask", ["without reference_images"]),
    ({"strength": 0}, "strength", ["0 is not above 0", "above 0"]),
    ({"strength": 1.01}, "strength", ["1.01", "0..1"]),
    ({"strength": -0.5}, "strength", ["-0.5", "0..1"]),
    ({"strength": "most"}, "strength", ["'most'", "not a number"]),
    ({"mask": mask(8, 16)}, "mask", ["16x8 px", "8x8 px"]),
    ({"mask": picture(8, 8)}, "mask", ["not a one-channel picture"]),
    ({"mask": "mask.png"}, "mask", ["mask.png", "not a one-channel picture"]),
    ({"mask": mask(8, 8, 127)}, "mask", ["paints nothing", "128", "every 4th", "8x8 px"]),
]


@pytest.mark.parametrize(("values", "field", "told"), BAD_EDITS)
def test_bad_edits_are_told_by_field_value_and_limit(
    turbo: ModelSpec, values: dict[str, Any], field: str, told: list[str]
) -> None:
    lone = {"strength", "mask"} >= {*values} and "without reference_images" in told
    with pytest.raises(InvalidRequest) as caught:
        request(turbo, **({} if lone else {"reference_images": [picture(8, 8)]}) | values)
    message = str(caught.value)
    assert message.startswith(f"{field}: ")
    assert [text for text in told if text not in message] == []
    assert caught.value.field == field
    assert len(message) < 300


def test_a_mask_that_the_model_cannot_see_is_refused(turbo: ModelSpec) -> None:
    pixels = np.zeros((64, 64), np.uint8)
    pixels[1:4, 1:4] = 255
    image = picture(64, 64)
    with pytest.raises(InvalidRequest, match=r"^mask: paints nothing: .* every 4th"):
        request(turbo, reference_images=[image], mask=Picture(pixels=pixels))
    # Cropped away.
    pixels = np.zeros((64, 192), np.uint8)
    pixels[:, :64] = 255
    values = {"reference_images": [picture(64, 192)], "mask": Picture(pixels=pixels)}
    assert request(turbo, **values).width == 192
    with pytest.raises(InvalidRequest, match=r"^mask: paints nothing: .* at 64x64 px"):
        request(turbo, **values, size="64x64")


@pytest.fixture(scope="module")
def edit(omni_checkpoint: Path) -> ModelSpec:
    return resolve_model(EngineConfig(model=str(omni_checkpoint)))


def noise(height: int, width: int) -> Picture:
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(pixels=pixels)


def test_images_that_are_read_keep_their_sizes(edit: ModelSpec) -> None:
    images = [noise(64, 130), noise(200, 100)]
    made = request(edit, reference_images=images)
    assert made.reference_images == made.condition_images == tuple(images)
    assert (made.strength, made.start_image, made.first_step) == (None, None, 0)
    # The size is the last one's, cropped.
    assert (made.height, made.width) == (192, 96)
    assert (request(edit, reference_images=images, width=48).width, made.height) == (48, 192)
    assert request(edit, reference_images=images, size="64x32").height == 32


def test_large_images_are_shrunk_as_in_diffusers(edit: ModelSpec) -> None:
    image = noise(1000, 1100)
    for size, area in (({}, 1024**2), ({"width": 64}, 1024**2), ({"size": "320x160"}, 320 * 160)):
        shrunk = Flux2ImageProcessor._resize_to_target_area(Image.fromarray(image.pixels), area)
        [found] = request(edit, reference_images=[image], **size).reference_images
        assert np.array_equal(found.pixels, np.asarray(shrunk))
    made = request(edit, reference_images=[image])
    assert (made.width, made.height) == (1072, 976)
    # One of exactly the model's own size is left alone.
    assert request(edit, reference_images=[picture(1024, 1024)]).reference_images == (picture(1024, 1024),)


BAD_REFERENCES = [
    ({"reference_images": [picture(64, 64)] * 5}, "reference_images", ["5 images", "edit takes at most 4"]),
    (
        {"reference_images": [picture(64, 64), picture(63, 80)]},
        "reference_images",
        ["image 2", "80x63", "64"],
    ),
    ({"reference_images": [picture(64, 513)]}, "reference_images", ["image 1", "513x64", "8 times"]),
    (
        {"reference_images": [picture(1500, 9000)], "size": "32x16"},
        "reference_images",
        ["9000x1500", "shrunk to 55x9", "16..8192 px per side"],
    ),
    ({"reference_images": [picture(64, 64)], "strength": 0.5}, "strength", ["edit", "not start from one"]),
    ({"reference_images": [picture(64, 64)], "mask": mask(64, 64)}, "mask", ["edit", "not start from one"]),
    ({"strength": 0.5}, "strength", ["without reference_images"]),
]


@pytest.mark.parametrize(("values", "field", "told"), BAD_REFERENCES)
def test_bad_references_are_told_by_field_value_and_limit(
    edit: ModelSpec, values: dict[str, Any], field: str, told: list[str]
) -> None:
    with pytest.raises(InvalidRequest) as caught:
        request(edit, **values)
    message = str(caught.value)
    assert message.startswith(f"{field}: ")
    assert [text for text in told if text not in message] == []
    assert caught.value.field == field


def test_previews_are_checked(turbo: ModelSpec) -> None:
    with pytest.raises(InvalidRequest, match=r"^preview_every: -1 is below 0"):
        build_request(turbo, {"prompt": "a", "seed": 1}, preview_every=-1)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"dtype": "float16"}, "^dtype: 'float16' is not one of auto, float32, bfloat16; float16 overflows"),
        ({"dtype": "int8"}, "^dtype: 'int8' is not one of auto, float32, bfloat16$"),
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
