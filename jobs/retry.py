"""``zimage retry``: make the images again that failed."""

from typing import Annotated

import typer

from jobs.generate import run
from jobs.outputs import open_output
from jobs.shared_options import ProgressMode, S3Endpoint, S3Region
from pipelines.options import GenerateOptions


def command(
    output: Annotated[str, typer.Argument(help="Folder of the data set.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Only this error class; repeatable.")
    ] = None,
    progress: Annotated[ProgressMode, typer.Option()] = ProgressMode.AUTO,
    verbose: Annotated[bool, typer.Option("--verbose")] = False,
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
) -> int:
    """Run the data set's last generation again, with its failed images to do."""
    _, manifest = open_output(output, s3_endpoint, s3_region)
    options = GenerateOptions.model_validate(manifest.options)
    options = options.model_copy(update={"output": output})
    return run(options, progress=progress.value, verbose=verbose, retried_classes=only)
