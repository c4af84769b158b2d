"""An engine put together of its parts, for tests that change one of them."""

from pathlib import Path
from typing import Any

import torch

from zimage_models.checkpoints.components import Components, load_components
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.model_spec import ModelSpec
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.prompt_tokenizer import PromptTokenizer


def cpu_components(directory: Path) -> Components:
    return load_components(
        directory, device=torch.device("cpu"), dtype=torch.float32, vae_dtype=torch.float32
    )


def tokenizer_of(spec: ModelSpec) -> PromptTokenizer:
    """Load a model's tokenizer with its limits."""
    return PromptTokenizer(
        spec.directory, max_tokens=spec.max_prompt_tokens, num_positions=spec.num_caption_positions
    )


def engine_around(spec: ModelSpec, runner: ModelRunner, **options: Any) -> Engine:
    """Put an engine around a runner."""
    settings = {"max_step_tokens": 1024, "max_queued": 100, "ageing_s": 1000.0} | options
    return Engine(spec=spec, tokenizer=tokenizer_of(spec), runner=runner, **settings)


def engine_of(
    directory: Path, components: Components, runner_class: type[ModelRunner] = ModelRunner
) -> Engine:
    """Put an engine of a checkpoint together of these models."""
    spec = resolve_model(EngineConfig(model=str(directory)))
    runner = runner_class(components, caption_cache_bytes=2**20, denoiser_class=denoiser_class(spec.variant))
    return engine_around(spec, runner)


class Wrapped:
    """A real model, whose calls a subclass counts or refuses."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)


class CountingVae(Wrapped):
    """A VAE that counts what it encodes."""

    def __init__(self, vae: Any) -> None:
        super().__init__(vae)
        self.num_encoded = 0

    def encode(self, image: torch.Tensor) -> Any:
        self.num_encoded += 1
        return self.model.encode(image)
