"""``POST /v1/images/edits`` through OpenAI's client: from one picture, or by an instruction on several."""

import base64
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import openai
import pytest
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.conftest import EngineOf, Make
from tests.deployments.open_endpoint.pictures import (
    BASE,
    EDIT,
    TURBO,
    Pixels,
    assert_same,
    assert_streamed,
    files,
    pixels,
    plasma,
    png,
)
from zimage_models.image_files.image_codec import read_ingredients, read_parameters
from zimage_models.pictures import Picture

INSTRUCTION = "make the background red"
STEPS = 4
SIZES = [(96, 64), (64, 64), (80, 112), (64, 128)]


def transparent(painted: npt.NDArray[np.bool_]) -> bytes:
    """Write a mask as OpenAI has it: painted is where alpha is 0."""
    rgba = np.full((*painted.shape, 4), 255, np.uint8)
    rgba[painted, 3] = 0
    return png(rgba)


@pytest.fixture
def references() -> list[Pixels]:
    """Draw as many pictures as an edit takes, each of a size of its own."""
    return [plasma(*size, seed=seed) for seed, size in enumerate(SIZES)]


@pytest.mark.parametrize("model", [TURBO, BASE])
def test_start_is_the_engines_own_however_the_picture_comes(
    endpoint: Endpoint, made_in_process: Make, apple: Pixels, model: str
) -> None:
    client, picture = endpoint.client(), png(apple)
    settings = {"seed": 6, "num_inference_steps": 8, "strength": 0.5}
    expected = made_in_process(
        model, prompt="a green apple", reference_images=[Picture(pixels=apple)], **settings
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


def test_strength_is_the_way_from_the_picture(client: openai.OpenAI, apple: Pixels) -> None:
    distances = []
    for strength in (0.2, 0.5, 1.0):
        settings = {"seed": 6, "num_inference_steps": 10, "strength": strength}
        response = client.images.edit(prompt="a blue car", image=png(apple), extra_body=settings)
        distances.append(np.abs(pixels(files(response)[0]).astype(int) - apple).mean())
    assert distances == sorted(distances)


def test_mask_says_where_to_paint(client: openai.OpenAI, made_in_process: Make, apple: Pixels) -> None:
    painted = np.zeros((64, 64), np.bool_)
    painted[16:48, 24:64] = True
    mask = Picture(pixels=np.where(painted, 255, 0).astype(np.uint8))
    response = client.images.edit(
        prompt="a blue car", image=png(apple), mask=transparent(painted), extra_body={"seed": 6}
    )
    (file,) = files(response)
    expected = made_in_process(
        TURBO, prompt="a blue car", reference_images=[Picture(pixels=apple)], mask=mask, seed=6
    )
    assert_same(pixels(file), expected.pixels_HWC)
    assert np.array_equal(pixels(file)[~painted], apple[~painted])
    assert np.abs(pixels(file)[painted].astype(int) - apple[painted]).mean() > 10


def test_control_image_guides_without_another_picture(endpoint: Endpoint, made_in_process: Make) -> None:
    control = plasma(96, 64, seed=7)
    settings = {"prompt": "a blue car", "seed": 6, "num_inference_steps": STEPS, "guidance_scale": 1.5}
    settings |= {"controlnet_conditioning_scale": 0.4}
    expected = made_in_process(BASE, control_image=Picture(pixels=control), **settings)
    url = f"data:image/png;base64,{base64.b64encode(png(control)).decode()}"
    for value in (("control.png", png(control)), (None, url)):
        answer = endpoint.http().post(
            "/v1/images/edits", data={"model": BASE, **settings}, files={"control_image": value}
        )
        body = answer.json()
        assert body["size"] == "96x64"
        assert body["usage"]["input_tokens_details"]["image_tokens"] == 96
        file = base64.b64decode(body["data"][0]["b64_json"])
        assert_same(pixels(file), expected.pixels_HWC)
        assert [each.sha256 for each in read_ingredients(file)] == [hashlib.sha256(png(control)).hexdigest()]


def test_a_picture_to_follow_is_another_request_than_one_to_start_from(endpoint: Endpoint) -> None:
    form = {"model": BASE, "prompt": INSTRUCTION, "num_inference_steps": "1"}
    answers = [
        endpoint.http().post(
            "/v1/images/edits",
            data=form,
            files={field: png(plasma(64, 64, seed=0))},
            headers={"Idempotency-Key": "a picture"},
        )
        for field in ("image", "control_image")
    ]
    assert [answer.status_code for answer in answers] == [200, 409]


PLASMA = png(plasma(64, 64, seed=0))


@pytest.mark.parametrize(
    ("model", "sent", "message"),
    [
        (TURBO, {}, f"control_image: this turbo engine has no ControlNet; models that take this: {BASE}"),
        (EDIT, {}, f"control_image: this edit engine has no ControlNet; models that take this: {BASE}"),
        (BASE, {"image": PLASMA}, "image: with control_image, a mask of where to paint is required"),
        (BASE, {"mask": PLASMA}, "mask: has no effect without image"),
        (BASE, {"control_image": b"<svg/>"}, "control_image: not a readable PNG, JPEG or WebP image"),
        (
            BASE,
            {"control_image": png(plasma(64, 8, seed=0))},
            "control_image: 64x8 has a side below 16 pixels",
        ),
        (
            BASE,
            {"controlnet_conditioning_scale": (None, "2.5")},
            "controlnet_conditioning_scale: 2.5 is outside 0..2",
        ),
        (
            BASE,
            {"control_image": (None, "https://example.com/x.png")},
            "control_image: neither a file nor a data URL; URLs are not fetched here",
        ),
    ],
)
def test_control_image_that_cannot_be_followed_is_refused(
    endpoint: Endpoint, model: str, sent: dict[str, Any], message: str
) -> None:
    form = {"model": (None, model), "prompt": (None, INSTRUCTION), "control_image": PLASMA, **sent}
    answer = endpoint.http().post("/v1/images/edits", files=form)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["message"], error["param"]) == (message, message.split(":")[0])


@pytest.mark.parametrize("model", [TURBO, EDIT])
def test_edit_streams(client: openai.OpenAI, apple: Pixels, model: str) -> None:
    settings: dict[str, Any] = {"prompt": "a green apple", "image": png(apple), "size": "96x64"}
    settings |= {"model": model, "extra_body": {"seed": 5, "num_inference_steps": 8}}
    *partials, completed = client.images.edit(stream=True, partial_images=2, **settings)
    assert all(isinstance(event, ImageEditPartialImageEvent) for event in partials)
    assert isinstance(completed, ImageEditCompletedEvent)
    assert_streamed(partials, completed, "image_edit", 2)
    for event in (*partials, completed):
        [ingredient] = read_ingredients(base64.b64decode(event.b64_json))
        assert ingredient.sha256 == hashlib.sha256(settings["image"]).hexdigest()
    assert_same(pixels(completed.b64_json), pixels(files(client.images.edit(**settings))[0]))


@pytest.mark.parametrize("num_references", [0, 1, 2, 4])
@pytest.mark.parametrize("guidance_scale", [0.0, 2.0])
def test_instruction_is_followed_as_the_engine_does(
    client: openai.OpenAI,
    made_in_process: Make,
    references: list[Pixels],
    num_references: int,
    guidance_scale: float,
) -> None:
    used = references[:num_references]
    settings = {"seed": 6, "num_inference_steps": STEPS, "guidance_scale": guidance_scale}
    expected = made_in_process(
        EDIT, prompt=INSTRUCTION, reference_images=[Picture(pixels=image) for image in used], **settings
    )
    common: dict[str, Any] = {"model": EDIT, "prompt": INSTRUCTION, "extra_body": settings}
    if used:
        response = client.images.edit(image=list(map(png, used)), **common)
    else:
        response = client.images.generate(**common)
    (file,) = files(response)
    assert_same(pixels(file), expected.pixels_HWC)
    assert response.size == f"{expected.request.width}x{expected.request.height}"
    assert read_parameters(file)["guidance_scale"] == guidance_scale


def test_order_of_pictures_counts(
    client: openai.OpenAI, made_in_process: Make, references: list[Pixels]
) -> None:
    settings = {"seed": 6, "num_inference_steps": STEPS}
    made = []
    for used in (references[:2], references[1::-1]):
        common: dict[str, Any] = {"prompt": INSTRUCTION, "size": "64x64", **settings}
        expected = made_in_process(EDIT, reference_images=[Picture(pixels=image) for image in used], **common)
        response = client.images.edit(
            model=EDIT, prompt=INSTRUCTION, size="64x64", image=list(map(png, used)), extra_body=settings
        )
        made.append(pixels(files(response)[0]))
        assert_same(made[-1], expected.pixels_HWC)
    assert np.abs(made[0].astype(int) - made[1]).max() > 1


def test_pictures_in_fields_of_one_name_or_the_other(
    endpoint: Endpoint, client: openai.OpenAI, references: list[Pixels]
) -> None:
    first, second = map(png, references[:2])
    form = {"model": EDIT, "prompt": INSTRUCTION, "seed": "6", "num_inference_steps": str(STEPS)}
    made = [
        pixels(
            endpoint.http()
            .post("/v1/images/edits", data=form, files=[(name, ("x.png", file)) for name, file in parts])
            .json()["data"][0]["b64_json"]
        )
        for parts in (
            [("image", first), ("image", second)],
            [("image[]", first), ("image[]", second)],
            [("image", first), ("image[]", second)],
        )
    ]
    for other in made[1:]:
        assert_same(made[0], other)


def test_size_is_the_last_pictures_unless_given(client: openai.OpenAI, references: list[Pixels]) -> None:
    common: dict[str, Any] = {"model": EDIT, "prompt": INSTRUCTION, "extra_body": {"num_inference_steps": 1}}
    images = list(map(png, references[:2]))
    # 96 x 64 pixels are more than the model's 64 x 64.
    assert client.images.edit(image=images[::-1], **common).size == "72x48"
    assert client.images.edit(image=images[::-1], size="auto", **common).size == "72x48"
    assert client.images.edit(image=images, size="64x96", **common).size == "64x96"


def test_seeds_of_several_edits_count_up(
    client: openai.OpenAI, made_in_process: Make, references: list[Pixels]
) -> None:
    settings = {"num_inference_steps": STEPS, "guidance_scale": 0.0}
    response = client.images.edit(
        model=EDIT, prompt=INSTRUCTION, image=png(references[0]), n=3, extra_body={"seed": 40, **settings}
    )
    for seed, file in zip((40, 41, 42), files(response), strict=True):
        images = [Picture(pixels=references[0])]
        expected = made_in_process(EDIT, prompt=INSTRUCTION, reference_images=images, seed=seed, **settings)
        assert_same(pixels(file), expected.pixels_HWC)


def test_usage_counts_the_pictures_as_the_model_reads_them(
    client: openai.OpenAI, made_in_process: Make, engine_of: EngineOf, apple: Pixels
) -> None:
    started = client.images.edit(image=png(apple), prompt=INSTRUCTION, extra_body={"strength": 0.2}).usage
    assert started is not None
    # One token is 8x8 pixels in the embedded models.
    assert started.input_tokens_details.image_tokens == 64
    large, small = plasma(600, 300, seed=0), plasma(64, 64, seed=1)
    images = [Picture(pixels=large), Picture(pixels=small)]
    values = {"prompt": INSTRUCTION, "seed": 0, "num_inference_steps": 1, "guidance_scale": 0.0}
    expected = made_in_process(EDIT, reference_images=images, **values)
    usage = client.images.edit(
        model=EDIT,
        prompt=INSTRUCTION,
        image=[png(large), png(small)],
        n=2,
        extra_body={"num_inference_steps": 1, "guidance_scale": 0.0},
    ).usage
    assert usage is not None
    multiple = engine_of(EDIT).spec.size_multiple
    # A large picture is read shrunk.
    read = [(image.height, image.width) for image in expected.request.reference_images]
    assert read[0] != large.shape[:2]
    assert read[1] == small.shape[:2]
    num_tokens = [(height // multiple) * (width // multiple) for height, width in read]
    assert usage.input_tokens_details.image_tokens == sum(num_tokens)
    assert usage.input_tokens_details.text_tokens == expected.num_prompt_tokens
    assert usage.output_tokens == 2 * num_tokens[1]
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(
    ("model", "num_images", "options", "message", "param"),
    [
        (TURBO, 2, {}, f"image: 2 images; turbo takes at most 1; models that take this: {EDIT}", "image"),
        (
            BASE,
            4,
            {"extra_body": {"strength": 0.5}},
            f"image: 4 images; base takes at most 1; models that take this: {EDIT}",
            "image",
        ),
        (EDIT, 5, {}, "image: 5 images; edit takes at most 4; no model that is up takes this", "image"),
        (
            EDIT,
            1,
            {"extra_body": {"strength": 0.5}},
            "strength: edit reads reference images and does not start from one;"
            f" models that take this: {TURBO}, {BASE}",
            "strength",
        ),
        (
            EDIT,
            1,
            {"mask": True},
            "mask: edit reads reference images and does not start from one;"
            f" models that take this: {TURBO}, {BASE}",
            "mask",
        ),
    ],
)
def test_refusal_names_the_models_that_take_what_this_one_does_not(
    client: openai.OpenAI,
    references: list[Pixels],
    model: str,
    num_images: int,
    options: dict[str, Any],
    message: str,
    param: str,
) -> None:
    images = [png(references[0])] * num_images
    if "mask" in options:
        options = {"mask": transparent(np.ones((64, 96), np.bool_))}
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(model=model, prompt=INSTRUCTION, image=images, **options)
    body: Any = raised.value.body
    assert (body["message"], body["param"]) == (message, param)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_fidelity": "exact"}, "input_fidelity: Input should be 'low' or 'high'"),
        ({"quality": "ultra"}, "quality: Input should be 'auto'"),
        ({"background": "transparent"}, "background: Input should be 'auto' or 'opaque'"),
        ({"size": "63x64"}, "size: 63x64 is not a multiple of 8 px: use 64x64 or 56x64"),
    ],
)
def test_field_that_can_not_be_honoured_is_refused(
    client: openai.OpenAI, references: list[Pixels], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.edit(model=EDIT, prompt=INSTRUCTION, image=png(references[0]), **options)
    body: Any = raised.value.body
    assert body["message"].startswith(message)
    assert body["param"] == next(iter(options))


def test_small_picture_names_its_place(client: openai.OpenAI, references: list[Pixels]) -> None:
    images = [png(references[0]), png(plasma(63, 64, seed=0))]
    with pytest.raises(openai.BadRequestError, match=r"image: image 2 is 63x64 px; each side must be at"):
        client.images.edit(model=EDIT, prompt=INSTRUCTION, image=images)


def test_addresses_are_not_fetched_by_default(endpoint: Endpoint) -> None:
    form = {"prompt": (None, INSTRUCTION), "image": (None, "https://example.com/x.png")}
    answer = endpoint.http().post("/v1/images/edits", files=form)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].endswith("URLs are not fetched here")
