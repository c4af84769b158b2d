"""An engine around a runner that records what it was asked to do; it is stepped by hand."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.zimage_models.engine_parts import cpu_components, engine_around
from zimage_models.checkpoints.components import Components
from zimage_models.engine.engine import Engine
from zimage_models.model_spec import ModelSpec, read_model_spec
from zimage_models.models.image_state import ImageState
from zimage_models.models.model_runner import ModelRunner
from zimage_models.requests import ImageRequest, build_request

IMAGE_TOKENS = 32 + 32
"""Transformer tokens of a 64 x 64 image with a short prompt, on the tiny checkpoint."""


class RecordingRunner(ModelRunner):
    """The real runner, keeping the seeds of every batch it is given."""

    def __init__(self, components: Components, *, caption_cache_bytes: int = 2**20) -> None:
        super().__init__(components, caption_cache_bytes=caption_cache_bytes)
        self.prepared: list[list[int]] = []
        self.steps: list[list[int]] = []
        self.decoded: list[list[int]] = []

    def prepare(self, states: Sequence[ImageState]) -> None:
        self.prepared.append([state.request.seed for state in states])
        super().prepare(states)

    def denoise_step(self, states: Sequence[ImageState]) -> None:
        self.steps.append([state.request.seed for state in states])
        super().denoise_step(states)

    def decode(self, states: Sequence[ImageState]) -> Any:
        self.decoded.append([state.request.seed for state in states])
        return super().decode(states)


@pytest.fixture(scope="module")
def spec(tiny_checkpoint: Path) -> ModelSpec:
    return read_model_spec(tiny_checkpoint, model_id="tiny", variant="base")


@pytest.fixture(scope="module")
def components(tiny_checkpoint: Path) -> Components:
    return cpu_components(tiny_checkpoint)


@pytest.fixture
def make_engine(spec: ModelSpec, components: Components) -> Callable[..., tuple[Engine, RecordingRunner]]:
    """Build an engine around a runner that records what it was asked to do."""

    def make(
        runner_class: type[RecordingRunner] = RecordingRunner, models: Components = components, **options: Any
    ) -> tuple[Engine, RecordingRunner]:
        runner = runner_class(models)
        return engine_around(spec, runner, **{"max_step_tokens": 4 * IMAGE_TOKENS, **options}), runner

    return make


@pytest.fixture
def ask(spec: ModelSpec) -> Callable[..., ImageRequest]:
    def ask(seed: int, **values: Any) -> ImageRequest:
        hosting = {n: values.pop(n) for n in ("priority", "deadline_s", "preview_every") if n in values}
        defaults = {"prompt": "owl", "num_inference_steps": 3, "guidance_scale": 0.0, "size": "64x64"}
        return build_request(spec, {**defaults, "seed": seed, **values}, **hosting)

    return ask


MakeEngine = Callable[..., tuple[Engine, RecordingRunner]]
Ask = Callable[..., ImageRequest]


def run(engine: Engine) -> None:
    while engine.step():
        pass
