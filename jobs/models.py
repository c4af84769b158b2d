"""``zimage models`` and ``zimage convert``: list the models, and write a smaller copy of one."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from jobs.option_groups import S3Options, with_groups
from zimage_models.config import EngineConfig
from zimage_models.memory.machine import available_bytes, find_gpu
from zimage_models.memory.modes import MEMORY_MODES
from zimage_models.memory.plan import FreeMemory, MemoryPlan, gb, memory_plan
from zimage_models.memory.sizes import RELEASED_SIZES, RELEASED_TOKENS
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS
from zimage_models.variants import VARIANTS

_CUDA_BYTES = 500_000_000
"""What CUDA takes of a GPU for itself, roughly."""
_COPIED_GB_PER_S = 25
"""From host memory over PCIe 4 with 16 lanes; PCIe 3 has half of it."""


def list_models() -> int:
    """List variants, models known by name (any other needs --variant), and the memory modes that fit here."""
    print("variants")
    for variant in VARIANTS.values():
        steps = "{}-{}".format(*variant.recommended_steps)
        guidance = "{:g}-{:g}".format(*variant.recommended_guidance)
        print(f"  {variant.name:6} {variant.summary}; recommended steps {steps}, guidance {guidance}")
    print("models")
    for name, known in KNOWN_MODELS.items():
        where = "embedded" if known.directory else "hub"
        print(f"  {name:26} {known.variant:6} {where}{' (default)' if name == DEFAULT_MODEL else ''}")
    for line in _memory_modes():
        print(line)
    return 0


def _memory_modes() -> Iterator[str]:
    """Describe what each memory mode takes of this machine, and which fit it."""
    gpu = find_gpu()
    if gpu:
        where = f"{gpu.name}, {gb(gpu.free_bytes)} free"
        free = FreeMemory(device_bytes=gpu.free_bytes - _CUDA_BYTES, host_bytes=available_bytes())
    else:
        free = FreeMemory(device_bytes=available_bytes())
        where = "the CPU" if free.device_bytes is None else f"the CPU, {gb(free.device_bytes)} free"
    itemsize = 2 if gpu else 4
    plans = {
        name: memory_plan(
            RELEASED_SIZES,
            mode,
            itemsize=itemsize,
            vae_itemsize=itemsize,
            num_tokens=RELEASED_TOKENS,
            num_pixels=1024 * 1024,
            cache_bytes=EngineConfig().caption_cache_bytes,
            device_is_host=gpu is None,
        )
        for name, mode in MEMORY_MODES.items()
    }
    best = next((name for name, plan in plans.items() if free.holds(plan)), None)
    yield f"memory modes of the released models, for an image of 1024x1024 on {where}"
    for name, plan in plans.items():
        fits = "best here" if name == best else "fits" if free.holds(plan) else "does not fit"
        needs = gb(plan.device_bytes)
        if plan.host_bytes:
            needs += f" and {gb(plan.host_bytes)} of the host's"
        yield f"  {name:9} {needs:33} {fits}: {MEMORY_MODES[name].summary}{_copies(plan) if gpu else ''}"
    yield f"  (estimates; copies at {_COPIED_GB_PER_S} GB/s, which a step hides if it computes longer)"


def _copies(plan: MemoryPlan) -> str:
    copied = {"batch of prompts": plan.copied_per_prompts, "step": plan.copied_per_step}
    return "".join(
        f"; copies {gb(num_bytes)} per {what}, {num_bytes / 1e9 / _COPIED_GB_PER_S:.2f} s"
        for what, num_bytes in copied.items()
        if num_bytes
    )


@with_groups
def convert(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Embedded model, folder, Hub ID or s3:// address.")
    ],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="New folder.")],
    s3: S3Options,
) -> int:
    """Write a bfloat16 copy of a checkpoint (the Turbo release is float32 on disk, twice the size)."""
    # The second imports torch, which the other command does not need.
    from zimage_models.checkpoints.checkpoint_source import resolve_checkpoint
    from zimage_models.checkpoints.convert import convert_checkpoint

    source = resolve_checkpoint(model, s3_endpoint_url=s3.s3_endpoint)
    num_bytes = convert_checkpoint(source, target)
    print(f"{target}: {num_bytes / 1e6:.1f} MB of weights")
    return 0
