"""``zimage convert``: write a bfloat16 copy of a checkpoint."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.shared_options import S3Endpoint
from zimage_models.checkpoints.checkpoint_source import resolve_checkpoint


def command(
    model: Annotated[str, typer.Argument(help="Embedded model, folder, hub id or s3:// address.")],
    target: Annotated[Path, typer.Argument(help="New folder.")],
    s3_endpoint: S3Endpoint = None,
) -> int:
    """Write a bfloat16 copy of a checkpoint (the Turbo release is float32 on disk, twice the size)."""
    # It brings torch, which the other commands start without.
    from zimage_models.checkpoints.convert import convert_checkpoint

    source = resolve_checkpoint(model, s3_endpoint_url=s3_endpoint)
    num_bytes = convert_checkpoint(source, target)
    print(f"{target}: {num_bytes / 1e6:.1f} MB of weights")
    return 0
