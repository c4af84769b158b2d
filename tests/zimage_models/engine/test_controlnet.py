"""Controlled images are what diffusers' ControlNet pipeline makes of them alone, in whatever company."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import ZImageControlNetModel, ZImagePipeline

from tests.zimage_models.diffusers_reference import assert_as_diffusers, max_difference, reference_pixels
from tests.zimage_models.engine.test_edits import picture
from tests.zimage_models.engine.test_engine_equality import LONG, build, make_together
from tests.zimage_models.engine.test_image_to_image import disc
from zimage_models.checkpoints.resolve_model import model_weights_sha256, resolve_model
from zimage_models.checkpoints.tiny import build_tiny_controlnet
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.engine.build_engine import build_engine, warm_up
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.errors import CheckpointError, InvalidRequest
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, build_request

PipelineOf = Callable[[Path], ZImagePipeline]

LAYOUTS: dict[str, dict[str, Any]] = {
    "1.0": {},
    "2.0": {"num_channels": 33, "refiner_hints": "control_layers"},
    "2.1": {"num_channels": 33, "refiner_hints": "control_noise_refiner", "refiner_places": (1,)},
}


@pytest.fixture(scope="module", params=LAYOUTS)
def controlnet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random ControlNet of each layout. Read only."""
    return build_tiny_controlnet(tmp_path_factory.mktemp("controlnets") / "c", **LAYOUTS[request.param])


def config_of(checkpoint: Path, controlnet: Path, variant: str = "base") -> EngineConfig:
    return EngineConfig(model=str(checkpoint), variant=variant, controlnet=str(controlnet))


def requests_for(engine: Engine) -> list[ImageRequest]:
    """Controlled images of several scales and sizes, guided or not, and plain ones of the same buckets."""
    guided = {"guidance_scale": 2.5, "negative_prompt": "dog"}
    one, other = {"control_image": picture(64, 64)}, {"control_image": picture(64, 64, seed=1)}
    values: list[dict[str, Any]] = [
        one,
        {**other, "controlnet_conditioning_scale": 0.3},
        {**other, "controlnet_conditioning_scale": 1.4, "num_inference_steps": 4},
        {**one, **guided},
        {**other, **guided, "negative_prompt": LONG, "cfg_truncation": 0.3},
        # 15 image tokens, padded to 32; the picture is scaled and cropped.
        {**one, **guided, "size": "80x48", "prompt": "一只红色的狐狸"},
        {},
        guided,
        {"size": "80x48"},
    ]
    if engine.spec.controlnet and engine.spec.controlnet.inpaints:
        painting = {**other, "reference_images": [picture(64, 64, seed=2)], "mask": disc()}
        values += [painting, {**painting, **guided, "size": "80x48"}]
    common = {"prompt": "owl", "size": "64x64", "num_inference_steps": 3, "guidance_scale": 0.0}
    return build(engine, [{**common, **value} for value in values])


def load_reference(directory: Path) -> Any:
    return ZImageControlNetModel.from_pretrained(str(directory), dtype=torch.float32)


def test_together_and_with_plain_ones(
    tiny_checkpoint: Path, controlnet: Path, pipeline_of: PipelineOf
) -> None:
    engine = load_engine(config_of(tiny_checkpoint, controlnet))
    requests = requests_for(engine)
    reference = load_reference(controlnet)
    for request, result in zip(requests, make_together(engine, requests), strict=True):
        assert result.request == request
        assert_as_diffusers(pipeline_of(tiny_checkpoint), result, controlnet=reference)
    assert engine.stats().num_item_steps == sum(request.num_steps for request in requests)
    assert engine.stats().num_item_steps > engine.stats().num_steps


def test_each_alone_on_turbo(tiny_checkpoint: Path, controlnet: Path, pipeline_of: PipelineOf) -> None:
    engine = load_engine(config_of(tiny_checkpoint, controlnet, "turbo"))
    assert engine.spec.variant.max_guidance_scale == 0
    reference = load_reference(controlnet)
    images = [picture(64, 64), picture(64, 64, seed=1)]
    for request in build(
        engine, [{"prompt": "owl", "control_image": image, "num_inference_steps": 2} for image in images]
    ):
        assert request.controlnet_conditioning_scale == 0.75
        [result] = make_together(engine, [request])
        assert_as_diffusers(pipeline_of(tiny_checkpoint), result, controlnet=reference)


def test_the_comparison_can_fail(tiny_checkpoint: Path, controlnet: Path, pipeline_of: PipelineOf) -> None:
    spec = resolve_model(config_of(tiny_checkpoint, controlnet))
    reference = load_reference(controlnet)

    def pixels(**values: Any) -> Any:
        common = {"prompt": "owl", "seed": 1, "guidance_scale": 0.0, "num_inference_steps": 2}
        request = build_request(spec, {**common, "control_image": picture(64, 64), **values})
        return reference_pixels(pipeline_of(tiny_checkpoint), request, reference)

    others: list[dict[str, Any]] = [{"control_image": picture(64, 64, seed=1)}]
    others.append({"controlnet_conditioning_scale": 1.4})
    others.append({"control_image": None})
    if spec.controlnet and spec.controlnet.inpaints:
        others.append({"reference_images": [picture(64, 64, seed=2)], "mask": disc()})
    for other in others:
        assert max_difference(pixels(), pixels(**other)) > 20


def test_plain_ones_are_as_without_a_controlnet(tiny_checkpoint: Path, controlnet: Path) -> None:
    config = config_of(tiny_checkpoint, controlnet)
    values = {"prompt": "owl", "guidance_scale": 2.0, "num_inference_steps": 2}
    pixels = []
    for each in (config, replace(config, controlnet=None)):
        engine = load_engine(each)
        [result] = make_together(engine, build(engine, [values]))
        pixels.append(result.pixels_HWC)
    assert np.array_equal(*pixels)


def test_a_step_is_of_controlled_images_or_of_others(tiny_checkpoint: Path, plain_layout: Path) -> None:
    engine = load_engine(config_of(tiny_checkpoint, plain_layout))
    common = {"prompt": "owl", "guidance_scale": 0.0, "num_inference_steps": 2}
    controlled = [{**common, "control_image": picture(64, 64, seed=seed)} for seed in range(3)]
    for request in build(engine, [*controlled, common, common]):
        engine.submit(request)
    while engine.step():
        pass
    assert (engine.stats().num_steps, engine.stats().num_item_steps) == (4, 10)


@pytest.fixture(scope="module")
def plain_layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a random ControlNet of the first layout. Read only."""
    return build_tiny_controlnet(tmp_path_factory.mktemp("controlnets") / "plain")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"control_image": b"png"}, "control_image: b'png' is not an RGB picture"),
        ({"control_image": Picture(pixels=np.zeros((64, 64), np.uint8))}, "is not an RGB picture"),
        ({"controlnet_conditioning_scale": 0.5}, "0.5 has no effect without control_image"),
        (
            {"control_image": picture(64, 64), "controlnet_conditioning_scale": 2.5},
            "controlnet_conditioning_scale: 2.5 is outside 0..2",
        ),
        (
            {"control_image": picture(64, 64), "reference_images": [picture(64, 64)]},
            "reference_images: with control_image, a mask of where to paint is required",
        ),
        (
            {"control_image": picture(64, 64), "reference_images": [picture(64, 64)], "mask": disc()},
            "mask: this ControlNet takes only a control image",
        ),
        (
            {
                "control_image": picture(64, 64),
                "reference_images": [picture(64, 64)],
                "mask": disc(),
                "strength": 0.5,
            },
            "strength: 0.5 has no effect with control_image",
        ),
        ({"control_image": picture(64, 64), "mask": disc()}, "no effect without reference_images"),
    ],
)
def test_what_cannot_be_followed_is_refused(
    tiny_checkpoint: Path, plain_layout: Path, values: dict[str, Any], message: str
) -> None:
    spec = resolve_model(config_of(tiny_checkpoint, plain_layout))
    with pytest.raises(InvalidRequest, match=re.escape(message)) as raised:
        build_request(spec, {"prompt": "owl", "seed": 0, **values})
    assert raised.value.field == message.split(":")[0] or raised.value.field in values


def test_a_model_without_a_controlnet_says_so() -> None:
    spec = resolve_model(EngineConfig())
    with pytest.raises(InvalidRequest, match="control_image: this turbo engine has no ControlNet") as raised:
        build_request(spec, {"prompt": "owl", "seed": 0, "control_image": picture(64, 64)})
    assert raised.value.field == "control_image"


def test_the_size_is_the_control_images_own_unless_given(tiny_checkpoint: Path, plain_layout: Path) -> None:
    spec = resolve_model(config_of(tiny_checkpoint, plain_layout))
    values = {"prompt": "owl", "seed": 0, "control_image": picture(112, 64)}
    own, given = build_request(spec, values), build_request(spec, {**values, "size": "64x48"})
    assert [(r.height, r.width) for r in (own, given)] == [(112, 64), (48, 64)]
    assert given.control_image is not None
    assert (given.control_image.height, given.control_image.width) == (48, 64)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "FluxControlNetModel"}, "expected ZImageControlNetModel"),
        ({"dim": 96}, "dim 96 does not fit dim 64"),
        ({"n_heads": 4}, "n_heads 4 does not fit"),
        ({"control_in_dim": 8}, "control_in_dim 8 is below in_channels 16"),
        ({"control_layers_places": [0, 3]}, "are not increasing layer numbers in 0..2"),
        ({"control_layers_places": [2, 0]}, "are not increasing layer numbers"),
        ({"control_layers_places": [1, 2]}, "does not begin at 0"),
        ({"add_control_noise_refiner": "all"}, "is 'all', not one of"),
        (
            {"add_control_noise_refiner": "control_layers", "control_refiner_layers_places": [0, 2]},
            "are not increasing layer numbers in 0..1",
        ),
        ({"control_layers_places": [0]}, "the tensors do not match its config.json"),
        ({"control_in_dim": 33}, "size mismatch for control_all_x_embedder"),
    ],
)
def test_a_foreign_controlnet_is_refused(
    tiny_checkpoint: Path, plain_layout: Path, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    directory = shutil.copytree(plain_layout, tmp_path / "c")
    path = directory / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(CheckpointError, match=re.escape(message)):
        load_engine(config_of(tiny_checkpoint, directory))


def test_what_is_no_controlnet_is_refused(tiny_checkpoint: Path, plain_layout: Path, tmp_path: Path) -> None:
    file = next(plain_layout.glob("*.safetensors"))
    with pytest.raises(CheckpointError, match="is neither a folder") as raised:
        resolve_model(config_of(tiny_checkpoint, file))
    assert raised.value.field == "controlnet"
    (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"config\.json: missing"):
        resolve_model(config_of(tiny_checkpoint, tmp_path))
    (tmp_path / "config.json").write_bytes((plain_layout / "config.json").read_bytes())
    (tmp_path / file.name).unlink()
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        load_engine(config_of(tiny_checkpoint, tmp_path))


def test_no_controlnet_for_edit_models_and_several_ranks(omni_checkpoint: Path, plain_layout: Path) -> None:
    with pytest.raises(CheckpointError, match="controlnet: edit reads reference images"):
        resolve_model(EngineConfig(model=str(omni_checkpoint), controlnet=str(plain_layout)))
    with pytest.raises(InvalidRequest, match="cannot be divided over 2 ranks") as raised:
        EngineConfig(controlnet=str(plain_layout), parallel=ParallelConfig(tensor_parallel_size=2))
    assert raised.value.field == "controlnet"


def test_the_identity_of_the_weights_covers_the_controlnet(
    tiny_checkpoint: Path, plain_layout: Path, tmp_path: Path
) -> None:
    other = build_tiny_controlnet(tmp_path / "other", seed=1)
    configs = [config_of(tiny_checkpoint, plain_layout), config_of(tiny_checkpoint, other)]
    configs.append(replace(configs[0], controlnet=None))
    digests = [model_weights_sha256(config, resolve_model(config)) for config in configs]
    assert len(set(digests)) == 3
    moved = config_of(tiny_checkpoint, shutil.copytree(plain_layout, tmp_path / "moved"))
    assert model_weights_sha256(moved, resolve_model(moved)) == digests[0]


def test_warming_up_follows_control_images(tiny_checkpoint: Path, plain_layout: Path) -> None:
    engine = build_engine(config_of(tiny_checkpoint, plain_layout, "turbo"))
    try:
        warm_up(engine)
        # Seven, of one, two and three at once; plain and controlled.
        assert engine.stats().num_images == 2 * 7
    finally:
        engine.close()
