"""Load a checkpoint into a real engine on its device."""

from typing import Any

import torch
from torch._dynamo import config as dynamo_config

from zimage_models.build_engine import resolve_model
from zimage_models.checkpoint import load_components
from zimage_models.config import EngineConfig
from zimage_models.engine import Engine
from zimage_models.errors import InvalidRequest
from zimage_models.model_runner import ModelRunner
from zimage_models.prompts import PromptTokenizer

# Transformer tokens a step takes before more of them stop helping. CPU: throughput is flat from 8 images of
# 96 tokens on. Accelerator: four 1024 x 1024 images; one already fills an H100 (batching gains 8 %).
CPU_STEP_TOKENS = 1024
ACCELERATOR_STEP_TOKENS = 4 * 4224

# Compiled forms of the transformer's block: with or without modulation, one image or more, one length or any.
_MAX_COMPILED_FORMS = 32


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
    """Compile a transformer's repeated blocks; ``warm_up`` then pays for the usual shapes."""
    # Past the limit a compiled block raises instead of running slowly.
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, _MAX_COMPILED_FORMS)
    transformer.compile_repeated_blocks(fullgraph=True, backend=backend)


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
