"""What OpenAI's client makes of an endpoint that is locked, full or failing; and images by address."""

import io
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
from PIL import Image

from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import KEY
from tests.deployments.locked_endpoint.conftest import SLOW_KEY, SMALL
from zimage_models.image_files.image_codec import is_marked_generated

PROMPT = "a red apple"


class Requests(list[httpx.Request]):
    """Requests that a client has sent."""

    def client(self, endpoint: Endpoint, **options: Any) -> openai.OpenAI:
        """Make a client that repeats requests as it does by default."""
        hooks = {"request": [self.append]}
        transport = openai.DefaultHttpxClient(event_hooks=hooks)
        return endpoint.client(**{"api_key": KEY, "max_retries": 2, "http_client": transport, **options})


@pytest.mark.parametrize("key", ["sk-wrong", KEY[:-1], f"{KEY}x", KEY.upper()])
def test_wrong_key_is_an_authentication_error(endpoint: Endpoint, key: str) -> None:
    client = endpoint.client(api_key=key)
    for ask in (client.models.list, lambda: client.images.generate(prompt="x")):
        with pytest.raises(openai.AuthenticationError) as raised:
            ask()
        error = raised.value
        assert (error.code, error.type, error.param) == ("invalid_api_key", "authentication_error", None)
        assert key not in error.message


@pytest.mark.parametrize(
    "headers",
    [
        {"x-api-key": KEY},
        {"api-key": KEY},
        {"Authorization": f"bearer {KEY}"},
        # A client may have to send something as its own key.
        {"Authorization": "Bearer none", "x-api-key": KEY},
        {"x-api-key": "sk-wrong", "api-key": KEY},
    ],
)
def test_key_comes_in_any_header_of_clients(endpoint: Endpoint, headers: dict[str, str]) -> None:
    with endpoint.http(headers=headers) as http:
        assert http.get("/v1/models").status_code == 200
        assert http.post("/v1/images/generations", json={"prompt": "x"}).status_code == 200
        answer = http.get("/v1/models", headers=dict.fromkeys(headers, "Bearer sk-wrong"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_description_names_the_headers_of_keys(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        description = http.get("/openapi.json").json()
    schemes = description["components"]["securitySchemes"]
    assert {(scheme["type"], scheme.get("name")) for scheme in schemes.values()} == {
        ("http", None),
        ("apiKey", "x-api-key"),
        ("apiKey", "api-key"),
    }
    # Each of them is enough.
    alternatives = [[name] for name in schemes]
    for route, method in (("/v1/models", "get"), ("/v1/images/edits", "post")):
        security = description["paths"][route][method]["security"]
        assert sorted(map(list, security)) == sorted(alternatives)


def test_metrics_need_a_key(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        assert http.get("/metrics").status_code == 401
        answer = http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
    assert (answer.status_code, answer.headers["content-type"]) == (
        200,
        "text/plain; version=0.0.4; charset=utf-8",
    )


def test_too_many_requests_are_a_rate_limit_error(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=SLOW_KEY)
    client.images.generate(prompt="x")
    with pytest.raises(openai.RateLimitError, match="requests_per_minute 1") as raised:
        client.images.generate(prompt="x")
    error = raised.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "rate_limit_error", None)
    headers = error.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert 0 < int(headers["retry-after-ms"]) <= 1000 * int(headers["retry-after"])


@pytest.mark.parametrize(
    ("prompt", "code"), [("[fake: blank]", "blank_image"), ("[fake: out of memory]", "out_of_memory")]
)
def test_client_does_not_repeat_work_that_failed(endpoint: Endpoint, prompt: str, code: str) -> None:
    requests = Requests()
    with pytest.raises(openai.InternalServerError) as raised:
        requests.client(endpoint).images.generate(prompt=prompt)
    error = raised.value
    assert (error.status_code, error.code, error.type, error.param) == (500, code, "server_error", None)
    assert error.response.headers["x-should-retry"] == "false"
    assert len(requests) == 1


def test_failure_in_a_stream_is_its_last_event(endpoint: Endpoint) -> None:
    requests = Requests()
    stream = requests.client(endpoint).images.generate(prompt="[fake: blank]", stream=True)
    with pytest.raises(openai.APIError, match="blank") as raised:
        list(stream)
    error = raised.value
    assert (error.code, error.type, error.param) == ("blank_image", "server_error", None)
    assert len(requests) == 1


def test_full_queue_says_when_to_come_again(endpoint: Endpoint) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        endpoint.client(api_key=KEY).images.generate(model=SMALL, prompt="an apple", n=5)
    error = raised.value
    assert (error.status_code, error.code, error.type) == (503, "engine_overloaded", "server_error")
    assert int(error.response.headers["retry-after"]) >= 1
    # Nothing was made, so the client may ask again.
    assert "x-should-retry" not in error.response.headers


def test_images_by_address(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=KEY)
    response = client.images.generate(prompt="x", n=2, response_format="url", output_format="jpeg")
    addresses = [image.url or "" for image in response.data or ()]
    for address in addresses:
        answer = httpx.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        assert is_marked_generated(answer.content)
        # Without its signature it shows nothing.
        assert httpx.get(address.partition("?")[0]).status_code == 403
    assert len(set(addresses)) == 2
    *_, completed = client.images.generate(prompt="x", stream=True, response_format="url")
    event: dict[str, Any] = completed.model_dump()
    assert event["b64_json"] is None
    assert Path(httpx.URL(event["url"]).path).suffix == ".png"


def test_the_largest_image_passes_between_processes(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=KEY)
    size: Any = "2048x2048"
    once = {"Idempotency-Key": "the largest"}
    file = io.BytesIO()
    Image.new("RGB", (2048, 2048), "red").save(file, "png")
    for ask in (
        lambda: client.images.generate(prompt=PROMPT, size=size, extra_headers=once),
        lambda: client.images.edit(prompt=PROMPT, size=size, image=file.getvalue()),
    ):
        assert ask().size == size


def test_idempotency_key_of_another_request_is_a_conflict(endpoint: Endpoint) -> None:
    requests = Requests()
    with requests.client(endpoint) as client:
        client.images.generate(prompt=PROMPT, extra_headers={"Idempotency-Key": "taken"})
        with pytest.raises(openai.ConflictError) as raised:
            client.images.generate(prompt="a green apple", extra_headers={"Idempotency-Key": "taken"})
    error = raised.value
    assert (error.code, error.type, error.param) == (
        "idempotency_key_reused",
        "conflict_error",
        "Idempotency-Key",
    )
    # To ask again would not help, yet by itself the client would.
    assert error.response.headers["x-should-retry"] == "false"
    assert len(requests) == 2


@pytest.mark.parametrize(
    ("options", "param", "code"),
    [
        ({"size": "63x64"}, "size", "invalid_value"),
        ({"n": 11}, "n", "invalid_value"),
        ({"prompt": " "}, "prompt", "invalid_value"),
        ({"quality": "ultra"}, "quality", "invalid_value"),
        ({"background": "transparent"}, "background", "invalid_value"),
        ({"style": "vivid", "extra_body": {"lora": "x"}}, "lora", "unknown_parameter"),
        ({"output_compression": 50}, "output_compression", "invalid_value"),
        ({"partial_images": 1}, "partial_images", "invalid_value"),
        ({"extra_body": {"negative_prompt": "blue"}}, "negative_prompt", "invalid_value"),
        ({"extra_body": {"guidance": 3}}, "guidance", "unknown_parameter"),
        ({"extra_headers": {"X-Request-Timeout": "soon"}}, "x-request-timeout", "invalid_value"),
    ],
)
def test_what_can_not_be_honoured_is_a_bad_request(
    endpoint: Endpoint, options: dict[str, Any], param: str, code: str
) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        endpoint.client(api_key=KEY).images.generate(**{"prompt": PROMPT, **options})
    error = raised.value
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert error.message.count(f"{param}: ")


def test_edit_of_two_pictures_is_a_bad_request(endpoint: Endpoint) -> None:
    file = io.BytesIO()
    Image.new("L", (64, 64)).save(file, "png")
    with pytest.raises(
        openai.BadRequestError, match="image: 2 images; turbo takes at most 1; no model that is up takes this"
    ) as raised:
        endpoint.client(api_key=KEY).images.edit(prompt=PROMPT, image=[file.getvalue()] * 2)
    assert raised.value.param == "image"


def test_unknown_model_is_not_found(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=KEY)
    for ask in (
        lambda: client.images.generate(model="z-image-huge", prompt=PROMPT),
        lambda: client.models.retrieve("z-image-huge"),
    ):
        with pytest.raises(openai.NotFoundError, match="model: 'z-image-huge' is unknown") as raised:
            ask()
        error = raised.value
        assert (error.code, error.param, error.type) == ("model_not_found", "model", "not_found_error")
