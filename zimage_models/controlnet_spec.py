"""A ControlNet's configuration, checked against a checkpoint's. It loads no weights."""

from dataclasses import dataclass
from pathlib import Path

from zimage_models.component_config import ComponentConfig
from zimage_models.errors import CheckpointError

_MODEL_CLASS = "ZImageControlNetModel"
_REFINER_HINTS = ("control_layers", "control_noise_refiner")


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlNetSpec:
    """A ControlNet that fits its engine's model."""

    directory: Path
    """Local folder with ``config.json`` and safetensors, as diffusers writes them."""
    inpaints: bool
    """Whether it takes a mask and an image to paint in as well as the control image (2.0 and later)."""


def read_controlnet_spec(directory: Path, model_directory: Path) -> ControlNetSpec:
    """Read a ControlNet's configuration.

    Args:
        directory: the ControlNet's folder.
        model_directory: the folder of the checkpoint that it is used with.

    Raises:
        CheckpointError: a file is damaged or not a ControlNet's, or the ControlNet is for a model of another
            shape.
    """
    config = ComponentConfig(directory, "")
    transformer = ComponentConfig(model_directory, "transformer")
    if config.content.get("_class_name") != _MODEL_CLASS:
        raise CheckpointError(
            f"{config.path}: its class is {config.content.get('_class_name')!r}, expected {_MODEL_CLASS}",
            field="controlnet",
        )
    for name in ("dim", "n_heads", "n_kv_heads"):
        if config.integer(name) != transformer.integer(name):
            raise CheckpointError(
                f"{config.path}: {name} {config.integer(name)} does not fit {name} "
                f"{transformer.integer(name)} of {transformer.path}",
                field="controlnet",
            )
    num_control_channels, num_channels = config.integer("control_in_dim"), transformer.integer("in_channels")
    if num_control_channels < num_channels:
        raise CheckpointError(
            f"{config.path}: control_in_dim {num_control_channels} is below in_channels {num_channels} of "
            f"{transformer.path}",
            field="controlnet",
        )
    places = config.integers("control_layers_places")
    _check_places(config, "control_layers_places", places, transformer.integer("n_layers"))
    if places[0] != 0:
        raise CheckpointError(f"{config.path}: control_layers_places {places} does not begin at 0")
    hints = config.content.get("add_control_noise_refiner")
    if hints is not None:
        if hints not in _REFINER_HINTS:
            raise CheckpointError(
                f"{config.path}: add_control_noise_refiner is {hints!r}, not one of "
                f"{', '.join(_REFINER_HINTS)} or null"
            )
        num_hints = len(places) if hints == "control_layers" else config.integer("n_refiner_layers")
        refined = config.integers("control_refiner_layers_places")
        limit = transformer.integer("n_refiner_layers")
        _check_places(config, "control_refiner_layers_places", refined, limit)
        if len(refined) > num_hints:
            raise CheckpointError(
                f"{config.path}: {len(refined)} control_refiner_layers_places, but {num_hints} {hints}"
            )
    # Channels of the control image, the mask and the image to paint in.
    inpaints = num_control_channels == num_channels + 1 + num_channels
    return ControlNetSpec(directory=directory, inpaints=inpaints)


def _check_places(config: ComponentConfig, name: str, places: list[int], num_layers: int) -> None:
    """Require increasing numbers of layers that exist, so that no layer gets two hints."""
    if sorted(set(places)) != places or not 0 <= places[0] <= places[-1] < num_layers:
        raise CheckpointError(
            f"{config.path}: {name} {places} are not increasing layer numbers in 0..{num_layers - 1}",
            field="controlnet",
        )
