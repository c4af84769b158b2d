"""One endpoint that asks for keys, takes little, fetches pictures by address and stores those it makes."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployments.conftest import Endpoint, Serve
from tests.deployments.locked_endpoint.attacks import KEY
from tests.s3_server import S3Server

FAKE, SMALL = "fake", "small"
"""The first, which makes tiles, and a real one with a short queue."""
SLOW_KEY, SLOW_FORM_KEY, BUSY_KEY = "sk-once-a-minute", "sk-one-form-a-minute", "sk-one-at-a-time"
KEYS: list[dict[str, Any]] = [
    {"name": "any", "key": KEY},
    {"name": "slow", "key": SLOW_KEY, "requests_per_minute": 1},
    {"name": "slow form", "key": SLOW_FORM_KEY, "requests_per_minute": 1},
    {"name": "busy", "key": BUSY_KEY, "max_concurrent": 1},
]
DRAIN_TIMEOUT = "0.01"
LIMITS = {"max_body_bytes": 2_000_000, "max_image_bytes": 1_000_000}


def write_keys(path: Path, keys: list[dict[str, Any]]) -> None:
    path.with_suffix(".new").write_text(yaml.safe_dump(keys))
    path.with_suffix(".new").replace(path)


@pytest.fixture(scope="package")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    write_keys(path, KEYS)
    return path


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder that the endpoint works in."""
    folder = tmp_path_factory.mktemp("working") / "a" / "b"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="package")
def endpoint(serve_endpoint: Serve, s3: S3Server, keys_file: Path, folder: Path) -> Iterator[Endpoint]:
    bucket = f"images-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(bucket)
    with contextlib.chdir(folder):
        running = serve_endpoint(
            *("--drain-timeout", DRAIN_TIMEOUT),
            models=[{"id": FAKE, "engine": {"fake": True}}, {"id": SMALL, "engine": {"max_queued": 4}}],
            auth={"keys_file": str(keys_file)},
            limits=LIMITS,
            image_urls="fetch",
            object_store={"address": f"s3://{bucket}/made", "endpoint_url": s3.endpoint_url},
        )
        with running as endpoint:
            yield endpoint
