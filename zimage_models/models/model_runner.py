"""The tensor work of the engine: encode, denoise one step, decode. It knows nothing about the queue.

Shape legend: B batch, C latent channels, H W height and width.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from zimage_models.checkpoints.components import Components
from zimage_models.errors import BlankImage
from zimage_models.model_spec import PATCH_SIZE
from zimage_models.models.denoisers.condition import Caption, Control, Reference
from zimage_models.models.denoisers.controlnet_denoiser import ControlNetDenoiser
from zimage_models.models.denoisers.denoiser import Denoiser
from zimage_models.models.denoisers.step_times import compute_step_times, shift_exponent
from zimage_models.models.device_memory import upload
from zimage_models.models.feature_encoder import FeatureEncoder
from zimage_models.models.guidance import Predict, guided_velocity
from zimage_models.models.image_decoder import ImageDecoder
from zimage_models.models.image_encoder import ImageEncoder
from zimage_models.models.image_state import Canvas, Half, ImageState, Inpainting, add_noise
from zimage_models.models.offload.window import ON_DEVICE, Residency
from zimage_models.models.prompt_encoder import PromptEncoder
from zimage_models.models.prompt_tokenizer import TokenizedPrompt
from zimage_models.models.ranks import OneRank, Ranks
from zimage_models.models.sequence_layout import num_caption_tokens, padded_length
from zimage_models.models.tensor_cache import TensorCache
from zimage_models.pictures import Picture, crop_to_multiple, painted
from zimage_models.requests import ImageRequest

Segments = tuple[tuple[int, ...], ...]
"""The token ids of a prompt: the cache key of its refined caption."""


class ModelRunner:
    """Runs one checkpoint's models for batches of image states.

    A method that raises does not change its states.
    """

    def __init__(
        self,
        components: Components,
        *,
        caption_cache_bytes: int,
        image_cache_bytes: int = 64 * 2**20,
        denoiser_class: type[Denoiser] = Denoiser,
        ranks: Ranks | None = None,
        text_encoder_ranks: Ranks | None = None,
        residency: Residency = ON_DEVICE,
    ) -> None:
        """Wrap a checkpoint's models.

        Args:
            components: the models; of a divided model, this rank's share.
            caption_cache_bytes: size of the cache of refined captions.
            image_cache_bytes: size of the cache of encoded pictures, and of the cache of their features.
            denoiser_class: the variant's (:func:`.omni_denoiser.denoiser_class`).
            ranks: the ranks that the transformer is divided over; None if it is whole.
            text_encoder_ranks: the same for the text encoder.
            residency: how the transformer's blocks get to the device.
        """
        self.ranks = ranks or OneRank()
        self.denoiser: Denoiser = (
            denoiser_class(components.transformer, ranks=ranks, residency=residency)
            if components.controlnet is None
            else ControlNetDenoiser(components.transformer, components.controlnet, residency=residency)
        )
        """The variant's, around this rank's share of the transformer."""
        self._encoder = PromptEncoder(components.text_encoder, ranks=text_encoder_ranks)
        self._image_decoder = ImageDecoder(components.vae)
        self._image_encoder = ImageEncoder(components.vae, cache_bytes=image_cache_bytes)
        self._feature_encoder = (
            FeatureEncoder(components.siglip, components.siglip_processor, cache_bytes=image_cache_bytes)
            if components.siglip is not None
            else None
        )
        self._scheduler = components.scheduler
        self._num_channels = self.denoiser.num_channels
        self._latent_scale = 2 ** (len(components.vae.config.block_out_channels) - 1)
        self.captions: TensorCache[Segments] = TensorCache(caption_cache_bytes)
        self._step_times = lru_cache(maxsize=256)(partial(compute_step_times, self._scheduler))
        self._steps_under_way: list[torch.Event] = []

    @property
    def device(self) -> torch.device:
        """Device that the tensor work runs on."""
        return self.denoiser.device

    def compile(self, *, backend: str = "inductor") -> None:
        """Compile the denoiser's blocks and the VAE's decoder; ``warm_up`` then compiles their shapes."""
        self.denoiser.compile(backend=backend)
        self._image_decoder.compile(backend=backend)

    @torch.inference_mode()
    def prepare(self, states: Sequence[ImageState]) -> None:
        """Encode the prompts and pictures of states that have no canvas yet, and draw their noise."""
        captions = self._captions_of(states)
        canvases = [self._new_canvas(state, captions) for state in states]
        for state, canvas in zip(states, canvases, strict=True):
            state.canvas = canvas

    def _new_canvas(self, state: ImageState, captions: Mapping[Segments, Tensor]) -> Canvas:
        request = state.request
        sides = request.height // self._latent_scale, request.width // self._latent_scale
        step_times = self._step_times(request.num_inference_steps, shift_exponent(self._scheduler, *sides))
        # A CPU generator per image, in float32: a seed gives the same image on any device and in any batch.
        generator = torch.Generator("cpu").manual_seed(request.seed)
        # The image comes before the noise, because diffusers' prepare_latents draws in this order.
        start = request.start_image
        image_CHW = self._image_encoder.encode(start, generator) if start else None
        noise_CHW = torch.randn(self._num_channels, *sides, generator=generator, dtype=torch.float32)
        latents_CHW = noise_CHW = upload(noise_CHW, self.device)
        inpainting = None
        if image_CHW is not None:
            latents_CHW = add_noise(image_CHW, noise_CHW, step_times.sigmas[request.first_step])
            if request.mask is not None:
                painted_HW = self._painted(request.mask)
                inpainting = Inpainting(image_CHW=image_CHW, noise_CHW=noise_CHW, painted_HW=painted_HW)
        prompts = [prompt for prompt in (state.prompt, state.negative) if prompt is not None]
        condition, *negative = self.denoiser.conditions(
            [Caption(captions[prompt.segments], prompt.lengths) for prompt in prompts],
            [self._reference(picture) for picture in request.condition_images],
            *sides,
            control=self._control(request),
        )
        return Canvas(
            latents_CHW=latents_CHW,
            positive=Half(condition=condition),
            negative=Half(condition=negative[0]) if negative else None,
            step_times=step_times,
            inpainting=inpainting,
        )

    def _reference(self, picture: Picture) -> Reference:
        cropped = crop_to_multiple(picture, self._latent_scale * PATCH_SIZE)
        return Reference(
            latents_CHW=self._image_encoder.mode(cropped),
            features_HWF=self._feature_encoder.encode(picture) if self._feature_encoder else None,
        )

    def _control(self, request: ImageRequest) -> Control | None:
        if request.control_image is None or request.controlnet_conditioning_scale is None:
            return None
        channels = [self._image_encoder.mode(request.control_image)]
        if request.mask is not None:
            [image] = request.reference_images
            kept_HW = ~self._painted(request.mask)
            channels += [kept_HW[None].float(), self._image_encoder.mode(image, hidden=request.mask)]
        return Control(torch.cat(channels), request.controlnet_conditioning_scale)

    def _painted(self, mask: Picture) -> Tensor:
        """Return which latents to paint; bool (H, W)."""
        seen = painted(mask)[:: self._latent_scale, :: self._latent_scale]
        return upload(torch.from_numpy(seen.copy()), self.device)

    def _captions_of(self, states: Sequence[ImageState]) -> dict[Segments, Tensor]:
        prompts = {p.segments: p for state in states for p in (state.prompt, state.negative) if p is not None}
        captions = {}
        missing: dict[int, list[TokenizedPrompt]] = {}
        for key, prompt in prompts.items():
            caption = self.captions.get(key)
            if caption is not None:
                captions[key] = caption
            else:
                missing.setdefault(num_caption_tokens(prompt.lengths), []).append(prompt)
        embeddings = self._embed({s for bucket in missing.values() for p in bucket for s in p.segments})
        for same_bucket in missing.values():
            refined = self.denoiser.refine_captions(
                [[embeddings[segment] for segment in prompt.segments] for prompt in same_bucket]
            )
            for prompt, caption in zip(same_bucket, refined, strict=True):
                captions[prompt.segments] = caption
                self.captions.put(prompt.segments, caption)
        return captions

    def _embed(self, segments: Iterable[tuple[int, ...]]) -> dict[tuple[int, ...], Tensor]:
        """Run the text encoder over segments, with those of similar length in one batch."""
        buckets: dict[int, list[tuple[int, ...]]] = {}
        for segment in sorted(segments):
            buckets.setdefault(padded_length(len(segment)), []).append(segment)
        return {
            segment: embedding
            for bucket in buckets.values()
            for segment, embedding in zip(bucket, self._encoder.encode(bucket), strict=True)
        }

    @torch.inference_mode()
    def denoise_step(self, states: Sequence[ImageState]) -> None:
        """Advance all states, which are of one bucket, by one step that is computed.

        Each state has its own time, guidance and caption.
        """
        reused = {half for state in states if state.is_reused for half in state.drawn.halves}
        residuals: dict[Half, Tensor] = {}

        def predict(latents_BCHW: Tensor, time_B: Tensor, halves: Sequence[Half]) -> Tensor:
            velocity_BCHW, tokens_BND = self.denoiser.predict(
                latents_BCHW, time_B, [half.condition for half in halves]
            )
            for row, half in enumerate(halves):
                if half in reused:
                    # One by one, so that an image does not keep the residuals of its batch in memory.
                    one = slice(row, row + 1)
                    residuals[half] = self.denoiser.residual(latents_BCHW[one], tokens_BND[one])[0]
            return velocity_BCHW

        self._step(states, predict)
        for state in states:
            state.num_computed += 1
            for half in state.drawn.halves:
                half.residual_ND = residuals.get(half)
        self._pace()

    @torch.inference_mode()
    def reuse_step(self, states: Sequence[ImageState]) -> None:
        """Advance all states, of one size, by one step that reuses what the last computed one added.

        It runs no layer, so it takes a few hundredths of the time (docs/quality.md).
        """

        def predict(latents_BCHW: Tensor, time_B: Tensor, halves: Sequence[Half]) -> Tensor:
            residuals_BND = torch.stack([half.kept_residual for half in halves])
            return self.denoiser.predict_again(latents_BCHW, time_B, residuals_BND)

        self._step(states, predict)

    def _step(self, states: Sequence[ImageState], predict: Predict) -> None:
        """Move all states along their velocities.

        The update is the Euler step of FlowMatchEulerDiscreteScheduler.step: x[i+1] = x[i] + (sigma[i+1] -
        sigma[i]) * velocity. Inpainting then restores what it keeps.
        """
        canvases = [state.drawn for state in states]
        indexed = [(canvas.step_times, state.step) for canvas, state in zip(canvases, states, strict=True)]
        times = [step_times.times[step] for step_times, step in indexed]
        sigma_changes = [step_times.sigma_changes[step] for step_times, step in indexed]
        # One upload per step, which the host does not wait for.
        time_B, sigma_change_B = upload(
            torch.tensor([times, sigma_changes], dtype=torch.float32), self.device
        )
        latents_BCHW = torch.stack([canvas.latents_CHW for canvas in canvases])
        velocity_BCHW = guided_velocity(states, latents_BCHW, time_B, predict)
        latents_BCHW = latents_BCHW + sigma_change_B[:, None, None, None] * velocity_BCHW
        moved = []
        for canvas, latents_CHW, velocity_CHW, (step_times, step), state in zip(
            canvases, latents_BCHW, velocity_BCHW, indexed, states, strict=True
        ):
            sigma = step_times.sigmas[step + 1]
            estimate_CHW = latents_CHW - sigma * velocity_CHW if state.request.preview_every else None
            if canvas.inpainting:
                latents_CHW = canvas.inpainting.blend(latents_CHW, sigma)
                if estimate_CHW is not None:
                    estimate_CHW = canvas.inpainting.blend(estimate_CHW, 0.0)
            moved.append((latents_CHW, estimate_CHW))
        for state, canvas, (latents_CHW, estimate_CHW) in zip(states, canvases, moved, strict=True):
            canvas.latents_CHW = latents_CHW
            canvas.estimate_CHW = estimate_CHW
            state.step += 1

    def _pace(self) -> None:
        """Let the host run at most one step ahead of the device.

        One step hides the host's work between steps; more would delay a request that joins.
        """
        if self.device.type == "cpu":
            return
        event = torch.Event(device=self.device)
        event.record()
        self._steps_under_way.append(event)
        if len(self._steps_under_way) > 1:
            self._steps_under_way.pop(0).synchronize()

    def decode(self, states: Sequence[ImageState]) -> list[npt.NDArray[np.uint8] | BlankImage]:
        """Decode finished latents of one size to uint8 (H, W, 3) pixels, or to the error of a blank image."""
        latents = [state.drawn.latents_CHW for state in states]
        return self._image_decoder.decode(latents, [state.request for state in states])

    def preview(self, state: ImageState) -> npt.NDArray[np.uint8]:
        """Decode a small estimate of a running image's result; uint8 (h, w, 3)."""
        estimate_CHW = state.drawn.estimate_CHW
        assert estimate_CHW is not None, "only requests with preview_every have one"
        return self._image_decoder.preview(estimate_CHW)
