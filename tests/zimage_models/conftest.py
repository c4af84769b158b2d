"""Checkpoints and references that the tests of the models share."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import ZImagePipeline

from tests.zimage_models.diffusers_reference import load_pipeline
from zimage_models.tiny import build_tiny_checkpoint


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Run torch on one thread: on tiny tensors more of them mostly wait, and for long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random checkpoint as the release is built: 8x VAE, sizes are multiples of 16. Read only."""
    return build_tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


@pytest.fixture(scope="session")
def pipeline_of() -> Callable[[Path], ZImagePipeline]:
    """Load diffusers' own pipeline of a checkpoint, once."""
    return cache(load_pipeline)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the product caches for a user out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
