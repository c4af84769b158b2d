"""The engine and diffusers' pipeline around the same random models, to be measured side by side."""

import copy
from itertools import count
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from transformers import AutoTokenizer

from benchmarks.gpu.device_timing import seconds
from benchmarks.gpu.released_shape import Shape, build_models
from zimage_models.checkpoints.components import Components, without_unread_layers
from zimage_models.engine.engine import Engine
from zimage_models.model_spec import ModelSpec, read_model_spec
from zimage_models.models.denoisers.fp8_layers import place_in_fp8
from zimage_models.models.image_state import ImageState
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.models.sequence_layout import padded_length
from zimage_models.requests import ImageRequest, build_request

NUM_STEPS = 8


class Sides:
    """The engine and the pipeline around the same transformer and VAE."""

    def __init__(
        self,
        shape: Shape,
        checkpoint: Path,
        *,
        device: torch.device,
        vae_dtype: torch.dtype,
        max_step_tokens: int,
        fp8: bool = False,
    ) -> None:
        """Build both sides.

        Args:
            shape: of the models.
            checkpoint: where the limits and the tokenizer come from.
            device: of both sides.
            vae_dtype: of both sides; everything else is bfloat16.
            max_step_tokens: the engine's.
            fp8: whether the engine's main blocks are in float8; it then has its own copy of the transformer.
        """
        self.device = device
        models = build_models(shape, device=device, dtype=torch.bfloat16, vae_dtype=vae_dtype)
        scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
        self.transformer, self.vae = models["transformer"], models["vae"]
        # The engine runs a shorter text encoder than the pipeline, so it gets its own copy.
        encoder = without_unread_layers(copy.deepcopy(models["text_encoder"]))
        in_engine = place_in_fp8(copy.deepcopy(self.transformer), device) if fp8 else self.transformer
        components = Components(
            transformer=in_engine, text_encoder=encoder, vae=self.vae, scheduler=scheduler
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(str(checkpoint / "tokenizer"), local_files_only=True)
        pipeline: Any = ZImagePipeline(scheduler=scheduler, tokenizer=tokenizer, **models)
        pipeline.set_progress_bar_config(disable=True)
        self._pipeline = pipeline
        # Only the limits and the tokenizer come from this checkpoint; they match the release.
        self.spec: ModelSpec = read_model_spec(checkpoint, model_id="random", variant="turbo")
        self._tokenizer = PromptTokenizer(checkpoint, max_tokens=self.spec.max_prompt_tokens)
        self._runner = ModelRunner(components, caption_cache_bytes=2**28)
        self._engine = Engine(
            spec=self.spec,
            tokenizer=self._tokenizer,
            runner=self._runner,
            max_step_tokens=max_step_tokens,
            max_queued=1000,
            ageing_s=10.0,
        )
        self._numbers = count()

    def compile(self, *, backend: str) -> None:
        """Compile what each side compiles: the engine its decoder too."""
        self._runner.compile(backend=backend)
        self.transformer.compile_repeated_blocks(fullgraph=True, backend=backend)

    def requests(self, num_images: int, side: int) -> list[ImageRequest]:
        """Build requests of one caption bucket with prompts that are in no cache."""
        numbers = [next(self._numbers) for _ in range(num_images)]
        return [
            build_request(
                self.spec,
                {
                    "prompt": f"{number:06d} a red fox in fresh snow below a street lamp, photograph, 35 mm",
                    "seed": number,
                    "height": side,
                    "width": side,
                    "num_inference_steps": NUM_STEPS,
                },
            )
            for number in numbers
        ]

    def caption_tokens(self) -> int:
        """Return the padded caption length of those requests."""
        [num_tokens] = self._tokenizer.count([self.requests(1, 64)[0].prompt])
        return padded_length(num_tokens)

    def run_engine(self, requests: list[ImageRequest]) -> None:
        """Make the images of all requests with the engine."""
        handles = [self._engine.submit(request) for request in requests]
        while self._engine.step():
            pass
        for handle in handles:
            handle.result(0)

    def run_pipeline(self, requests: list[ImageRequest]) -> None:
        """Make the images of all requests with one call of the pipeline."""
        first = requests[0]
        self._pipeline(
            prompt=[request.prompt for request in requests],
            height=first.height,
            width=first.width,
            num_inference_steps=NUM_STEPS,
            guidance_scale=0.0,
            generator=[torch.Generator("cpu").manual_seed(request.seed) for request in requests],
        )

    def step_s(self, requests: list[ImageRequest]) -> float:
        """Time one denoising step of the runner, as the mean of a whole run of steps."""
        states = [
            ImageState(request=r, prompt=self._tokenizer.tokenize(r.prompt, truncate=False), negative=None)
            for r in requests
        ]
        self._runner.prepare(states)

        def run() -> None:
            for _ in range(NUM_STEPS):
                self._runner.denoise_step(states)

        return seconds(run, self.device) / NUM_STEPS
