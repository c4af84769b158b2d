"""Find a model's step schedules for one number of steps, and write them for engines to read."""

import hashlib
import json
import os
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from zimage_models.calibration import minimax_path
from zimage_models.calibration.edge_errors import edge_errors, num_edges
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.weights_hash import weights_sha256
from zimage_models.component_config import read_json
from zimage_models.config import EngineConfig
from zimage_models.engine.load_engine import load_models
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import KNOWN_MODELS, ModelSpec
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, build_request
from zimage_models.step_schedules import SCHEDULE_FILE, SCHEDULED_MODES

PROMPTS = ("red apple", "an owl on a blue background", "a bicycle", "一只红色的狐狸")
INSTRUCTIONS = ("change the background to red", "把背景换成蓝色", "make it black and white", "左右翻转")
_MIN_STEPS = 3
_DIGITS = 4
"""Significant digits of errors, so that the last bits of a sum do not change the file."""

Entry = dict[str, Any]
"""What a file says of one number of steps."""


def budget(mode: str, num_steps: int) -> int:
    """Return how many steps a mode computes: three quarters or half of them, rounded up; at least two."""
    quarters = {"high": 3, "fast": 2}[mode]
    return max(2, -(-quarters * num_steps // 4))


def calibrate(
    config: EngineConfig,
    values: Mapping[str, Any],
    *,
    prompts: Sequence[str] | None = None,
    pictures: Sequence[Picture] = (),
    output: Path | None = None,
    on_progress: Callable[[int, int], None] = lambda num_done, num_in_all: None,
) -> tuple[Path, Entry]:
    """Measure a model, choose its schedules and write them; other numbers of steps in the file stay.

    The same call writes the same file: image *n* has seed *n*.

    Args:
        config: the model, and where it runs.
        values: ``num_inference_steps``, ``guidance_scale`` and ``size``, as for :func:`build_request`.
        prompts: one for each image that is measured; None for four, which are instructions if there are
            pictures.
        pictures: reference images of a model that reads them, in turn.
        output: the file; None for the checkpoint's own folder, which must not be a fetched one.
        on_progress: told how many of all edges are measured.

    Returns:
        The file's path, and what it now says of this number of steps.

    Raises:
        InvalidRequest: a value that the model does not take, too few steps, or a file that cannot be written.
        CheckpointError: the model cannot be found or loaded.
    """
    if output is None:
        _check_own_folder(config.model)
    spec = resolve_model(config)
    path = _checked(output or spec.directory / SCHEDULE_FILE)
    default = INSTRUCTIONS if pictures else PROMPTS
    requests = _requests(spec, values, default if prompts is None else prompts, pictures)
    first = requests[0]
    num_steps = first.num_inference_steps
    models = load_models(config, spec)
    num_in_all, sums = len(requests) * num_edges(num_steps), defaultdict[minimax_path.Edge, float](float)
    try:
        for number, request in enumerate(requests):
            measured = edge_errors(models, spec, request)
            for num_done, (edge, error) in enumerate(measured, number * num_edges(num_steps) + 1):
                sums[edge] += error
                on_progress(num_done, num_in_all)
    finally:
        models.runner.ranks.close()
    errors = {edge: float(f"{total / len(requests):.{_DIGITS}g}") for edge, total in sums.items()}
    entry = {
        "guidance_scale": first.guidance_scale,
        "size": f"{first.width}x{first.height}",
        "dtype": str(models.runner.denoiser.dtype).removeprefix("torch."),
        "num_prompts": len(requests),
        "prompts_sha256": _digest(requests),
        **{mode: _schedule(num_steps, budget(mode, num_steps), errors) for mode in SCHEDULED_MODES},
    }
    weights = weights_sha256(spec.directory, cache_dir=Path(config.cache_dir) if config.cache_dir else None)
    _write(path, weights, num_steps, entry)
    return path, entry


def _check_own_folder(model: str) -> None:
    """Refuse a model that is fetched, before it is."""
    known = KNOWN_MODELS.get(model)
    if not (Path(model).is_dir() or (known and known.directory)):
        raise InvalidRequest(
            f"output: {model} is fetched, and its local copy may go; give a file, and put it beside the"
            f" weights as {SCHEDULE_FILE}",
            field="output",
        )


def _checked(path: Path) -> Path:
    """Check that a file can be written, before an hour of work."""
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise InvalidRequest(f"output: {path} cannot be written", field="output")
    return path


def _requests(
    spec: ModelSpec, values: Mapping[str, Any], prompts: Sequence[str], pictures: Sequence[Picture]
) -> list[ImageRequest]:
    if not prompts:
        raise InvalidRequest("prompts: there is none", field="prompts")
    if pictures and not spec.variant.max_reference_images:
        raise InvalidRequest(f"image: {spec.variant.name} reads no images", field="image")
    images = cycle([[picture] for picture in pictures] or [None])
    requests = [
        build_request(spec, {**values, "prompt": prompt, "seed": seed, "reference_images": image})
        for seed, (prompt, image) in enumerate(zip(prompts, images, strict=False))
    ]
    num_steps = requests[0].num_inference_steps
    if num_steps < _MIN_STEPS:
        raise InvalidRequest(
            f"steps: {num_steps} steps leave none to reuse; at least {_MIN_STEPS}", field="steps"
        )
    return requests


def _schedule(num_steps: int, num_computed: int, errors: Mapping[minimax_path.Edge, float]) -> Entry:
    path = minimax_path.best_path(num_steps, num_computed, errors)
    return {"computed_steps": list(path.steps), "errors": [error for error in path.errors if error]}


def _digest(requests: Sequence[ImageRequest]) -> str:
    content = [
        [request.prompt, *(image.sha256 for image in request.reference_images)] for request in requests
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _write(path: Path, weights: str, num_steps: int, entry: Entry) -> None:
    content = read_json(path) if path.exists() else {}
    schedules = content.get("schedules", {}) if content.get("weights_sha256") == weights else {}
    schedules |= {str(num_steps): entry}
    ordered = {number: schedules[number] for number in sorted(schedules, key=int)}
    text = json.dumps({"weights_sha256": weights, "schedules": ordered}, indent=2)
    # A list is one line.
    text = re.sub(r"\[[^\[\]]*\]", lambda match: " ".join(match[0].split()), text)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise InvalidRequest(f"output: {path} cannot be written ({error})", field="output") from error
