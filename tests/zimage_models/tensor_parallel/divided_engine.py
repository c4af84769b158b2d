"""Engines over several ranks, for tests: the server that forks ranks is started once for all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import ImageRequest, ImageResult
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

    @property
    def server_pid(self) -> int:
        return self._launcher._server.pid

    def shut_down(self) -> None:
        self._launcher.close()


def divided_config(model: Path | str, num_ranks: int, **parallel: Any) -> EngineConfig:
    options = {"collective_timeout_s": 20.0, "start_timeout_s": 60.0, **parallel}
    return EngineConfig(
        model=str(model),
        variant="base",
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
