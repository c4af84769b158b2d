"""``zimage verify``: check a published data set against its manifest and plan."""

from typing import Annotated

import typer

from jobs.outputs import open_output
from jobs.shared_options import S3Endpoint, S3Region
from pipelines.dataset.verify import verify


def command(
    output: Annotated[str, typer.Argument(help="Folder of the data set.")],
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
) -> int:
    """Check that every part exists with its hash, every image decodes, and every planned image is there once.

    Exit code 3 when something is wrong.
    """
    storage, manifest = open_output(output, s3_endpoint, s3_region)
    report = verify(storage, manifest)
    print(f"{report.num_parts} parts, {report.num_images} images, {report.num_failed} failed images")
    for problem in report.problems:
        print(problem)
    print("sound" if not report.problems else f"{len(report.problems)} problems")
    return 3 if report.problems else 0
