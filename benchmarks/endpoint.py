"""Runs `zimage serve` in a separate process, as users start it, for benchmarks and tests over HTTP."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

_START_S = 120
_STOP_S = 90


@dataclass(frozen=True)
class Endpoint:
    """A running endpoint."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def batch_environment(self) -> dict[str, str]:
        """What `zimage generate --engine serve` needs in its environment, as `zimage serve` prints it."""
        return dict(re.findall(r"(RAY_[A-Z_]+)=(\S+)", self.log.read_text()))


def free_port() -> int:
    """Return a port of this machine that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@contextlib.contextmanager
def serving(
    folder: Path,
    *flags: str,
    environment: dict[str, str] | None = None,
    start_timeout_s: float = _START_S,
    **args: Any,
) -> Iterator[Endpoint]:
    """Run an endpoint with these ``args`` of the app until the block ends; its output goes to the folder."""
    config = folder / "serve_args.yaml"
    config.write_text(yaml.safe_dump(args))
    port = free_port()
    log = folder / "serve.log"
    command = [
        sys.executable,
        "-m",
        "jobs.cli",
        "serve",
        "--port",
        str(port),
        "--config",
        str(config),
        *flags,
    ]
    # On an existing cluster, `zimage serve` does not print how batch jobs join it.
    ready = b"serving " if "RAY_ADDRESS" in (environment or {}) else b"batch jobs: "
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**inherited, **(environment or {})},
            start_new_session=True,
        )
    try:
        deadline_s = time.monotonic() + start_timeout_s
        while ready not in log.read_bytes():
            assert process.poll() is None, f"zimage serve ended:\n{log.read_text()}"
            assert time.monotonic() < deadline_s, f"zimage serve did not start:\n{log.read_text()}"
            time.sleep(0.2)
        yield Endpoint(url=f"http://127.0.0.1:{port}", process=process, log=log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=_STOP_S)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
