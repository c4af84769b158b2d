"""Checkpoints and references that the tests of the models share."""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import ZImagePipeline

from tests.zimage_models.diffusers_reference import load_pipeline
from tests.zimage_models.tensor_parallel.divided_engine import KeptLauncher
from zimage_models.checkpoints.tiny import build_tiny_checkpoint


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
def omni_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random checkpoint that reads reference images; its own size is the release's. Read only."""
    return _build_omni(tmp_path_factory.mktemp("checkpoints") / "omni")


@pytest.fixture(scope="session")
def siglip_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build one that reads their SigLIP2 features too. Read only."""
    return _build_omni(tmp_path_factory.mktemp("checkpoints") / "siglip", siglip_width=24)


def _build_omni(directory: Path, **options: Any) -> Path:
    # Heads that divide by 2 and 3.
    return build_tiny_checkpoint(
        directory, dim=48, num_heads=6, num_layers=2, sample_size=1024, reads_references=True, **options
    )


@pytest.fixture(scope="session")
def pipeline_of() -> Callable[[Path], ZImagePipeline]:
    """Load diffusers' own pipeline of a checkpoint, once."""
    return cache(load_pipeline)


@pytest.fixture(autouse=True)
def cache_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what the product caches for a user out of the home of whoever runs the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def rank_launcher() -> Iterator[KeptLauncher]:
    """Start the server that forks ranks, once: it imports torch and diffusers."""
    launcher = KeptLauncher()
    yield launcher
    launcher.shut_down()


@pytest.fixture(scope="session")
def six_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a checkpoint whose heads divide by 2 and 3, not by 4, and its hidden units not by 3."""
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "six", dim=48, num_heads=6, num_layers=2
    )


@pytest.fixture(scope="session")
def thirty_heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a checkpoint with as many heads as the release; over 4 ranks they are padded to 32."""
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "thirty",
        dim=240,
        num_heads=30,
        num_layers=2,
        num_refiner_layers=1,
    )
