"""One endpoint that anyone may ask: a model of each variant, all limits as they are by default."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import openai
import pytest
from playwright.sync_api import Browser, Page

from tests.controlnets import build_embedded_controlnet
from tests.deployments.conftest import Endpoint, Serve
from tests.deployments.open_endpoint.pictures import BASE, EDIT, TURBO, Pixels
from tests.deployments.playground_page import open_page
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import ImageResult, build_request

ALIASES = {"Tongyi-MAI/Z-Image-Turbo": TURBO, "gpt-image-1": TURBO}
Make = Callable[..., ImageResult]
EngineOf = Callable[[str], Engine]
Checkpoints = dict[str, dict[str, str]]

ORIGIN, ROOT_PATH = "https://shop.example", "/images"
"""Whose pages may ask, and where a proxy would offer the endpoint."""


@pytest.fixture(scope="package")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Checkpoints:
    """Name the checkpoint of each model, and the ControlNet of the one that has any."""
    controlnet = build_embedded_controlnet(tmp_path_factory.mktemp("checkpoints") / "controlnet")
    return {
        TURBO: {"model": "tiny-zimage-turbo"},
        BASE: {"model": "tiny-zimage-base", "controlnet": str(controlnet)},
        EDIT: {"model": "tiny-zimage-edit"},
    }


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve, checkpoints: Checkpoints) -> Iterator[Endpoint]:
    """Run one engine of each model behind two HTTP replicas."""
    models = [
        {
            "id": model_id,
            "model": config["model"],
            "engine": {k: v for k, v in config.items() if k != "model"},
        }
        for model_id, config in checkpoints.items()
    ]
    with serve_endpoint(
        models=models,
        aliases=ALIASES,
        local_urls={},
        ingress={"num_replicas": 2},
        cors_origins=[ORIGIN, "null"],
        root_path=ROOT_PATH,
    ) as running:
        yield running


@pytest.fixture(scope="package")
def client(endpoint: Endpoint) -> openai.OpenAI:
    return endpoint.client()


@pytest.fixture(scope="package")
def engine_of(checkpoints: Checkpoints) -> EngineOf:
    """Load a model into this process, once."""

    def load(model_id: str) -> Engine:
        return load_engine(EngineConfig(**checkpoints[model_id], num_threads=1))

    return cache(load)


@pytest.fixture(scope="package")
def made_in_process(engine_of: EngineOf) -> Make:
    """Make an image without any HTTP, as batch jobs do."""

    def make(model_id: str, **values: Any) -> ImageResult:
        engine = engine_of(model_id)
        handle = engine.submit(build_request(engine.spec, values))
        while engine.step():
            pass
        return handle.result(0)

    return make


@pytest.fixture(scope="package")
def apple(made_in_process: Make) -> Pixels:
    """Make a picture to start from."""
    return made_in_process(TURBO, prompt="a red apple", seed=3).pixels_HWC


@pytest.fixture
def page(browser: Browser, endpoint: Endpoint) -> Iterator[Page]:
    """Open the page at ``/``, in a browser that nobody has used."""
    with browser.new_context() as context:
        yield open_page(context.new_page(), endpoint.url)
