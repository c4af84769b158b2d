"""One endpoint whose processes are killed: a model with two replicas, a fake one, and one over ranks.

Its tests deploy nothing but that of `test_redeploy`, which takes models away and is the last.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deployments.cluster import Cluster, Driver
from tests.deployments.conftest import Endpoint, Serve

PAIR, FAKE = "z-image-turbo", "fake"
PLACED, DIVIDED_MODEL = "placed", "tiny-zimage-base"
"""A model whose engine is divided over two ranks, placed by Ray; for those of one node, see tests/jobs."""


def app_args(*model_ids: str, num_replicas: int = 2, max_queue_s: float = 120.0) -> dict[str, Any]:
    """Return the arguments of an app of these models, with so many replicas of ``PAIR``."""
    scaling = {"min_replicas": num_replicas, "max_replicas": num_replicas, "downscale_delay_s": 0}
    models: dict[str, dict[str, Any]] = {
        PAIR: {"num_cpus": 1, "max_queue_s": max_queue_s, "scaling": scaling},
        FAKE: {"num_cpus": 0, "engine": {"fake": True}},
        PLACED: {
            "model": DIVIDED_MODEL,
            "num_cpus": 0.5,
            "tensor_parallel_size": 2,
            "tensor_parallel_placement": "any_nodes",
        },
    }
    return {"models": [{"id": model_id, **models[model_id]} for model_id in model_ids]}


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    with serve_endpoint(**app_args(PAIR, FAKE, PLACED)) as running:
        yield running


@pytest.fixture(scope="package")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture(scope="package")
def driver(cluster: Cluster) -> Iterator[Driver]:
    with cluster.driver() as driver:
        yield driver
