"""A VAE that runs over strips makes what it makes at once, in the memory that the plan says."""

import copy
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch._dynamo.utils import counters
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.zimage_models.live_tensors import LiveTensors
from zimage_models.checkpoints.components import load_vae
from zimage_models.memory import vae_maps
from zimage_models.model_spec import KNOWN_MODELS
from zimage_models.models.offload import strips
from zimage_models.models.offload.strips import use_strips

HEIGHT, WIDTH = 192, 160
AMPLE = 2**40


@pytest.fixture(params=["embedded", "four levels"])
def vae(request: pytest.FixtureRequest, tiny_checkpoint: Path) -> Any:
    embedded = KNOWN_MODELS["tiny-zimage-turbo"].directory
    assert embedded
    directory = embedded if request.param == "embedded" else tiny_checkpoint
    return load_vae(directory, device=torch.device("cpu"), dtype=torch.float32)


@pytest.fixture
def in_strips(vae: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Make a copy of the VAE that runs over strips of one row at the coarsest level, or of more."""

    def make(*, rows: int = 1, max_map_bytes: int = AMPLE, dtype: torch.dtype = torch.float32) -> Any:
        channels = vae.config.block_out_channels
        one_row = max(channels[:2]) * WIDTH * 2 ** (len(channels) - 1)
        monkeypatch.setattr(strips, "STRIP_VALUES", rows * one_row)
        monkeypatch.setattr(vae_maps, "STRIP_VALUES", rows * one_row)
        copied = torch.nn.Module.to(copy.deepcopy(vae), dtype)
        use_strips(copied, max_map_bytes=max_map_bytes)
        return copied

    return make


def latents(vae: Any, num_images: int = 1) -> Tensor:
    scale = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = num_images, vae.config.latent_channels, HEIGHT // scale, WIDTH // scale
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def image() -> Tensor:
    return torch.rand((1, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(2)) * 2 - 1


def difference(one: Tensor, other: Tensor) -> float:
    return float((one.float() - other.float()).abs().max())


@pytest.mark.parametrize("rows", [1, 5, 1000])
@torch.inference_mode()
def test_decoded_images_are_the_same(vae: Any, in_strips: Callable[..., Any], rows: int) -> None:
    latents_BCHW = latents(vae, 2)
    whole, parts = vae.decode(latents_BCHW).sample, in_strips(rows=rows).decode(latents_BCHW).sample
    assert difference(parts, whole) < 2e-5 * float(whole.abs().max())


@torch.inference_mode()
def test_nothing_is_compiled_strip_by_strip(vae: Any, in_strips: Callable[..., Any]) -> None:
    decoder = in_strips(rows=5)
    decoder.decoder.compile(backend="eager")
    counters.clear()
    decoder.decode(latents(vae))
    assert not counters["stats"]


@pytest.mark.parametrize("rows", [1, 5])
@torch.inference_mode()
def test_encoded_pictures_are_the_same(vae: Any, in_strips: Callable[..., Any], rows: int) -> None:
    whole, parts = (one.encode(image()).latent_dist.parameters for one in (vae, in_strips(rows=rows)))
    assert difference(parts, whole) < 2e-5 * float(whole.abs().max())


@torch.inference_mode()
def test_bfloat16_is_rounded_as_at_once(vae: Any, in_strips: Callable[..., Any]) -> None:
    latents_BCHW = latents(vae).bfloat16()
    exact = vae.decode(latents_BCHW.float()).sample
    whole = torch.nn.Module.to(copy.deepcopy(vae), torch.bfloat16).decode(latents_BCHW).sample
    parts = in_strips(dtype=torch.bfloat16).decode(latents_BCHW).sample
    assert psnr(parts, exact) > psnr(whole, exact) - 1


def psnr(found: Tensor, expected: Tensor) -> float:
    """Return the ratio of peak signal to noise, in dB, of images in -1 .. 1."""
    return 10 * math.log10(4 / float((found.float() - expected).square().mean()))


@torch.inference_mode()
def test_memory_is_what_the_plan_says(vae: Any, in_strips: Callable[..., Any]) -> None:
    channels, size = vae.config.block_out_channels, (HEIGHT * WIDTH, 4)
    latents_BCHW = latents(vae)

    def peak(decoder: Any) -> int:
        with LiveTensors() as live:
            decoder.decode(latents_BCHW)
        return live.peak_bytes

    assert peak(vae) == pytest.approx(vae_maps.whole_decode_bytes(channels, *size), rel=0.1)
    decoder = in_strips()
    planned = vae_maps.strip_decode_bytes(channels, *size, on_device=True)
    assert planned * 0.7 <= peak(decoder) <= planned * 1.1
    assert vae_maps.strip_map_bytes(channels, *size) < planned < vae_maps.whole_decode_bytes(channels, *size)


@torch.inference_mode()
def test_maps_that_do_not_fit_are_kept_in_host_memory(
    tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = AutoencoderKL.load_config(str(tiny_checkpoint / "vae"))
    channels, size = config["block_out_channels"], (HEIGHT * WIDTH, 4)
    for module in (strips, vae_maps):
        monkeypatch.setattr(module, "STRIP_VALUES", max(channels[:2]) * HEIGHT // 6 * WIDTH)
    with FakeTensorMode():  # tensors without values, of which those on "meta" are the device's
        with torch.device("meta"):
            vae, latents_BCHW = AutoencoderKL.from_config(config), torch.empty(1, 16, HEIGHT // 8, WIDTH // 8)
        use_strips(vae, max_map_bytes=vae_maps.strip_map_bytes(channels, *size) - 1)
        with LiveTensors("meta") as live:
            vae.decode(latents_BCHW)
    planned = vae_maps.strip_decode_bytes(channels, *size, on_device=False)
    assert planned * 0.7 <= live.peak_bytes <= planned * 1.1
    assert planned < vae_maps.strip_map_bytes(channels, *size)
