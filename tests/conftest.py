"""Fixtures that every room's tests share."""

import os
import random
import signal
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

from tests.chance import seeded_chance
from tests.s3_server import S3Server, s3_server

# A shell that runs the suite in the background has it ignore interrupts, and so would the commands that tests
# start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Ray runs its workers at niceness 15. On a busy machine they would hardly run beside other programs, and
# Serve would take their proxy for dead before it has started.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 (its real name)
os.environ["RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S"] = "60"
# A busy machine makes any example slow. The same examples every time, so that a run fails only for what has
# changed; `--hypothesis-profile default` draws others.
settings.register_profile(
    "zimage",
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("zimage")


_WITH_RAY = ("clients", "deployments", "jobs", "examples")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: Any, log: Any) -> LoadScopeScheduling:
    """Divide the tests over the two processes of `make test`: all that starts a Ray, and the rest by file.

    What starts a Ray takes turns, and often waits; the rest computes meanwhile.
    """
    return _ByRoom(config, log)


class _ByRoom(LoadScopeScheduling):
    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "with Ray" if path.split("/")[1] in _WITH_RAY else path


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """Run an S3 server, its account in the environment so that processes started later inherit it."""
    with s3_server() as server, pytest.MonkeyPatch.context() as environment:
        for name in ("AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
            environment.delenv(name, raising=False)
        environment.setenv("AWS_ACCESS_KEY_ID", server.access_key)
        environment.setenv("AWS_SECRET_ACCESS_KEY", server.secret_key)
        environment.setenv("AWS_REGION", "us-east-1")
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> str:
    """Make a bucket for one test, and return its address."""
    name = f"test-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(name)
    return f"s3://{name}"


@pytest.fixture
def chance() -> random.Random:
    """Make a generator for what a test leaves to chance."""
    return seeded_chance()
