import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS, ModelSpec, read_model_spec, released_spec
from zimage_models.siglip_spec import SiglipSpec


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    """Copy the tiny checkpoint's configuration, to be changed."""
    return Path(
        shutil.copytree(tiny_checkpoint, tmp_path / "copy", ignore=shutil.ignore_patterns("*.safetensors"))
    )


def change(file: Path, **values: Any) -> None:
    content = json.loads(file.read_text(encoding="utf-8")) | values
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}), encoding="utf-8")


def spec_of(directory: Path, **options: Any) -> ModelSpec:
    return read_model_spec(directory, model_id=str(directory), **{"variant": "turbo", **options})


def test_embedded_turbo_is_the_default() -> None:
    spec = resolve_model(EngineConfig())
    assert spec.model_id == DEFAULT_MODEL == "tiny-zimage-turbo"
    assert (spec.variant.name, spec.default_num_inference_steps, spec.default_guidance_scale) == (
        "turbo",
        8,
        0.0,
    )
    assert (spec.size_multiple, spec.default_height, spec.default_width) == (8, 64, 64)


def test_embedded_base_wants_guidance() -> None:
    spec = resolve_model(EngineConfig(model="tiny-zimage-base"))
    assert (spec.variant.name, spec.default_num_inference_steps, spec.default_guidance_scale) == (
        "base",
        28,
        1.0,
    )


def test_limits_come_from_the_checkpoint(tmp_path: Path) -> None:
    directory = build_tiny_checkpoint(
        tmp_path / "m", vae_levels=3, sample_size=96, shift=6.0, axes_lens=(128, 40, 20)
    )
    spec = spec_of(directory)
    assert (spec.size_multiple, spec.default_height, spec.shift) == (8, 96, 6.0)
    assert spec.max_side == 20 * 8
    assert spec.max_prompt_tokens == 96


def test_released_limits(checkpoint: Path) -> None:
    assert spec_of(checkpoint).max_prompt_tokens == 512
    assert spec_of(checkpoint).size_multiple == 16
    assert spec_of(checkpoint).max_side == 8192
    # The longest caption that leaves its successor a position: 1504 of 1536 (diffusers fails at 1505).
    assert spec_of(checkpoint, max_prompt_tokens=1504).max_prompt_tokens == 1504
    with pytest.raises(CheckpointError, match=r"^max_prompt_tokens: 1505 is outside 1\.\.1504") as caught:
        spec_of(checkpoint, max_prompt_tokens=1505)
    assert caught.value.field == "max_prompt_tokens"


@pytest.mark.parametrize("num_tokens", [0, -5])
def test_prompt_limit_is_checked(checkpoint: Path, num_tokens: int) -> None:
    with pytest.raises(CheckpointError, match=rf"^max_prompt_tokens: {num_tokens} is outside"):
        spec_of(checkpoint, max_prompt_tokens=num_tokens)


@pytest.mark.parametrize(
    ("model_id", "variant"),
    [
        ("Tongyi-MAI/Z-Image-Turbo", "turbo"),
        ("Tongyi-MAI/Z-Image", "base"),
        ("s3://models/z/Z-Image/", "base"),
        ("/somewhere/Z-Image-Turbo", "turbo"),
    ],
)
def test_variants_are_known_by_name(checkpoint: Path, model_id: str, variant: str) -> None:
    assert read_model_spec(checkpoint, model_id=model_id).variant.name == variant
    assert read_model_spec(checkpoint, model_id=model_id, variant="turbo").variant.name == "turbo"


def test_omni_checkpoints_are_edit_whatever_their_name(
    omni_checkpoint: Path, siglip_checkpoint: Path
) -> None:
    for directory, siglip in (
        (omni_checkpoint, None),
        (siglip_checkpoint, SiglipSpec(patch_size=8, max_num_patches=40)),
    ):
        spec = read_model_spec(directory, model_id="Tongyi-MAI/Z-Image")
        assert (spec.variant.name, spec.variant.max_reference_images, spec.siglip) == ("edit", 4, siglip)
        assert (spec.max_reference_pixels, spec.num_caption_positions) == (1024**2, 1536)
        assert spec.max_reference_side == (8192 if siglip is None else 4096)


def test_a_variant_of_another_pipeline_is_refused(checkpoint: Path, omni_checkpoint: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"^variant: edit needs .* ZImageOmniPipeline; .* ZImagePipeline$"
    ):
        spec_of(checkpoint, variant="edit")
    with pytest.raises(CheckpointError, match=r"^variant: base needs .* another .* ZImageOmniPipeline$"):
        spec_of(omni_checkpoint, variant="base")


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("model_index.json", {"siglip": [None, None]}, r"siglip is \[None, None\], .* siglip_feat_dim 24"),
        ("model_index.json", {"siglip": ...}, "siglip is None, .* siglip_feat_dim 24"),
        ("model_index.json", {"siglip": ["transformers", "CLIPVisionModel"]}, "expected Siglip2VisionModel"),
        ("model_index.json", {"siglip_processor": ...}, "siglip_processor is None"),
        ("transformer/config.json", {"siglip_feat_dim": None}, "has no siglip_feat_dim"),
        ("transformer/config.json", {"siglip_feat_dim": 32}, "hidden_size 24 does not fit .* 32"),
        (
            "siglip_processor/preprocessor_config.json",
            {"patch_size": 16},
            "16 does not fit siglip patch_size 8",
        ),
        ("siglip_processor/preprocessor_config.json", {"max_num_patches": 0}, "max_num_patches is 0"),
    ],
)
def test_siglip_has_to_fit_the_transformer(
    siglip_checkpoint: Path, tmp_path: Path, file: str, values: dict[str, Any], told: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(siglip_checkpoint, copy, ignore=shutil.ignore_patterns("*.safetensors"))
    spec_of(copy, variant=None)
    change(copy / file, **values)
    with pytest.raises(CheckpointError, match=told):
        spec_of(copy, variant=None)


def test_unknown_names_need_a_variant(checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match=r"^variant: .*turbo, base, edit") as caught:
        spec_of(checkpoint, variant=None)
    assert caught.value.field == "variant"
    with pytest.raises(CheckpointError, match=r"^variant: 'huge' is unknown; variants are turbo, base, edit"):
        spec_of(checkpoint, variant="huge")


def test_known_models_name_known_variants() -> None:
    for name, model in KNOWN_MODELS.items():
        if model.directory:
            assert resolve_model(EngineConfig(model=name)).variant.name == model.variant


@pytest.mark.parametrize(
    "file",
    [
        "model_index.json",
        "transformer/config.json",
        "vae/config.json",
        "text_encoder/config.json",
        "scheduler/scheduler_config.json",
    ],
)
def test_configuration_files_must_be_there_and_readable(checkpoint: Path, file: str) -> None:
    path = checkpoint / file
    for content, told in (("{", "unreadable"), ("[1]", "not a JSON object"), ("\udcff", "unreadable")):
        path.write_text(content, encoding="utf-8", errors="surrogateescape")
        with pytest.raises(CheckpointError, match=f"{file}: {told}"):
            spec_of(checkpoint)
    path.unlink()
    with pytest.raises(CheckpointError, match=f"{file}: missing"):
        spec_of(checkpoint)


@pytest.mark.parametrize(
    ("file", "values", "told"),
    [
        ("model_index.json", {"_class_name": "FluxPipeline"}, "'FluxPipeline', not a Z-Image pipeline"),
        ("model_index.json", {"_class_name": ...}, "None, not a Z-Image pipeline"),
        ("model_index.json", {"transformer": ["diffusers", "FluxTransformer2DModel"]}, "transformer is"),
        ("model_index.json", {"vae": ...}, "vae is None"),
        ("model_index.json", {"scheduler": "FlowMatchEulerDiscreteScheduler"}, "scheduler is"),
        ("transformer/config.json", {"_class_name": "FluxTransformer2DModel"}, "'FluxTransformer2DModel'"),
        ("text_encoder/config.json", {"architectures": ["LlamaModel"]}, "LlamaModel"),
        ("text_encoder/config.json", {"hidden_size": 64}, "hidden_size 64 does not fit .* 32"),
        ("text_encoder/config.json", {"hidden_size": "32"}, "hidden_size is '32', not a whole number"),
        ("transformer/config.json", {"axes_lens": ...}, "axes_lens is None"),
        ("transformer/config.json", {"axes_lens": [1536]}, "not three numbers"),
        ("transformer/config.json", {"all_patch_size": [4]}, "all_patch_size lacks 2"),
        ("vae/config.json", {"block_out_channels": []}, "block_out_channels is"),
        ("vae/config.json", {"sample_size": 0}, "sample_size is 0"),
        ("scheduler/scheduler_config.json", {"shift": None}, "shift is None"),
        ("scheduler/scheduler_config.json", {"shift": -1.0}, r"shift is -1\.0"),
        (
            "scheduler/scheduler_config.json",
            {"use_dynamic_shifting": True, "base_shift": None},
            "base_shift is None",
        ),
        (
            "scheduler/scheduler_config.json",
            {"use_dynamic_shifting": True, "max_image_seq_len": 256},
            "max_image_seq_len 256 is not above",
        ),
        ("scheduler/scheduler_config.json", {"stochastic_sampling": True}, "stochastic_sampling"),
    ],
)
def test_foreign_configurations_are_told(
    checkpoint: Path, file: str, values: dict[str, Any], told: str
) -> None:
    spec_of(checkpoint)
    change(checkpoint / file, **values)
    with pytest.raises(CheckpointError, match=told):
        spec_of(checkpoint)


def test_causal_lm_encoders_are_taken(checkpoint: Path) -> None:
    change(checkpoint / "model_index.json", text_encoder=["transformers", "Qwen3ForCausalLM"])
    change(checkpoint / "text_encoder" / "config.json", architectures=["Qwen3ForCausalLM"])
    assert spec_of(checkpoint).max_prompt_tokens == 512


def test_released_models_know_many_sizes_and_every_shape() -> None:
    sizes = released_spec("Tongyi-MAI/Z-Image-Turbo").trained_sizes
    assert sizes.best[:3] == ((1024, 1024), (1152, 896), (896, 1152))
    assert len(set(sizes.best)) == len(sizes.best) == 33
    for width, height in (*sizes.best, (512, 512), (2048, 2048), (4096, 1024)):
        assert sizes.warning(width, height) is None
    assert sizes.warning(256, 256) == (
        "size: 256x256 is not a size that this model was trained on (areas from 512x512 to 2048x2048):"
        " expect a poor picture"
    )


def test_a_model_of_another_size_knows_only_its_own() -> None:
    sizes = resolve_model(EngineConfig()).trained_sizes
    assert sizes.best == ((64, 64),)
    assert sizes.warning(64, 64) is None
    # Of the same area, but of another shape.
    assert sizes.warning(128, 32) == (
        "size: 128x32 is not a size that this model was trained on (64x64): expect a poor picture"
    )
    assert sizes.warning(1024, 1024) == (
        "size: 1024x1024 is not a size that this model was trained on (64x64): expect a poor picture"
        " after at least 256 times the work of 64x64"
    )
