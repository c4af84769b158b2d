"""Models whose engines are divided over ranks, on one node or placed: same pixels, and no rank is a loss."""

import base64
import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil
import pytest
from PIL import Image

from tests.conditions import eventually
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint, Serve
from tests.rank_processes import gone, rank_processes

WHOLE, ONE_NODE, PLACED = "whole", "one-node", "placed"

pytestmark = pytest.mark.timeout(180, func_only=True)


def _args(*model_ids: str) -> dict[str, Any]:
    base = {"model": "tiny-zimage-base", "num_cpus": 0.5}
    divided = {**base, "tensor_parallel_size": 2}
    models = {
        WHOLE: base,
        ONE_NODE: divided,
        PLACED: {**divided, "tensor_parallel_placement": "any_nodes"},
    }
    return {"models": [{"id": model_id, **models[model_id]} for model_id in model_ids]}


@pytest.fixture(scope="module")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    with serve_endpoint(**_args(WHOLE, ONE_NODE, PLACED)) as running:
        yield running


@pytest.fixture(scope="module")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture(scope="module")
def driver(cluster: Cluster) -> Iterator[Driver]:
    with cluster.driver() as driver:
        yield driver


def ranks_of(endpoint: Endpoint, cluster: Cluster, model_id: str) -> list[psutil.Process]:
    """List a model's ranks but rank 0: placed ones are Ray actors, others children of their replica."""
    if model_id == PLACED:
        return cluster.processes("ray::_RankActor")
    return rank_processes(psutil.Process(endpoint.process.pid))


def picture(endpoint: Endpoint, model_id: str) -> npt.NDArray[np.int64]:
    options = {"seed": 7, "num_inference_steps": 8, "negative_prompt": "blurry", "guidance_scale": 2.0}
    answer = endpoint.client().images.generate(prompt="red apple", model=model_id, extra_body=options)
    assert answer.data
    data = base64.b64decode(answer.data[0].b64_json or "")
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.parametrize("model_id", [ONE_NODE, PLACED])
def test_divided_models_make_the_same_pixels(endpoint: Endpoint, model_id: str) -> None:
    assert abs(picture(endpoint, model_id) - picture(endpoint, WHOLE)).max() <= 2


@pytest.mark.parametrize("model_id", [ONE_NODE, PLACED])
@pytest.mark.parametrize(
    "num_kills", [1, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)
def test_killed_ranks_cost_no_request(
    endpoint: Endpoint, cluster: Cluster, driver: Driver, model_id: str, num_kills: int
) -> None:
    before = driver.stats(model_id)["num_rebuilds"]
    with load(endpoint, clients=3, model=model_id, steps=8) as requests:
        for kill in range(num_kills):
            made = driver.stats(model_id)["num_images"]
            eventually(lambda: driver.stats(model_id)["num_images"] > made, "images are made")  # noqa: B023
            [rank] = ranks_of(endpoint, cluster, model_id)
            rank.kill()
            eventually(lambda: driver.stats(model_id)["num_rebuilds"] > before + kill, "it is replaced")  # noqa: B023
        made = driver.stats(model_id)["num_images"]
        eventually(lambda: driver.stats(model_id)["num_images"] > made, "images are made again")
        requests.stop()
        summary = requests.summary()
    assert summary["outcomes"].keys() == {"200"}
    assert summary["unanswered"] == {}


def test_models_that_go_leave_no_rank_and_no_placement_group(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    ranks = [rank for model_id in (ONE_NODE, PLACED) for rank in ranks_of(endpoint, cluster, model_id)]
    assert len(ranks) == 2
    assert driver.num_placement_groups() == 1
    driver.deploy(**_args(WHOLE))
    assert gone(ranks)
    eventually(lambda: driver.num_placement_groups() == 0, "the placement group is gone")
