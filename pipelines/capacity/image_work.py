"""Cost of one image in tokens, forwards and floating-point operations, from the model's shape.

Matrix products count 2 operations per weight and token, attention 4 per pair of tokens and channel; norms,
embedders and activations stay below 1 %. Checked against torch's own counter (for the released model: 56.6
TFLOP per forward at 1024 x 1024 with a caption of 128 tokens, 10.5 for the decoder).
"""

import itertools
from dataclasses import dataclass

from pipelines.capacity.model_shape import (
    LATENT_CHANNELS,
    ModelShape,
    TextEncoderShape,
    TransformerShape,
    VaeShape,
)
from zimage_models.model_spec import CAPTION_MULTIPLE, PATCH_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageKind:
    """Properties that images of equal work share."""

    height: int
    width: int
    num_inference_steps: int
    num_computed_steps: int | None = None
    """Steps that run the transformer; None for all."""
    is_guided: bool
    """Whether classifier-free guidance is on: two forwards per step."""
    prompt_tokens: int
    """Tokens of the prompt, including the chat template."""

    @property
    def forwards(self) -> int:
        """Transformer forwards of one image; ``cfg_truncation`` may save some of them."""
        num_steps = self.num_inference_steps if self.num_computed_steps is None else self.num_computed_steps
        return num_steps * (2 if self.is_guided else 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageWork:
    """The cost of one image, in tokens, forwards and floating-point operations."""

    image_tokens: int
    caption_tokens: int
    forwards: int
    forward_flops: float
    caption_flops: float
    """Text encoder and caption refiner, once per image."""
    decode_flops: float

    @property
    def sequence(self) -> int:
        """Tokens of one forward."""
        return self.image_tokens + self.caption_tokens

    @property
    def flops(self) -> float:
        """All operations of one image."""
        return self.forwards * self.forward_flops + self.caption_flops + self.decode_flops


def image_work(shape: ModelShape, kind: ImageKind) -> ImageWork:
    """Count the tokens and operations of one image of a kind."""
    side = shape.vae.scale * PATCH_SIZE
    image_tokens = _padded((kind.height // side) * (kind.width // side))
    caption_tokens = _padded(kind.prompt_tokens)
    num_captions = 2 if kind.is_guided else 1
    return ImageWork(
        image_tokens=image_tokens,
        caption_tokens=caption_tokens,
        forwards=kind.forwards,
        forward_flops=forward_flops(shape.transformer, image_tokens, caption_tokens),
        caption_flops=num_captions
        * (
            encode_flops(shape.text_encoder, kind.prompt_tokens)
            + shape.transformer.num_refiner_layers * block_flops(shape.transformer, caption_tokens)
        ),
        decode_flops=decode_flops(shape.vae, kind.height, kind.width),
    )


def block_flops(shape: TransformerShape, num_tokens: int) -> float:
    """Count the operations of one transformer block: ``2 N weights + 4 N^2 width``."""
    weights = shape.attention_weights + shape.ffn_weights
    return float(2 * num_tokens * weights + 4 * num_tokens**2 * shape.dim)


def forward_flops(shape: TransformerShape, image_tokens: int, caption_tokens: int) -> float:
    """Count the operations of one denoising forward of one image, without refining its caption."""
    layers = shape.num_layers * block_flops(shape, image_tokens + caption_tokens)
    return layers + shape.num_refiner_layers * block_flops(shape, image_tokens)


def encode_flops(shape: TextEncoderShape, num_tokens: int) -> float:
    """Count the operations of encoding one prompt."""
    attention = 4 * num_tokens**2 * shape.num_heads * shape.head_dim
    return float(shape.num_read_layers * (2 * num_tokens * shape.layer_weights + attention))


def decode_flops(shape: VaeShape, height: int, width: int) -> float:
    """Count the operations to decode one latent to ``height`` x ``width`` (diffusers' AutoencoderKL)."""
    cells = (height // shape.scale) * (width // shape.scale)
    coarse = shape.channels[-1]
    total = _convolution(LATENT_CHANNELS, coarse, cells) + 2 * _resnet(coarse, coarse, cells)
    if shape.has_middle_attention:
        total += 2 * cells * 4 * coarse**2 + 4 * cells**2 * coarse
    levels = shape.channels[::-1]
    for before, channels in itertools.pairwise((coarse, *levels)):
        total += _resnet(before, channels, cells) + shape.layers_per_block * _resnet(
            channels, channels, cells
        )
        if cells < height * width:
            cells *= 4
            total += _convolution(channels, channels, cells)
    return float(total + _convolution(shape.channels[0], 3, cells))


def _padded(num_tokens: int) -> int:
    return -(-num_tokens // CAPTION_MULTIPLE) * CAPTION_MULTIPLE


def _convolution(inputs: int, outputs: int, cells: int, size: int = 3) -> int:
    return 2 * size**2 * inputs * outputs * cells


def _resnet(inputs: int, outputs: int, cells: int) -> int:
    shortcut = _convolution(inputs, outputs, cells, 1) if inputs != outputs else 0
    return _convolution(inputs, outputs, cells) + _convolution(outputs, outputs, cells) + shortcut
