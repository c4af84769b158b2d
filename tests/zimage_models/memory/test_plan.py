"""What an engine takes in each memory mode: exact weights, and cards on which the released models fit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch import nn
from transformers import Qwen3Config, Qwen3Model

from benchmarks.gpu.released_shape import RELEASED
from tests.zimage_models.live_tensors import LiveTensors
from zimage_models.checkpoints.components import load_components, load_controlnet
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.checkpoints.tiny import build_tiny_controlnet
from zimage_models.config import EngineConfig
from zimage_models.memory.modes import MEMORY_MODES
from zimage_models.memory.plan import FreeMemory, MemoryPlan, memory_plan
from zimage_models.memory.sizes import RELEASED_SIZES, RELEASED_TOKENS
from zimage_models.models.denoisers.condition import Caption
from zimage_models.models.denoisers.denoiser import Denoiser
from zimage_models.models.offload.model_sizes import model_sizes, read_model_sizes

GB = 10**9


def released(memory: str, side: int = 1024, **options: Any) -> MemoryPlan:
    settings = {"itemsize": 2, "vae_itemsize": 4, "cache_bytes": 2**28} | options
    return memory_plan(
        RELEASED_SIZES,
        MEMORY_MODES[memory],
        num_tokens=RELEASED_TOKENS * side**2 // 1024**2,
        num_pixels=side**2,
        **settings,
    )


def test_the_released_sizes_are_those_of_its_configuration() -> None:
    levels = len(RELEASED["vae"]["block_out_channels"])
    with torch.device("meta"):
        models = {
            "transformer": ZImageTransformer2DModel(**RELEASED["transformer"]),
            "text_encoder": Qwen3Model(Qwen3Config(**RELEASED["text_encoder"])),
            "vae": AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                latent_channels=16,
                use_quant_conv=False,
                use_post_quant_conv=False,
                **RELEASED["vae"],
            ),
        }
    assert model_sizes(**models) == RELEASED_SIZES


def test_the_released_weights_take_what_is_known() -> None:
    weights = released("resident").weights
    assert weights["transformer"] == 2 * 6_154_908_736
    # 4,022.5 M with the last layer and the final norm, which are not loaded.
    assert weights["text encoder"] == 2 * (4_022_468_096 - 100_930_816 - 2560)
    assert weights["VAE"] == 4 * 83_819_683


def test_layers_in_float8_take_half() -> None:
    for memory in ("resident", "16gb"):
        in_fp8, plain = (released(memory, layer_itemsize=size).weights for size in (1, None))
        assert plain["transformer"] - in_fp8["transformer"] == 30 * RELEASED_SIZES.block
    in_fp8, plain = (released("8gb", layer_itemsize=size) for size in (1, None))
    assert 2 * in_fp8.copied_per_step == plain.copied_per_step


@pytest.mark.parametrize(("memory", "limit_gb"), [("16gb", 15.5), ("8gb", 7.8), ("4gb", 3.9)])
def test_a_mode_keeps_its_word(memory: str, limit_gb: float) -> None:
    for side in (512, 1024, 1536):
        assert released(memory, side).device_bytes <= limit_gb * GB
    # A full step takes no more than that.
    plan = released(memory)
    num_images = (MEMORY_MODES[memory].max_step_tokens or 4 * 4224) // RELEASED_TOKENS
    assert plan.device_bytes - plan.decode_bytes + num_images * plan.step_bytes <= limit_gb * GB


@pytest.mark.parametrize(
    ("card_gb", "memory"), [(4, "4gb"), (8, "8gb"), (16, "16gb"), (24, "resident"), (80, "resident")]
)
def test_cards_have_a_mode(card_gb: int, memory: str) -> None:
    free = FreeMemory(device_bytes=card_gb * GB, host_bytes=64 * GB)
    assert next(name for name in MEMORY_MODES if free.holds(released(name))) == memory


def test_what_leaves_the_device_is_in_host_memory() -> None:
    plans = [released(name) for name in MEMORY_MODES]
    weights = {sum(plan.weights.values()) + plan.kept_bytes for plan in plans}
    assert len(weights) == 1
    device = [plan.device_bytes for plan in plans]
    assert device == sorted(device, reverse=True)
    needed = [plan.host_bytes for plan in plans]
    assert needed == sorted(needed)
    # On a CPU it is all one memory.
    on_cpu = released("4gb", device_is_host=True)
    assert on_cpu.device_bytes == plans[-1].device_bytes + plans[-1].host_bytes
    assert on_cpu.host_bytes == 0


@pytest.mark.parametrize("name", ["tiny-zimage-turbo", "siglip", "controlnet"])
def test_weights_are_counted_exactly(
    name: str, siglip_checkpoint: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    cpu = torch.device("cpu")
    config = EngineConfig(model=name)
    if name == "siglip":
        config = EngineConfig(model=str(siglip_checkpoint))
    if name == "controlnet":
        folder = build_tiny_controlnet(tmp_path / "c", refiner_hints="control_noise_refiner", num_channels=33)
        config = EngineConfig(model=str(tiny_checkpoint), variant="turbo", controlnet=str(folder))
    spec = resolve_model(config)
    loaded = load_components(spec.directory, device=cpu, dtype=torch.bfloat16, vae_dtype=torch.float32)
    plan = memory_plan(
        read_model_sizes(spec),
        MEMORY_MODES["resident"],
        itemsize=2,
        vae_itemsize=4,
        num_tokens=64,
        num_pixels=64 * 64,
        cache_bytes=0,
    )
    controlnet = spec.controlnet and load_controlnet(
        spec.controlnet.directory, device=cpu, dtype=torch.bfloat16
    )
    assert plan.weights == {
        "transformer": num_bytes(loaded.transformer) + num_bytes(controlnet),
        "text encoder": num_bytes(loaded.text_encoder),
        "SigLIP": num_bytes(loaded.siglip),
        "VAE": num_bytes(loaded.vae),
    }


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_step_takes_what_is_planned(dtype: torch.dtype, tiny_checkpoint: Path) -> None:
    device = torch.device("cpu")
    components = load_components(tiny_checkpoint, device=device, dtype=dtype, vae_dtype=torch.float32)
    denoiser = Denoiser(components.transformer)
    [caption] = denoiser.refine_captions([[torch.randn(20, 32)]])
    conditions = denoiser.conditions([Caption(caption, (20,))], [], 64, 64)
    plan = memory_plan(
        read_model_sizes(resolve_model(EngineConfig(model=str(tiny_checkpoint), variant="turbo"))),
        MEMORY_MODES["resident"],
        itemsize=dtype.itemsize,
        vae_itemsize=4,
        num_tokens=32 * 32 + 32,
        num_pixels=512 * 512,
        cache_bytes=0,
    )
    inputs = torch.randn(1, 16, 64, 64), torch.tensor([0.3]), conditions
    denoiser.predict(*inputs)  # it keeps the rotary encoding
    with LiveTensors() as live:
        denoiser.predict(*inputs)
    assert live.peak_bytes == pytest.approx(plan.step_bytes, rel=0.1)


def num_bytes(model: nn.Module | None) -> int:
    return sum(parameter.nbytes for parameter in model.parameters()) if model else 0
