"""The same requests through each client: the same images, and errors that reach its user."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.clients.client_programs import PROGRAMS, Answers, Said
from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.pictures import EDIT, TURBO, Pixels, assert_same, pixels

Ask = Callable[[str], Answers]
Made = Callable[..., list[Pixels]]

WHOLE = {"model": TURBO, "prompt": "a red apple", "size": "96x64", "seed": 5}
INSTRUCTION = {"model": EDIT, "prompt": "make the background red", "seed": 5}
# LangChain's wrapper takes neither a seed nor pictures, and reads only addresses.
WITH_IMAGES = [name for name in PROGRAMS if name != "langchain"]
STREAMING = ["openai-python", "openai-node", "openai-browser", "jdk", "curl"]


@pytest.fixture(scope="module")
def made(endpoint: Endpoint, picture: Path) -> Made:
    """Make images by plain HTTP, to compare with."""

    @cache
    def make(num_pictures: int = 0, **values: Any) -> list[Pixels]:
        with endpoint.http() as http:
            if num_pictures:
                parts = [("image", ("picture.png", picture.read_bytes(), "image/png"))] * num_pictures
                answer = http.post("/v1/images/edits", data=values, files=parts)
            else:
                answer = http.post("/v1/images/generations", json=values)
        assert answer.status_code == 200, answer.text
        return [pixels(image["b64_json"]) for image in answer.json()["data"]]

    return make


def assert_images(said: Said, expected: list[Pixels]) -> None:
    assert len(said.images) == len(expected), said.message
    for image, other in zip(said.images, expected, strict=True):
        assert_same(pixels(image), other)


def clients(*names: str) -> Any:
    return pytest.mark.parametrize("client", names)


@clients(*WITH_IMAGES)
def test_image_is_that_of_its_seed(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["generate"], made(**WHOLE))


@clients(*WITH_IMAGES)
def test_several_images_have_seeds_that_count_up(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["several"], made(**WHOLE) + made(**WHOLE | {"seed": 6}))


@clients(*WITH_IMAGES)
def test_picture_is_edited(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["edit"], made(1, **INSTRUCTION))


@clients(*(name for name in WITH_IMAGES if name != "jdk"))
def test_several_pictures_are_edited(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["two_pictures"], made(2, **INSTRUCTION))


@clients("jdk", "curl")
def test_picture_is_edited_by_json(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["json_edit"], made(1, **INSTRUCTION))


@clients(*STREAMING)
def test_image_is_streamed(ask: Ask, made: Made, client: str) -> None:
    said = ask(client)["stream"]
    assert len(said.previews) == 2
    assert_images(said, made(**WHOLE))


@clients(*STREAMING)
def test_edit_is_streamed(ask: Ask, made: Made, client: str) -> None:
    said = ask(client)["edit_stream"]
    assert len(said.previews) == 1
    assert_images(said, made(1, **INSTRUCTION))


@clients(*PROGRAMS)
def test_user_reads_why_a_request_was_refused(ask: Ask, client: str) -> None:
    said = ask(client)["refused"]
    assert said.status == 400
    assert "size: 65x64 is not a multiple of 8 px: use 64x64 or 72x64" in (said.message or "")


@clients(*PROGRAMS)
def test_user_reads_that_a_model_is_unknown(ask: Ask, client: str) -> None:
    said = ask(client)["unknown_model"]
    assert said.status == 404
    assert "no-such-model" in (said.message or "")
    assert TURBO in (said.message or "")


@clients("openai-python", "openai-node", "openai-browser")
def test_error_names_its_request(ask: Ask, client: str) -> None:
    assert ask(client)["refused"].request_id


@clients("openai-python", "openai-node", "openai-browser")
def test_fields_that_change_nothing_are_taken(ask: Ask, made: Made, client: str) -> None:
    assert_images(ask(client)["neutral_fields"], made(**WHOLE))


@clients("openai-python", "openai-node", "openai-browser", "litellm", "langchain")
def test_address_of_an_image_leads_to_it(ask: Ask, endpoint: Endpoint, made: Made, client: str) -> None:
    said = ask(client)["url"]
    assert len(said.urls) == 1, said.message
    with endpoint.http() as http:
        file = http.get(said.urls[0]).content
    if client == "langchain":
        assert pixels(file).shape == (64, 96, 3)
    else:
        assert_same(pixels(file), *made(**WHOLE))


def test_langchain_reads_several_addresses(ask: Ask, endpoint: Endpoint) -> None:
    urls = ask("langchain")["several_urls"].urls
    assert len(set(urls)) == 2
    with endpoint.http() as http:
        assert [pixels(http.get(url).content).shape for url in urls] == [(64, 96, 3)] * 2


def test_ai_sdk_follows_the_address_of_an_image(ask: Ask, made: Made) -> None:
    assert_images(ask("ai-sdk")["url"], made(**WHOLE))


@pytest.mark.parametrize(
    ("case", "size"), [("openai_provider", (64, 96)), ("openai_provider_edit", (64, 64))]
)
def test_ai_sdk_works_by_its_provider_for_openai(ask: Ask, case: str, size: tuple[int, int]) -> None:
    (image,) = ask("ai-sdk")[case].images
    assert pixels(image).shape == (*size, 3)


def test_ai_sdk_may_use_the_name_of_a_model_of_openai(ask: Ask) -> None:
    (image,) = ask("ai-sdk")["openai_name"].images
    assert pixels(image).shape == (64, 96, 3)


def test_langchain_may_use_the_name_of_a_model_of_openai(ask: Ask) -> None:
    assert len(ask("langchain")["openai_name"].urls) == 1
