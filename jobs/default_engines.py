"""How many engines a job has where nobody says it."""

import os

import ray
from ray._private.accelerators import get_all_accelerator_managers
from ray._private.utils import get_num_cpus

from pipelines.options import GenerateOptions
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.memory.machine import available_bytes

_PROCESS_BYTES = 2**30
"""What an engine's process takes without its weights."""


def with_default_engines(options: GenerateOptions) -> GenerateOptions:
    """Let a job on this machine's CPUs start an engine for each core, as far as memory allows.

    One engine of all cores makes fewer images per second: it waits for its slowest thread at every step. Jobs
    elsewhere keep one engine.
    """
    if not _is_on_own_cpus(options):
        return options
    most = max(1, int(get_num_cpus() // (options.engine_cpus or 1)))
    free_bytes = available_bytes()
    if free_bytes is not None:
        most = min(most, free_bytes // _engine_bytes(options))
    return options.model_copy(update={"engines_max": max(options.engines_min, most)})


def _is_on_own_cpus(options: GenerateOptions) -> bool:
    engine = options.engine
    joins = options.serve_app or "RAY_ADDRESS" in os.environ or ray.is_initialized()
    if joins or engine.fake or options.engine_gpus:
        return False
    if options.accelerator_type or engine.parallel.tensor_parallel_size > 1:
        return False
    if engine.device == "auto":
        return not any(kind.get_current_node_num_accelerators() for kind in get_all_accelerator_managers())
    return engine.device == "cpu"


def _engine_bytes(options: GenerateOptions) -> int:
    """Bound the memory of an engine: bfloat16 weights become float32, which takes twice their files."""
    spec = resolve_model(options.engine)
    folders = [spec.directory, *([spec.controlnet.directory] if spec.controlnet else [])]
    weights = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))
    return _PROCESS_BYTES + 2 * weights
