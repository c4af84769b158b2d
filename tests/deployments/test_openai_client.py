"""The endpoint through OpenAI's own client."""

import base64
import hashlib
import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
from openai.types import (
    ImageEditCompletedEvent,
    ImageEditPartialImageEvent,
    ImageGenCompletedEvent,
    ImageGenPartialImageEvent,
    ImagesResponse,
)
from PIL import Image

from tests.deployments.conftest import Endpoint
from zimage_models.config import EngineConfig
from zimage_models.engine import Engine
from zimage_models.image_codec import decode_image, is_marked_generated, read_ingredients, read_parameters
from zimage_models.load_engine import load_engine
from zimage_models.pictures import Picture
from zimage_models.requests import ImageResult, build_request

TURBO, BASE = "z-image-turbo", "z-image-base"
CHECKPOINTS = {TURBO: "tiny-zimage-turbo", BASE: "tiny-zimage-base"}
PROMPT = "a red apple"
# Rounding differs between batch shapes and numbers of threads.
TOLERANCE = 1

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def client(endpoint: Endpoint) -> openai.OpenAI:
    return endpoint.client()


@cache
def in_process_engine(model: str) -> Engine:
    return load_engine(EngineConfig(model=CHECKPOINTS[model], num_threads=1))


def made_in_process(model: str, **values: Any) -> ImageResult:
    engine = in_process_engine(model)
    handle = engine.submit(build_request(engine.spec, values))
    while engine.step():
        pass
    return handle.result(0)


def files(response: ImagesResponse) -> list[bytes]:
    return [base64.b64decode(image.b64_json or "") for image in response.data or ()]


def pixels(file: bytes | str | None) -> Pixels:
    return decode_image(file if isinstance(file, bytes) else base64.b64decode(file or ""))


def assert_same(one: Pixels, other: Pixels) -> None:
    assert one.shape == other.shape
    assert np.abs(one.astype(int) - other).max() <= TOLERANCE


def png(pixels: Pixels) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


@cache
def apple() -> Pixels:
    return made_in_process(TURBO, prompt=PROMPT, seed=3).pixels_HWC


def transparent(painted: npt.NDArray[np.bool_]) -> bytes:
    """Write a mask as OpenAI has it: painted is where alpha is 0."""
    rgba = np.full((*painted.shape, 4), 255, np.uint8)
    rgba[painted, 3] = 0
    return png(rgba)


@pytest.mark.parametrize(
    ("model", "size", "settings"),
    [
        (TURBO, "64x64", {"seed": 7}),
        (TURBO, "96x64", {"seed": 8, "num_inference_steps": 5}),
        (
            BASE,
            "64x64",
            {
                "seed": 2**62,
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
    client: openai.OpenAI, model: str, size: Any, settings: dict[str, Any]
) -> None:
    response = client.images.generate(model=model, prompt=PROMPT, size=size, extra_body=settings)
    expected = made_in_process(model, prompt=PROMPT, size=size, **settings)
    (file,) = files(response)
    assert_same(pixels(file), expected.pixels_HWC)
    told: dict[str, Any] = response.model_extra or {}
    assert (response.size, told["model"]) == (size, model)
    assert told["num_inference_steps"] == expected.request.num_inference_steps
    assert told["guidance_scale"] == expected.request.guidance_scale
    assert (response.data or [])[0].model_extra == {"seed": settings["seed"]}
    assert read_parameters(file).items() >= {
        "prompt": PROMPT,
        "model": CHECKPOINTS[model],
        **settings,
    }.items() - {
        ("cfg_normalization", 1.0),
        ("cfg_truncation", 0.8),
    }


def test_seeds_of_several_images_count_up(client: openai.OpenAI) -> None:
    response = client.images.generate(prompt=PROMPT, n=3, extra_body={"seed": 40})
    assert [image.model_extra for image in response.data or ()] == [{"seed": seed} for seed in (40, 41, 42)]
    for seed, file in zip((40, 41, 42), files(response), strict=True):
        assert_same(pixels(file), made_in_process(TURBO, prompt=PROMPT, seed=seed).pixels_HWC)


def test_a_seed_not_given_is_told(client: openai.OpenAI) -> None:
    response = client.images.generate(prompt=PROMPT)
    (extra,) = [image.model_extra or {} for image in response.data or ()]
    (file,) = files(response)
    assert_same(pixels(file), made_in_process(TURBO, prompt=PROMPT, seed=extra["seed"]).pixels_HWC)


@pytest.mark.parametrize("output_format", ["png", "jpeg", "webp", "avif"])
def test_formats_are_marked_as_generated(client: openai.OpenAI, output_format: Any) -> None:
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


def test_usage_counts_tokens(client: openai.OpenAI) -> None:
    usage = client.images.generate(prompt=PROMPT, n=2, size="96x64").usage
    text = made_in_process(TURBO, prompt=PROMPT, seed=0).num_prompt_tokens
    assert usage is not None
    assert usage.output_tokens_details is not None
    assert (usage.input_tokens_details.text_tokens, usage.input_tokens_details.image_tokens) == (text, 0)
    # One token is 8x8 pixels in the tiny family.
    assert usage.output_tokens_details.image_tokens == usage.output_tokens == 2 * 12 * 8
    assert (usage.input_tokens, usage.total_tokens) == (text, text + 192)
    edited = client.images.edit(image=png(apple()), prompt=PROMPT).usage
    assert edited is not None
    assert (edited.input_tokens_details.image_tokens, edited.input_tokens) == (64, 64 + text)


@pytest.mark.parametrize("partial_images", [0, 2, 3])
def test_generation_streams(client: openai.OpenAI, partial_images: int) -> None:
    settings: dict[str, Any] = {"prompt": PROMPT, "size": "96x64", "extra_body": {"seed": 5}}
    *partials, completed = client.images.generate(stream=True, partial_images=partial_images, **settings)
    assert all(isinstance(event, ImageGenPartialImageEvent) for event in partials)
    assert isinstance(completed, ImageGenCompletedEvent)
    assert_streamed(partials, completed, "image_generation", partial_images)
    assert_same(pixels(completed.b64_json), pixels(files(client.images.generate(**settings))[0]))


def test_edit_streams(client: openai.OpenAI) -> None:
    settings: dict[str, Any] = {"prompt": "a green apple", "image": png(apple()), "size": "96x64"}
    settings["extra_body"] = {"seed": 5}
    *partials, completed = client.images.edit(stream=True, partial_images=2, **settings)
    assert all(isinstance(event, ImageEditPartialImageEvent) for event in partials)
    assert isinstance(completed, ImageEditCompletedEvent)
    assert_streamed(partials, completed, "image_edit", 2)
    for event in (*partials, completed):
        [ingredient] = read_ingredients(base64.b64decode(event.b64_json))
        assert ingredient.sha256 == hashlib.sha256(settings["image"]).hexdigest()
    assert_same(pixels(completed.b64_json), pixels(files(client.images.edit(**settings))[0]))


def assert_streamed(partials: Sequence[Any], completed: Any, kind: str, num_partials: int) -> None:
    assert [event.partial_image_index for event in partials] == list(range(num_partials))
    for event in (*partials, completed):
        # What OpenAI's types declare is there and of its type, which the client does not check itself.
        type(event).model_validate(event.model_dump())
        assert event.size == "96x64"
        assert event.output_format == "png"
        assert is_marked_generated(base64.b64decode(event.b64_json))
    assert {event.type for event in partials} <= {f"{kind}.partial_image"}
    assert completed.type == f"{kind}.completed"
    assert completed.usage.output_tokens == 96
    assert completed.seed == 5
    assert pixels(completed.b64_json).shape == (64, 96, 3)
    previews = [pixels(event.b64_json) for event in partials]
    assert all(preview.shape[1] * 2 == preview.shape[0] * 3 for preview in previews)
    assert len({preview.tobytes() for preview in previews}) == num_partials


@pytest.mark.parametrize("model", [TURBO, BASE])
def test_edit_is_the_engines_own_however_the_picture_comes(endpoint: Endpoint, model: str) -> None:
    client, picture = endpoint.client(), png(apple())
    settings = {"seed": 6, "num_inference_steps": 8, "strength": 0.5}
    expected = made_in_process(
        model, prompt="a green apple", reference_images=[Picture(pixels=apple())], **settings
    ).pixels_HWC
    for image in (picture, [picture], ("odd/../name.gif", picture, "text/html")):
        response = client.images.edit(model=model, prompt="a green apple", image=image, extra_body=settings)
        assert_same(pixels(files(response)[0]), expected)
    url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    form = {"model": model, "prompt": "a green apple", **settings}
    by_url = endpoint.http().post(
        "/v1/images/edits", data=form, files={"image": (None, url), "n": (None, "1")}
    )
    assert_same(pixels(by_url.json()["data"][0]["b64_json"]), expected)


def test_strength_is_the_way_from_the_picture(client: openai.OpenAI) -> None:
    distances = []
    for strength in (0.2, 0.5, 1.0):
        settings = {"seed": 6, "num_inference_steps": 10, "strength": strength}
        response = client.images.edit(prompt="a blue car", image=png(apple()), extra_body=settings)
        distances.append(np.abs(pixels(files(response)[0]).astype(int) - apple()).mean())
    assert distances == sorted(distances)


def test_mask_says_where_to_paint(client: openai.OpenAI) -> None:
    painted = np.zeros((64, 64), np.bool_)
    painted[16:48, 24:64] = True
    mask = Picture(pixels=np.where(painted, 255, 0).astype(np.uint8))
    response = client.images.edit(
        prompt="a blue car", image=png(apple()), mask=transparent(painted), extra_body={"seed": 6}
    )
    (file,) = files(response)
    expected = made_in_process(
        TURBO, prompt="a blue car", reference_images=[Picture(pixels=apple())], mask=mask, seed=6
    )
    assert_same(pixels(file), expected.pixels_HWC)
    assert np.array_equal(pixels(file)[~painted], apple()[~painted])
    assert np.abs(pixels(file)[painted].astype(int) - apple()[painted]).mean() > 10


def test_models_are_listed_with_what_they_take(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [TURBO, BASE]
    base = client.models.retrieve(BASE)
    assert (base.id, base.object, base.owned_by) == (BASE, "model", "zimage-ray")
    told: dict[str, Any] = base.model_extra or {}
    assert told["capabilities"] == ["generations", "edits", "negative_prompt"]
    assert told["default_size"] == "64x64"
    assert told["max_guidance_scale"] == in_process_engine(BASE).spec.variant.max_guidance_scale


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
