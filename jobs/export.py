"""``zimage export``: write a published data set in another form."""

from typing import Annotated

import typer

from jobs.outputs import open_output
from jobs.shared_options import S3Endpoint, S3Region
from pipelines.dataset.exports import EXPORTS
from pipelines.generate import export
from zimage_models.errors import InvalidRequest


def command(
    output: Annotated[str, typer.Argument(help="Folder of the data set.")],
    to: Annotated[list[str], typer.Option(help="files (images by name) or webdataset; repeatable.")],
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
) -> int:
    """Write a published data set as image files by name, or as WebDataset shards, beside its parts."""
    unknown = sorted(set(to) - set(EXPORTS))
    if unknown:
        raise InvalidRequest(f"to: {unknown[0]!r} is not one of {', '.join(EXPORTS)}", field="to")
    storage, manifest = open_output(output, s3_endpoint, s3_region)
    export(storage, manifest, to)
    return 0
