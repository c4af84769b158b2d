"""The endpoint through OpenAI's own client."""

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImagesResponse
from PIL import Image

from deployments.app_args import LimitArgs
from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.conftest import ALIASES, EngineOf, Make
from tests.deployments.open_endpoint.pictures import (
    BASE,
    EDIT,
    TURBO,
    assert_same,
    assert_streamed,
    files,
    pixels,
)
from zimage_models.image_files.image_codec import is_marked_generated, read_parameters

PROMPT = "a red apple"


@pytest.mark.parametrize(
    ("model", "size", "settings"),
    [
        (TURBO, "64x64", {"seed": 7}),
        (TURBO, "96x64", {"seed": 8, "num_inference_steps": 5}),
        (TURBO, "64x64", {"seed": 9, "quality_mode": "fast"}),
        (
            BASE,
            "64x64",
            {
                "seed": 2**32 - 1,
                "num_inference_steps": 6,
                "guidance_scale": 3.0,
                "negative_prompt": "blue",
                "cfg_normalization": 1.0,
                "cfg_truncation": 0.8,
            },
        ),
    ],
)
def test_picture_is_the_engines_own(
    client: openai.OpenAI, made_in_process: Make, model: str, size: Any, settings: dict[str, Any]
) -> None:
    response = client.images.generate(model=model, prompt=PROMPT, size=size, extra_body=settings)
    expected = made_in_process(model, prompt=PROMPT, size=size, **settings)
    (file,) = files(response)
    assert_same(pixels(file), expected.pixels_HWC)
    told: dict[str, Any] = response.model_extra or {}
    assert (response.size, told["model"]) == (size, model)
    assert told["num_inference_steps"] == expected.request.num_inference_steps
    assert told["guidance_scale"] == expected.request.guidance_scale
    assert told["precision"] == expected.precision == "float32"
    assert told["quality_mode"] == settings.get("quality_mode", "exact")
    assert told["num_computed_steps"] == expected.num_computed_steps
    assert (response.data or [])[0].model_extra == {"seed": settings["seed"]}
    assert read_parameters(file).items() >= {
        "prompt": PROMPT,
        "model": {TURBO: "tiny-zimage-turbo", BASE: "tiny-zimage-base"}[model],
        "precision": "float32",
        **settings,
    }.items() - {
        ("cfg_normalization", 1.0),
        ("cfg_truncation", 0.8),
    }


def test_seeds_of_several_images_count_up(client: openai.OpenAI, made_in_process: Make) -> None:
    response = client.images.generate(prompt=PROMPT, n=3, extra_body={"seed": 40})
    assert [image.model_extra for image in response.data or ()] == [{"seed": seed} for seed in (40, 41, 42)]
    for seed, file in zip((40, 41, 42), files(response), strict=True):
        assert_same(pixels(file), made_in_process(TURBO, prompt=PROMPT, seed=seed).pixels_HWC)


def test_a_seed_not_given_is_told(client: openai.OpenAI, made_in_process: Make) -> None:
    response = client.images.generate(prompt=PROMPT)
    (extra,) = [image.model_extra or {} for image in response.data or ()]
    (file,) = files(response)
    assert_same(pixels(file), made_in_process(TURBO, prompt=PROMPT, seed=extra["seed"]).pixels_HWC)


@pytest.mark.parametrize("size", ["96*64", "96×64", " 96 x 64 ", "96X64"])
def test_sizes_are_read_as_people_write_them(client: openai.OpenAI, size: Any) -> None:
    assert client.images.generate(prompt=PROMPT, size=size).size == "96x64"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"size": "65x64"}, "size: 65x64 is not a multiple of 8 px: use 64x64 or 72x64"),
        ({"size": "1:1"}, "size: '1:1' is not of the form WIDTHxHEIGHT, such as 1024x768"),
        (
            {"seed": 2**32 + 5},
            "seed: 4294967301 is outside 0..4294967295; larger seeds repeat the noise of smaller ones",
        ),
        (
            {"quality_mode": "fast", "num_inference_steps": 5},
            "quality_mode: 'fast' has no schedule for 5 steps of tiny-zimage-turbo: it has schedules for 8"
            " steps; make one with: zimage calibrate tiny-zimage-turbo --steps 5",
        ),
        ({"seed": -2}, "seed: -2 is outside 0..4294967295; leave it empty for a seed of its own"),
        (
            {"seed": 2**32 - 1, "n": 2},
            "seed: 4294967295 with 2 images ends at 4294967296; the limit is 4294967295",
        ),
    ],
)
def test_sizes_and_seeds_are_refused_as_in_a_batch(
    client: openai.OpenAI, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(prompt=PROMPT, extra_body=settings)
    body: Any = raised.value.body
    assert (body["message"], body["param"]) == (message, message.split(":")[0])


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_formats_are_marked_as_generated(
    client: openai.OpenAI, made_in_process: Make, output_format: Any
) -> None:
    response = client.images.generate(
        prompt=PROMPT, output_format=output_format, size="96x64", extra_body={"seed": 1}
    )
    (file,) = files(response)
    with Image.open(io.BytesIO(file)) as image:
        assert (image.format, image.size) == (output_format.upper(), (96, 64))
    assert response.output_format == output_format
    assert is_marked_generated(file)
    lossless = made_in_process(TURBO, prompt=PROMPT, size="96x64", seed=1).pixels_HWC
    assert np.abs(pixels(file).astype(int) - lossless).mean() < 4


def test_compression_is_the_quality(client: openai.OpenAI) -> None:
    sizes = [
        len(files(response)[0])
        for compression in (10, 60, 100)
        for response in [
            client.images.generate(
                prompt=PROMPT,
                output_format="webp",
                output_compression=compression,
                extra_body={"seed": 1},
            )
        ]
    ]
    assert sizes == sorted(set(sizes))
    # 100 is the API's default, and lossless is what a png is.
    client.images.generate(prompt=PROMPT, output_compression=100)


def test_null_is_as_good_as_absent(client: openai.OpenAI) -> None:
    response = client.images.generate(
        prompt=PROMPT, n=None, size=None, response_format=None, stream=None, partial_images=None
    )
    assert len(files(response)) == 1


def test_usage_counts_tokens(client: openai.OpenAI, made_in_process: Make) -> None:
    usage = client.images.generate(prompt=PROMPT, n=2, size="96x64").usage
    text = made_in_process(TURBO, prompt=PROMPT, seed=0).num_prompt_tokens
    assert usage is not None
    assert usage.output_tokens_details is not None
    assert (usage.input_tokens_details.text_tokens, usage.input_tokens_details.image_tokens) == (text, 0)
    # One token is 8x8 pixels in the tiny family.
    assert usage.output_tokens_details.image_tokens == usage.output_tokens == 2 * 12 * 8
    assert (usage.input_tokens, usage.total_tokens) == (text, text + 192)


@pytest.mark.parametrize("partial_images", [0, 2, 3])
def test_generation_streams(client: openai.OpenAI, partial_images: int) -> None:
    settings: dict[str, Any] = {"prompt": PROMPT, "size": "96x64", "extra_body": {"seed": 5}}
    *partials, completed = client.images.generate(stream=True, partial_images=partial_images, **settings)
    assert all(isinstance(event, ImageGenPartialImageEvent) for event in partials)
    assert isinstance(completed, ImageGenCompletedEvent)
    assert_streamed(partials, completed, "image_generation", partial_images)
    assert_same(pixels(completed.b64_json), pixels(files(client.images.generate(**settings))[0]))


def test_models_are_listed_with_what_they_take(client: openai.OpenAI, engine_of: EngineOf) -> None:
    listed = {model.id: model.model_extra or {} for model in client.models.list()}
    assert list(listed) == [TURBO, BASE, EDIT, *ALIASES]
    starts = ["generations", "image_to_image", "inpainting"]
    assert listed[TURBO]["capabilities"] == starts
    assert listed[BASE]["capabilities"] == [
        *starts,
        "control_image",
        "control_image_inpainting",
        "negative_prompt",
    ]
    assert listed[EDIT]["capabilities"] == ["generations", "edits", "negative_prompt"]
    assert [told["max_reference_images"] for told in listed.values()] == [0, 0, 4, 0, 0]
    base = client.models.retrieve(BASE)
    assert (base.id, base.object, base.owned_by) == (BASE, "model", "zimage-ray")
    assert base.model_extra == listed[BASE]
    assert listed[BASE]["default_size"] == "64x64"
    assert listed[BASE]["recommended_sizes"] == ["64x64"]
    limits = LimitArgs()
    assert listed[BASE]["image_types"] == ["image/png", "image/jpeg", "image/webp"]
    assert listed[BASE]["max_image_bytes"] == limits.max_image_bytes
    assert listed[BASE]["max_image_pixels"] == limits.max_image_pixels
    assert listed[BASE]["max_body_bytes"] == limits.max_body_bytes
    assert listed[BASE]["quality_modes"] == {"high": [28, 50], "fast": [28, 50]}
    assert listed[BASE]["max_guidance_scale"] == engine_of(BASE).spec.variant.max_guidance_scale


def test_repeated_request_is_made_once(client: openai.OpenAI) -> None:
    once = {"Idempotency-Key": "made once"}
    # Without a seed each would be another image.
    first = client.images.generate(prompt=PROMPT, extra_headers=once)
    again = client.images.with_raw_response.generate(prompt=PROMPT, extra_headers=once)
    assert again.parse() == first
    assert again.headers["x-idempotent-replayed"] == "true"
    other = client.images.generate(prompt=PROMPT, extra_headers={"Idempotency-Key": "another"})
    assert (other.data or [])[0].model_extra != (first.data or [])[0].model_extra


def test_repeated_stream_is_made_once(client: openai.OpenAI) -> None:
    once = {"Idempotency-Key": "streamed once"}
    first, again = (
        list(client.images.generate(prompt=PROMPT, stream=True, partial_images=1, extra_headers=once))
        for _ in range(2)
    )
    assert again == first


def test_requests_repeated_at_the_same_time_are_made_once(client: openai.OpenAI) -> None:
    def ask(_: int) -> ImagesResponse:
        return client.images.generate(prompt=PROMPT, n=2, extra_headers={"Idempotency-Key": "all at once"})

    with ThreadPoolExecutor(4) as pool:
        first, *others = pool.map(ask, range(4))
    assert all(other == first for other in others)


def test_deadline_ends_a_request(endpoint: Endpoint) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        endpoint.client().images.generate(
            model=BASE,
            prompt=PROMPT,
            n=10,
            extra_body={"num_inference_steps": 200},
            extra_headers={"X-Request-Timeout": "2"},
        )
    error = raised.value
    assert (error.status_code, error.code) == (504, "deadline_exceeded")
    assert error.response.headers["x-should-retry"] == "false"
