"""An engine whose main blocks compute in float8: every variant runs, and the pictures stay what they are."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.controlnets import build_embedded_controlnet
from tests.drawn_objects import OBJECTS, recognised
from tests.zimage_models.engine.test_edits import picture
from tests.zimage_models.engine_parts import cpu_components
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine
from zimage_models.models.denoisers.fp8_layers import place_in_fp8
from zimage_models.models.denoisers.fp8_linear import FP8
from zimage_models.requests import ImageResult, build_request

NAMES = ("owl", "red apple", "cactus", "红苹果", "sunflower", "企鹅")


def make(values: Sequence[dict[str, Any]], **config: Any) -> list[ImageResult]:
    """Make images together in one engine."""
    engine = build_engine(EngineConfig(num_threads=1, **config))
    try:
        requests = [build_request(engine.spec, {"seed": seed, **value}) for seed, value in enumerate(values)]
        return [handle.result() for handle in [engine.submit(request) for request in requests]]
    finally:
        engine.close()


def psnr_db(found: Sequence[ImageResult], expected: Sequence[ImageResult]) -> list[float]:
    """Return each image's peak signal-to-noise ratio in decibels, 100 for the same image."""

    def floats(result: ImageResult) -> npt.NDArray[np.float64]:
        return result.pixels_HWC.astype(np.float64)

    errors = [
        np.square(floats(one) - floats(other)).mean() for one, other in zip(found, expected, strict=True)
    ]
    return [float(min(100, 10 * np.log10(255**2 / max(error, 1e-9)))) for error in errors]


def test_pictures_stay_what_they_are() -> None:
    values = [{"prompt": name} for name in NAMES]
    exact, found = make(values), make(values, precision="fp8")
    ratios_db = psnr_db(found, exact)
    assert 40 <= min(ratios_db) <= max(ratios_db) < 60
    assert [recognised(one.pixels_HWC) for one in found] == [recognised(one.pixels_HWC) for one in exact]
    assert [(one.precision, other.precision) for one, other in zip(found, exact, strict=True)] == [
        ("fp8", "float32")
    ] * len(NAMES)


@pytest.mark.parametrize("model", ["tiny-zimage-base", "tiny-zimage-edit", "controlnet"])
def test_every_variant_runs(model: str, tmp_path: Path) -> None:
    config: dict[str, Any] = {"model": model}
    value: dict[str, Any] = {"prompt": "owl", "num_inference_steps": 4}
    if model == "tiny-zimage-base":
        value |= {"guidance_scale": 1.5, "negative_prompt": "a red apple"}
    elif model == "tiny-zimage-edit":
        value |= {"guidance_scale": 1.5, "reference_images": [picture(64, 64)]}
    else:
        config = {"controlnet": str(build_embedded_controlnet(tmp_path / "controlnet"))}
        value |= {"control_image": picture(64, 64)}
    [exact], [found] = make([value], **config), make([value], **config, precision="fp8")
    assert found.precision == "fp8"
    assert 30 <= psnr_db([found], [exact])[0] < 60


def test_bf16_is_the_dtype() -> None:
    [named], [found] = (
        make([{"prompt": "owl"}], dtype="bfloat16"),
        make([{"prompt": "owl"}], precision="bf16"),
    )
    assert np.array_equal(found.pixels_HWC, named.pixels_HWC)
    assert named.precision == found.precision == "bf16"


class HeldBytes(TorchDispatchMode):
    """Counts the bytes that are held at once on the meta device, which takes a GPU's place."""

    def __init__(self) -> None:
        super().__init__()
        self._storages: dict[StorageWeakRef, int] = {}
        self.peak = 0

    def now(self) -> int:
        self._storages = {ref: n for ref, n in self._storages.items() if not ref.expired()}
        return sum(self._storages.values())

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and tensor.is_meta:
                storage = tensor.untyped_storage()
                self._storages[StorageWeakRef(storage)] = storage.nbytes()
        self.peak = max(self.peak, self.now())
        return made


def test_a_device_never_holds_more_than_one_matrix_unquantised() -> None:
    transformer = cpu_components(resolve_model(EngineConfig()).directory).transformer
    sizes = [
        module.weight.nbytes
        for name, module in transformer.layers.named_modules()
        if isinstance(module, nn.Linear) and "adaLN" not in name
    ]
    with HeldBytes() as held:
        transformer = place_in_fp8(transformer, torch.device("meta"))
    # One as it is and what rounding it takes.
    assert held.peak - held.now() <= 4 * max(sizes) < sum(sizes) / 4
    parameters = dict(transformer.named_parameters())
    assert held.now() == sum(parameter.nbytes for parameter in parameters.values())
    in_fp8 = {name.split(".", 2)[2] for name, parameter in parameters.items() if parameter.dtype == FP8}
    assert in_fp8 == {
        *(f"attention.{name}.weight" for name in ("to_q", "to_k", "to_v", "to_out.0")),
        *(f"feed_forward.{name}.weight" for name in ("w1", "w2", "w3")),
    }


@pytest.mark.soak
@pytest.mark.parametrize("language", ["en", "zh"])
def test_all_names_are_recognised_as_without_it(language: str) -> None:
    values = [{"prompt": item[language]} for item in OBJECTS]
    made = {precision: make(values, precision=precision) for precision in ("auto", "fp8")}
    right = {
        precision: sum(recognised(result.pixels_HWC) == index for index, result in enumerate(results))
        for precision, results in made.items()
    }
    ratios_db = psnr_db(made["fp8"], made["auto"])
    print(language, right, f"PSNR {np.mean(ratios_db):.1f} dB, {min(ratios_db):.1f} and more")
    assert abs(right["fp8"] - right["auto"]) <= 0.01 * len(OBJECTS)
    assert np.mean(ratios_db) >= 40
