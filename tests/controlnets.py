"""ControlNets for tests that run one with an embedded model."""

from pathlib import Path

from zimage_models.tiny import build_tiny_controlnet


def build_embedded_controlnet(directory: Path) -> Path:
    """Write a random ControlNet that fits the embedded models and paints in images too."""
    return build_tiny_controlnet(
        directory,
        dim=256,
        num_heads=4,
        num_refiner_layers=1,
        refiner_places=(0,),
        num_channels=33,
        refiner_hints="control_layers",
    )
