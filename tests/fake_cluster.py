"""A Ray cluster of fake nodes on this machine, which Ray's own autoscaler starts and ends.

`ray.cluster_utils.AutoscalingCluster` does not work from Ray 2.60's wheel (it lacks a file), and it runs
`ray stop --force`, which ends every Ray on the machine. This one has a folder and a port of its own and ends
only what it started. Nodes and engines are counted as processes: the test itself joins no Ray.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.endpoint import free_port

_HEAD_ID = "f" * 51 + "00000"
_NODE_TYPE = "RAY_NODE_TYPE_NAME"
"""Ray's provider of fake nodes gives it to a node's raylet."""
_START_S = 90
_STOP_S = 10


def gpu_node(accelerator: str, *, max_nodes: int, gpus: int = 1) -> dict[str, Any]:
    """Describe a node type that says it has GPUs of this type."""
    return {
        "resources": {
            "CPU": 2,
            "GPU": gpus,
            f"accelerator_type:{accelerator}": 1,
            "object_store_memory": 100 * 2**20,
        },
        "labels": {"ray.io/accelerator-type": accelerator},
        "node_config": {},
        "min_workers": 0,
        "max_workers": max_nodes,
    }


class FakeCluster:
    """A head without GPUs, and nodes of the given types while they are needed."""

    def __init__(self, folder: Path, node_types: dict[str, dict[str, Any]], *, idle_s: float) -> None:
        self._folder = folder
        host, port = "127.0.0.1", free_port()
        self.address = f"{host}:{port}"
        self.environment = {
            "RAY_ADDRESS": self.address,
            # Whether tokens are asked for depends on what ran on this machine before; all must agree.
            "RAY_AUTH_MODE": "disabled",
            "RAY_TMPDIR": str(folder),
        }
        config = folder / "cluster.json"
        config.write_text(json.dumps(_config(self.address, node_types, idle_s)))
        self._log = folder / "head.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
        command += [f"--node-ip-address={host}", f"--port={port}", f"--autoscaling-config={config}"]
        command += ["--num-cpus=4", "--num-gpus=0", "--include-dashboard=false", "--disable-usage-stats"]
        command += [f"--object-store-memory={150 * 2**20}", '--labels={"pool": "head"}']
        with self._log.open("wb") as log:
            self._head = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **os.environ,
                    **self.environment,
                    "RAY_FAKE_CLUSTER": "1",
                    "RAY_enable_autoscaler_v2": "1",
                    "RAY_CLOUD_INSTANCE_ID": _HEAD_ID,
                    "RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID,
                    "AUTOSCALER_UPDATE_INTERVAL_S": "1",
                    # A dead node is noticed in seconds, not in half a minute.
                    "RAY_health_check_period_ms": "1000",
                    "RAY_health_check_failure_threshold": "3",
                },
            )
        self._seen: list[tuple[float, Counter[str]]] = []
        self._done = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def start(self) -> None:
        """Wait until drivers can join."""
        deadline_s = time.monotonic() + _START_S
        while b"Ray runtime started" not in self._log.read_bytes():
            assert self._head.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline_s, self._log.read_text()
            time.sleep(0.1)
        self._watcher.start()

    def nodes(self) -> Counter[str]:
        """Count the running nodes beside the head, by type."""
        return Counter(node_type for _, node_type in self._raylets())

    def history(self) -> list[tuple[float, Counter[str]]]:
        """Return (seconds, nodes) of every change since the start."""
        return list(self._seen)

    def workers(self, title: str) -> Counter[str]:
        """Count worker processes whose title holds this, by the type of the node they run on."""
        return Counter(
            node_type
            for raylet, node_type in self._raylets()
            for worker in _descendants(raylet)
            if title in _command(worker)
        )

    def remove_node(self, node_type: str) -> None:
        """Take a node away as a cloud does: its raylet and all its workers end at once."""
        raylet = next(process for process, name in self._raylets() if name == node_type)
        _kill([raylet, *_descendants(raylet)])

    def stop(self) -> None:
        """End everything, and make sure that it ended."""
        self._done.set()
        if self._watcher.is_alive():
            self._watcher.join()
        # The head goes first, or its autoscaler would replace what ends; that is the parent of the nodes.
        # Workers are found by their parents, for the title that Ray gives them overwrites their environment.
        head = psutil.Process(self._head.pid)
        running = {head, *_descendants(head), *self._processes()}
        for raylet, _ in self._raylets():
            running.update(_descendants(raylet))
        _kill([head, *running])
        self._head.wait(_STOP_S)
        deadline_s = time.monotonic() + _STOP_S
        while left := {process for process in running if _runs(process)} | set(self._processes()):
            _kill(left)
            assert time.monotonic() < deadline_s, f"still running: {[_command(process) for process in left]}"
            time.sleep(0.1)

    def _watch(self) -> None:
        start_s = time.monotonic()
        while not self._done.wait(0.2):
            nodes = self.nodes()
            if not self._seen or nodes != self._seen[-1][1]:
                self._seen.append((round(time.monotonic() - start_s, 1), nodes))

    def _raylets(self) -> Iterator[tuple[psutil.Process, str]]:
        for process in self._processes():
            if "raylet/raylet" in _command(process) and (name := _environment(process).get(_NODE_TYPE)):
                yield process, name

    def _processes(self) -> list[psutil.Process]:
        """Find what runs in this cluster: only that has its folder in the environment."""
        return [
            process
            for process in psutil.process_iter()
            if _environment(process).get("RAY_TMPDIR") == str(self._folder) and _runs(process)
        ]


@contextlib.contextmanager
def fake_cluster(node_types: dict[str, dict[str, Any]], *, idle_s: float = 4.0) -> Iterator[FakeCluster]:
    """Run a cluster whose nodes go after so many idle seconds."""
    # Ray's sockets lie in it, whose paths may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="fake_"))
    try:
        cluster = FakeCluster(folder, node_types, idle_s=idle_s)
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _config(address: str, node_types: dict[str, dict[str, Any]], idle_s: float) -> dict[str, Any]:
    head = {"resources": {"CPU": 4}, "labels": {"pool": "head"}, "node_config": {}, "max_workers": 0}
    nothing: dict[str, Any] = {
        f"{who}_commands": []
        for who in (
            "initialization",
            "setup",
            "head_setup",
            "worker_setup",
            "head_start_ray",
            "worker_start_ray",
        )
    }
    return {
        "cluster_name": "fake",
        "max_workers": 8,
        "upscaling_speed": 1.0,
        "idle_timeout_minutes": idle_s / 60,
        # The type "fake_multinode" would read the missing file; "external" takes the class itself.
        "provider": {
            "type": "external",
            "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
            "launch_multiple": True,
            "head_node_id": _HEAD_ID,
            "gcs_address": address,
        },
        "available_node_types": {**node_types, "ray.head.default": head},
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        **nothing,
    }


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []


def _runs(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


def _environment(process: psutil.Process) -> dict[str, str]:
    with contextlib.suppress(psutil.Error, OSError):
        return dict(process.environ())
    return {}


def _command(process: psutil.Process) -> str:
    with contextlib.suppress(psutil.Error, OSError):
        return " ".join(process.cmdline())
    return ""
