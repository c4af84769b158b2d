"""A job on a cluster without GPU nodes: the right ones come, one is taken away, all rows are made."""

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conditions import eventually
from tests.fake_cluster import FakeCluster, fake_cluster, gpu_node
from tests.jobs.test_kill import Command, assert_whole

NUM_ROWS = 192
"""So many that the run is not over before the second node is there."""

# Nodes take half a minute to come and go.
pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def cluster() -> Iterator[FakeCluster]:
    types = {"l40s": gpu_node("L40S", max_nodes=2), "h100": gpu_node("H100", max_nodes=2)}
    with fake_cluster(types) as running:
        yield running


class ClusterCommand(Command):
    """`zimage generate` in the fake cluster."""

    def __init__(self, cluster: FakeCluster, *arguments: object) -> None:
        super().__init__(*arguments, environment=cluster.environment)

    def until_event(self, name: str) -> dict[str, Any]:
        for event in self.events():
            if event["event"] == name:
                return event
        raise AssertionError(f"ended without {name}: {self.process.communicate()[1][-2000:]}")


def table(path: Path, num_rows: int) -> Path:
    rows = {"id": [f"row-{i}" for i in range(num_rows)], "prompt": [f"prompt {i}" for i in range(num_rows)]}
    pq.write_table(pa.table(rows), path)
    return path


def test_nodes_of_the_right_type_come_with_a_job_and_go_after_it(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    # Fake engines answer at once; large images keep the run busy with encoding, and so full of work.
    source = table(tmp_path / "table.parquet", NUM_ROWS)
    made = ("--fake", "--size", "1024x1024", "--commit-rows", 4)
    engines = ("--engines", "1:3", "--engine-gpus", 1, "--accelerator-type", "L40S")
    assert cluster.nodes() == Counter()
    command = ClusterCommand(cluster, source, tmp_path / "out", *made, *engines)
    # The pool is as large as its queue keeps busy, so all nodes come at once. There are no three of the
    # type, and another would be of no use.
    eventually(lambda: _on_two_nodes(cluster, command), "an engine on each of two nodes", timeout_s=180)
    command.until(written=4)
    cluster.remove_node("l40s")
    assert command.finish() == 0
    assert_whole(tmp_path / "out", NUM_ROWS)
    eventually(lambda: not cluster.nodes(), "no node is kept", timeout_s=120)
    assert {name for _, nodes in cluster.history() for name in nodes} == {"l40s"}


def _on_two_nodes(cluster: FakeCluster, command: ClusterCommand) -> bool:
    assert command.process.poll() is None, "the run ended before there were two nodes"
    return cluster.workers("MapWorker") == {"l40s": 2}


def test_engine_that_fits_no_node_type_says_what_it_waits_for(cluster: FakeCluster, tmp_path: Path) -> None:
    source = table(tmp_path / "table.parquet", 8)
    command = ClusterCommand(
        cluster, source, tmp_path / "out", "--accelerator-type", "B200", "--fake", "--engine-gpus", 1
    )
    waiting = command.until_event("waiting")
    assert waiting["for"].startswith("1 engine of 1 GPU and 1 CPU on B200 nodes; none is starting: ")
    command.process.send_signal(signal.SIGINT)
    assert command.finish() == 130


def test_whether_engines_take_gpus_that_are_yet_to_come_must_be_said(
    cluster: FakeCluster, tmp_path: Path
) -> None:
    command = ClusterCommand(cluster, table(tmp_path / "table.parquet", 8), tmp_path / "out")
    assert command.finish() == 2
    assert command.process.stderr is not None
    assert "give --engine-gpus 1" in command.process.stderr.read()
