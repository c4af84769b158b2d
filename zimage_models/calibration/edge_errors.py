"""How far reusing one step moves the final latents: the errors of a schedule's edges, measured."""

from collections.abc import Iterator
from copy import copy
from dataclasses import replace
from itertools import islice

from torch import Tensor

from zimage_models.calibration.minimax_path import Edge
from zimage_models.engine.job import enter
from zimage_models.engine.load_engine import LoadedModels
from zimage_models.engine.request_handle import RequestHandle
from zimage_models.model_spec import ModelSpec
from zimage_models.models.image_state import Half, ImageState
from zimage_models.models.model_runner import ModelRunner
from zimage_models.requests import ImageRequest
from zimage_models.step_schedules import SCHEDULED_MODES

MAX_REUSED = 8
"""The largest number of steps that reuse one; more would be of little use and take longer to measure."""


def num_edges(num_steps: int) -> int:
    """Count the edges that skip steps."""
    return sum(min(MAX_REUSED, num_steps - 2 - start) for start in range(num_steps - 2))


def edge_errors(models: LoadedModels, spec: ModelSpec, request: ImageRequest) -> Iterator[tuple[Edge, float]]:
    """Measure all edges on one image; yield each as it is known.

    An edge's error is the mean absolute difference of the final latents, relative to their mean absolute
    value, when the steps inside the edge reuse its first one and all others are computed (LeMiCa's global
    error).

    Args:
        models: the model.
        spec: its limits.
        request: the image, in the mode ``exact`` and without a start image.
    """
    handle = RequestHandle(request=request, on_preview=None, on_cancel=_do_nothing)
    entry = enter(handle, arrival=0, spec=spec, tokenizer=models.tokenizer)
    state = entry.payload.state
    # What a step adds is kept if the next one may reuse it.
    between = (0, request.num_inference_steps - 1)
    state.request = replace(request, quality_mode=SCHEDULED_MODES[-1], step_schedule=between)
    models.runner.prepare([state])
    size = max(1, models.max_step_tokens // entry.bucket.num_tokens)
    [(_, exact)] = _finished(models.runner, iter([((0, 1), _branch(state, request))]), 1)
    for edge, changed in _finished(models.runner, _runs(models.runner, state, request), size):
        yield edge, float((changed - exact).abs().mean() / exact.abs().mean())


def _runs(runner: ModelRunner, state: ImageState, request: ImageRequest) -> Iterator[tuple[Edge, ImageState]]:
    """Run an image step by step; yield, at every step, the beginnings of the runs of its edges."""
    last = request.num_inference_steps - 1
    for start in range(last - 1):
        runner.denoise_step([state])
        reusing = _branch(state, state.request, with_residuals=True)
        for end in range(start + 2, min(start + 1 + MAX_REUSED, last) + 1):
            runner.reuse_step([reusing])
            yield (start, end), _branch(reusing, request)


def _branch(state: ImageState, request: ImageRequest, *, with_residuals: bool = False) -> ImageState:
    """Return a copy of a running image, with another request's schedule."""
    branch = copy(state)
    branch.request = request
    canvas = state.drawn
    halves = [copy(half) if with_residuals else Half(condition=half.condition) for half in canvas.halves]
    branch.canvas = replace(
        canvas, positive=halves[0], negative=halves[1] if canvas.negative is not None else None
    )
    return branch


def _finished(
    runner: ModelRunner, runs: Iterator[tuple[Edge, ImageState]], size: int
) -> Iterator[tuple[Edge, Tensor]]:
    """Run images to their ends, so many at once; yield the final latents, float32 (C, H, W)."""
    running: list[tuple[Edge, ImageState]] = []
    while running := [*running, *islice(runs, size - len(running))]:
        runner.denoise_step([state for _, state in running])
        yield from ((edge, state.drawn.latents_CHW) for edge, state in running if state.finished)
        running = [(edge, state) for edge, state in running if not state.finished]


def _do_nothing() -> None:
    """Do nothing: no request is cancelled."""
