"""The sizes of a model's parts that decide how much memory it takes, and those of the released models."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSizes:
    """Numbers of parameters of a model's parts, and the widths of what it computes."""

    block: int
    """Attention and feed-forward of one of the transformer's blocks; a ControlNet's have as many."""
    num_layers: int
    num_control_layers: int = 0
    """Of a ControlNet."""
    num_refiners: int
    """Blocks that refine the image in every step, with those of a ControlNet."""
    num_caption_refiners: int
    """Blocks that refine a caption, or a picture's features, once."""
    transformer_rest: int
    """Embedders, modulation and final layer, and the rest of a ControlNet."""
    text_block: int
    num_text_blocks: int
    text_embedding: int
    siglip: int = 0
    vae: int
    width: int
    """Of the transformer's tokens."""
    reads_references: bool = False
    vae_channels: tuple[int, ...]
    """Of the VAE's levels, from fine to coarse."""


RELEASED_SIZES = ModelSizes(
    block=176_947_456,
    num_layers=30,
    num_refiners=2,
    num_caption_refiners=2,
    transformer_rest=138_695_232,
    text_block=100_930_816,
    num_text_blocks=35,
    text_embedding=388_956_160,
    vae=83_819_683,
    width=3840,
    vae_channels=(128, 256, 512, 512),
)
"""Those of Tongyi-MAI/Z-Image-Turbo and Tongyi-MAI/Z-Image."""
RELEASED_TOKENS = 4096 + 128
"""Of an image of 1024 x 1024 and a long caption."""
