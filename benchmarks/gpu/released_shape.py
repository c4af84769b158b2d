"""A Z-Image model of the released shape with random weights, built on its device without any download.

Speed and memory depend only on the weights' shapes and types, not on their values.
"""

from typing import Any

import torch
from diffusers import AutoencoderKL, ZImageTransformer2DModel
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import Qwen3Config, Qwen3Model

Shape = dict[str, dict[str, Any]]
"""Settings of the transformer, the text encoder and the VAE."""

# The configuration files of Tongyi-MAI/Z-Image-Turbo.
RELEASED: Shape = {
    "transformer": {
        "dim": 3840,
        "n_layers": 30,
        "n_refiner_layers": 2,
        "n_heads": 30,
        "n_kv_heads": 30,
        "cap_feat_dim": 2560,
        "axes_dims": [32, 48, 48],
        "axes_lens": [1536, 512, 512],
    },
    "text_encoder": {
        "hidden_size": 2560,
        "intermediate_size": 9728,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
        "max_position_embeddings": 40960,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
    },
    "vae": {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 1024},
}
# The same models, narrow and shallow.
TINY: Shape = {
    "transformer": RELEASED["transformer"]
    | {"dim": 64, "n_layers": 2, "n_heads": 2, "n_kv_heads": 2, "cap_feat_dim": 32, "axes_dims": [8, 12, 12]},
    "text_encoder": RELEASED["text_encoder"]
    | {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "vocab_size": 512,
    },
    "vae": {
        "block_out_channels": (8, 8, 16, 16),
        "layers_per_block": 1,
        "sample_size": 64,
        "norm_num_groups": 8,
    },
}


def build_models(
    shape: Shape, *, device: torch.device, dtype: torch.dtype, vae_dtype: torch.dtype
) -> dict[str, Any]:
    """Build transformer, text encoder and VAE, with seeded random weights drawn on the device."""
    with torch.device("meta"):
        models = {
            "transformer": ZImageTransformer2DModel(**shape["transformer"]),
            "text_encoder": Qwen3Model(Qwen3Config(**shape["text_encoder"])),
            "vae": _vae(shape),
        }
    generator = torch.Generator(device).manual_seed(0)
    for name, model in models.items():
        # Not model.to, because diffusers' version warns.
        nn.Module.to(model, vae_dtype if name == "vae" else dtype)
        model.to_empty(device=device)
        _fill(model, generator)
        model.eval().requires_grad_(False)
    encoder = models["text_encoder"]
    # Its frequencies are computed at construction, so on the meta device they are empty.
    encoder.rotary_emb = type(encoder.rotary_emb)(encoder.config).to(device)
    return models


def _vae(shape: Shape) -> Any:
    levels = len(shape["vae"]["block_out_channels"])
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
        **shape["vae"],
    )


def _fill(model: nn.Module, generator: torch.Generator) -> None:
    """Draw weights with the spread of torch's default initialisation: 1 / sqrt(3 inputs)."""
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
        elif parameter.ndim > 1:
            parameter.data.normal_(std=(3 * parameter[0].numel()) ** -0.5, generator=generator)
        else:
            parameter.data.zero_()


def step_flops(shape: Shape, num_image_tokens: int, num_caption_tokens: int) -> float:
    """Count the floating-point operations of one transformer forward for one image.

    For N tokens, every layer does 2 * N * weights in its matrix products and 4 * N^2 * width in attention.
    The caption refiner, which runs once per image, is left out, as are norms and embedders: below 1 %.
    """
    config = shape["transformer"]
    dim = config["dim"]
    weights = 4 * dim * dim + 3 * dim * int(dim / 3 * 8)

    def layer(num_tokens: int) -> float:
        return float(2 * num_tokens * weights + 4 * num_tokens**2 * dim)

    in_layers: float = config["n_layers"] * layer(num_image_tokens + num_caption_tokens)
    in_refiners: float = config["n_refiner_layers"] * layer(num_image_tokens)
    return in_layers + in_refiners


def decode_flops(shape: Shape, height: int, width: int) -> float:
    """Count the floating-point operations of decoding one image of ``height`` x ``width`` pixels."""
    scale = 2 ** (len(shape["vae"]["block_out_channels"]) - 1)
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        _vae(shape).decode(torch.empty(1, 16, height // scale, width // scale))
    return float(counter.get_total_flops())
