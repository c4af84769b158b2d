"""Load a checkpoint into a real engine, on one device for each of its ranks."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from zimage_models.checkpoints.components import load_components, load_controlnet
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.engine.check_memory import check_memory
from zimage_models.engine.engine import Engine
from zimage_models.engine.job import Job
from zimage_models.engine.step_scheduler import StepScheduler
from zimage_models.memory.modes import MEMORY_MODES
from zimage_models.model_spec import ModelSpec
from zimage_models.models.compilation import compiled_forms, compiles
from zimage_models.models.denoisers.fp8_layers import place_in_fp8
from zimage_models.models.denoisers.omni_denoiser import denoiser_class
from zimage_models.models.device_memory import keep_freed, release_cached
from zimage_models.models.devices import limit_threads, resolve_device, resolve_dtype
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.offload.placement import host_parts, place
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.tensor_parallel.rank_launcher import RankLauncher

# Transformer tokens in a step beyond which more do not help. CPU: throughput is flat from 8 images of 96
# tokens on. Accelerator: four 1024 x 1024 images; one already fills an H100 (batching gains 8 %).
CPU_STEP_TOKENS = 1024
ACCELERATOR_STEP_TOKENS = 4 * 4224


def load_engine(
    config: EngineConfig,
    *,
    spec: ModelSpec | None = None,
    launcher: RankLauncher | None = None,
    scheduler_class: type[StepScheduler[Job]] = StepScheduler,
) -> Engine:
    """Load a model into an engine that the caller starts or steps; ``config.fake`` is ignored.

    Args:
        config: the engine.
        spec: what :func:`resolve_model` returns for it, if that has been called.
        launcher: starts the other ranks of a divided engine; None for local processes.
        scheduler_class: picks the requests of each step; benchmarks compare it with others.
    """
    spec = spec or resolve_model(config)
    models = load_models(config, spec, launcher=launcher)
    return Engine(
        spec=spec,
        tokenizer=models.tokenizer,
        runner=models.runner,
        max_step_tokens=models.max_step_tokens,
        max_queued=config.max_queued,
        ageing_s=config.ageing_s,
        compiled_forms=models.compiled_forms,
        scheduler_class=scheduler_class,
    )


def _default_step_tokens(config: EngineConfig, device: torch.device) -> int:
    limit = CPU_STEP_TOKENS if device.type == "cpu" else ACCELERATOR_STEP_TOKENS
    return min(limit, MEMORY_MODES[config.memory].max_step_tokens or limit)


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedModels:
    """What an engine runs, without an engine."""

    tokenizer: PromptTokenizer
    runner: ModelRunner
    max_step_tokens: int
    compiled_forms: Path | None


def load_models(
    config: EngineConfig, spec: ModelSpec, *, launcher: RankLauncher | None = None
) -> LoadedModels:
    """Load a model's tokenizer and weights; arguments are those of :func:`load_engine`."""
    limit_threads(config)
    device = resolve_device(config)
    keep_freed(device)
    # Before any weights are read: it may be refused.
    forms = compiled_forms(config, spec, device) if compiles(config, device) else None
    tokenizer = PromptTokenizer(
        spec.directory, max_tokens=spec.max_prompt_tokens, num_positions=spec.num_caption_positions
    )
    runner = _load_runner(config, spec, device, launcher)
    if forms is not None:
        runner.compile()
    return LoadedModels(
        tokenizer=tokenizer,
        runner=runner,
        max_step_tokens=config.max_step_tokens or _default_step_tokens(config, device),
        compiled_forms=forms,
    )


def _load_runner(
    config: EngineConfig, spec: ModelSpec, device: torch.device, launcher: RankLauncher | None
) -> ModelRunner:
    dtype = resolve_dtype(config.computing_dtype, device)
    vae_dtype = resolve_dtype(config.vae_dtype, device)
    if config.parallel.tensor_parallel_size > 1:
        # Imported here: only a divided engine needs process groups.
        from zimage_models.tensor_parallel.load_first_rank import load_first_rank

        return load_first_rank(
            config, spec, device=device, dtype=dtype, vae_dtype=vae_dtype, launcher=launcher
        )
    check_memory(config, spec, device=device, dtype=dtype, vae_dtype=vae_dtype)
    mode = MEMORY_MODES[config.memory]
    on_host = host_parts(mode)
    components = load_components(
        spec.directory,
        device=device,
        dtype=dtype,
        vae_dtype=vae_dtype,
        place_transformer=place_in_fp8 if config.precision == "fp8" else None,
        on_host=on_host,
    )
    if spec.controlnet:
        place_of = torch.device("cpu") if "controlnet" in on_host else device
        controlnet = load_controlnet(spec.controlnet.directory, device=place_of, dtype=dtype)
        components = replace(components, controlnet=controlnet)
    runner = ModelRunner(
        components,
        caption_cache_bytes=config.caption_cache_bytes,
        denoiser_class=denoiser_class(spec.variant),
        residency=place(components, mode, device),
    )
    # Joining the blocks' weights leaves as much cached as they take.
    release_cached(device)
    return runner
