"""One denoising forward of a Z-Image transformer over a batch that needs no attention mask.

It computes what ``diffusers.ZImageTransformer2DModel.forward`` computes for items of equal size and equal
caption bucket, from the same submodules, but keeps what does not change between steps: refined captions and
rotary frequencies. It knows nothing about schedulers, guidance or prompt text.

Shape legend: B batch, C latent channels, H W latent height and width, N image tokens, L caption tokens,
S sequence, D model width.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.model_spec import PATCH_SIZE
from zimage_models.models.denoisers.condition import Caption, Condition, Control, Reference, stack
from zimage_models.models.device_memory import upload
from zimage_models.models.ranks import OneRank, Ranks, Verb
from zimage_models.models.sequence_layout import caption_positions, num_caption_tokens, padded_length

PATCH_KEY = f"{PATCH_SIZE}-1"
LayerInputs = tuple[None, Tensor, Tensor]
"""No attention mask, rotary frequencies, time embedding."""
_MAX_GEOMETRIES = 32


class Denoiser:
    """Predicts velocities with a ZImageTransformer2DModel; computes each request's invariants only once."""

    def __init__(self, transformer: Any, *, ranks: Ranks | None = None) -> None:
        """Wrap a transformer.

        Args:
            transformer: whole, or this rank's share of it.
            ranks: the ranks that hold the other shares; None if it is whole.
        """
        ranks = ranks or OneRank()
        self._transformer = transformer
        self._refine_together = ranks.together(Verb.REFINE, self._refine)
        self._predict_together = ranks.together(Verb.VELOCITY, self._predict)
        self._frequencies: OrderedDict[tuple[int, int, int], tuple[Tensor, Tensor]] = OrderedDict()
        self.num_channels: int = transformer.in_channels
        self.width: int = transformer.dim
        self.dtype: torch.dtype = transformer.x_pad_token.dtype
        self.device: torch.device = transformer.x_pad_token.device

    @torch.inference_mode()
    def refine_captions(self, captions: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """Embed, pad and refine captions, once for all steps.

        Args:
            captions: text-encoder outputs by segment, each (tokens, text width); all captions are of one
                bucket.

        Returns:
            One (L, D) tensor each; L is the bucket.
        """
        model = self._transformer
        lengths = [[len(segment) for segment in caption] for caption in captions]
        segments = [segment.to(self.device, self.dtype) for caption in captions for segment in caption]
        embedded = iter(model.cap_embedder(torch.cat(segments)).split([len(s) for s in segments]))
        padding = model.cap_pad_token.to(self.dtype)
        captions_BLD = padding.repeat(len(captions), num_caption_tokens(lengths[0]), 1)
        for row, in_caption in enumerate(lengths):
            start = 0
            for length in in_caption:
                captions_BLD[row, start : start + length] = next(embedded)
                start += padded_length(length)
        positions_BL = torch.tensor([caption_positions(row) for row in lengths], dtype=torch.int32)
        refined_BLD = self._refine_together(captions_BLD, upload(positions_BL, self.device))
        # Copies, so that a cached caption does not keep its batch.
        return [caption_LD.clone() for caption_LD in refined_BLD]

    def _refine(self, captions_BLD: Tensor, positions_BL: Tensor) -> Tensor:
        frequencies = self._rope(functional.pad(positions_BL[..., None], (0, 2)))
        for layer in self._transformer.context_refiner:
            captions_BLD = layer(captions_BLD, None, frequencies)
        return captions_BLD

    def conditions(
        self,
        captions: Sequence[Caption],
        references: Sequence[Reference],
        height: int,
        width: int,
        control: Control | None = None,
    ) -> list[Condition]:
        """Build what every step needs of a request, once for each of its prompts.

        Args:
            captions: the prompt's and, with guidance, the negative prompt's.
            references: images to read; must be empty here.
            height: of the request's latents.
            width: of the request's latents.
            control: an image for a ControlNet; must be None here.
        """
        assert not references, "this denoiser reads no references"
        assert control is None, "this denoiser has no ControlNet"
        return [Condition((caption.tokens_LD,)) for caption in captions]

    @torch.inference_mode()
    def velocity(self, latents_BCHW: Tensor, time_B: Tensor, conditions: Sequence[Condition]) -> Tensor:
        """Predict the velocity of every item.

        Args:
            latents_BCHW: float32 noisy latents.
            time_B: float32 normalised time, 0 (noise) .. 1 (image); each item has its own.
            conditions: of one bucket.

        Returns:
            (B, C, H, W) float32, pointing from image to noise (the sign diffusers' scheduler expects).
        """
        return self._predict_together(latents_BCHW, time_B, *stack(conditions))

    def _predict(self, latents_BCHW: Tensor, time_B: Tensor, captions_BLD: Tensor) -> Tensor:
        model = self._transformer
        in_image, in_all = self._layer_inputs(latents_BCHW, time_B, captions_BLD.shape[1])
        x_BSD = self._embed(model.all_x_embedder, patchify(latents_BCHW.to(self.dtype)))
        for layer in model.noise_refiner:
            x_BSD = layer(x_BSD, *in_image)
        x_BSD = torch.cat([x_BSD, captions_BLD], dim=1)
        for layer in model.layers:
            x_BSD = layer(x_BSD, *in_all)
        return self._velocity_of(x_BSD, in_all, latents_BCHW)

    def _layer_inputs(
        self, latents_BCHW: Tensor, time_B: Tensor, bucket: int
    ) -> tuple[LayerInputs, LayerInputs]:
        """Return what layers take besides tokens: for the image alone, and for image and caption."""
        model = self._transformer
        batch, _, height, width = latents_BCHW.shape
        frequencies = self._image_frequencies(height // PATCH_SIZE, width // PATCH_SIZE, bucket)
        time_embedding = model.t_embedder(time_B * model.t_scale).to(self.dtype)
        in_image, in_all = ((None, f.expand(batch, -1, -1), time_embedding) for f in frequencies)
        return in_image, in_all

    def _embed(self, embedders: Any, patches_BNP: Tensor) -> Tensor:
        """Embed the patches of an image and pad them to a whole bucket; (B, S, D)."""
        x_BND: Tensor = embedders[PATCH_KEY](patches_BNP)
        batch, num_patches, _ = x_BND.shape
        num_padding = padded_length(num_patches) - num_patches
        if not num_padding:
            return x_BND
        padding = self._transformer.x_pad_token.to(x_BND).expand(batch, num_padding, -1)
        return torch.cat([x_BND, padding], dim=1)

    def _velocity_of(self, x_BSD: Tensor, inputs: LayerInputs, latents_BCHW: Tensor) -> Tensor:
        """Compute the latents' velocity from the last layer's tokens, which begin with the image's."""
        height, width = latents_BCHW.shape[-2:]
        num_patches = (height // PATCH_SIZE) * (width // PATCH_SIZE)
        output = self._transformer.all_final_layer[PATCH_KEY](x_BSD[:, :num_patches], c=inputs[-1])
        return -unpatchify(output, height, width).float()

    def _image_frequencies(self, rows: int, columns: int, bucket: int) -> tuple[Tensor, Tensor]:
        """Return rotary frequencies of the image tokens, and of image then caption; (1, S, head dim / 2)."""
        key = (rows, columns, bucket)
        if key not in self._frequencies:
            image = self._rope(upload(image_positions(rows, columns, bucket + 1), self.device))[None]
            in_caption = torch.arange(1, bucket + 1, dtype=torch.int32, device=self.device)
            caption = self._rope(functional.pad(in_caption[:, None], (0, 2)))[None]
            self._frequencies[key] = image, torch.cat([image, caption], dim=1)
            if len(self._frequencies) > _MAX_GEOMETRIES:
                self._frequencies.popitem(last=False)
        self._frequencies.move_to_end(key)
        return self._frequencies[key]

    def _rope(self, positions: Tensor) -> Tensor:
        """Look up rotary frequencies; (..., 3) int32 to (..., head dim / 2) complex."""
        frequencies: Tensor = self._transformer.rope_embedder(positions.reshape(-1, 3))
        return frequencies.view(*positions.shape[:-1], -1)


def image_positions(rows: int, columns: int, frame: int) -> Tensor:
    """Return the positions of an image's patches at ``frame``; int32 (N, 3), host; zeros for the padding."""
    axes = [torch.arange(n, dtype=torch.int32) for n in (rows, columns)]
    row_ids, column_ids = torch.meshgrid(*axes, indexing="ij")
    positions = torch.stack([torch.full_like(row_ids, frame), row_ids, column_ids], dim=-1).flatten(0, 1)
    return functional.pad(positions, (0, 0, 0, padded_length(len(positions)) - len(positions)))


def patchify(latents_BCHW: Tensor) -> Tensor:
    """Cut latents into patches; (B, N, patch), by rows.

    Patch order is "h w ph pw c", as in ZImageTransformer2DModel._patchify_image with one frame.
    """
    batch, channels, height, width = latents_BCHW.shape
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    patches = latents_BCHW.reshape(batch, channels, rows, PATCH_SIZE, columns, PATCH_SIZE)
    return patches.permute(0, 2, 4, 3, 5, 1).reshape(batch, rows * columns, -1)


def unpatchify(patches_BNP: Tensor, height: int, width: int) -> Tensor:
    """Join patches into latents; the inverse of :func:`patchify`."""
    rows, columns = height // PATCH_SIZE, width // PATCH_SIZE
    patches = patches_BNP.view(len(patches_BNP), rows, columns, PATCH_SIZE, PATCH_SIZE, -1)
    return patches.permute(0, 5, 1, 3, 2, 4).reshape(len(patches_BNP), -1, height, width)
