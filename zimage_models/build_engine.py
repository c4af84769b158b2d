"""From an EngineConfig to a running engine."""

from pathlib import Path
from typing import Protocol

import torch

from zimage_models.checkpoint import load_components, weights_sha256
from zimage_models.checkpoint_source import resolve_checkpoint
from zimage_models.config import EngineConfig
from zimage_models.engine import Engine, PreviewCallback, RequestHandle
from zimage_models.engine_stats import EngineStats
from zimage_models.errors import EngineDead, InvalidRequest
from zimage_models.fake_engine import FakeEngine
from zimage_models.model_runner import ModelRunner
from zimage_models.model_spec import ModelSpec, read_model_spec
from zimage_models.prompts import PromptTokenizer
from zimage_models.requests import ImageRequest, build_request

FAKE_WEIGHTS = "fake"


class EngineLike(Protocol):
    """What a host needs of an engine."""

    spec: ModelSpec

    @property
    def death(self) -> EngineDead | None: ...
    def submit(self, request: ImageRequest, *, on_preview: PreviewCallback | None = None) -> RequestHandle: ...
    def start(self) -> None: ...
    def close(self) -> None: ...
    def stats(self) -> EngineStats: ...


def resolve_model(config: EngineConfig) -> ModelSpec:
    """Find (or fetch) a config's checkpoint and read its limits.

    Raises:
        CheckpointError: nothing of that name, or a missing or foreign file.
    """
    directory = resolve_checkpoint(
        config.model,
        cache_dir=Path(config.cache_dir) if config.cache_dir else None,
        s3_endpoint_url=config.s3_endpoint_url,
    )
    return read_model_spec(
        directory, model_id=config.model, variant=config.variant, max_prompt_tokens=config.max_prompt_tokens
    )


def model_weights_sha256(config: EngineConfig, spec: ModelSpec) -> str:
    """Identify the weights a config makes images with; the fake engine's are ``"fake"``."""
    return FAKE_WEIGHTS if config.fake else weights_sha256(spec.directory)


def build_engine(config: EngineConfig) -> EngineLike:
    """Load a model and start its engine.

    Raises:
        CheckpointError: the checkpoint can't be found, fetched or loaded.
        InvalidRequest: the device is not there.
    """
    spec = resolve_model(config)
    if config.fake:
        return FakeEngine(spec)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    device = _device(config.device)
    on_cpu = device.type == "cpu"
    dtype = _dtype(config.dtype, torch.float32 if on_cpu else torch.bfloat16)
    components = load_components(
        spec.directory, device=device, dtype=dtype, vae_dtype=_dtype(config.vae_dtype, torch.float32)
    )
    if config.compile:
        components.transformer.compile_repeated_blocks(fullgraph=True)
    engine = Engine(
        spec=spec,
        tokenizer=PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens),
        runner=ModelRunner(components, caption_cache_bytes=config.caption_cache_bytes),
        max_step_tokens=config.max_step_tokens or (CPU_STEP_TOKENS if on_cpu else ACCELERATOR_STEP_TOKENS),
        max_queued=config.max_queued,
        ageing_s=config.ageing_s,
    )
    engine.start()
    return engine


# Transformer tokens a step takes before more of them stop helping. CPU: throughput is flat from 8 images of 96
# tokens on. Accelerator: four 1024 x 1024 images; one already fills an H100 (batching gains 8 %).
CPU_STEP_TOKENS = 1024
ACCELERATOR_STEP_TOKENS = 4 * 4224


def warm_up(engine: EngineLike) -> None:
    """Make one small image, so that the first real request pays no set-up."""
    spec = engine.spec
    values = {"prompt": "warm up", "seed": 0, "num_inference_steps": 1}
    engine.submit(build_request(spec, values)).result()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.accelerator.current_accelerator() or torch.device("cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InvalidRequest(f"device: {name!r} is not usable here ({error})", field="device") from error
    return device


def _dtype(name: str, default: torch.dtype) -> torch.dtype:
    return default if name == "auto" else {"float32": torch.float32, "bfloat16": torch.bfloat16}[name]
