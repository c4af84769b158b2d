"""``zimage models`` and ``zimage convert``: list the models, and write a smaller copy of one."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.option_groups import S3Options, with_groups
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS
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
