"""Commands for a published data set: ``zimage status``, ``retry``, ``verify`` and ``export``."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Annotated, Any

import typer

from jobs.generate import run_generation
from jobs.option_groups import S3Options, with_groups
from jobs.progress import ProgressMode
from pipelines.dataset.copies import COPIES, FOLDERS, copies_folder, copy_generation
from pipelines.dataset.errors import read_errors
from pipelines.dataset.kept_exports import EXPORTS
from pipelines.dataset.layout import PartPlaces, part_name
from pipelines.dataset.ledger import scan_parts
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.dataset.settle import settle
from pipelines.dataset.verify import verify as verify_data_set
from pipelines.options import GenerateOptions
from pipelines.storage import Storage, StorageOptions
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest

Output = Annotated[str, typer.Argument(help="Folder of the data set.")]


@with_groups
def status(
    output: Output,
    s3: S3Options,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Report what is published, what failed and why, and what an unfinished run has written."""
    storage = _open_folder(output, s3)
    manifest = read_manifest(storage)
    report = _status(storage, manifest)
    if as_json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
        return 0
    if manifest is None:
        print("nothing is published yet")
    else:
        counts = manifest.counts
        print(f"{counts['published']} images published in {len(manifest.parts)} parts by {manifest.path}")
        print(f"made {manifest.created_at} with {manifest.model} ({manifest.weights_sha256[:12]})")
        print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed")
    for error_class, examples in report["errors"].items():
        print(f"  {error_class}: {examples['count']}, such as row {examples['row']}: {examples['message']}")
    if report["unpublished"]:
        print(
            f"{report['unpublished']} images are not in the data set: from older tables or an unfinished run"
        )
    return 0


@with_groups
def retry(
    output: Output,
    s3: S3Options,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Retry only this error class; repeatable.")
    ] = None,
    progress: Annotated[ProgressMode, typer.Option()] = ProgressMode.AUTO,
    verbose: Annotated[bool, typer.Option("--verbose")] = False,
) -> int:
    """Run the data set's last generation again to retry its failed images."""
    _, manifest = _open_data_set(output, s3)
    options = GenerateOptions.model_validate(manifest.options)
    options = options.model_copy(update={"output": output})
    return run_generation(options, progress=progress.value, verbose=verbose, retried_classes=only)


@with_groups
def verify(output: Output, s3: S3Options) -> int:
    """Check that every part matches its hash, every image decodes, and every planned image is present once.

    Exit code 3 if anything is wrong.
    """
    storage, manifest = _open_data_set(output, s3)
    report = verify_data_set(storage, manifest)
    print(f"{report.num_parts} parts, {report.num_images} images, {report.num_failed} failed images")
    for problem in report.problems:
        print(problem)
    print("sound" if not report.problems else f"{len(report.problems)} problems")
    return 3 if report.problems else 0


@with_groups
def export(
    output: Output,
    s3: S3Options,
    to: Annotated[
        list[str] | None,
        typer.Option(
            help="files (images by name), webdataset, or parquet (a copy of the data set); repeatable."
            " With --generation or --into, parquet if not given."
        ),
    ] = None,
    generation: Annotated[
        int | None, typer.Option(metavar="N", help="Export generation N, by default the one in force.")
    ] = None,
    into: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Export into this folder; path or s3://. By default the generation in force goes next to its"
            " parts, as files and webdataset, and others go to OUTPUT/_exports/N.",
        ),
    ] = None,
) -> int:
    """Export a published data set as image files by name, as WebDataset shards, or as a data set of its own.

    The exports next to the parts are kept up to date by every run. The others are copies of a generation.
    """
    if not to and generation is None and into is None:
        raise InvalidRequest(f"to: give one of {', '.join(COPIES)}", field="to")
    unknown = sorted(set(to or ()) - set(COPIES))
    if unknown:
        raise InvalidRequest(f"to: {unknown[0]!r} is not one of {', '.join(COPIES)}", field="to")
    forms = list(dict.fromkeys(to or ["parquet"]))
    storage, newest = _open_data_set(output, s3)
    manifest = newest if generation is None else read_manifest(storage, generation)
    assert manifest is not None
    target = None if into is None else _open_folder(into, s3, field="into")
    kept = [form for form in forms if form in EXPORTS and manifest.number == newest.number]
    if target is not None and target.uri != storage.uri:
        kept = []
    if kept:
        settle(storage, kept, anew=True)
        _tell_exported(manifest, kept, storage)
    copied = [form for form in forms if form not in kept]
    if copied:
        target = target or _open_folder(f"{storage.uri}/{copies_folder(manifest)}", s3)
        copy_generation(storage, manifest, copied, target=target)
        _tell_exported(manifest, copied, target)
    return 0


def _tell_exported(manifest: RunManifest, forms: list[str], folder: Storage) -> None:
    number, images = manifest.number, manifest.counts["published"]
    for form in forms:
        print(f"{images} images of generation {number} as {form} in {folder.uri}/{FOLDERS[form]}")


def _status(storage: Storage, manifest: RunManifest | None) -> dict[str, Any]:
    published = {part_name(part.path) for part in manifest.parts} if manifest else set()
    unpublished = sum(
        table.num_rows
        for file, table in scan_parts(PartPlaces(storage), ["unit_id"])
        if part_name(file.path) not in published
    )
    counted: Counter[str] = Counter()
    errors: dict[str, dict[str, Any]] = {}
    for table in read_errors(storage, manifest, ["error_class", "row", "message"]):
        for row in table.to_pylist():
            counted[row["error_class"]] += 1
            errors.setdefault(row["error_class"], {"row": row["row"], "message": row["message"]})
    for error_class, number in counted.items():
        errors[error_class]["count"] = number
    return {
        "manifest": asdict(manifest) if manifest else None,
        "errors": errors,
        "unpublished": unpublished,
    }


def _open_folder(output: str, s3: S3Options, *, field: str = "output") -> Storage:
    """Return the storage of a folder, whether or not anything is published there.

    Raises:
        InvalidRequest: the address is malformed.
    """
    try:
        return open_storage(output, StorageOptions(s3_endpoint_url=s3.s3_endpoint, s3_region=s3.s3_region))
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from error


def _open_data_set(output: str, s3: S3Options) -> tuple[Storage, RunManifest]:
    """Return the storage of a data set's folder, and its newest manifest.

    Raises:
        InvalidRequest: nothing is published there.
    """
    storage = _open_folder(output, s3)
    manifest = read_manifest(storage)
    if manifest is None:
        raise InvalidRequest(f"output: nothing is published in {output}", field="output")
    return storage, manifest
