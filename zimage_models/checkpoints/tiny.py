"""Random tiny Z-Image checkpoints of any shape, in the released layout, for tests and experiments.

Nothing is downloaded. They generate noise, but every code path of the released models runs on them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    ZImageControlNetModel,
    ZImageOmniPipeline,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from torch import nn
from transformers import (
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3Model,
    Siglip2ImageProcessorPil,
    Siglip2VisionConfig,
    Siglip2VisionModel,
)

_TEXT_WIDTH = 32
_SIGLIP_PATCH, _SIGLIP_PATCHES, _SIGLIP_POSITIONS = 8, 40, 36
_SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>", "</think>")
# The part of Qwen3's chat template that Z-Image uses.
_CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""


def build_tiny_checkpoint(
    directory: Path,
    *,
    seed: int = 0,
    dim: int = 64,
    num_heads: int = 2,
    num_layers: int = 3,
    num_refiner_layers: int = 2,
    num_text_layers: int = 3,
    vae_levels: int = 4,
    sample_size: int = 64,
    shift: float = 3.0,
    axes_lens: Sequence[int] = (1536, 512, 512),
    dtype: torch.dtype = torch.float32,
    max_shard_size: str = "10GB",
    reads_references: bool = False,
    siglip_width: int | None = None,
) -> Path:
    """Write a checkpoint with random weights.

    Args:
        directory: where to write it; created if missing.
        seed: decides the weights; the global random state does not change.
        dim: transformer width; ``dim / num_heads`` must be even and at least 8.
        num_heads: attention heads; the release has 30.
        num_layers: transformer layers.
        num_refiner_layers: layers of each of the two refiners.
        num_text_layers: layers of the text encoder; Z-Image never reads the last one.
        vae_levels: the VAE shrinks by ``2 ** (vae_levels - 1)``; 4 as released: sizes are multiples of 16.
        sample_size: default image side in pixels.
        shift: the scheduler's time shift.
        axes_lens: positions of the rotary encoding: captions, rows, columns.
        dtype: of the stored weights.
        max_shard_size: larger components are split into several files with an index.
        reads_references: write a ZImageOmniPipeline, for the edit variant.
        siglip_width: width of its SigLIP2 features; None for a model without them.

    Returns:
        The directory.

    Raises:
        ValueError: the architecture cannot have this shape.
    """
    head_dim = dim // num_heads
    if dim % num_heads or head_dim % 2 or head_dim < 8:
        raise ValueError(f"dim: {dim} / {num_heads} heads is not an even number of at least 8")
    tokenizer = _byte_tokenizer()
    # diffusers and transformers draw weights when they build a model; ours come from our own generator.
    with torch.random.fork_rng(devices=[]):
        models = {
            "transformer": _transformer(
                dim, num_heads, num_layers, num_refiner_layers, axes_lens, siglip_width
            ),
            "vae": _vae(vae_levels, sample_size),
            "text_encoder": _text_encoder(num_text_layers, len(tokenizer)),
        }
        if siglip_width:
            models["siglip"] = _siglip(siglip_width)
    generator = torch.Generator().manual_seed(seed)
    for model in models.values():
        _randomise(model, generator)
        # Not model.to, because diffusers' version warns.
        nn.Module.to(model, dtype)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    parts: dict[str, Any] = {"scheduler": scheduler, "tokenizer": tokenizer, **models}
    if reads_references:
        processor = (
            Siglip2ImageProcessorPil(patch_size=_SIGLIP_PATCH, max_num_patches=_SIGLIP_PATCHES)
            if siglip_width
            else None
        )
        pipeline: Any = ZImageOmniPipeline(**{"siglip": None, **parts, "siglip_processor": processor})
    else:
        pipeline = ZImagePipeline(**parts)
    pipeline.save_pretrained(str(directory), max_shard_size=max_shard_size)
    return directory


def build_tiny_controlnet(
    directory: Path,
    *,
    seed: int = 0,
    dim: int = 64,
    num_heads: int = 2,
    places: Sequence[int] = (0, 2),
    refiner_places: Sequence[int] = (0, 1),
    num_refiner_layers: int = 2,
    num_channels: int = 16,
    refiner_hints: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write a ControlNet with random weights for a checkpoint of :func:`build_tiny_checkpoint`.

    Args:
        directory: where to write it; created if missing.
        seed: decides the weights; the global random state does not change.
        dim: of the checkpoint's transformer.
        num_heads: of the checkpoint's transformer.
        places: the transformer's layers that get hints.
        refiner_places: the layers of its image refiner that get hints, in layouts with such hints.
        num_refiner_layers: of the checkpoint's transformer.
        num_channels: 16 for a control image alone (1.0), 33 with a mask and an image to paint in (2.x).
        refiner_hints: which layers make the refiner's hints: None (1.0), ``control_layers`` (2.0) or
            ``control_noise_refiner`` (2.1).
        dtype: of the stored weights.

    Returns:
        The directory.
    """
    with torch.random.fork_rng(devices=[]):
        controlnet: Any = ZImageControlNetModel(
            control_layers_places=list(places),
            control_refiner_layers_places=list(refiner_places),
            control_in_dim=num_channels,
            add_control_noise_refiner=refiner_hints,
            dim=dim,
            n_refiner_layers=num_refiner_layers,
            n_heads=num_heads,
            n_kv_heads=num_heads,
        )
    _randomise(controlnet, torch.Generator().manual_seed(seed))
    nn.Module.to(controlnet, dtype)
    controlnet.save_pretrained(str(directory))
    return directory


def _transformer(
    dim: int,
    num_heads: int,
    num_layers: int,
    num_refiner_layers: int,
    axes_lens: Sequence[int],
    siglip_width: int | None,
) -> Any:
    head_dim = dim // num_heads
    side_dim = head_dim * 3 // 16 * 2
    return ZImageTransformer2DModel(
        all_patch_size=(2,),
        all_f_patch_size=(1,),
        in_channels=16,
        dim=dim,
        n_layers=num_layers,
        n_refiner_layers=num_refiner_layers,
        n_heads=num_heads,
        n_kv_heads=num_heads,
        qk_norm=True,
        cap_feat_dim=_TEXT_WIDTH,
        siglip_feat_dim=siglip_width,
        axes_dims=[head_dim - 2 * side_dim, side_dim, side_dim],
        axes_lens=list(axes_lens),
    )


def _vae(vae_levels: int, sample_size: int) -> Any:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * vae_levels,
        up_block_types=("UpDecoderBlock2D",) * vae_levels,
        block_out_channels=(16,) * vae_levels,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=sample_size,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def _siglip(width: int) -> Any:
    return Siglip2VisionModel(
        Siglip2VisionConfig(
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_patches=_SIGLIP_POSITIONS,
            patch_size=_SIGLIP_PATCH,
        )
    )


def _text_encoder(num_layers: int, vocab_size: int) -> Any:
    return Qwen3Model(
        Qwen3Config(
            hidden_size=_TEXT_WIDTH,
            intermediate_size=2 * _TEXT_WIDTH,
            num_hidden_layers=num_layers,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            vocab_size=vocab_size,
            max_position_embeddings=4096,
        )
    )


@torch.no_grad()
def _randomise(model: nn.Module, generator: torch.Generator) -> None:
    """Give every parameter, including gates and pad tokens, a value that keeps activations near 1."""
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if "norm" in name and name.endswith("weight"):
            noise = 1 + 0.1 * noise
        elif parameter.ndim > 1 and "pad_token" not in name and "embed_tokens" not in name:
            noise = noise * parameter[0].numel() ** -0.5
        elif name.endswith("bias"):
            noise = 0.1 * noise
        parameter.copy_(noise)


def _byte_tokenizer() -> Qwen2Tokenizer:
    """Make a byte-level BPE tokenizer without merges: one token per byte."""
    symbols = [*_byte_symbols(), *_SPECIAL_TOKENS]
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: number for number, symbol in enumerate(symbols)},
        merges=[],
        extra_special_tokens=list(_SPECIAL_TOKENS[1:]),
        model_max_length=131072,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer


def _byte_symbols() -> Iterator[str]:
    """Yield one visible character for each byte, as in GPT-2's byte-level BPE."""
    visible = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    num_hidden = 0
    for byte in range(256):
        if byte in visible:
            yield chr(byte)
        else:
            yield chr(256 + num_hidden)
            num_hidden += 1
