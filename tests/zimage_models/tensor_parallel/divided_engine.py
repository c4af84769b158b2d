"""Engines over several ranks, for tests: the server that forks ranks is started once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.zimage_models.engine_parts import cpu_components, engine_around
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.model_runner import ModelRunner
from zimage_models.requests import ImageRequest, ImageResult
from zimage_models.tensor_parallel.load_first_rank import load_first_rank
from zimage_models.tensor_parallel.local_ranks import LocalRank, LocalRankLauncher
from zimage_models.tensor_parallel.rank_launcher import Rendezvous


class KeptLauncher:
    """Starts local ranks and remembers them; an engine that closes leaves the server to the next one."""

    host = LocalRankLauncher.host

    def __init__(self) -> None:
        self._launcher = LocalRankLauncher()
        self.ranks: dict[int, LocalRank] = {}
        """The last one started of each number."""
        self.on_launch: Callable[[], None] = lambda: None

    def launch(self, rank: int, rendezvous: Rendezvous, config: EngineConfig) -> LocalRank:
        self.on_launch()
        self.ranks[rank] = self._launcher.launch(rank, rendezvous, config)
        return self.ranks[rank]

    def close(self) -> None:
        assert not any(rank.alive for rank in self.ranks.values())

    def shut_down(self) -> None:
        self._launcher.close()


def divided_config(
    model: Path | str, num_ranks: int, *, variant: str | None = "base", **parallel: Any
) -> EngineConfig:
    options = {"collective_timeout_s": 20.0, "start_timeout_s": 60.0, **parallel}
    return EngineConfig(
        model=str(model),
        variant=variant,
        num_threads=1,
        parallel=ParallelConfig(tensor_parallel_size=num_ranks, **options),
    )


@contextmanager
def divided_engine(
    launcher: KeptLauncher, model: Path | str, num_ranks: int, **parallel: Any
) -> Iterator[Engine]:
    engine = load_engine(divided_config(model, num_ranks, **parallel), launcher=launcher)
    try:
        yield engine
    finally:
        engine.close()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An engine and its runner."""

    engine: Engine
    runner: ModelRunner


@contextmanager
def divided_parts(
    launcher: KeptLauncher, model: Path | str, num_ranks: int, **parallel: Any
) -> Iterator[Parts]:
    """Load an engine over several ranks, as `load_engine` does, and keep hold of its runner."""
    config = divided_config(model, num_ranks, **parallel)
    spec = resolve_model(config)
    runner = load_first_rank(
        config,
        spec,
        device=torch.device("cpu"),
        dtype=torch.float32,
        vae_dtype=torch.float32,
        launcher=launcher,
    )
    parts = Parts(engine=engine_around(spec, runner), runner=runner)
    try:
        yield parts
    finally:
        parts.engine.close()


def whole_parts(model: Path | str, **options: Any) -> Parts:
    """Load the same engine on one rank, and keep hold of its runner."""
    spec = resolve_model(divided_config(model, 1, **options))
    runner = ModelRunner(
        cpu_components(spec.directory), caption_cache_bytes=2**20, denoiser_class=denoiser_class(spec.variant)
    )
    return Parts(engine=engine_around(spec, runner), runner=runner)


def make_all(
    engine: Engine, requests: Sequence[ImageRequest], before_step: Callable[[int], None] = lambda step: None
) -> list[ImageResult]:
    """Make images together, stepping by hand."""
    handles = [engine.submit(request) for request in requests]
    step = 0
    while True:
        before_step(step)
        if not engine.step():
            return [handle.result(0) for handle in handles]
        step += 1


def relative_difference(one: Tensor, reference: Tensor) -> float:
    return float((one - reference).abs().max() / reference.abs().max())
