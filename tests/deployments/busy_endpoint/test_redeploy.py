"""An app that is deployed anew, with other arguments and fewer models: the last test of this endpoint."""

import psutil
import pytest

from tests.conditions import eventually
from tests.deployments.busy_endpoint.conftest import FAKE, MODEL, ONE_NODE, PLACED, SCALED, app_args
from tests.deployments.busy_endpoint.ranks import ranks_of
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint
from tests.rank_processes import gone

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def test_redeploy_loses_no_accepted_request_and_leaves_nothing_of_models_that_go(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    ranks: list[psutil.Process] = []
    for model_id in (ONE_NODE, PLACED):
        ranks += eventually(lambda: ranks_of(endpoint, cluster, model_id), f"{model_id} has its rank")  # noqa: B023
    assert len(ranks) == 2
    assert driver.num_placement_groups() == 1
    with (
        load(endpoint, clients=20, model=SCALED) as plain,
        load(endpoint, clients=2, model=SCALED, stream=True) as streams,
    ):
        eventually(lambda: driver.num_running(SCALED) == 2, "two replicas share the load", timeout_s=90)
        eventually(lambda: driver.stats(SCALED)["num_online"], "requests are in flight")
        before = {replica.pid for replica in cluster.replicas(SCALED)}
        one = {"min_replicas": 1, "max_replicas": 1, "downscale_delay_s": 0}
        driver.deploy(**app_args(MODEL, FAKE, SCALED, scaling=one, max_queue_s=500.0))
        eventually(
            lambda: before.isdisjoint(replica.pid for replica in cluster.replicas(SCALED)),
            "the old ones are gone",
        )
        assert len(cluster.replicas(SCALED)) == 1
        plain.stop()
        streams.stop()
        for summary in (plain.summary(), streams.summary()):
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}
    assert gone(ranks)
    eventually(lambda: driver.num_placement_groups() == 0, "the placement group is gone")
