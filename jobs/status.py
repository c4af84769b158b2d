"""``zimage status``: what is published in a data set's folder, and what is not yet."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.outputs import open_folder
from jobs.shared_options import S3Endpoint, S3Region
from pipelines.dataset.ledger import DATA_FOLDER, ERRORS_FOLDER, scan_parts
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.dataset.parts import read_part
from pipelines.storage import Storage


def command(
    output: Annotated[str, typer.Argument(help="Folder of the data set.")],
    as_json: Annotated[bool, typer.Option("--json")] = False,
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
) -> int:
    """Tell what is published, what failed and why, and what an unfinished run has written."""
    storage = open_folder(output, s3_endpoint, s3_region)
    manifest = read_manifest(storage)
    status = _status(storage, manifest)
    if as_json:
        print(json.dumps(status, ensure_ascii=False, indent=1))
        return 0
    if manifest is None:
        print("nothing is published yet")
    else:
        counts = manifest.counts
        print(f"{counts['published']} images published in {len(manifest.parts)} parts by {manifest.path}")
        print(f"made {manifest.created_at} with {manifest.model} ({manifest.weights_sha256[:12]})")
        print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed")
    for error_class, examples in status["errors"].items():
        print(f"  {error_class}: {examples['count']}, such as row {examples['row']}: {examples['message']}")
    if status["unpublished"]:
        print(
            f"{status['unpublished']} images are outside the data set: of older tables or a run to continue"
        )
    return 0


def _status(storage: Storage, manifest: RunManifest | None) -> dict[str, Any]:
    published = {part.path for part in (*manifest.parts, *manifest.error_parts)} if manifest else set()
    unpublished = sum(
        table.num_rows
        for file, table in scan_parts(storage, DATA_FOLDER, ["unit_id"])
        if file.path not in published
    )
    paths = (
        [part.path for part in manifest.error_parts]
        if manifest
        else [file.path for file, _ in scan_parts(storage, ERRORS_FOLDER, ["unit_id"])]
    )
    counted: Counter[str] = Counter()
    errors: dict[str, dict[str, Any]] = {}
    for path in paths:
        for row in read_part(storage, path, ["error_class", "row", "message"]).to_pylist():
            counted[row["error_class"]] += 1
            errors.setdefault(row["error_class"], {"row": row["row"], "message": row["message"]})
    for error_class, number in counted.items():
        errors[error_class]["count"] = number
    return {
        "manifest": asdict(manifest) if manifest else None,
        "errors": errors,
        "unpublished": unpublished,
    }
