"""The file of schedules beside a checkpoint's weights, and what is said where a mode has none."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from zimage_models.errors import CheckpointError, InvalidRequest
from zimage_models.step_schedules import SCHEDULE_FILE, StepSchedules, read_step_schedules

EIGHT = {"high": {"computed_steps": [0, 1, 3, 4, 6, 7]}, "fast": {"computed_steps": [0, 2, 5, 7]}}


def read(folder: Path, content: Any) -> StepSchedules:
    (folder / SCHEDULE_FILE).write_text(content if isinstance(content, str) else json.dumps(content))
    return read_step_schedules(folder)


def test_a_checkpoint_without_a_file_has_no_schedules(tmp_path: Path) -> None:
    none = read_step_schedules(tmp_path)
    assert (none, none.num_steps) == (StepSchedules(), [])


def test_a_schedule_is_found_by_mode_and_number_of_steps(tmp_path: Path) -> None:
    schedules = read(tmp_path, {"weights_sha256": "ab" * 32, "schedules": {"8": EIGHT}})
    assert schedules.num_steps == [8]
    assert schedules.steps_of("fast", 8, model="m") == (0, 2, 5, 7)
    assert schedules.steps_of("high", 8, model="m") == (0, 1, 3, 4, 6, 7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {},
            "quality_mode: 'fast' has no schedule for 9 steps of my/model: it has schedules for 8, 28 steps;"
            " make one with: zimage calibrate my/model --steps 9",
        ),
        (
            {"by_steps": {}},
            "quality_mode: 'fast' has no schedule for 9 steps of my/model: it has no schedules;"
            " make one with: zimage calibrate my/model --steps 9",
        ),
        (
            {"is_of_other_weights": True},
            "quality_mode: 'fast' has no schedule for 9 steps of my/model: step_schedules.json was made for"
            " other weights (abababababab); make one with: zimage calibrate my/model --steps 9",
        ),
    ],
)
def test_a_refusal_names_the_steps_there_are_and_the_command(changes: dict[str, Any], message: str) -> None:
    steps = {"high": (0, 1), "fast": (0, 1)}
    schedules = StepSchedules(weights_sha256="ab" * 32, by_steps={28: steps, 8: steps})
    with pytest.raises(InvalidRequest) as raised:
        replace(schedules, **changes).steps_of("fast", 9, model="my/model")
    assert (str(raised.value), raised.value.field) == (message, "quality_mode")


@pytest.mark.parametrize(
    "steps",
    [
        [0, 2, 5],  # the last step is not computed
        [1, 2, 7],
        [0, 5, 2, 7],
        [0, 2, 2, 7],
        [0, 2, 8],
        [0, 2.5, 7],
        [False, 2, 7],
        "0257",
        None,
    ],
)
def test_a_schedule_that_cannot_be_run_is_refused(tmp_path: Path, steps: Any) -> None:
    entry = {**EIGHT, "fast": {"computed_steps": steps}}
    with pytest.raises(CheckpointError, match=r"step_schedules.json: not a file of zimage calibrate"):
        read(tmp_path, {"weights_sha256": "ab" * 32, "schedules": {"8": entry}})


@pytest.mark.parametrize("content", ["{", "[]", {}, {"weights_sha256": "a", "schedules": {"x": EIGHT}}])
def test_a_damaged_file_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(CheckpointError, match=r"step_schedules.json"):
        read(tmp_path, content)
