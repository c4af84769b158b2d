"""The denoising forward of a model that reads reference images: diffusers' omni mode, without a mask.

The sequence is [caption segments, references, target, features of the references and of the target]. Clean
tokens (the references and the segments before them) are modulated at time 1, all others at the item's own
time. Three things look odd but are kept, because checkpoints are trained through them (docs/edit.md): the
positions of all segments but the first (``sequence_layout.caption_positions``), the order of the features'
values, and the features' positions, which are scaled to latents and not to patches.

Shape legend: B batch, C latent channels, H W latent height and width, L caption tokens, R reference tokens,
P patch values, N target tokens, G feature tokens, S sequence, D model width, F feature width.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.model_spec import CAPTION_MULTIPLE, PATCH_SIZE
from zimage_models.models.denoisers.block import ALL
from zimage_models.models.denoisers.block_stack import BlockStack
from zimage_models.models.denoisers.condition import Caption, Condition, Control, Reference
from zimage_models.models.denoisers.denoiser import PATCH_KEY, Denoiser, image_positions, patches_of, patchify
from zimage_models.models.device_memory import upload
from zimage_models.models.devices import on_device
from zimage_models.models.offload.window import ON_DEVICE, Residency
from zimage_models.models.ranks import OneRank, Ranks, Verb
from zimage_models.models.sequence_layout import caption_positions, padded_length, segment_ends
from zimage_models.variants import VariantSpec

_CLEAN, _NOISY = 0, 1
TARGET_FEATURES = CAPTION_MULTIPLE
"""Padding tokens in place of the target's features, which do not exist yet."""


def denoiser_class(variant: VariantSpec) -> type[Denoiser]:
    """Return the denoiser of a variant; one that reads references runs all its requests in omni mode."""
    return OmniDenoiser if variant.max_reference_images else Denoiser


class OmniDenoiser(Denoiser):
    """Predicts velocities with a ZImageTransformer2DModel in omni mode, with or without references."""

    def __init__(
        self, transformer: Any, *, ranks: Ranks | None = None, residency: Residency = ON_DEVICE
    ) -> None:
        """Wrap a transformer, as :class:`Denoiser` does."""
        super().__init__(transformer, ranks=ranks, residency=residency)
        refiner = transformer.siglip_refiner
        self._feature_refiner = BlockStack(refiner, residency.refiners) if refiner else None
        self._refine_features_together = (ranks or OneRank()).together(Verb.FEATURES, self._refine_features)

    def _stacks(self) -> list[BlockStack]:
        return super()._stacks() + ([self._feature_refiner] if self._feature_refiner else [])

    @torch.inference_mode()
    def conditions(
        self,
        captions: Sequence[Caption],
        references: Sequence[Reference],
        height: int,
        width: int,
        control: Control | None = None,
    ) -> list[Condition]:
        """Build what every step needs of a request, once for each of its prompts.

        A condition is caption_LD, references_RP, features_GD, positions_S3 and noise mask_S. References are
        kept as patches, which have a sixtieth of the size of their embeddings and cost a step next to nothing
        to embed.
        """
        assert control is None, "there is no ControlNet for omni mode"
        references_RP = self._patches(references)
        # Only the segments before the prompt decide a reference's position, so all captions agree on it.
        feature_positions = _feature_positions(references, segment_ends(captions[0].lengths))
        features_GD = self._read_features(references, feature_positions)
        target = (height // PATCH_SIZE, width // PATCH_SIZE)
        return [
            Condition(
                (
                    caption.tokens_LD,
                    references_RP,
                    features_GD,
                    upload(
                        torch.cat([_positions(caption, references, target), feature_positions]), self.device
                    ),
                    upload(_noise_mask(caption, references, target, len(feature_positions)), self.device),
                )
            )
            for caption in captions
        ]

    def _patches(self, references: Sequence[Reference]) -> Tensor:
        """Cut references into patches and pad each to a whole bucket; (R, P)."""
        patches = [patchify(reference.latents_CHW[None].to(self.dtype))[0] for reference in references]
        padded = [functional.pad(p, (0, 0, 0, padded_length(len(p)) - len(p))) for p in patches]
        none = torch.empty((0, self.num_channels * PATCH_SIZE**2), dtype=self.dtype, device=self.device)
        return torch.cat([none, *padded])

    def _read_features(self, references: Sequence[Reference], positions_G3: Tensor) -> Tensor:
        """Embed, pad and refine the features of references; (G, D)."""
        model = self._transformer
        if not len(positions_G3):
            return torch.empty((0, model.dim), dtype=self.dtype, device=self.device)
        features_GD = model.siglip_pad_token.to(self.dtype).repeat(len(positions_G3), 1)
        start = 0
        for reference in references:
            features = reference.features_HWF
            assert features is not None, "either all references have features or none"
            # In diffusers' order: all values of one channel, then of the next, cut into tokens.
            tokens = features.to(self.device, self.dtype).permute(2, 0, 1).reshape(-1, features.shape[-1])
            features_GD[start : start + len(tokens)] = model.siglip_embedder(tokens)
            start += padded_length(len(tokens))
        with on_device(self.device):
            refined_BGD = self._refine_features_together(
                features_GD[None], upload(positions_G3[None], self.device)
            )
        return refined_BGD[0]

    def _refine_features(self, features_BGD: Tensor, positions_BG3: Tensor) -> Tensor:
        assert self._feature_refiner, "only a model that reads features refines any"
        rotary_BGC2 = self._rope(positions_BG3)
        return self._feature_refiner.run(features_BGD, rotary_BGC2)

    def _tokens(  # type: ignore[override]  # its conditions differ from the base class's
        self,
        latents_BCHW: Tensor,
        time_BT: Tensor,
        captions_BLD: Tensor,
        references_BRP: Tensor,
        features_BGD: Tensor,
        positions_BS3: Tensor,
        noisy_BS: Tensor,
    ) -> Tensor:
        model = self._transformer
        patches_BNP = patchify(latents_BCHW.to(self.dtype))
        num_patches = patches_BNP.shape[1]
        patches_BNP = functional.pad(patches_BNP, (0, 0, 0, padded_length(num_patches) - num_patches))
        images_BSD = model.all_x_embedder[PATCH_KEY](torch.cat([references_BRP, patches_BNP], dim=1))
        first = captions_BLD.shape[1]
        is_image = slice(first, first + images_BSD.shape[1])
        # Only padding is at 0, because images come after a caption.
        is_padding = positions_BS3[:, is_image, :1] == 0
        images_BSD = torch.where(is_padding, model.x_pad_token.to(images_BSD), images_BSD)
        rotary_BSC2 = self._rope(positions_BS3)
        times = [time_BT]
        is_noisy_BS = None
        if references_BRP.shape[1]:  # without references, all tokens are noisy
            times.append(self._embedded(torch.ones(len(time_BT), device=self.device)))
            is_noisy_BS = noisy_BS == _NOISY
        times_BMT = torch.stack(times, dim=1)

        def run(stack: BlockStack, x_BSD: Tensor, part: slice = ALL, read: slice = ALL) -> Tensor:
            noisy = None if is_noisy_BS is None else is_noisy_BS[:, part]
            return stack.run(x_BSD, rotary_BSC2[:, part].clone(), times_BMT, noisy, read=read)

        images_BSD = run(self._noise_refiner, images_BSD, is_image)
        all_BSD = torch.cat([captions_BLD, images_BSD, features_BGD], dim=1)
        target = patches_of(latents_BCHW, first + references_BRP.shape[1])
        return run(self._layers, all_BSD, read=target)


def _patch_grid(reference: Reference) -> tuple[int, int]:
    _, height, width = reference.latents_CHW.shape
    return height // PATCH_SIZE, width // PATCH_SIZE


def _positions(caption: Caption, references: Sequence[Reference], target: tuple[int, int]) -> Tensor:
    """Return the positions of a sequence's captions and images; int32 (S - G, 3)."""
    in_caption = torch.tensor(caption_positions(caption.lengths), dtype=torch.int32)
    grids = [*map(_patch_grid, references), target]
    images = [
        image_positions(*grid, end) for grid, end in zip(grids, segment_ends(caption.lengths), strict=False)
    ]
    return torch.cat([functional.pad(in_caption[:, None], (0, 2)), *images])


def _feature_positions(references: Sequence[Reference], ends: Sequence[int]) -> Tensor:
    """Return the positions of all features, with zeros for the target's; int32 (G, 3), empty without any."""
    positions = []
    for reference, end in zip(references, ends, strict=False):
        if reference.features_HWF is None:
            continue
        rows, columns, _ = reference.features_HWF.shape
        _, height, width = reference.latents_CHW.shape
        scaled = image_positions(rows, columns, end + 1).float()
        scaled[:, 1] = scaled[:, 1] / max(rows - 1, 1) * (height - 1)
        scaled[:, 2] = scaled[:, 2] / max(columns - 1, 1) * (width - 1)
        positions.append(scaled.to(torch.int32))
    none = torch.zeros((TARGET_FEATURES if positions else 0, 3), dtype=torch.int32)
    return torch.cat([*positions, none])


def _noise_mask(
    caption: Caption, references: Sequence[Reference], target: tuple[int, int], num_features: int
) -> Tensor:
    """Return which tokens of a sequence are noisy; int32 (S,)."""
    num_references = len(references)
    runs = [
        (_CLEAN if number < num_references else _NOISY, padded_length(length))
        for number, length in enumerate(caption.lengths)
    ]
    runs += [(_CLEAN, padded_length(rows * columns)) for rows, columns in map(_patch_grid, references)]
    runs.append((_NOISY, padded_length(target[0] * target[1])))
    if num_features:
        runs += [(_CLEAN, num_features - TARGET_FEATURES), (_NOISY, TARGET_FEATURES)]
    values, lengths = (torch.tensor(column, dtype=torch.int32) for column in zip(*runs, strict=True))
    return values.repeat_interleave(lengths)
