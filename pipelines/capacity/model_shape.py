"""The sizes of a model's parts, from its configuration files, and those of the released model."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zimage_models.errors import CheckpointError

_MODULATION_DIM = 256
"""Width of the time embedding that modulates every block (diffusers transformer_z_image.ADALN_EMBED_DIM)."""
_TIME_FREQUENCIES = 256
_TIME_HIDDEN = 1024
LATENT_CHANNELS = 16
_PATCH_VALUES = 2 * 2 * LATENT_CHANNELS


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformerShape:
    """A Z-Image transformer: ``num_layers`` blocks, preceded by refiners of the image and of the caption."""

    dim: int
    num_layers: int
    num_refiner_layers: int
    num_heads: int
    caption_dim: int

    @property
    def ffn_dim(self) -> int:
        """Inner width of the SwiGLU network, as diffusers computes it."""
        return int(self.dim / 3 * 8)

    @property
    def num_blocks(self) -> int:
        """Number of layers and of both kinds of refiners."""
        return self.num_layers + 2 * self.num_refiner_layers

    @property
    def attention_weights(self) -> int:
        """Weights of one block's query, key, value and output projections."""
        return 4 * self.dim**2

    @property
    def ffn_weights(self) -> int:
        """Weights of one block's feed-forward network."""
        return 3 * self.dim * self.ffn_dim

    @property
    def num_parameters(self) -> int:
        """Number of all parameters."""
        dim, modulation = self.dim, min(self.dim, _MODULATION_DIM)
        norms = 4 * dim + 2 * (dim // self.num_heads)
        modulated = self.num_layers + self.num_refiner_layers
        return (
            self.num_blocks * (self.attention_weights + self.ffn_weights + norms)
            + modulated * 4 * dim * (modulation + 1)
            + dim * (_PATCH_VALUES + 1)
            + self.caption_dim
            + dim * (self.caption_dim + 1)
            + _TIME_HIDDEN * (_TIME_FREQUENCIES + 1)
            + modulation * (_TIME_HIDDEN + 1)
            + _PATCH_VALUES * (dim + 1)
            + dim * (modulation + 1)
            + 2 * dim
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TextEncoderShape:
    """A Qwen3 encoder; its last layer is never read, so the engine does not run it."""

    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int

    @property
    def num_read_layers(self) -> int:
        """Number of layers that run."""
        return self.num_layers - 1

    @property
    def layer_weights(self) -> int:
        """Weights of one layer's matrices."""
        heads = 2 * self.num_heads + 2 * self.num_kv_heads
        return self.hidden_size * (heads * self.head_dim + 3 * self.intermediate_size)

    @property
    def num_parameters(self) -> int:
        """Number of parameters that are loaded, without norms."""
        return self.vocab_size * self.hidden_size + self.num_read_layers * self.layer_weights


@dataclass(frozen=True, slots=True, kw_only=True)
class VaeShape:
    """An AutoencoderKL; ``channels`` go from fine to coarse, each level but the last halves the image."""

    channels: tuple[int, ...]
    layers_per_block: int
    has_middle_attention: bool

    @property
    def scale(self) -> int:
        """Pixels per side of a latent cell."""
        return int(2 ** (len(self.channels) - 1))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """The sizes that decide how much a model computes and how much memory it needs."""

    transformer: TransformerShape
    text_encoder: TextEncoderShape
    vae: VaeShape


# From the configuration files of Tongyi-MAI/Z-Image-Turbo and Tongyi-MAI/Z-Image, which agree on all sizes.
RELEASED_SHAPE = ModelShape(
    transformer=TransformerShape(
        dim=3840, num_layers=30, num_refiner_layers=2, num_heads=30, caption_dim=2560
    ),
    text_encoder=TextEncoderShape(
        hidden_size=2560,
        intermediate_size=9728,
        num_layers=36,
        num_heads=32,
        num_kv_heads=8,
        head_dim=128,
        vocab_size=151936,
    ),
    vae=VaeShape(channels=(128, 256, 512, 512), layers_per_block=2, has_middle_attention=True),
)


def read_model_shape(directory: Path) -> ModelShape:
    """Read a checkpoint's configuration files.

    Raises:
        CheckpointError: a file or a size is missing.
    """
    transformer, encoder, vae = (_Config(directory, part) for part in ("transformer", "text_encoder", "vae"))
    return ModelShape(
        transformer=TransformerShape(
            dim=transformer.value("dim"),
            num_layers=transformer.value("n_layers"),
            num_refiner_layers=transformer.value("n_refiner_layers"),
            num_heads=transformer.value("n_heads"),
            caption_dim=transformer.value("cap_feat_dim"),
        ),
        text_encoder=TextEncoderShape(
            hidden_size=encoder.value("hidden_size"),
            intermediate_size=encoder.value("intermediate_size"),
            num_layers=encoder.value("num_hidden_layers"),
            num_heads=encoder.value("num_attention_heads"),
            num_kv_heads=encoder.value("num_key_value_heads"),
            head_dim=encoder.value("head_dim"),
            vocab_size=encoder.value("vocab_size"),
        ),
        vae=VaeShape(
            channels=tuple(vae.value("block_out_channels")),
            layers_per_block=vae.value("layers_per_block"),
            has_middle_attention=vae.content.get("mid_block_add_attention", True),
        ),
    )


class _Config:
    def __init__(self, directory: Path, part: str) -> None:
        self._path = directory / part / "config.json"
        try:
            self.content: dict[str, Any] = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self._path}: unreadable ({error})") from error

    def value(self, name: str) -> Any:
        if name not in self.content:
            raise CheckpointError(f"{self._path}: {name} is missing")
        return self.content[name]
