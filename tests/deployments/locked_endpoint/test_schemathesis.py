"""The endpoint against its own description: requests made from ``/openapi.json``, right and wrong."""

import os
import subprocess
import sysconfig
from pathlib import Path

import pytest

from tests.deployments.conftest import Endpoint
from tests.deployments.locked_endpoint.attacks import KEY

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)


@pytest.mark.parametrize("phases", ["examples,fuzzing", pytest.param("coverage", marks=pytest.mark.soak)])
def test_answers_are_as_described(endpoint: Endpoint, tmp_path: Path, phases: str) -> None:
    # Its pytest plugin (4.32) reaches into pytest's nodes where pytest 9 no longer lets it.
    command = [
        f"{sysconfig.get_path('scripts')}/schemathesis",
        "run",
        f"{endpoint.url}/openapi.json",
        f"--checks={','.join(CHECKS)}",
        f"--phases={phases}",
        "--max-examples=30",
        "--generation-deterministic",
        "--continue-on-failure",
        f"--header=Authorization: Bearer {KEY}",
        "--no-color",
    ]
    root = Path(__file__).parents[3]
    environment = os.environ | {
        "SCHEMATHESIS_HOOKS": "tests.deployments.locked_endpoint.schemathesis_hooks",
        "PYTHONPATH": str(root),
    }
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "Tested: 6" in run.stdout
