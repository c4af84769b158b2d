"""What tests see of a running endpoint from behind (processes, metrics, logs, engines), and load on it."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2 as httpx
import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.deployments.conftest import Endpoint

# Ray reports metrics every 10 s, and Serve asks replicas for theirs every 6 s: too slow to watch a test by.
PROMPT_METRICS = {
    "RAY_metrics_report_interval_ms": "500",
    "RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S": "0.5",
}


class Cluster:
    """The Ray cluster that `zimage serve` has started."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._process = psutil.Process(endpoint.process.pid)
        command = next(title for _, title in self._titles() if "gcs_server" in title)
        self._session = Path(_flag(command, "session-dir"))
        self._node_address = _flag(command, "node-ip-address")

    def replicas(self, deployment: str) -> list[psutil.Process]:
        """Find the processes of a deployment's replicas."""
        # Ray puts the method that runs behind the name.
        name = re.compile(rf"ray::ServeReplica:default:{re.escape(deployment)}(\.|$)")
        return [process for process, title in self._titles() if name.match(title)]

    def processes(self, title: str) -> list[psutil.Process]:
        """Find the processes whose titles begin so."""
        return [process for process, whole_title in self._titles() if whole_title.startswith(title)]

    def samples(self, name: str, **labels: str) -> list[float]:
        """Read a metric's values with these labels, one a replica, from the text for Prometheus."""
        # All of it is a megabyte.
        lines = [line for line in self._metrics().splitlines() if line.startswith(name)]
        return [
            sample.value
            for family in text_string_to_metric_families("\n".join(lines) + "\n")
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]

    def metric(self, name: str, **labels: str) -> float:
        """Sum a metric; 0 while there is none."""
        return sum(self.samples(name, **labels))

    def listeners(self) -> set[tuple[str, str]]:
        """Find who listens for connections: titles of processes, and their addresses."""
        return {
            (title, connection.laddr.ip)
            for process, title in self._titles()
            for connection in process.net_connections("tcp")
            if connection.status == psutil.CONN_LISTEN
        }

    def log(self) -> str:
        """Read the logs of Serve and of all replicas."""
        paths = sorted((self._session / "logs" / "serve").glob("*.log"))
        return "".join(path.read_text(encoding="utf-8") for path in paths)

    @contextlib.contextmanager
    def driver(self) -> Iterator["Driver"]:
        """Run a driver in this cluster."""
        command = [sys.executable, "-m", "tests.deployments.serve_driver"]
        command.append(f"{self._node_address}:{self._port('gcs_server')}")
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # As jobs/ray_session.py does: else Ray would use this machine's other address.
            env={**os.environ, "RAY_AUTH_MODE": "token", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"},
        ) as process:
            yield Driver(process)
            process.communicate()

    def _metrics(self) -> str:
        return httpx.get(f"http://127.0.0.1:{self._port('metrics_export')}/metrics", timeout=30).text

    def _port(self, name: str) -> int:
        return int(next(self._session.glob(f"{name}_port_*")).read_text())

    def _titles(self) -> Iterator[tuple[psutil.Process, str]]:
        for process in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
                yield process, " ".join(process.cmdline()).strip()


class Driver:
    """Asks `serve_driver`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self._read("its start")

    def stats(self, model_id: str) -> dict[str, Any]:
        """Read the stats of a model's engine."""
        stats: dict[str, Any] = self._ask({"stats": model_id})
        return stats

    def num_running(self, model_id: str) -> int:
        """Count a model's replicas that take requests."""
        return int(self._ask({"num_running": model_id}))

    def num_placement_groups(self) -> int:
        """Count the placement groups that hold or wait for resources."""
        return int(self._ask({"num_placement_groups": True}))

    def deploy(self, **args: Any) -> None:
        """Deploy the app with these arguments, and wait until it runs."""
        self._ask({"deploy": args})

    def _ask(self, request: dict[str, Any]) -> Any:
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._read(f"an answer to {request}")

    def _read(self, what: str) -> Any:
        for line in self._process.stdout or ():
            if line.startswith("answer:"):
                return json.loads(line.removeprefix("answer:"))
        raise AssertionError(f"the driver ended before {what}")


class Load:
    """`benchmarks.load`, running."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def running(self) -> bool:
        """Return whether requests are sent or waited for."""
        return self._process.poll() is None

    def stop(self) -> None:
        """Send nothing more."""
        self._process.send_signal(signal.SIGINT)

    def summary(self) -> dict[str, Any]:
        """Wait for the last answers and sum up."""
        output, _ = self._process.communicate()
        assert self._process.returncode == 0
        summary: dict[str, Any] = json.loads(output)
        return summary


@contextlib.contextmanager
def load(endpoint: Endpoint, **options: Any) -> Iterator[Load]:
    """Run `benchmarks.load` with these options; the block waits until it has begun."""
    command = [sys.executable, "-m", "benchmarks.load", endpoint.url]
    options = {"duration": 600} | options
    for name, value in options.items():
        command += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield Load(process)
        finally:
            if process.poll() is None:
                process.kill()


def _flag(command: str, name: str) -> str:
    found = re.search(rf"--{name}=(\S+)", command)
    assert found, f"no --{name} in {command}"
    return found.group(1)
