"""One endpoint in the jobs' own Ray: two small models, one with a ControlNet, one that makes tiles."""

from collections.abc import Iterator

import openai
import pytest
from ray import serve

from benchmarks.endpoint import free_port
from deployments.app import build_app
from deployments.app_args import AppArgs, IngressArgs, ModelArgs
from tests.controlnets import build_embedded_controlnet

APP = "images"
EDIT_MODEL = "tiny-zimage-edit"


@pytest.fixture(scope="package")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a ControlNet for the embedded models, and return its folder."""
    return str(build_embedded_controlnet(tmp_path_factory.mktemp("controlnets") / "random"))


@pytest.fixture(scope="package")
def online(ray_session: None, controlnet: str) -> Iterator[openai.OpenAI]:
    models = (
        ModelArgs(id="z-image-turbo", num_cpus=0.5),
        ModelArgs(id="instant", num_cpus=0.1, engine={"fake": True}),
        ModelArgs(id="controlled", num_cpus=0.5, engine={"controlnet": controlnet}),
        ModelArgs(id="z-image-edit", model=EDIT_MODEL, num_cpus=0.5),
    )
    port = free_port()
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(
        build_app(AppArgs(models=models, ingress=IngressArgs(num_cpus=0.1))), name=APP, route_prefix="/"
    )
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="none", max_retries=0)
    serve.shutdown()
