"""A model whose engine is divided over placed ranks: same pixels, and no rank is a loss."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from tests.conditions import eventually
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import DIVIDED_MODEL, PLACED
from tests.deployments.failing_endpoint.ranks import ranks_of
from zimage_models.config import EngineConfig
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import build_request

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)

SETTINGS = {"seed": 7, "num_inference_steps": 8, "negative_prompt": "blurry", "guidance_scale": 2.0}


def test_a_divided_model_makes_the_same_pixels(endpoint: Endpoint) -> None:
    engine = load_engine(EngineConfig(model=DIVIDED_MODEL, num_threads=1))
    handle = engine.submit(build_request(engine.spec, {"prompt": "red apple", **SETTINGS}))
    while engine.step():
        pass
    answer = endpoint.client().images.generate(prompt="red apple", model=PLACED, extra_body=SETTINGS)
    assert answer.data
    image = Image.open(io.BytesIO(base64.b64decode(answer.data[0].b64_json or "")))
    assert abs(np.asarray(image).astype(int) - handle.result(0).pixels_HWC).max() <= 2


@pytest.mark.parametrize(
    "num_kills", [1, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_killed_ranks_cost_no_request(
    endpoint: Endpoint, cluster: Cluster, driver: Driver, num_kills: int
) -> None:
    before = driver.stats(PLACED)["num_rebuilds"]
    with load(endpoint, clients=3, model=PLACED, steps=8) as requests:
        for kill in range(num_kills):
            made = driver.stats(PLACED)["num_images"]
            eventually(lambda: driver.stats(PLACED)["num_images"] > made, "images are made")  # noqa: B023
            [rank] = eventually(lambda: ranks_of(endpoint, cluster, PLACED), "there is a rank")
            rank.kill()
            eventually(lambda: driver.stats(PLACED)["num_rebuilds"] > before + kill, "it is replaced")  # noqa: B023
        made = driver.stats(PLACED)["num_images"]
        eventually(lambda: driver.stats(PLACED)["num_images"] > made, "images are made again")
        requests.stop()
        summary = requests.summary()
    assert summary["outcomes"].keys() == {"200"}
    assert summary["unanswered"] == {}
