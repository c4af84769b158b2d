"""What OpenAI's client makes of an endpoint that is locked, full or failing; and images by address."""

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import openai
import pytest
import yaml

from tests.deployments.conftest import Endpoint, Serve
from tests.s3_server import S3Server
from zimage_models.image_codec import is_marked_generated

KEY, SLOW_KEY = "sk-anyone-at-all", "sk-once-a-minute"
FAKE, SMALL = "fake", "small"


@pytest.fixture(scope="module")
def store(s3: S3Server) -> str:
    """Name a bucket that is still to be made."""
    return f"images-{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def endpoint(
    serve_endpoint: Serve, s3: S3Server, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    keys_file = tmp_path_factory.mktemp("keys") / "keys.yaml"
    keys = [{"name": "any", "key": KEY}, {"name": "slow", "key": SLOW_KEY, "requests_per_minute": 1}]
    keys_file.write_text(yaml.safe_dump(keys))
    with serve_endpoint(
        models=[{"id": FAKE, "engine": {"fake": True}}, {"id": SMALL, "engine": {"max_queued": 4}}],
        auth={"keys_file": str(keys_file)},
        object_store={"address": f"s3://{store}/made", "endpoint_url": s3.endpoint_url},
    ) as running:
        yield running


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


def test_too_many_requests_are_a_rate_limit_error(endpoint: Endpoint) -> None:
    client = endpoint.client(api_key=SLOW_KEY)
    client.images.generate(prompt="x")
    with pytest.raises(openai.RateLimitError, match="requests_per_minute 1") as raised:
        client.images.generate(prompt="x")
    error = raised.value
    assert (error.code, error.type, error.param) == ("rate_limit_exceeded", "rate_limit_error", None)
    assert 1 <= int(error.response.headers["retry-after"]) <= 60


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


def test_images_by_address(endpoint: Endpoint, s3: S3Server, store: str) -> None:
    requests = Requests()
    client = requests.client(endpoint)
    with pytest.raises(openai.InternalServerError, match="object store") as raised:
        client.images.generate(prompt="x", response_format="url")  # there is no such bucket yet
    assert raised.value.code == "object_store_failed"
    assert len(requests) == 1
    s3.make_bucket(store)
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
