"""The ranks of divided models, as they are seen from outside."""

import psutil

from tests.deployments.cluster import Cluster
from tests.deployments.conftest import Endpoint
from tests.deployments.failing_endpoint.conftest import PLACED
from tests.rank_processes import rank_processes


def ranks_of(endpoint: Endpoint, cluster: Cluster, model_id: str) -> list[psutil.Process]:
    """List a model's ranks but rank 0: placed ones are Ray actors, others children of their replica."""
    if model_id == PLACED:
        return cluster.processes("ray::_RankActor")
    return rank_processes(psutil.Process(endpoint.process.pid))
