"""The step schedules of a checkpoint: which denoising steps its quality modes compute.

``zimage calibrate`` writes them to a file beside the weights. This module knows nothing about tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zimage_models.component_config import read_json
from zimage_models.errors import CheckpointError, InvalidRequest

EXACT = "exact"
"""The mode that computes every step."""
SCHEDULED_MODES = ("high", "fast")
"""Modes that compute the steps of a schedule, the better one first."""
QUALITY_MODES = (EXACT, *SCHEDULED_MODES)
SCHEDULE_FILE = "step_schedules.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSchedules:
    """A model's schedules, each for exactly one number of steps."""

    weights_sha256: str = ""
    """The weights that they were made for."""
    by_steps: Mapping[int, Mapping[str, tuple[int, ...]]] = field(default_factory=dict)
    """Number of steps -> mode -> the steps that are computed, in order; 0 and the last one are among them."""
    is_of_other_weights: bool = False

    @property
    def num_steps(self) -> list[int]:
        """The numbers of steps for which requests may use the modes."""
        return [] if self.is_of_other_weights else sorted(self.by_steps)

    def steps_of(self, mode: str, num_steps: int, *, model: str) -> tuple[int, ...]:
        """Return the steps that a mode computes.

        Args:
            mode: one of ``SCHEDULED_MODES``.
            num_steps: of the whole run.
            model: the model's name, for messages.

        Raises:
            InvalidRequest: there is no schedule for this number of steps, or it was made for other weights.
        """
        if num_steps in self.num_steps:
            return self.by_steps[num_steps][mode]
        if self.is_of_other_weights:
            reason = f"{SCHEDULE_FILE} was made for other weights ({self.weights_sha256[:12]})"
        else:
            known = ", ".join(map(str, self.num_steps))
            reason = f"it has schedules for {known} steps" if known else "it has no schedules"
        raise InvalidRequest(
            f"quality_mode: {mode!r} has no schedule for {num_steps} steps of {model}: {reason};"
            f" make one with: zimage calibrate {model} --steps {num_steps}",
            field="quality_mode",
        )


def read_step_schedules(directory: Path) -> StepSchedules:
    """Read a checkpoint's schedules; without a file, there are none.

    Raises:
        CheckpointError: the file is not one that ``zimage calibrate`` wrote.
    """
    path = directory / SCHEDULE_FILE
    if not path.is_file():
        return StepSchedules()
    content = read_json(path)
    try:
        return StepSchedules(
            weights_sha256=str(content["weights_sha256"]),
            by_steps={
                int(num_steps): {
                    mode: _checked(entry[mode]["computed_steps"], int(num_steps)) for mode in SCHEDULED_MODES
                }
                for num_steps, entry in content["schedules"].items()
            },
        )
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: not a file of zimage calibrate ({error!r}); remove it") from error


def _checked(steps: Any, num_steps: int) -> tuple[int, ...]:
    """Check that the first and the last step are computed, and the others are between them, in order."""
    if steps != sorted({*steps, 0, num_steps - 1}) or not all(type(step) is int for step in steps):
        raise ValueError(f"{steps} is no schedule for {num_steps} steps")
    return tuple(steps)
