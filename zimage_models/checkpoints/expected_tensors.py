"""The tensors that a component's ``config.json`` asks for, without building the model. It needs no torch."""

from collections.abc import Mapping

from zimage_models.checkpoints.compare_tensors import Shapes
from zimage_models.component_config import ComponentConfig

# The classes' own values of what a configuration may leave out.
_TRANSFORMER = {
    "in_channels": 16,
    "dim": 3840,
    "n_layers": 30,
    "n_refiner_layers": 2,
    "n_heads": 30,
    "cap_feat_dim": 2560,
}
_QWEN3 = {
    "vocab_size": 151_936,
    "hidden_size": 4096,
    "intermediate_size": 22_016,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "head_dim": 128,
}
_VAE = {"in_channels": 3, "out_channels": 3, "latent_channels": 4}
# Of diffusers' transformer_z_image: what all blocks' modulation is made from.
_MODULATION_WIDTH, _TIME_WIDTH = 256, 1024


def transformer_tensors(config: ComponentConfig) -> Shapes:
    """Return names and shapes of all tensors of a ZImageTransformer2DModel."""
    sizes = _sizes(config, _TRANSFORMER)
    dim, caption = sizes["dim"], sizes["cap_feat_dim"]
    modulation = min(dim, _MODULATION_WIDTH)
    shapes: dict[str, tuple[int, ...]] = {
        "x_pad_token": (1, dim),
        "cap_pad_token": (1, dim),
        **_linear("t_embedder.mlp.0", _TIME_WIDTH, _MODULATION_WIDTH),
        **_linear("t_embedder.mlp.2", modulation, _TIME_WIDTH),
        "cap_embedder.0.weight": (caption,),
        **_linear("cap_embedder.1", dim, caption),
    }
    patches, frames = (config.content.get(name) or [one] for name, one in _PATCHES)
    for patch, frame in zip(patches, frames, strict=False):
        pixels = patch * patch * frame * sizes["in_channels"]
        place = f"{patch}-{frame}"
        shapes |= _linear(f"all_x_embedder.{place}", dim, pixels)
        shapes |= _linear(f"all_final_layer.{place}.linear", pixels, dim)
        shapes |= _linear(f"all_final_layer.{place}.adaLN_modulation.1", dim, modulation)
    stacks = {"layers": sizes["n_layers"], "noise_refiner": sizes["n_refiner_layers"]}
    unmodulated = {"context_refiner": sizes["n_refiner_layers"]}
    if config.content.get("siglip_feat_dim") is not None:
        features = config.integer("siglip_feat_dim")
        shapes |= {"siglip_pad_token": (1, dim), "siglip_embedder.0.weight": (features,)}
        shapes |= _linear("siglip_embedder.1", dim, features)
        unmodulated["siglip_refiner"] = sizes["n_refiner_layers"]
    head_dim = dim // sizes["n_heads"] if config.content.get("qk_norm", True) else None
    block = _block(dim, head_dim)
    for stack, num_blocks in (stacks | unmodulated).items():
        parts = block | _linear("adaLN_modulation.0", 4 * dim, modulation) if stack in stacks else block
        shapes |= {
            f"{stack}.{number}.{name}": shape for number in range(num_blocks) for name, shape in parts.items()
        }
    return shapes


_PATCHES = (("all_patch_size", 2), ("all_f_patch_size", 1))


def _block(dim: int, head_dim: int | None) -> dict[str, tuple[int, ...]]:
    hidden = int(dim / 3 * 8)
    names = ("attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2")
    shapes: dict[str, tuple[int, ...]] = {f"{name}.weight": (dim,) for name in names}
    shapes |= {f"attention.{name}.weight": (dim, dim) for name in ("to_q", "to_k", "to_v", "to_out.0")}
    shapes |= {f"feed_forward.{name}.weight": (hidden, dim) for name in ("w1", "w3")}
    shapes["feed_forward.w2.weight"] = (dim, hidden)
    if head_dim:
        shapes |= {f"attention.{name}.weight": (head_dim,) for name in ("norm_q", "norm_k")}
    return shapes


def text_encoder_tensors(config: ComponentConfig) -> Shapes:
    """Return names and shapes of all tensors of a Qwen3Model."""
    sizes = _sizes(config, _QWEN3)
    width, hidden, head_dim = sizes["hidden_size"], sizes["intermediate_size"], sizes["head_dim"]
    queries, keys = (head_dim * sizes[name] for name in ("num_attention_heads", "num_key_value_heads"))
    projections = {"q": (queries, width), "k": (keys, width), "v": (keys, width), "o": (width, queries)}
    layer: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{name}_proj.weight": shape for name, shape in projections.items()},
        **{f"self_attn.{name}_norm.weight": (head_dim,) for name in "qk"},
        **{f"mlp.{name}_proj.weight": (hidden, width) for name in ("gate", "up")},
        "mlp.down_proj.weight": (width, hidden),
        **{f"{name}_layernorm.weight": (width,) for name in ("input", "post_attention")},
    }
    if config.content.get("attention_bias"):
        layer |= {f"self_attn.{name}_proj.bias": shape[:1] for name, shape in projections.items()}
    return {
        "embed_tokens.weight": (sizes["vocab_size"], width),
        "norm.weight": (width,),
        **{
            f"layers.{number}.{name}": shape
            for number in range(sizes["num_hidden_layers"])
            for name, shape in layer.items()
        },
    }


def vae_tensors(config: ComponentConfig) -> Shapes:
    """Return names and shapes of the tensors of an AutoencoderKL that show its widths; there are others."""
    sizes = _sizes(config, _VAE)
    widths, latent = config.integers("block_out_channels"), sizes["latent_channels"]
    return {
        "encoder.conv_in.weight": (widths[0], sizes["in_channels"], 3, 3),
        "encoder.conv_out.weight": (2 * latent, widths[-1], 3, 3),
        "decoder.conv_in.weight": (widths[-1], latent, 3, 3),
        "decoder.conv_out.weight": (sizes["out_channels"], widths[0], 3, 3),
        **{
            f"encoder.down_blocks.{level}.resnets.0.conv1.weight": (width, before, 3, 3)
            for level, (before, width) in enumerate(zip([widths[0], *widths], widths, strict=False))
        },
    }


def _linear(name: str, num_outputs: int, num_inputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_outputs, num_inputs), f"{name}.bias": (num_outputs,)}


def _sizes(config: ComponentConfig, defaults: Mapping[str, int]) -> dict[str, int]:
    return {
        name: config.integer(name) if name in config.content else default
        for name, default in defaults.items()
    }
