"""One endpoint under load: a model with a short queue, fake ones, and one that scales."""

from collections.abc import Iterator

import pytest

from tests.deployments.cluster import PROMPT_METRICS, Cluster, Driver
from tests.deployments.conftest import Endpoint, Serve

MODEL, FAKE, SCALED = "z-image-turbo", "fake", "scaled"
COUNTED = "counted"
"""A fake one whose requests are counted; Ray drops counts from before a process has found its exporter."""
MAX_QUEUE_S = 3.0


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run all of them; the last two have no replica until asked."""
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_queue_s": 0.5,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
    }
    fake = {"num_cpus": 0, "engine": {"fake": True}}
    models = [
        {"id": MODEL, "num_cpus": 1, "max_queue_s": MAX_QUEUE_S},
        {"id": FAKE, **fake},
        {"id": SCALED, "num_cpus": 1, "max_queue_s": 600, "scaling": scaling},
        {"id": COUNTED, **fake, "scaling": {"min_replicas": 0, "max_replicas": 1}},
    ]
    with serve_endpoint(models=models, environment=PROMPT_METRICS) as running:
        yield running


@pytest.fixture(scope="package")
def cluster(endpoint: Endpoint) -> Cluster:
    return Cluster(endpoint)


@pytest.fixture(scope="package")
def driver(cluster: Cluster) -> Iterator[Driver]:
    with cluster.driver() as driver:
        yield driver
