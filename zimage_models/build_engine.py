"""From an EngineConfig to a running engine."""

from pathlib import Path
from typing import Any, Protocol

import torch
from torch._dynamo import config as dynamo_config

from zimage_models.checkpoint import load_components, weights_sha256
from zimage_models.checkpoint_source import resolve_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.engine import Engine
from zimage_models.engine_stats import EngineStats
from zimage_models.errors import EngineDead, InvalidRequest
from zimage_models.fake_engine import FakeEngine
from zimage_models.model_runner import ModelRunner
from zimage_models.model_spec import ModelSpec, read_model_spec
from zimage_models.prompts import PromptTokenizer
from zimage_models.request_handle import PreviewCallback, RequestHandle
from zimage_models.requests import ImageRequest, build_request

FAKE_WEIGHTS = "fake"

# Transformer tokens a step takes before more of them stop helping. CPU: throughput is flat from 8 images of
# 96 tokens on. Accelerator: four 1024 x 1024 images; one already fills an H100 (batching gains 8 %).
CPU_STEP_TOKENS = 1024
ACCELERATOR_STEP_TOKENS = 4 * 4224

# Compiled forms of the transformer's block: with or without modulation, one image or more, one length or any.
_MAX_COMPILED_FORMS = 32


class EngineLike(Protocol):
    """What a host needs of an engine."""

    spec: ModelSpec

    @property
    def death(self) -> EngineDead | None:
        """Why the engine can't go on, or None while it can."""

    def submit(self, request: ImageRequest, *, on_preview: PreviewCallback | None = None) -> RequestHandle:
        """Queue one request."""
        ...

    def start(self) -> None:
        """Start the thread that steps the engine."""

    def close(self) -> None:
        """Stop the thread and fail what is unfinished."""

    def stats(self) -> EngineStats:
        """Report queue, speed and memory."""
        ...


def resolve_model(config: EngineConfig) -> ModelSpec:
    """Find (or fetch) a config's checkpoint and read its limits.

    Raises:
        CheckpointError: nothing of that name, or a missing or foreign file.
    """
    directory = resolve_checkpoint(
        config.model, cache_dir=_cache_dir(config), s3_endpoint_url=config.s3_endpoint_url
    )
    return read_model_spec(
        directory, model_id=config.model, variant=config.variant, max_prompt_tokens=config.max_prompt_tokens
    )


def model_weights_sha256(config: EngineConfig, spec: ModelSpec) -> str:
    """Identify the weights a config makes images with; the fake engine's are ``"fake"``."""
    return FAKE_WEIGHTS if config.fake else weights_sha256(spec.directory, cache_dir=_cache_dir(config))


def build_engine(config: EngineConfig) -> EngineLike:
    """Load a model and start its engine.

    Raises:
        CheckpointError: the checkpoint can't be found, fetched or loaded.
        InvalidRequest: the device is not there.
    """
    engine = FakeEngine(resolve_model(config)) if config.fake else load_engine(config)
    engine.start()
    return engine


def load_engine(config: EngineConfig) -> Engine:
    """Load a model into an engine that its caller starts or steps; ``config.fake`` is not read."""
    spec = resolve_model(config)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = _device(config.device)
    on_cpu = device.type == "cpu"
    dtype = _dtype(config.dtype, torch.float32 if on_cpu else torch.bfloat16)
    components = load_components(
        spec.directory, device=device, dtype=dtype, vae_dtype=_dtype(config.vae_dtype, torch.float32)
    )
    if config.compile:
        compile_blocks(components.transformer)
    return Engine(
        spec=spec,
        tokenizer=PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens),
        runner=ModelRunner(components, caption_cache_bytes=config.caption_cache_bytes),
        max_step_tokens=config.max_step_tokens or (CPU_STEP_TOKENS if on_cpu else ACCELERATOR_STEP_TOKENS),
        max_queued=config.max_queued,
        ageing_s=config.ageing_s,
    )


def compile_blocks(transformer: Any, *, backend: str = "inductor") -> None:
    """Compile a transformer's repeated blocks; :func:`warm_up` then pays for the usual shapes."""
    # Past the limit a compiled block raises instead of running slowly.
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, _MAX_COMPILED_FORMS)
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


def warm_up(engine: EngineLike) -> None:
    """Make a few images of few steps, so that the first real request pays no set-up.

    Batches of one, two and three images, of two lengths, make a compiled transformer ready for any shape.
    """
    spec = engine.spec
    small = 4 * spec.size_multiple
    for guidance_scale in {0.0, spec.default_guidance_scale}:
        # Three steps: an image may miss the first step of those submitted with it.
        common = {
            "seed": 0,
            "num_inference_steps": 3,
            "guidance_scale": guidance_scale,
            "truncate_prompt": True,
        }
        shapes = (
            (1, {"prompt": "warm up"}),
            (2, {"prompt": "warm up " * 32, "height": small, "width": small}),
            (3, {"prompt": "warm up", "height": small, "width": small}),
        )
        for num_images, shape in shapes:
            request = build_request(spec, {**common, **shape})
            for handle in [engine.submit(request) for _ in range(num_images)]:
                handle.result()


def _cache_dir(config: EngineConfig) -> Path | None:
    return Path(config.cache_dir) if config.cache_dir else None


def _device(name: str) -> torch.device:
    if name == "auto":
        device = torch.accelerator.current_accelerator(check_available=True)
        # Apple's is untried: it has to be asked for by name.
        return torch.device("cpu") if device is None or device.type == "mps" else device
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequest(f"device: {name!r} is not usable here ({error})", field="device") from error
    return device


def _dtype(name: str, default: torch.dtype) -> torch.dtype:
    return default if name == "auto" else {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
