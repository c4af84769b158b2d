"""One Ray for all tests of jobs, and the command line run inside the test process."""

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
import ray

from jobs import cli
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.dataset.parts import read_part
from pipelines.storage_address import open_storage
from tests.s3_server import S3Server


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines() if line.startswith("{")]

    def event(self, name: str) -> dict[str, Any]:
        return next(event for event in self.events() if event["event"] == name)


Zimage = Callable[..., Finished]


@pytest.fixture(scope="package")
def ray_session(s3: S3Server) -> Iterator[None]:
    """Run a Ray whose workers know the S3 server's account: they have the environment of their start."""
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="package")
def zimage(ray_session: None) -> Zimage:
    def run(*arguments: object) -> Finished:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.run([str(argument) for argument in arguments])
        return Finished(code=int(code), out=out.getvalue(), err=err.getvalue())

    return run


@dataclass(frozen=True)
class Published:
    """A data set as its readers see it: through the newest manifest."""

    manifest: RunManifest
    rows: list[dict[str, Any]]
    errors: list[dict[str, Any]]

    @property
    def by_key(self) -> dict[str, dict[str, Any]]:
        keys = [row["key"] for row in self.rows]
        assert len(keys) == len(set(keys)), "a key is published twice"
        return {row["key"]: row for row in self.rows}


def published(output: object) -> Published:
    storage = open_storage(str(output))
    manifest = read_manifest(storage)
    assert manifest is not None
    tables = [read_part(storage, part.path) for part in manifest.parts]
    errors = [read_part(storage, part.path) for part in manifest.error_parts]
    return Published(
        manifest=manifest,
        rows=pa.concat_tables(tables).to_pylist() if tables else [],
        errors=pa.concat_tables(errors).to_pylist() if errors else [],
    )
