"""ControlNets for tests that run one with an embedded model."""

from pathlib import Path
from typing import Any

from zimage_models.checkpoints.tiny import build_tiny_controlnet


def build_embedded_controlnet(directory: Path, **layout: Any) -> Path:
    """Write a random ControlNet that fits the embedded models; unless told otherwise one that paints too."""
    shape: dict[str, Any] = {"dim": 256, "num_heads": 4, "num_refiner_layers": 1, "refiner_places": (0,)}
    layout = {"num_channels": 33, "refiner_hints": "control_layers", **layout}
    return build_tiny_controlnet(directory, **shape, **layout)
