"""One endpoint under load: a model with a short queue, a fake one, and one that scales."""

from collections.abc import Iterator

import pytest

from tests.deployments.cluster import PROMPT_METRICS, Cluster, Driver
from tests.deployments.conftest import Endpoint, Serve

MODEL, FAKE, SCALED = "z-image-turbo", "fake", "scaled"
MAX_QUEUE_S = 3.0


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve) -> Iterator[Endpoint]:
    """Run all three; the fake one and the one that scales have no replica until asked.

    Ray drops the counts of a process from before it has found Ray's exporter, which starts no sooner.
    """
    scaling = {
        "min_replicas": 0,
        "max_replicas": 2,
        "target_queue_s": 0.5,
        "upscale_delay_s": 0,
        "downscale_delay_s": 1,
    }
    fake = {"num_cpus": 0, "engine": {"fake": True}, "scaling": {"min_replicas": 0, "max_replicas": 1}}
    models = [
        {"id": MODEL, "num_cpus": 1, "max_queue_s": MAX_QUEUE_S},
        {"id": FAKE, **fake},
        {"id": SCALED, "num_cpus": 1, "max_queue_s": 600, "scaling": scaling},
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
