"""Where nobody says how many engines a job has, its machine decides."""

from pathlib import Path
from typing import Any

import pytest
from ray._private.utils import get_num_cpus

from jobs import ray_session
from pipelines.options import GenerateOptions
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.errors import InvalidRequest

NUM_CPUS = int(get_num_cpus())


@pytest.fixture(autouse=True)
def own_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(ray_session.ray, "is_initialized", lambda: False)


def most_engines(folder: Path, **settings: Any) -> int:
    values = {"input": ("a.csv",), "output": str(folder), "engine": EngineConfig(device="cpu")} | settings
    options = GenerateOptions.model_validate(values)
    decided = ray_session.with_default_engines(options)
    assert decided.engines_min == options.engines_min
    return decided.engines_max


def test_each_core_gets_an_engine(tmp_path: Path) -> None:
    assert most_engines(tmp_path) == NUM_CPUS
    assert most_engines(tmp_path, engine_cpus=NUM_CPUS) == 1
    assert most_engines(tmp_path, engine_cpus=0.5) == 2 * NUM_CPUS


def test_engines_share_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_gib, expected in ((0.1, 1), (1.5, 1), (3.0, min(2, NUM_CPUS)), (None, NUM_CPUS)):
        free_bytes = None if free_gib is None else int(free_gib * 2**30)
        monkeypatch.setattr(ray_session, "available_bytes", lambda free_bytes=free_bytes: free_bytes)
        assert most_engines(tmp_path) == expected


@pytest.mark.parametrize(
    "settings",
    [
        {"serve_app": "default", "engine": EngineConfig()},
        {"engine": EngineConfig(fake=True)},
        {"engine": EngineConfig(device="cuda")},
        {"engine": EngineConfig(parallel=ParallelConfig(tensor_parallel_size=2))},
        {"accelerator_type": "L40S"},
        {"engine_gpus": 1},
    ],
)
def test_other_jobs_have_one(tmp_path: Path, settings: dict[str, Any]) -> None:
    assert most_engines(tmp_path, **settings) == 1


@pytest.mark.parametrize("found", [0, 1])
def test_an_engine_that_would_wait_for_ever_is_refused(
    found: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_session, "start_ray", lambda **_: None)
    monkeypatch.setattr(ray_session.ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": float(found)})
    values = {"input": ("a.csv",), "output": str(tmp_path), "engine": EngineConfig(device="cuda")}
    options = GenerateOptions.model_validate(values)
    if found:
        assert ray_session.connect(options).num_gpus == 1
    else:
        with pytest.raises(InvalidRequest, match="an engine takes 1, but Ray finds 0 on this machine"):
            ray_session.connect(options)


def test_jobs_on_a_cluster_have_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert most_engines(tmp_path) == 1
