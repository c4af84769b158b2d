"""What clients of other servers send: ignored fields, other names, aliases, edits as JSON, URLs of images."""

import base64
from typing import Any

import httpx2 as httpx
import numpy as np
import openai
import pytest

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.conftest import ALIASES, ROOT_PATH, Make
from tests.deployments.open_endpoint.pictures import (
    BASE,
    EDIT,
    TURBO,
    Pixels,
    assert_same,
    files,
    pixels,
    plasma,
    png,
)
from zimage_models.image_files.image_codec import is_marked_generated

PROMPT = "a red apple"
TOO_LARGE = (
    "size: 128x64 is not a size that this model was trained on (64x64): expect a poor picture"
    " after at least 2 times the work of 64x64"
)


def data_url(picture: Pixels) -> dict[str, str]:
    return {"image_url": f"data:image/png;base64,{base64.b64encode(png(picture)).decode()}"}


def post(endpoint: Endpoint, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with endpoint.http() as http:
        response = http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def test_fields_that_change_nothing_are_told(client: openai.OpenAI, made_in_process: Make) -> None:
    settings: dict[str, Any] = {"quality": "hd", "style": "vivid", "user": "u-1", "background": "opaque"}
    more = {"seed": 5, "safety_identifier": "hash", "metadata": {"order": "7"}}
    response = client.images.generate(prompt=PROMPT, extra_body=more, **settings)
    told: dict[str, Any] = response.model_extra or {}
    assert sorted(told["ignored"]) == sorted([*settings, "safety_identifier", "metadata"])
    assert_same(pixels(files(response)[0]), made_in_process(TURBO, prompt=PROMPT, seed=5).pixels_HWC)
    *_, completed = client.images.generate(prompt=PROMPT, stream=True, **settings)
    event: dict[str, Any] = completed.model_dump()
    assert sorted(event["ignored"]) == sorted(settings)


def test_other_servers_requests_are_answered(endpoint: Endpoint) -> None:
    # SGLang 0.5.23 bench_serving.py, and vLLM-Omni 0.30.0 diffusion_benchmark_serving.py: model, size, steps.
    common = {"model": "Tongyi-MAI/Z-Image-Turbo", "prompt": PROMPT, "response_format": "b64_json", "n": 1}
    sglang = post(
        endpoint, "/v1/images/generations", {**common, "size": "96x64", "num_inference_steps": 2, "seed": -1}
    )
    assert (sglang["size"], sglang["num_inference_steps"], sglang["model"]) == ("96x64", 2, TURBO)
    sides = post(
        endpoint, "/v1/images/generations", {"prompt": PROMPT, "width": 96, "height": 64, "num_images": 2}
    )
    assert (sides["size"], len(sides["data"])) == ("96x64", 2)
    form = {**common, "size": "64x64", "num_inference_steps": "2", "seed": "42", "bot_task": "think"}
    with endpoint.http() as http:
        picture = ("image", ("x.png", png(plasma(64, 64, seed=0)), "application/octet-stream"))
        edited = http.post("/v1/images/edits", data=form, files=[picture])
    assert edited.status_code == 200, edited.text
    assert edited.json()["ignored"] == ["bot_task"]


def test_size_and_sides_together_are_refused(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        body = {"prompt": PROMPT, "size": "64x64", "width": 96}
        response = http.post("/v1/images/generations", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, "size")


def test_jpg_is_jpeg(client: openai.OpenAI) -> None:
    wanted: Any = "jpg"
    response = client.images.generate(prompt=PROMPT, output_format=wanted)
    assert response.output_format == "jpeg"
    assert files(response)[0].startswith(b"\xff\xd8")


def test_alias_is_another_name_of_a_model(client: openai.OpenAI) -> None:
    response = client.images.generate(model="gpt-image-1", prompt=PROMPT, extra_body={"seed": 5})
    assert (response.model_extra or {})["model"] == TURBO
    listed = {model.id: model.model_extra or {} for model in client.models.list()}
    assert {name: listed[name]["alias_of"] for name in listed} == dict.fromkeys((TURBO, BASE, EDIT)) | ALIASES
    one = client.models.retrieve("Tongyi-MAI/Z-Image-Turbo")
    assert (one.id, one.model_extra) == ("Tongyi-MAI/Z-Image-Turbo", listed[TURBO] | {"alias_of": TURBO})
    with pytest.raises(openai.NotFoundError, match=r"'dall-e-3' is unknown.*gpt-image-1.*--alias NAME="):
        client.images.generate(model="dall-e-3", prompt=PROMPT)


def test_edit_as_json_is_the_form(endpoint: Endpoint, apple: Pixels) -> None:
    painted = np.zeros((64, 64), np.uint8)
    painted[16:48, 24:64] = 255
    fields = {"prompt": "a blue car", "seed": 6}
    parts = {"image": png(apple), "mask": png(painted)}
    with endpoint.http() as http:
        form = http.post("/v1/images/edits", data={**fields, "seed": "6"}, files=parts).json()
    pictures = {"images": [data_url(apple)], "mask": data_url(painted), "strength": None}
    answer = post(endpoint, "/v1/images/edits", {**fields, **pictures, "input_fidelity": "high"})
    assert_same(pixels(answer["data"][0]["b64_json"]), pixels(form["data"][0]["b64_json"]))
    assert answer["ignored"] == ["input_fidelity"]


def test_edit_as_json_reads_several_pictures_of_a_megabyte(endpoint: Endpoint) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
    body = {"model": EDIT, "prompt": PROMPT, "images": [data_url(noise)] * 3, "size": "64x64"}
    answer = post(endpoint, "/v1/images/edits", body | {"num_inference_steps": 1})
    assert answer["usage"]["input_tokens_details"]["image_tokens"] > 0


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        ({"images": [{"file_id": "file-1"}]}, "file_id", "file_id: no files are stored here"),
        ({"images": [{}]}, "images.0.image_url", "images.0.image_url: missing"),
        ({"images": []}, "images", "images: List should have at least 1"),
        ({"images": None}, "image", "image: missing"),
        ({"images": [{"image_url": "https://example.com/x.png"}]}, "image", "URLs are not fetched here"),
        ({"images": [{"image_url": "data:text/html;base64,AAAA"}]}, "image", "not a data URL"),
        ({"prompt": [[]] * 60_000}, "body", "body: 120005 commas and brackets; the limit is 100000"),
    ],
)
def test_edits_as_json_are_refused_as_forms_are(
    endpoint: Endpoint, change: dict[str, Any], field: str, message: str
) -> None:
    body = {"prompt": PROMPT, "images": [data_url(plasma(64, 64, seed=0))]} | change
    with endpoint.http() as http:
        response = http.post("/v1/images/edits", json=body)
    error = response.json()["error"]
    assert (response.status_code, error["param"]) == (400, field)
    assert message in error["message"]


def test_a_size_that_the_model_does_not_know_carries_a_warning(client: openai.OpenAI) -> None:
    raw = client.images.with_raw_response.generate(prompt=PROMPT, size="128x64")  # type: ignore[call-overload]
    assert (raw.parse().model_extra or {})["warning"] == raw.headers["x-zimage-warning"] == TOO_LARGE
    known = client.images.with_raw_response.generate(prompt=PROMPT)
    assert (known.parse().model_extra or {})["warning"] is None
    assert "x-zimage-warning" not in known.headers


def test_a_stream_warns_before_its_first_event(endpoint: Endpoint) -> None:
    body = {"prompt": PROMPT, "size": "256x256", "num_inference_steps": 50, "stream": True}
    # The image is not waited for: closing the stream cancels it.
    with endpoint.http() as http, http.stream("POST", "/v1/images/generations", json=body) as response:
        assert "256x256 is not a size" in response.headers["x-zimage-warning"]


def test_url_of_an_image_is_signed_and_fetched_from_any_replica(endpoint: Endpoint) -> None:
    body = {"prompt": PROMPT, "n": 2, "output_format": "webp", "seed": 5}
    both = post(endpoint, "/v1/images/generations", body)["data"]
    only = post(endpoint, "/v1/images/generations", {**body, "response_format": "url"})["data"]
    assert [image["b64_json"] for image in only] == [None, None]
    for image in (*both, *only, *only):
        assert image["url"].startswith(f"{endpoint.url}{ROOT_PATH}/v1/images/files/")
        fetched = httpx.get(image["url"])
        assert (fetched.status_code, fetched.headers["content-type"]) == (200, "image/webp")
        assert is_marked_generated(fetched.content)
        assert fetched.headers["content-length"] == httpx.head(image["url"]).headers["content-length"]
    assert fetched.content == base64.b64decode(both[1]["b64_json"])
    forged = httpx.get(only[0]["url"].replace("signature=", "signature=x"))
    assert (forged.status_code, forged.json()["error"]["code"]) == (404, "image_not_found")


def test_url_has_the_host_that_the_client_asked(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        body = {"prompt": PROMPT, "response_format": "url"}
        named = http.post("/v1/images/generations", json=body, headers={"Host": "images.example:81"})
        odd = http.post("/v1/images/generations", json=body, headers={"Host": "a/b@c"})
    assert named.json()["data"][0]["url"].startswith(f"http://images.example:81{ROOT_PATH}/v1/images/files/")
    assert (odd.status_code, odd.json()["error"]["param"]) == (400, "Host")
