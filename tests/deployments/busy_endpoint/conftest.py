"""One endpoint under load: a model with a short queue, a fake one, one that scales, and two over ranks.

Its tests deploy nothing but those of `test_redeploy`, which are the last.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.deployments.cluster import PROMPT_METRICS, Cluster, Driver
from tests.deployments.conftest import Endpoint, Serve

MODEL, FAKE, SCALED = "z-image-turbo", "fake", "scaled"
COUNTED = "counted"
"""A fake one whose requests are counted."""
ONE_NODE, PLACED = "one-node", "placed"
"""Models whose engines are divided over two ranks: of one node, and placed by Ray."""
DIVIDED_MODEL = "tiny-zimage-base"
MAX_QUEUE_S = 3.0

_SCALING = {
    "min_replicas": 0,
    "max_replicas": 2,
    "target_queue_s": 0.5,
    "upscale_delay_s": 0,
    "downscale_delay_s": 1,
}
_DIVIDED = {"model": DIVIDED_MODEL, "num_cpus": 0.5, "tensor_parallel_size": 2}
_MODELS: dict[str, dict[str, Any]] = {
    MODEL: {"num_cpus": 1, "max_queue_s": MAX_QUEUE_S},
    FAKE: {"num_cpus": 0, "engine": {"fake": True}},
    SCALED: {"num_cpus": 1, "max_queue_s": 600, "scaling": _SCALING},
    ONE_NODE: _DIVIDED,
    PLACED: _DIVIDED | {"tensor_parallel_placement": "any_nodes"},
}


def app_args(*model_ids: str, **changes: Any) -> dict[str, Any]:
    """Return the arguments of an app of these models; ``changes`` are of the one that scales."""
    models = _MODELS | {SCALED: _MODELS[SCALED] | changes}
    return {"models": [{"id": model_id, **models[model_id]} for model_id in model_ids]}


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run all of them; the one that scales has no replica until asked."""
    with serve_endpoint(**app_args(*_MODELS), environment=PROMPT_METRICS) as running:
        yield running


@pytest.fixture(scope="package")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture(scope="package")
def driver(cluster: Cluster) -> Iterator[Driver]:
    with cluster.driver() as driver:
        yield driver
