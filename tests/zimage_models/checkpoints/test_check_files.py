"""Odd and broken checkpoints, each with what the check of the files says of it, before anything is loaded."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from safetensors.torch import load_file, save_file
from transformers import Qwen3Config, Qwen3Model

from tests.zimage_models.test_model_spec import change
from zimage_models.checkpoints.check_files import check_files
from zimage_models.checkpoints.components import load_components
from zimage_models.checkpoints.convert import convert_checkpoint
from zimage_models.checkpoints.expected_tensors import (
    text_encoder_tensors,
    transformer_tensors,
    vae_tensors,
)
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.checkpoints.weights_hash import weights_sha256
from zimage_models.component_config import ComponentConfig
from zimage_models.config import EngineConfig
from zimage_models.errors import CheckpointError
from zimage_models.models.prompt_tokenizer import PromptTokenizer

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT_ENCODER = "text_encoder/model.safetensors"
FILES = (TRANSFORMER, VAE, TEXT_ENCODER)
Break = Callable[[Path], Any]


def writes(file: str, content: bytes) -> Break:
    return lambda folder: (folder / file).write_bytes(content)


def cuts(file: str, num_bytes: int) -> Break:
    return lambda folder: os.truncate(folder / file, (folder / file).stat().st_size - num_bytes)


def edits(file: str, **tensors: torch.Tensor) -> Break:
    def edit(folder: Path) -> None:
        save_file({**load_file(folder / file), **tensors}, folder / file, metadata={"format": "pt"})

    return edit


def configures(file: str, **values: Any) -> Break:
    return lambda folder: change(folder / file, **values)


def renames(file: str, name: str) -> Break:
    return lambda folder: (folder / file).rename((folder / file).with_name(name))


def removes(file: str) -> Break:
    return lambda folder: (folder / file).unlink()


def links_to_nothing(folder: Path) -> None:
    (folder / VAE).unlink()
    (folder / VAE).symlink_to("../../blobs/gone")


def pickles(folder: Path) -> None:
    (folder / VAE).rename((folder / VAE).with_suffix(".bin"))


def gguf(folder: Path) -> None:
    (folder / TRANSFORMER).rename(folder / "transformer" / "z-image-Q4_K_M.gguf")


def swaps_variants(folder: Path) -> None:
    """Put in the weights of a model with another number of layers, as from the wrong download."""
    other = build_tiny_checkpoint(folder / "other", num_layers=2)
    shutil.copyfile(other / TRANSFORMER, folder / TRANSFORMER)


def names_a_shard_twice(folder: Path) -> None:
    shutil.copyfile(folder / VAE, folder / "vae" / "second.safetensors")
    places = {"a": "diffusion_pytorch_model.safetensors", "b": "second.safetensors"}
    (folder / f"{VAE}.index.json").write_text(json.dumps({"weight_map": places}))


def overlaps(folder: Path) -> None:
    one = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": one, "b": one}).encode()
    (folder / VAE).write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))


FLOAT8 = torch.zeros(64, 64).to(torch.float8_e4m3fn)
PROJECTION = "layers.0.attention.to_q.weight"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12309866400\n"
BROKEN: dict[str, tuple[Break, str]] = {
    "cut short": (cuts(TRANSFORMER, 1000), rf"{TRANSFORMER}: cut short: it has .* fetch it again$"),
    "cut short within its header": (
        lambda folder: os.truncate(folder / TEXT_ENCODER, 500),
        f"{TEXT_ENCODER}: cut short within its header",
    ),
    "an empty file": (writes(VAE, b""), f"{VAE}: empty"),
    "more bytes than the header counts": (
        lambda folder: (folder / VAE).write_bytes((folder / VAE).read_bytes() + b"!"),
        f"{VAE}: damaged: it has .* bytes, and its header counts",
    ),
    "tensors that overlap": (overlaps, "not a safetensors file .its tensors overlap"),
    "a zip file by that name": (writes(VAE, b"PK\x03\x04" * 9), f"{VAE}: not a safetensors file"),
    "a web page by that name": (writes(VAE, b"<!DOCTYPE html><html>"), f"{VAE}: not a safetensors file"),
    "a Git LFS pointer": (
        writes(TRANSFORMER, LFS),
        f"{TRANSFORMER}: only a Git LFS pointer; .* git lfs pull",
    ),
    "a tokenizer that is an LFS pointer": (writes("tokenizer/tokenizer.json", LFS), "LFS pointer"),
    "no tokenizer": (removes("tokenizer/tokenizer.json"), "tokenizer/tokenizer.json: missing"),
    "a link to nothing": (links_to_nothing, rf"{VAE}: a link to \.\./\.\./blobs/gone, which is missing"),
    "pickles": (pickles, r"vae: no safetensors weights; diffusion_pytorch_model\.bin is not read"),
    "GGUF": (gguf, r"transformer: no safetensors weights; z-image-Q4_K_M\.gguf is not read"),
    "a name that no loader opens": (
        renames(TRANSFORMER, "model.safetensors"),
        r"model\.safetensors is not read, only diffusion_pytorch_model\.safetensors or",
    ),
    "a variant of one's own": (
        renames(VAE, "diffusion_pytorch_model.ema.safetensors"),
        r"diffusion_pytorch_model\.ema\.safetensors is not read",
    ),
    "an index of missing files": (
        writes(f"{TRANSFORMER}.index.json", b'{"weight_map": {"a": "gone.safetensors"}}'),
        r"gone\.safetensors: missing, though .*index\.json names it",
    ),
    "an index that is damaged": (writes(f"{VAE}.index.json", b"{"), "not a safetensors index"),
    "a tensor in two files": (names_a_shard_twice, "is also in another file"),
    "another model's weights": (
        swaps_variants,
        r"transformer: .* config\.json: \d+ missing .such as layers\.2",
    ),
    "a width of another model": (
        configures("transformer/config.json", dim=128, axes_dims=[16, 24, 24]),
        "transformer: .* misshapen",
    ),
    "too few layers": (configures("text_encoder/config.json", num_hidden_layers=2), "unexpected .*layers.2"),
    "another vocabulary": (configures("text_encoder/config.json", vocab_size=151_936), "misshapen .*embed"),
    "latents of another model": (
        configures("vae/config.json", latent_channels=4),
        r"vae: .* 2 misshapen .such as decoder\.conv_in\.weight",
    ),
    "bitsandbytes by its configuration": (
        configures("transformer/config.json", quantization_config={"quant_method": "bitsandbytes"}),
        r"transformer: quantised \(config\.json says with bitsandbytes\); .* it was made from$",
    ),
    "torchao by its configuration": (
        configures("text_encoder/config.json", quantization_config={"quant_method": "torchao"}),
        "text_encoder: quantised .*torchao",
    ),
    "bitsandbytes by its tensors": (
        edits(TRANSFORMER, **{f"{PROJECTION}.absmax": torch.ones(4), PROJECTION: torch.ones(4, 1).byte()}),
        r"to_q\.weight\.absmax is of bitsandbytes",
    ),
    "quanto": (edits(TRANSFORMER, **{f"{PROJECTION}._data": torch.ones(4).char()}), "is of quanto"),
    "SDNQ": (edits(TRANSFORMER, **{"layers.0.attention.to_q.scale": torch.ones(4)}), "is of SDNQ"),
    "scaled fp8": (edits(TRANSFORMER, scaled_fp8=torch.zeros(2)), "is of scaled fp8"),
    "plain fp8": (edits(TRANSFORMER, **{PROJECTION: FLOAT8}), "is F8_E4M3, not one of F64, F32, F16, BF16"),
    "another scheduler": (
        configures("model_index.json", scheduler=["diffusers", "UniPCMultistepScheduler"]),
        "UniPCMultistepScheduler'., expected FlowMatchEulerDiscreteScheduler",
    ),
}


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_told_before_it_is_loaded(checkpoint: Path, case: str) -> None:
    config = EngineConfig(model=str(checkpoint), variant="turbo")
    resolve_model(config)
    breaks, told = BROKEN[case]
    breaks(checkpoint)
    with pytest.raises(CheckpointError, match=told) as caught:
        resolve_model(config)
    assert "\n" not in str(caught.value)


def test_a_tokenizer_may_be_a_vocabulary_and_merges(checkpoint: Path) -> None:
    folder = checkpoint / "tokenizer"
    vocabulary = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    with pytest.raises(CheckpointError, match=r"tokenizer/merges\.txt: missing"):
        check_files(checkpoint)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    check_files(checkpoint)
    PromptTokenizer(checkpoint, max_tokens=100)


def test_one_file_is_no_checkpoint(tmp_path: Path) -> None:
    for name, told in (("z.gguf", "is quantised weights in one file"), ("z.safetensors", "is one file; ")):
        (tmp_path / name).write_bytes(b"GGUF")
        with pytest.raises(CheckpointError, match=told):
            resolve_model(EngineConfig(model=str(tmp_path / name), variant="turbo"))


@pytest.mark.parametrize(("variant", "shard"), [("bf16", "200KB"), ("fp16", "10GB")])
def test_weights_under_a_variants_name_are_read_and_converted(
    tmp_path: Path, variant: str, shard: str
) -> None:
    dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[variant]
    plain = build_tiny_checkpoint(tmp_path / "plain", dtype=dtype)
    models = load(plain)
    folder = Path(shutil.copytree(plain, tmp_path / "named"))
    for file in FILES:
        part = Path(file).parent.name
        (folder / file).unlink()
        saved = getattr(models, part) if part != "text_encoder" else Qwen3Model.from_pretrained(plain / part)
        torch.nn.Module.to(saved, dtype)
        saved.save_pretrained(folder / part, variant=variant, max_shard_size=shard)
    check_files(folder)
    loaded = load(folder)
    for name, tensor in load(plain).transformer.state_dict().items():
        assert torch.equal(loaded.transformer.state_dict()[name], tensor)
    convert_checkpoint(folder, tmp_path / "converted")
    assert not [file for file in (tmp_path / "converted").rglob(f"*.{variant}*")]
    check_files(tmp_path / "converted")
    load(tmp_path / "converted")


def load(directory: Path) -> Any:
    return load_components(
        directory, device=torch.device("cpu"), dtype=torch.float32, vae_dtype=torch.float32
    )


def test_only_what_is_read_is_hashed(checkpoint: Path) -> None:
    before = weights_sha256(checkpoint)
    shutil.copyfile(checkpoint / VAE, (checkpoint / VAE).with_suffix(".fp16.safetensors"))
    assert weights_sha256(checkpoint) == before


RELEASED_VAE = {
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "layers_per_block": 2,
    "latent_channels": 16,
}
SMALL = {"dim": 64, "n_heads": 2, "axes_dims": [8, 12, 12], "n_layers": 2, "cap_feat_dim": 32}


@pytest.mark.parametrize(
    ("expected", "build", "values"),
    [
        (transformer_tensors, ZImageTransformer2DModel, {}),
        (transformer_tensors, ZImageTransformer2DModel, {**SMALL, "siglip_feat_dim": 24}),
        (transformer_tensors, ZImageTransformer2DModel, {**SMALL, "qk_norm": False, "all_patch_size": [2]}),
        (text_encoder_tensors, lambda **values: Qwen3Model(Qwen3Config(**values)), {"attention_bias": True}),
        (text_encoder_tensors, lambda **values: Qwen3Model(Qwen3Config(**values)), {"head_dim": 64}),
        (vae_tensors, AutoencoderKL, RELEASED_VAE),
    ],
)
def test_the_expected_tensors_are_those_of_the_models(
    tmp_path: Path, expected: Callable[[ComponentConfig], Any], build: Callable[..., Any], values: Any
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(values))
    with torch.device("meta"):
        model = build(**values)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = dict(expected(ComponentConfig(tmp_path, "")))
    if build is AutoencoderKL:
        shapes = {name: shape for name, shape in shapes.items() if name in found}
        assert len(found) == 8
    assert found == shapes
