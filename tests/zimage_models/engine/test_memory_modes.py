"""Memory modes make the images of a resident engine, and an engine that does not fit says so first."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch._dynamo.utils import counters

from tests.zimage_models.diffusers_reference import max_difference
from tests.zimage_models.engine.test_edits import picture
from zimage_models.checkpoints.tiny import build_tiny_controlnet
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.engine import check_memory
from zimage_models.engine import load_engine as loading
from zimage_models.engine.check_memory import refusal
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.errors import InvalidRequest
from zimage_models.memory.modes import MEMORY_MODES, RESIDENT
from zimage_models.memory.plan import FreeMemory, memory_plan
from zimage_models.memory.sizes import RELEASED_SIZES, RELEASED_TOKENS
from zimage_models.models.offload import strips
from zimage_models.models.offload.window import Window
from zimage_models.requests import build_request

STREAMED = [name for name in MEMORY_MODES if name != RESIDENT]
Pixels = list[npt.NDArray[np.uint8]]


@dataclass
class Family:
    """A model, what it is asked for, and what a resident engine makes of that."""

    config: dict[str, Any]
    values: Sequence[dict[str, Any]]
    resident: Pixels = field(default_factory=list)


def make(engine: Engine, values: Sequence[dict[str, Any]]) -> Pixels:
    common = {"num_inference_steps": 2, "prompt": "owl"}
    handles = [
        engine.submit(build_request(engine.spec, {**common, "seed": seed, **value}))
        for seed, value in enumerate(values)
    ]
    while engine.step():
        pass
    return [handle.result(0).pixels_HWC for handle in handles]


@pytest.fixture(scope="module")
def families(
    tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path, siglip_checkpoint: Path
) -> dict[str, Family]:
    controlnet = build_tiny_controlnet(
        tmp_path_factory.mktemp("c") / "c", num_channels=33, refiner_hints="control_noise_refiner"
    )
    guided = {"guidance_scale": 2.0, "negative_prompt": "dog"}
    references = [picture(64, 64), picture(96, 64, seed=1)]
    small = {"height": 64, "width": 64}
    made = {
        "turbo": Family(
            {"model": "tiny-zimage-turbo"},
            [
                {},
                {"prompt": "红苹果", "size": "96x64"},
                {"reference_images": [picture(64, 64)], "strength": 1.0},
            ],
        ),
        "turbo in fp8": Family({"model": "tiny-zimage-turbo", "precision": "fp8"}, [{}]),
        "edit": Family(
            {"model": str(siglip_checkpoint)},
            [{**guided, **small, "reference_images": references}, {**guided, **small}],
        ),
        "controlnet": Family(
            {"model": str(tiny_checkpoint), "variant": "base", "controlnet": str(controlnet)},
            [{**guided, "control_image": picture(64, 64)}, {"guidance_scale": 0.0}],
        ),
    }
    for family in made.values():
        family.resident = make(load_engine(EngineConfig(**family.config)), family.values)
    return made


@pytest.fixture(autouse=True)
def narrow_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut these small images into strips, too."""
    monkeypatch.setattr(strips, "STRIP_VALUES", 2**15)


@pytest.mark.parametrize("memory", STREAMED)
@pytest.mark.parametrize("name", ["turbo", "turbo in fp8", "edit", "controlnet"])
def test_images_are_those_of_a_resident_engine(families: dict[str, Family], name: str, memory: str) -> None:
    family = families[name]
    engine = load_engine(EngineConfig(**family.config, memory=memory))
    for found, expected in zip(make(engine, family.values), family.resident, strict=True):
        assert max_difference(found, expected) <= 1


def test_a_compiled_engine_streams_too(families: dict[str, Family]) -> None:
    torch._dynamo.reset()
    family = families["turbo"]
    engine = load_engine(EngineConfig(**family.config, memory="4gb"))
    engine._runner.denoiser.compile(backend="eager")
    counters.clear()
    [found] = make(engine, family.values[:1])
    assert max_difference(found, family.resident[0]) <= 1
    # With and without modulation: one form each, in whatever slot the weights are.
    assert counters["stats"]["unique_graphs"] == 2
    torch._dynamo.reset()


def window_of(engine: Engine) -> Window:
    window = engine._runner.denoiser._layers._window
    assert window
    return window


@pytest.mark.parametrize("memory", ["8gb", "4gb"])
def test_a_step_copies_the_planned_bytes(families: dict[str, Family], memory: str) -> None:
    config = EngineConfig(**families["turbo"].config, memory=memory)
    engine = load_engine(config)
    cpu = torch.device("cpu")
    plans = check_memory.memory_plans(
        config, engine.spec, device=cpu, dtype=torch.float32, vae_dtype=torch.float32
    )
    window = window_of(engine)
    make(engine, [{"num_inference_steps": 4}])
    before = window.num_bytes_copied
    # The prompt is known by now, so there are steps only.
    make(engine, [{"num_inference_steps": 4}])
    copied = window.num_bytes_copied - before
    assert copied == pytest.approx(4 * plans[memory].copied_per_step, rel=0.02)
    assert window.num_bytes == pytest.approx(plans[memory].window_bytes, rel=0.02)
    assert len(window.held) == MEMORY_MODES[memory].window


def refused(memory: str, *, device_gb: float, host_gb: float = 64) -> str:
    """Return what is said of a released model."""
    plans = {
        name: memory_plan(
            RELEASED_SIZES,
            mode,
            itemsize=2,
            vae_itemsize=4,
            num_tokens=RELEASED_TOKENS,
            num_pixels=1024 * 1024,
            cache_bytes=2**28,
        )
        for name, mode in MEMORY_MODES.items()
    }
    free = FreeMemory(device_bytes=int(device_gb * 1e9), host_bytes=int(host_gb * 1e9))
    return refusal(memory, plans, free, "cuda:0")


def test_what_does_not_fit_names_the_mode_that_does() -> None:
    assert refused("resident", device_gb=23.6) == (
        "memory: resident needs 24.0 GB on cuda:0, which has 23.6 GB free; --memory 16gb needs 15.1 GB"
    )
    assert refused("16gb", device_gb=6.0).endswith("which has 6.0 GB free; --memory 8gb needs 5.2 GB")
    assert refused("4gb", device_gb=3.0).endswith("which has 3.0 GB free; no memory mode fits")
    assert refused("8gb", device_gb=16.0, host_gb=10.0) == (
        "memory: 8gb needs 18.5 GB of host memory, of which 10.0 GB are free; --memory 16gb needs 15.1 GB"
    )


def test_an_engine_that_does_not_fit_is_refused_before_it_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_memory, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(loading, "load_components", None)
    with pytest.raises(InvalidRequest, match=r"^memory: 8gb needs 0\.\d GB on cpu, which has 0\.0 GB free"):
        load_engine(EngineConfig(memory="8gb"))
    monkeypatch.setattr(check_memory, "free_bytes", lambda device: None)
    with pytest.raises(TypeError, match="NoneType"):  # what is not known is no reason to refuse
        load_engine(EngineConfig(memory="8gb"))


def test_modes_that_cannot_be_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="memory: '2gb' is not one of resident, 16gb, 8gb, 4gb"):
        EngineConfig(memory="2gb")
    with pytest.raises(InvalidRequest, match="memory: '8gb' is for one device, but the engine has 2 ranks"):
        EngineConfig(memory="8gb", parallel=ParallelConfig(tensor_parallel_size=2))
