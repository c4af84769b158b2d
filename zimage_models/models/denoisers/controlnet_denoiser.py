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

from zimage_models.models.denoisers.condition import Caption, Condition, Control, Reference
from zimage_models.models.denoisers.denoiser import Denoiser, LayerInputs, patchify


class ControlNetDenoiser(Denoiser):
    """Predicts velocities with a ZImageTransformer2DModel and, for some requests, a ZImageControlNetModel."""

    def __init__(self, transformer: Any, controlnet: Any) -> None:
        """Wrap a whole transformer and a ControlNet that fits it; their modules need not be tied."""
        super().__init__(transformer)
        self._controlnet = controlnet

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

    def _predict(
        self,
        latents_BCHW: Tensor,
        time_B: Tensor,
        captions_BLD: Tensor,
        control_BNP: Tensor | None = None,
        scale_B: Tensor | None = None,
    ) -> Tensor:
        if control_BNP is None or scale_B is None:
            return super()._predict(latents_BCHW, time_B, captions_BLD)
        model, controlnet = self._transformer, self._controlnet
        in_image, in_all = self._layer_inputs(latents_BCHW, time_B, captions_BLD.shape[1])
        images_BSD = self._embed(model.all_x_embedder, patchify(latents_BCHW.to(self.dtype)))
        control_BSD = self._embed(controlnet.control_all_x_embedder, control_BNP)
        refined_BSD = images_BSD
        for layer in model.noise_refiner:
            refined_BSD = layer(refined_BSD, *in_image)
        if controlnet.add_control_noise_refiner is None:
            seen_BSD = refined_BSD
            for layer in controlnet.control_noise_refiner:
                control_BSD = layer(control_BSD, *in_image)
        else:
            seen_BSD, control_BSD = self._refine_control(images_BSD, control_BSD, scale_B, in_image)
        # Each hint is made when its layer needs it, so that they are never all in memory.
        hints = _hints(
            controlnet.control_layers,
            torch.cat([control_BSD, captions_BLD], dim=1),
            torch.cat([seen_BSD, captions_BLD], dim=1),
            in_all,
        )
        x_BSD = torch.cat([refined_BSD, captions_BLD], dim=1)
        for number, layer in enumerate(model.layers):
            x_BSD = layer(x_BSD, *in_all)
            if number in controlnet.control_layers_places:
                x_BSD = x_BSD + _scaled(next(hints)[0], scale_B)
        return self._velocity_of(x_BSD, in_all, latents_BCHW)

    def _refine_control(
        self, images_BSD: Tensor, control_BSD: Tensor, scale_B: Tensor, inputs: LayerInputs
    ) -> tuple[Tensor, Tensor]:
        """Refine the ControlNet's copy of an image together with its control tokens."""
        controlnet = self._controlnet
        hinting = getattr(controlnet, controlnet.add_control_noise_refiner)
        hints = _hints(hinting, control_BSD, images_BSD, inputs)
        hint_at = {}
        places = controlnet.control_refiner_layers_places
        for number, (hint_BSD, tokens_BSD) in enumerate(hints):
            control_BSD = tokens_BSD
            if number < len(places):
                hint_at[places[number]] = hint_BSD
        seen_BSD = images_BSD
        for number, layer in enumerate(self._transformer.noise_refiner):
            seen_BSD = layer(seen_BSD, *inputs)
            if number in hint_at:
                seen_BSD = seen_BSD + _scaled(hint_at[number], scale_B)
        return seen_BSD, control_BSD


def _hints(
    layers: Any, control_BSD: Tensor, images_BSD: Tensor, inputs: LayerInputs
) -> Iterator[tuple[Tensor, Tensor]]:
    """Run control layers; after each, yield its hint and its control tokens, both (B, S, D)."""
    for layer in layers:
        # A layer returns its hint and tokens stacked on its input. diffusers passes the whole stack from
        # layer to layer and so copies every hint once per layer, but only the tokens on top are read.
        given = control_BSD if layer.block_id == 0 else control_BSD[None]
        hint_BSD, control_BSD = layer(given, images_BSD, *inputs)
        yield hint_BSD, control_BSD


def _scaled(hint_BSD: Tensor, scale_B: Tensor) -> Tensor:
    """Scale each item's hints by its own scale; round only once, as with a plain number."""
    return (hint_BSD * scale_B[:, None, None]).to(hint_BSD.dtype)
