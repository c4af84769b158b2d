"""An app that is deployed anew, with other arguments and fewer models: the last test of this endpoint."""

import pytest

from tests.conditions import eventually
from tests.deployments.cluster import Cluster, Driver, load
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import FAKE, PAIR, PLACED, app_args
from tests.deployments.failing_endpoint.ranks import ranks_of
from tests.rank_processes import gone

# Without the time that an endpoint takes to start.
pytestmark = pytest.mark.timeout(120, func_only=True)


def test_redeploy_loses_no_accepted_request_and_leaves_nothing_of_models_that_go(
    endpoint: Endpoint, cluster: Cluster, driver: Driver
) -> None:
    ranks = eventually(lambda: ranks_of(endpoint, cluster, PLACED), "the divided model has its rank")
    assert ranks
    assert driver.num_placement_groups() == 1
    before = {replica.pid for replica in cluster.replicas(PAIR)}
    with load(endpoint, clients=3) as plain, load(endpoint, clients=1, stream=True) as streams:
        eventually(lambda: driver.stats(PAIR)["num_online"], "requests are in flight")
        driver.deploy(**app_args(PAIR, FAKE, num_replicas=1, max_queue_s=100.0))
        eventually(lambda: len(cluster.replicas(PAIR)) == 1, "the old ones are gone")
        plain.stop()
        streams.stop()
        for summary in (plain.summary(), streams.summary()):
            assert summary["outcomes"].keys() == {"200"}
            assert summary["unanswered"] == {}
    assert before.isdisjoint(replica.pid for replica in cluster.replicas(PAIR))
    assert gone(ranks)
    eventually(lambda: driver.num_placement_groups() == 0, "the placement group is gone")
