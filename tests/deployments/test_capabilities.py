"""What models with and without a ControlNet are said to take."""

import pytest

from deployments.capabilities import capabilities, takes
from tests.controlnets import build_embedded_controlnet
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import stand_in

PICTURE = stand_in(64, 64, sha256="any", is_mask=False)
MASK = stand_in(64, 64, sha256="any", is_mask=True)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[ModelSpec]:
    """Read a model without a ControlNet, with one for control images alone, and with one that paints too."""
    folder = tmp_path_factory.mktemp("controlnets")
    guides = build_embedded_controlnet(folder / "1.0", num_channels=16, refiner_hints=None)
    paints = build_embedded_controlnet(folder / "2.0")
    return [resolve_model(EngineConfig(controlnet=path)) for path in (None, str(guides), str(paints))]


def test_control_images_are_told_by_what_the_controlnet_does_with_them(specs: list[ModelSpec]) -> None:
    told = [[name for name in capabilities(spec) if name.startswith("control")] for spec in specs]
    assert told == [[], ["control_image"], ["control_image", "control_image_inpainting"]]


def test_a_mask_beside_a_control_image_takes_a_controlnet_that_paints(specs: list[ModelSpec]) -> None:
    painting = {"reference_images": [PICTURE], "mask": MASK, "control_image": PICTURE}
    assert [takes(spec, "control_image", painting) for spec in specs] == [False, True, True]
    assert [takes(spec, "mask", painting) for spec in specs] == [False, False, True]
    assert [takes(spec, "mask", {**painting, "control_image": None}) for spec in specs] == [True] * 3
