"""One denoising forward of a Z-Image transformer over a batch that needs no attention mask.

It computes what ``diffusers.ZImageTransformer2DModel.forward`` computes for items of equal size and equal
caption bucket, from the same weights, but keeps what does not change between steps: refined captions and
rotary encodings. It knows nothing about schedulers, guidance or prompt text.

Shape legend: B batch, C latent channels (of rotary encodings: channels of a head), H W latent height and
width, N image tokens, L caption tokens, S sequence, D model width, T width of time embeddings.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.model_spec import PATCH_SIZE
from zimage_models.models.denoisers.block_stack import BlockStack
from zimage_models.models.denoisers.condition import Caption, Condition, Control, Reference, stack
from zimage_models.models.device_memory import upload
from zimage_models.models.devices import on_device
from zimage_models.models.offload.window import ON_DEVICE, Residency
from zimage_models.models.ranks import OneRank, Ranks, Verb
from zimage_models.models.sequence_layout import caption_positions, num_caption_tokens, padded_length

PATCH_KEY = f"{PATCH_SIZE}-1"
_MAX_GEOMETRIES = 32
_PRECISIONS = {torch.float32: "float32", torch.bfloat16: "bf16"}


class Denoiser:
    """Predicts velocities with a ZImageTransformer2DModel; computes each request's invariants only once."""

    def __init__(
        self, transformer: Any, *, ranks: Ranks | None = None, residency: Residency = ON_DEVICE
    ) -> None:
        """Wrap a transformer.

        Args:
            transformer: whole, or this rank's share of it.
            ranks: the ranks that hold the other shares; None if it is whole.
            residency: how its blocks get to the device.
        """
        ranks = ranks or OneRank()
        self._transformer = transformer
        self._refine_together = ranks.together(Verb.REFINE, self._refine)
        self._tokens_together = ranks.together(Verb.TOKENS, self._tokens)
        self._caption_refiner = BlockStack(transformer.context_refiner, residency.refiners)
        self._noise_refiner = BlockStack(transformer.noise_refiner, residency.refiners)
        self._layers = BlockStack(transformer.layers, residency.layers)
        self._rotary: OrderedDict[tuple[int, int, int], tuple[Tensor, Tensor]] = OrderedDict()
        self.num_channels: int = transformer.in_channels
        self.width: int = transformer.dim
        self.dtype: torch.dtype = transformer.x_pad_token.dtype
        self.device: torch.device = transformer.x_pad_token.device
        self.precision = "fp8" if self._layers.fp8 else _PRECISIONS[self.dtype]
        """What the matrix products of the main blocks are made in: ``float32``, ``bf16`` or ``fp8``."""

    def compile(self, *, backend: str = "inductor") -> None:
        """Compile the blocks; ``warm_up`` then compiles their usual shapes."""
        for blocks in self._stacks():
            blocks.compile(backend=backend)

    def _stacks(self) -> list[BlockStack]:
        return [self._caption_refiner, self._noise_refiner, self._layers]

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
        with on_device(self.device):
            refined_BLD = self._refine_together(captions_BLD, upload(positions_BL, self.device))
        # Copies, so that a cached caption does not keep its batch.
        return [caption_LD.clone() for caption_LD in refined_BLD]

    def _refine(self, captions_BLD: Tensor, positions_BL: Tensor) -> Tensor:
        rotary_BLC2 = self._rope(functional.pad(positions_BL[..., None], (0, 2)))
        return self._caption_refiner.run(captions_BLD, rotary_BLC2)

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
    def predict(
        self, latents_BCHW: Tensor, time_B: Tensor, conditions: Sequence[Condition]
    ) -> tuple[Tensor, Tensor]:
        """Predict the velocity of every item.

        Args:
            latents_BCHW: float32 noisy latents.
            time_B: float32 normalised time, 0 (noise) .. 1 (image); each item has its own.
            conditions: of one bucket.

        Returns:
            The velocities (B, C, H, W), float32, pointing from image to noise (the sign diffusers' scheduler
            expects), and the images' tokens after the last layer (B, N, D), for :meth:`residual`.
        """
        with on_device(self.device):
            time_BT = self._embedded(time_B)
            tokens_BND = self._tokens_together(latents_BCHW, time_BT, *stack(conditions))
            return self._velocity_of(tokens_BND, time_BT, latents_BCHW), tokens_BND

    @torch.inference_mode()
    def residual(self, latents_BCHW: Tensor, tokens_BND: Tensor) -> Tensor:
        """Return what the layers added to the embedded patches, which changes little from step to step."""
        return tokens_BND - self._embedded_patches(latents_BCHW)

    @torch.inference_mode()
    def predict_again(self, latents_BCHW: Tensor, time_B: Tensor, residuals_BND: Tensor) -> Tensor:
        """Predict velocities from the residuals of earlier steps: without any layer, and on this rank alone.

        Arguments and result are otherwise those of :meth:`predict`.
        """
        with on_device(self.device):
            tokens_BND = self._embedded_patches(latents_BCHW) + residuals_BND
            return self._velocity_of(tokens_BND, self._embedded(time_B), latents_BCHW)

    def _tokens(self, latents_BCHW: Tensor, time_BT: Tensor, captions_BLD: Tensor) -> Tensor:
        """Return the images' tokens after the last layer; all ranks compute them together."""
        model = self._transformer
        in_image, in_all = self._rotary_of(latents_BCHW, captions_BLD.shape[1])
        x_BSD = self._embed(model.all_x_embedder, patchify(latents_BCHW.to(self.dtype)))
        x_BSD = self._noise_refiner.run(x_BSD, in_image, time_BT[:, None])
        x_BSD = torch.cat([x_BSD, captions_BLD], dim=1)
        return self._layers.run(x_BSD, in_all, time_BT[:, None], read=patches_of(latents_BCHW))

    def _embedded(self, time_B: Tensor) -> Tensor:
        """Embed normalised times; (B, T)."""
        time_BT: Tensor = self._transformer.t_embedder(time_B * self._transformer.t_scale)
        return time_BT.to(self.dtype)

    def _embedded_patches(self, latents_BCHW: Tensor) -> Tensor:
        """Embed the patches of an image, without padding; (B, N, D)."""
        embedder: Any = self._transformer.all_x_embedder[PATCH_KEY]
        x_BND: Tensor = embedder(patchify(latents_BCHW.to(self.dtype)))
        return x_BND

    def _embed(self, embedders: Any, patches_BNP: Tensor) -> Tensor:
        """Embed the patches of an image and pad them to a whole bucket; (B, S, D)."""
        x_BND: Tensor = embedders[PATCH_KEY](patches_BNP)
        batch, num_patches, _ = x_BND.shape
        num_padding = padded_length(num_patches) - num_patches
        if not num_padding:
            return x_BND
        padding = self._transformer.x_pad_token.to(x_BND).expand(batch, num_padding, -1)
        return torch.cat([x_BND, padding], dim=1)

    def _velocity_of(self, tokens_BND: Tensor, time_BT: Tensor, latents_BCHW: Tensor) -> Tensor:
        """Compute the latents' velocity from the image's tokens after the last layer."""
        output = self._transformer.all_final_layer[PATCH_KEY](tokens_BND, c=time_BT)
        return -unpatchify(output, *latents_BCHW.shape[-2:]).float()

    def _rotary_of(self, latents_BCHW: Tensor, bucket: int) -> tuple[Tensor, Tensor]:
        """Return the turns of the image's tokens, and of image then caption; (1, S, C / 2, 2)."""
        rows, columns = (side // PATCH_SIZE for side in latents_BCHW.shape[-2:])
        key = (rows, columns, bucket)
        if key not in self._rotary:
            image = self._rope(upload(image_positions(rows, columns, bucket + 1), self.device))[None]
            in_caption = torch.arange(1, bucket + 1, dtype=torch.int32, device=self.device)
            caption = self._rope(functional.pad(in_caption[:, None], (0, 2)))[None]
            self._rotary[key] = image, torch.cat([image, caption], dim=1)
            if len(self._rotary) > _MAX_GEOMETRIES:
                self._rotary.popitem(last=False)
        self._rotary.move_to_end(key)
        return self._rotary[key]

    def _rope(self, positions: Tensor) -> Tensor:
        """Look up cosine and sine of each pair of channels; (..., 3) int32 to (..., C / 2, 2) float32."""
        turns: Tensor = self._transformer.rope_embedder(positions.reshape(-1, 3))
        return torch.view_as_real(turns).view(*positions.shape[:-1], -1, 2)


def image_positions(rows: int, columns: int, frame: int) -> Tensor:
    """Return the positions of an image's patches at ``frame``; int32 (N, 3), host; zeros for the padding."""
    axes = [torch.arange(n, dtype=torch.int32) for n in (rows, columns)]
    row_ids, column_ids = torch.meshgrid(*axes, indexing="ij")
    positions = torch.stack([torch.full_like(row_ids, frame), row_ids, column_ids], dim=-1).flatten(0, 1)
    return functional.pad(positions, (0, 0, 0, padded_length(len(positions)) - len(positions)))


def patches_of(latents_BCHW: Tensor, start: int = 0) -> slice:
    """Return which tokens are patches of the latents, where these start at ``start``; not their padding."""
    height, width = latents_BCHW.shape[-2:]
    return slice(start, start + (height // PATCH_SIZE) * (width // PATCH_SIZE))


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
