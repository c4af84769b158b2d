"""One denoising forward of a Z-Image transformer over a batch that needs no attention mask.

It computes what ``diffusers.ZImageTransformer2DModel.forward`` computes for items of equal size and equal
caption bucket, from the same submodules, but keeps what does not change between steps: refined captions and
rotary frequencies. It knows no scheduler, no guidance and no prompt text.

Shape legend: B batch, C latent channels, H W latent height and width, N image tokens, L caption tokens,
S sequence, D model width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.model_spec import CAPTION_MULTIPLE, PATCH_SIZE
from zimage_models.ranks import OneRank, Ranks, Verb

_PATCH_KEY = f"{PATCH_SIZE}-1"
_MAX_GEOMETRIES = 32


def padded_length(num_tokens: int) -> int:
    """Round a token count up to the multiple that Z-Image pads to (its bucket)."""
    return -(-num_tokens // CAPTION_MULTIPLE) * CAPTION_MULTIPLE


def num_image_tokens(height: int, width: int, size_multiple: int) -> int:
    """Count the padded image tokens of a picture of ``height`` x ``width`` pixels."""
    return padded_length((height // size_multiple) * (width // size_multiple))


class Denoiser:
    """Predicts velocities with a ZImageTransformer2DModel, its per-request invariants computed once."""

    def __init__(self, transformer: Any, *, ranks: Ranks | None = None) -> None:
        """Wrap a transformer.

        Args:
            transformer: whole, or this rank's share of it.
            ranks: those that hold the other shares; None when it is whole.
        """
        ranks = ranks or OneRank()
        self._transformer = transformer
        self._refine_together = ranks.together(Verb.REFINE, self._refine)
        self._predict_together = ranks.together(Verb.VELOCITY, self._predict)
        self._frequencies: OrderedDict[tuple[int, int, int], tuple[Tensor, Tensor]] = OrderedDict()
        self.num_channels: int = transformer.in_channels
        self.dtype: torch.dtype = transformer.x_pad_token.dtype
        self.device: torch.device = transformer.x_pad_token.device

    @torch.inference_mode()
    def refine_captions(self, embeddings: Sequence[Tensor]) -> list[Tensor]:
        """Embed, pad and refine captions, once for all steps.

        Args:
            embeddings: text-encoder outputs, each (tokens, text width), all of one bucket.

        Returns:
            One (L, D) tensor each, L being the bucket.
        """
        model = self._transformer
        lengths = [len(embedding) for embedding in embeddings]
        bucket = padded_length(lengths[0])
        embedded = model.cap_embedder(torch.cat([e.to(self.device, self.dtype) for e in embeddings]))
        captions_BLD = model.cap_pad_token.to(embedded).repeat(len(lengths), bucket, 1)
        for row, tokens in enumerate(embedded.split(lengths)):
            captions_BLD[row, : len(tokens)] = tokens
        # A copy each: a caption that is cached must not keep its batch.
        return [caption_LD.clone() for caption_LD in self._refine_together(captions_BLD)]

    def _refine(self, captions_BLD: Tensor) -> Tensor:
        frequencies = self._caption_frequencies(captions_BLD.shape[1]).expand(len(captions_BLD), -1, -1)
        for layer in self._transformer.context_refiner:
            captions_BLD = layer(captions_BLD, None, frequencies)
        return captions_BLD

    @torch.inference_mode()
    def velocity(self, latents_BCHW: Tensor, time_B: Tensor, captions_BLD: Tensor) -> Tensor:
        """Predict the velocity of every item.

        Args:
            latents_BCHW: float32 noisy latents.
            time_B: float32 normalised time, 0 (noise) .. 1 (image); each item has its own.
            captions_BLD: refined captions of one bucket.

        Returns:
            (B, C, H, W) float32, pointing from image to noise (the sign diffusers' scheduler expects).
        """
        return self._predict_together(latents_BCHW, time_B, captions_BLD)

    def _predict(self, latents_BCHW: Tensor, time_B: Tensor, captions_BLD: Tensor) -> Tensor:
        model = self._transformer
        batch, channels, height, width = latents_BCHW.shape
        rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
        image_frequencies, all_frequencies = self._image_frequencies(rows, columns, captions_BLD.shape[1])
        # Patch order is "h w ph pw c", as in ZImageTransformer2DModel._patchify_image with one frame.
        patches = latents_BCHW.to(self.dtype).view(batch, channels, rows, PATCH_SIZE, columns, PATCH_SIZE)
        patches = patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)
        x_BSD = model.all_x_embedder[_PATCH_KEY](patches)
        num_padding = padded_length(rows * columns) - rows * columns
        if num_padding:
            padding = model.x_pad_token.to(x_BSD).expand(batch, num_padding, -1)
            x_BSD = torch.cat([x_BSD, padding], dim=1)
        time_embedding = model.t_embedder(time_B * model.t_scale).to(x_BSD.dtype)
        for layer in model.noise_refiner:
            x_BSD = layer(x_BSD, None, image_frequencies.expand(batch, -1, -1), time_embedding)
        x_BSD = torch.cat([x_BSD, captions_BLD], dim=1)
        for layer in model.layers:
            x_BSD = layer(x_BSD, None, all_frequencies.expand(batch, -1, -1), time_embedding)
        output = model.all_final_layer[_PATCH_KEY](x_BSD[:, : rows * columns], c=time_embedding)
        output = output.view(batch, rows, columns, PATCH_SIZE, PATCH_SIZE, channels)
        output = output.permute(0, 5, 1, 3, 2, 4).reshape(batch, channels, height, width)
        velocity_BCHW: Tensor = -output.float()
        return velocity_BCHW

    def _caption_frequencies(self, bucket: int) -> Tensor:
        positions = torch.arange(1, bucket + 1, dtype=torch.int32, device=self.device)
        return self._rope(functional.pad(positions[:, None], (0, 2)))

    def _image_frequencies(self, rows: int, columns: int, bucket: int) -> tuple[Tensor, Tensor]:
        """Return rotary frequencies of the image tokens, and of image then caption; (1, S, head dim / 2)."""
        key = (rows, columns, bucket)
        if key not in self._frequencies:
            axes = [torch.arange(n, dtype=torch.int32, device=self.device) for n in (rows, columns)]
            row_ids, column_ids = torch.meshgrid(*axes, indexing="ij")
            frame_ids = torch.full_like(row_ids, bucket + 1)
            positions = torch.stack([frame_ids, row_ids, column_ids], dim=-1).flatten(0, 1)
            num_padding = padded_length(len(positions)) - len(positions)
            image = self._rope(functional.pad(positions, (0, 0, 0, num_padding)))
            self._frequencies[key] = image, torch.cat([image, self._caption_frequencies(bucket)], dim=1)
            if len(self._frequencies) > _MAX_GEOMETRIES:
                self._frequencies.popitem(last=False)
        self._frequencies.move_to_end(key)
        return self._frequencies[key]

    def _rope(self, positions: Tensor) -> Tensor:
        frequencies: Tensor = self._transformer.rope_embedder(positions)
        return frequencies.unsqueeze(0)
