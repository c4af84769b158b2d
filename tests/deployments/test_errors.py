"""Every error keeps its type and details when it crosses a process border, as between processes of Ray."""

import pickle
from collections.abc import Iterator
from typing import Any

import pytest

import deployments.errors
import pipelines.run.picture_stage  # noqa: F401 - it has an error of its own
from zimage_models.errors import ZImageError

DETAILS: dict[str, Any] = {
    "field": "seed",
    "is_transient": True,
    "retry_after_s": 2.5,
    "error_class": "fetch_failed",
    "has_started": True,
}


def tree(root: type[ZImageError]) -> Iterator[type[ZImageError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


def test_the_endpoints_errors_are_part_of_the_tree() -> None:
    assert {deployments.errors.RateLimited, deployments.errors.NoReplica} <= {*tree(ZImageError)}


@pytest.mark.parametrize("error_type", sorted({*tree(ZImageError)}, key=lambda one: one.__name__))
def test_an_error_crosses_processes_as_what_it_is(error_type: type[ZImageError]) -> None:
    error = error_type("seed: -1 is outside", **{name: DETAILS[name] for name in error_type.details})
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (error_type, "seed: -1 is outside")
    assert vars(copy) == vars(error)
