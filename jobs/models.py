"""``zimage models``, ``convert``, ``calibrate``: list models, write a smaller copy, find step schedules."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from jobs.option_groups import S3Options, with_groups
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS
from zimage_models.step_schedules import SCHEDULED_MODES
from zimage_models.variants import VARIANTS


def list_models() -> int:
    """List the variants and the models known by name; any other checkpoint needs --variant."""
    print("variants")
    for variant in VARIANTS.values():
        steps = "{}-{}".format(*variant.recommended_steps)
        guidance = "{:g}-{:g}".format(*variant.recommended_guidance)
        print(f"  {variant.name:6} {variant.summary}; recommended steps {steps}, guidance {guidance}")
    print("models")
    for name, known in KNOWN_MODELS.items():
        where = "embedded" if known.directory else "hub"
        print(f"  {name:26} {known.variant:6} {where}{' (default)' if name == DEFAULT_MODEL else ''}")
    return 0


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
