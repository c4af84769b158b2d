"""The denoising forward of a Z-Image transformer with a ControlNet that gives its layers hints.

It computes what ``diffusers.ZImageControlNetPipeline`` computes, for items of one bucket, each with its own
scale. Requests without a control image take the plain forward. The ControlNet uses the transformer's
embedders and refiners, so captions, and in some layouts the refined image, are computed once for both. The
layouts differ:

- 1.0 (``add_control_noise_refiner`` null) refines its control tokens alone, then with all layers.
- 2.0 and 2.1 refine them together with the image, and also give hints to the image's refiner. As in
  diffusers, those reach only the ControlNet's copy of the image, not the transformer's.

Shape legend: B batch, C latent channels, H W latent height and width, L caption tokens, N patches of an image
without padding, P values of a patch, S sequence, D model width.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from zimage_models.models.denoisers.block_stack import BlockStack
from zimage_models.models.denoisers.condition import Caption, Condition, Control, Reference
from zimage_models.models.denoisers.denoiser import Denoiser, patches_of, patchify
from zimage_models.models.offload.window import ON_DEVICE, Residency, Window


class ControlNetDenoiser(Denoiser):
    """Predicts velocities with a ZImageTransformer2DModel and, for some requests, a ZImageControlNetModel."""

    def __init__(self, transformer: Any, controlnet: Any, *, residency: Residency = ON_DEVICE) -> None:
        """Wrap a whole transformer and a ControlNet that fits it; their modules need not be tied."""
        super().__init__(transformer, residency=residency)
        self._controlnet = controlnet
        self._hinting = _HintStack(controlnet.control_layers, residency.layers)
        self._refiner_hinting: _HintStack | None = None
        self._control_refiner: BlockStack | None = None
        match controlnet.add_control_noise_refiner:
            case None:
                self._control_refiner = BlockStack(controlnet.control_noise_refiner, residency.refiners)
            case "control_layers":
                self._refiner_hinting = self._hinting
            case _:
                self._refiner_hinting = _HintStack(controlnet.control_noise_refiner, residency.refiners)

    def _stacks(self) -> list[BlockStack]:
        own = [self._hinting.stack]
        if self._refiner_hinting and self._refiner_hinting is not self._hinting:
            own.append(self._refiner_hinting.stack)
        if self._control_refiner:
            own.append(self._control_refiner)
        return super()._stacks() + own

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

        With a control image, a condition is caption_LD, control_NP and scale. The image is kept as patches,
        which have a thirtieth of the size of their embeddings and cost a step next to nothing to embed.
        """
        plain = super().conditions(captions, references, height, width)
        if control is None:
            return plain
        num_missing = self._controlnet.control_in_dim - len(control.latents_CHW)
        # The channels for a mask and an image to paint in are zeros without them.
        latents_CHW = functional.pad(control.latents_CHW, (0, 0, 0, 0, 0, num_missing))
        control_NP = patchify(latents_CHW[None].to(self.dtype))[0]
        scale = torch.tensor(control.scale, dtype=torch.float32, device=self.device)
        return [Condition((*condition.tensors, control_NP, scale)) for condition in plain]

    def _tokens(
        self,
        latents_BCHW: Tensor,
        time_BT: Tensor,
        captions_BLD: Tensor,
        control_BNP: Tensor | None = None,
        scale_B: Tensor | None = None,
    ) -> Tensor:
        if control_BNP is None or scale_B is None:
            return super()._tokens(latents_BCHW, time_BT, captions_BLD)
        in_image, in_all = self._rotary_of(latents_BCHW, captions_BLD.shape[1])
        times_BMT = time_BT[:, None]
        images_BSD = self._embed(self._transformer.all_x_embedder, patchify(latents_BCHW.to(self.dtype)))
        control_BSD = self._embed(self._controlnet.control_all_x_embedder, control_BNP)
        refined_BSD = self._noise_refiner.run(images_BSD, in_image, times_BMT)
        if self._refiner_hinting:
            hints = self._refiner_hinting.each(control_BSD, images_BSD, in_image, times_BMT)
            seen_BSD, control_BSD = self._refine_control(images_BSD, hints, scale_B, in_image, times_BMT)
        else:
            assert self._control_refiner
            seen_BSD = refined_BSD
            control_BSD = self._control_refiner.run(control_BSD, in_image, times_BMT)
        # Each hint is made when its layer needs it, so that they are never all in memory.
        hints = self._hinting.each(
            torch.cat([control_BSD, captions_BLD], dim=1),
            torch.cat([seen_BSD, captions_BLD], dim=1),
            in_all,
            times_BMT,
        )

        def hint(number: int) -> Tensor | None:
            if number not in self._controlnet.control_layers_places:
                return None
            return _scaled(next(hints)[0], scale_B)

        x_BSD = torch.cat([refined_BSD, captions_BLD], dim=1)
        return self._layers.run(x_BSD, in_all, times_BMT, add=hint, read=patches_of(latents_BCHW))

    def _refine_control(
        self,
        images_BSD: Tensor,
        hints: Iterator[tuple[Tensor, Tensor]],
        scale_B: Tensor,
        rotary_BSC2: Tensor,
        times_BMT: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refine the ControlNet's copy of an image together with its control tokens."""
        places = self._controlnet.control_refiner_layers_places
        hint_at = {}
        for number, (hint_BSD, tokens_BSD) in enumerate(hints):
            control_BSD = tokens_BSD
            if number < len(places):
                hint_at[places[number]] = _scaled(hint_BSD, scale_B)
        return self._noise_refiner.run(images_BSD, rotary_BSC2, times_BMT, add=hint_at.get), control_BSD


class _HintStack:
    """Control blocks, each of which makes a hint for a block of the transformer."""

    def __init__(self, blocks: Sequence[Any], window: Window | None) -> None:
        """Take over the weights of ZImageControlTransformerBlocks."""
        self.stack = BlockStack(blocks, window)
        self._before: Any = blocks[0].before_proj
        self._after: list[Any] = [block.after_proj for block in blocks]

    def each(
        self, control_BSD: Tensor, images_BSD: Tensor, rotary_BSC2: Tensor, times_BMT: Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Run the blocks; after each, yield its hint and its control tokens, both (B, S, D)."""
        control_BSD = self._before(control_BSD) + images_BSD
        each = self.stack.each(control_BSD, rotary_BSC2, times_BMT)
        for after, tokens_BSD in zip(self._after, each, strict=True):
            yield after(tokens_BSD), tokens_BSD


def _scaled(hint_BSD: Tensor, scale_B: Tensor) -> Tensor:
    """Scale each item's hints by its own scale; round only once, as with a plain number."""
    return (hint_BSD * scale_B[:, None, None]).to(hint_BSD.dtype)
