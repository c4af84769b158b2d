"""Read the JSON configuration files of a checkpoint in diffusers layout."""

import json
from pathlib import Path
from typing import Any

from zimage_models.errors import CheckpointError

_FILE_NAMES = {
    "scheduler": "scheduler_config.json",
    "siglip_processor": "preprocessor_config.json",
}


class ComponentConfig:
    """One component's configuration file; a missing or invalid value raises CheckpointError."""

    def __init__(self, directory: Path, part: str) -> None:
        self.path = directory / part / _FILE_NAMES.get(part, "config.json")
        self.content = read_json(self.path)

    def integer(self, name: str) -> int:
        """Read a whole number above 0."""
        value = self.content.get(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a whole number above 0")
        return value

    def number(self, name: str) -> float:
        """Read a number above 0."""
        value = self.content.get(name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a number above 0")
        return float(value)

    def integers(self, name: str) -> list[int]:
        """Read a list of whole numbers, at least one."""
        value = self.content.get(name)
        if not (isinstance(value, list) and value and all(isinstance(item, int) for item in value)):
            raise CheckpointError(f"{self.path}: {name} is {value!r}, not a list of whole numbers")
        return value


# FlowMatchEulerDiscreteScheduler's defaults of what decides its times, without the shift. What it has for
# stochastic sampling is refused.
DEFAULT_SHIFT = 1.0
SCHEDULER_DEFAULTS: dict[str, Any] = {
    "invert_sigmas": False,
    "num_train_timesteps": 1000,
    "shift_terminal": None,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_karras_sigmas": False,
}


# The same of what acts only with dynamic shifting: a shift that grows with the image.
DYNAMIC_SHIFT_DEFAULTS: dict[str, Any] = {
    "base_image_seq_len": 256,
    "base_shift": 0.5,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "time_shift_type": "exponential",
}


def scheduler_shift(config: ComponentConfig) -> float:
    """Read a scheduler's shift, after checking what it has instead with dynamic shifting.

    Raises:
        CheckpointError: a number that is missing, or not above 0.
    """
    if config.content.get("use_dynamic_shifting"):
        for name in DYNAMIC_SHIFT_DEFAULTS.keys() & config.content.keys() - {"time_shift_type"}:
            config.number(name)
        lengths = [
            config.content.get(name, DYNAMIC_SHIFT_DEFAULTS[name])
            for name in ("base_image_seq_len", "max_image_seq_len")
        ]
        if lengths[0] >= lengths[1]:
            raise CheckpointError(
                f"{config.path}: max_image_seq_len {lengths[1]} is not above base_image_seq_len {lengths[0]}"
            )
    return config.number("shift") if "shift" in config.content else DEFAULT_SHIFT


def scheduler_settings(config: ComponentConfig) -> str:
    """Return a scheduler's settings, but for its shift, that aren't the defaults, as canonical JSON."""
    defaults = SCHEDULER_DEFAULTS
    if config.content.get("use_dynamic_shifting"):
        defaults = defaults | DYNAMIC_SHIFT_DEFAULTS
    given = {name: config.content.get(name, default) for name, default in defaults.items()}
    return canonical_json({name: value for name, value in given.items() if value != defaults[name]})


def canonical_json(settings: dict[str, Any]) -> str:
    """Return settings as JSON that depends only on their values; "" if there are none."""
    return json.dumps(settings, sort_keys=True, separators=(",", ":")) if settings else ""


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, unreadable or not a JSON object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"{path}: missing; a Z-Image checkpoint is a folder in diffusers layout"
        ) from None
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{path}: unreadable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not a JSON object")
    return content


def names_class(index: dict[str, Any], part: str, classes: tuple[str, ...]) -> bool:
    """Return whether a ``model_index.json`` gives a component one of the classes."""
    entry = index.get(part)
    return isinstance(entry, list) and len(entry) == 2 and entry[1] in classes
