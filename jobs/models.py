"""``zimage models``, ``convert``, ``calibrate``: list models, write a smaller copy, find step schedules."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from jobs.option_groups import S3Options, with_groups
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.memory.machine import available_bytes, find_gpu
from zimage_models.memory.modes import MEMORY_MODES
from zimage_models.memory.plan import FreeMemory, MemoryPlan, gb, memory_plan
from zimage_models.memory.sizes import RELEASED_SIZES, RELEASED_TOKENS
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS
from zimage_models.step_schedules import SCHEDULED_MODES
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


@with_groups
def calibrate(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Embedded model, folder, Hub ID or s3:// address.")
    ],
    s3: S3Options,
    steps: Annotated[
        int | None, typer.Option(help="Denoising steps of the runs to be shortened; by default the model's.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale of the measured images; by default the model's.")
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="WIDTHxHEIGHT", help="Size of the measured images; by default the model's."),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts of the measured images, one per line; by default four."),
    ] = None,
    image: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE", help="Reference image for an Edit model; repeatable, the prompts take turns."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="File to write; by default step_schedules.json beside the weights."
        ),
    ] = None,
    variant: Annotated[
        str | None, typer.Option(help="turbo, base or edit, for models not known by name.")
    ] = None,
    device: Annotated[
        str,
        typer.Option(help="torch device, such as cuda or cpu; auto: the first accelerator, else the CPU."),
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.")] = "auto",
) -> int:
    """Find which steps --quality high and fast compute, for one number of steps.

    Every skip of up to eight steps is tried on a few images, and the schedules whose worst skips change
    these least are written. For each prompt, this takes the work of 9 images at 8 steps, and of 170 at 50.
    """
    config = EngineConfig(
        model=model, variant=variant, device=device, dtype=dtype, s3_endpoint_url=s3.s3_endpoint
    )
    texts = _lines(prompts) if prompts else None
    pictures = [_file(path, field="image") for path in image or ()]
    # OpenMP threads that spin while they wait make a busy machine many times slower; torch, which is imported
    # next (--help and bad usage do not need it), reads this.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from tqdm import tqdm

    from zimage_models.calibration.calibrate import calibrate as measure
    from zimage_models.image_files.image_inputs import ImageLimits, read_image

    with tqdm(file=sys.stderr, unit=" skips", leave=False, disable=not sys.stderr.isatty()) as bar:

        def show(num_done: int, num_in_all: int) -> None:
            bar.total = num_in_all
            bar.update(num_done - bar.n)

        path, entry = measure(
            config,
            {"num_inference_steps": steps, "guidance_scale": guidance, "size": size},
            prompts=texts,
            pictures=[read_image(data, field="image", limits=ImageLimits()) for data in pictures],
            output=output,
            on_progress=show,
        )
    for mode in SCHEDULED_MODES:
        computed, errors = entry[mode]["computed_steps"], entry[mode]["errors"]
        largest = f"{100 * errors[0]:.3g} %" if errors else "0"
        print(
            f"{mode}: computes {len(computed)} of {computed[-1] + 1} steps ({' '.join(map(str, computed))});"
            f" the largest error of a skip is {largest}"
        )
    print(f"written: {path}")
    return 0


def _lines(path: Path) -> list[str]:
    text = _file(path, field="prompts").decode("utf-8", "replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _file(path: Path, *, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{field}: {path} cannot be read ({error.strerror})", field=field) from error
