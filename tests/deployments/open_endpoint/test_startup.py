"""What the operator saw of this endpoint's start."""

import re

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.pictures import BASE, EDIT, TURBO


def test_the_start_is_told(endpoint: Endpoint) -> None:
    told = endpoint.log.read_text()
    for model_id in (TURBO, BASE, EDIT):
        assert re.search(rf"^{model_id}: (fetching|loading|warming up) \(\d+ s\)$", told, re.MULTILINE)
    engines = ", ".join(f"1 of {model_id}" for model_id in (TURBO, BASE, EDIT))
    assert re.search(rf"^ready after \d+ s; engines: {engines}$", told, re.MULTILINE)
