"""Build a running engine from an EngineConfig. Only a real engine imports torch."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from zimage_models.checkpoints.resolve_model import resolve_model, with_own_schedules
from zimage_models.config import EngineConfig
from zimage_models.engine.compile_turn import compile_turn
from zimage_models.engine.engine_stats import EngineStats
from zimage_models.engine.fake_engine import FakeEngine
from zimage_models.engine.request_handle import PreviewCallback, RequestHandle
from zimage_models.errors import EngineDead
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture
from zimage_models.request_pictures import MIN_REFERENCE_SIDE
from zimage_models.requests import ImageRequest, build_request
from zimage_models.tensor_parallel.rank_launcher import RankLauncher


class EngineLike(Protocol):
    """The engine interface that hosts use."""

    spec: ModelSpec
    compiled_forms: Path | None
    """The file that marks what the engine compiles as kept on disk; None if it compiles nothing."""

    @property
    def death(self) -> EngineDead | None:
        """Why the engine cannot continue, or None while it can."""

    def submit(self, request: ImageRequest, *, on_preview: PreviewCallback | None = None) -> RequestHandle:
        """Queue one request."""
        ...

    def start(self) -> None:
        """Start the thread that steps the engine."""

    def close(self) -> None:
        """Stop the thread and fail the unfinished requests."""

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        ...


def build_engine(
    config: EngineConfig, *, launcher: RankLauncher | None = None, on_found: Callable[[], None] | None = None
) -> EngineLike:
    """Load a model and start its engine.

    Args:
        config: the engine.
        launcher: starts the other ranks of a divided engine; None for local processes.
        on_found: called when the checkpoint is on this machine, before it is loaded.

    Raises:
        CheckpointError: the checkpoint cannot be found, fetched or loaded.
        InvalidRequest: the device is not available, or does not have the memory.
    """
    spec = resolve_model(config)
    if on_found:
        on_found()
    spec = with_own_schedules(config, spec)
    engine = FakeEngine(spec) if config.fake else _load(config, spec, launcher)
    engine.start()
    return engine


def _load(config: EngineConfig, spec: ModelSpec, launcher: RankLauncher | None) -> EngineLike:
    from zimage_models.engine.load_engine import load_engine

    return load_engine(config, spec=spec, launcher=launcher)


def warm_up(engine: EngineLike) -> None:
    """Make a few images in a few steps, so that the first real request does not wait for set-up.

    Batches of one, two and three images, with two sequence lengths, prepare what is compiled for any shape. A
    model that reads pictures makes them with and without one. Of the engines on a machine that would compile
    the same, one does, and the others wait for it.
    """
    with compile_turn(engine.compiled_forms):
        _make_images(engine)


def _make_images(engine: EngineLike) -> None:
    spec = engine.spec
    # Not square: else what is compiled might take only squares.
    small = {"height": 4 * spec.size_multiple, "width": 6 * spec.size_multiple}
    shapes = (
        (1, {"prompt": "warm up"}),
        (1, {"prompt": "warm up", **small}),
        (2, {"prompt": "warm up " * 32, **small}),
        (3, {"prompt": "warm up", **small}),
    )
    grey = Picture(pixels=np.full((MIN_REFERENCE_SIDE, MIN_REFERENCE_SIDE, 3), 128, np.uint8))
    images: list[dict[str, Any]] = [{}]
    if spec.variant.max_reference_images:
        images.append({"reference_images": [grey]})
    if spec.controlnet:
        images.append({"control_image": grey})
    for guidance_scale, pictures in product({0.0, spec.default_guidance_scale}, images):
        # Three steps: an image may miss the first step of those submitted with it.
        common = {
            "seed": 0,
            "num_inference_steps": 3,
            "guidance_scale": guidance_scale,
            "truncate_prompt": True,
            "height": spec.default_height,
            "width": spec.default_width,
            **pictures,
        }
        for num_images, shape in shapes:
            # Different prompts, so that captions are refined in batches too.
            values = [
                {**common, **shape, "prompt": f"{number} {shape['prompt']}"} for number in range(num_images)
            ]
            for handle in [engine.submit(build_request(spec, value)) for value in values]:
                handle.result()
