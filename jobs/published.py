"""Commands for a published data set: ``zimage status``, ``retry``, ``verify`` and ``export``."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from jobs.option_groups import DisplayOptions, S3Options, with_groups
from zimage_models.errors import ROW_CLASSES, InvalidRequest

# Every command imports what it works with when it runs: all need pyarrow, and `retry` needs Ray, but --help
# and bad usage need neither.
if TYPE_CHECKING:
    import pyarrow as pa

    from pipelines.data_set import DataSetStatus
    from pipelines.dataset.manifest import RunManifest
    from pipelines.storage import Storage

_ROWS_AT_ONCE = 4096

Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder of the data set; path or s3://.")]


@with_groups
def status(
    output: Output,
    s3: S3Options,
    errors: Annotated[
        bool, typer.Option("--errors", help="List all rows that could not be made, and why.")
    ] = False,
    error_class: Annotated[
        str | None,
        typer.Option("--class", metavar="CLASS", help="With --errors: list only this error class."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="With --errors: list at most this many rows.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON; with --errors, one object per line.")
    ] = False,
) -> int:
    """Report what is published, what failed and why, and what an unfinished run has written."""
    for name, value in (("class", error_class), ("limit", limit)):
        if value is not None and not errors:
            raise InvalidRequest(f"{name}: valid only with --errors", field=name)
    from pipelines.data_set import list_errors, open_folder, read_status

    storage = open_folder(output, **s3.settings())
    if errors:
        _print_errors(list_errors(storage, error_class=error_class), limit=limit, as_json=as_json)
    else:
        _print_status(read_status(storage), as_json=as_json)
    return 0


@with_groups
def retry(
    output: Output,
    s3: S3Options,
    display: DisplayOptions,
    only: Annotated[
        list[str] | None, typer.Option(metavar="CLASS", help="Retry only this error class; repeatable.")
    ] = None,
) -> int:
    """Run the data set's last generation again to retry its failed images."""
    unknown = sorted(set(only or ()) - set(ROW_CLASSES))
    if unknown:
        raise InvalidRequest(f"only: {unknown[0]!r} is not one of {', '.join(ROW_CLASSES)}", field="only")
    from jobs.generation import run_generation
    from pipelines.data_set import open_data_set
    from pipelines.options import GenerateOptions

    _, manifest = open_data_set(output, **s3.settings())
    options = GenerateOptions.model_validate({**manifest.options, "output": output})
    return run_generation(options, progress=display.progress, verbose=display.verbose, retried_classes=only)


@with_groups
def verify(output: Output, s3: S3Options) -> int:
    """Check that every part matches its hash, every image decodes, and every planned image is present once.

    Exit code 3 if anything is wrong.
    """
    from pipelines.data_set import open_data_set
    from pipelines.dataset.verify import verify as verify_data_set

    storage, manifest = open_data_set(output, **s3.settings())
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
    from pipelines.data_set import open_data_set, open_folder
    from pipelines.dataset.copies import COPIES, copies_folder, copy_generation
    from pipelines.dataset.kept_exports import EXPORTS
    from pipelines.dataset.manifest import read_manifest
    from pipelines.dataset.settle import settle

    if not to and generation is None and into is None:
        raise InvalidRequest(f"to: give one of {', '.join(COPIES)}", field="to")
    unknown = sorted(set(to or ()) - set(COPIES))
    if unknown:
        raise InvalidRequest(f"to: {unknown[0]!r} is not one of {', '.join(COPIES)}", field="to")
    forms = list(dict.fromkeys(to or ["parquet"]))
    storage, newest = open_data_set(output, **s3.settings())
    manifest = newest if generation is None else read_manifest(storage, generation)
    assert manifest is not None
    target = None if into is None else open_folder(into, field="into", **s3.settings())
    kept = [form for form in forms if form in EXPORTS and manifest.number == newest.number]
    if target is not None and target.uri != storage.uri:
        kept = []
    if kept:
        settle(storage, kept, anew=True)
        _tell_exported(manifest, kept, storage)
    copied = [form for form in forms if form not in kept]
    if copied:
        target = target or open_folder(f"{storage.uri}/{copies_folder(manifest)}", **s3.settings())
        copy_generation(storage, manifest, copied, target=target)
        _tell_exported(manifest, copied, target)
    return 0


def _tell_exported(manifest: "RunManifest", forms: list[str], folder: "Storage") -> None:
    from pipelines.dataset.copies import FOLDERS

    number, images = manifest.number, manifest.counts["published"]
    for form in forms:
        print(f"{images} images of generation {number} as {form} in {folder.uri}/{FOLDERS[form]}")


def _print_status(report: "DataSetStatus", *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(asdict(report), ensure_ascii=False, indent=1))
        return
    manifest = report.manifest
    if manifest is None:
        print("nothing is published yet")
    else:
        counts = manifest.counts
        print(f"{counts['published']} images published in {len(manifest.parts)} parts by {manifest.path}")
        print(f"made {manifest.created_at} with {manifest.model} ({manifest.weights_sha256[:12]})")
        print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed")
    for error_class, errors in report.errors.items():
        print(f"  {error_class}: {errors.count}, such as row {errors.row}: {errors.message}")
    if any(errors.count > 1 for errors in report.errors.values()):
        print("  (--errors lists them all)")
    if report.unpublished:
        print(f"{report.unpublished} images are not in the data set: from older tables or an unfinished run")


def _print_errors(errors: "pa.Table", *, limit: int | None, as_json: bool) -> None:
    """Print rows that could not be made, one per line."""
    shown = errors.slice(0, limit)
    # There may be millions, so only some are Python objects at a time.
    rows = (row for batch in shown.to_batches(max_chunksize=_ROWS_AT_ONCE) for row in batch.to_pylist())
    if as_json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
        return
    if not len(errors):
        print("no errors")
        return
    print(f"{len(errors)} error{'s' * (len(errors) > 1)}; the first row after a header is row 0")
    for row in rows:
        variant = f", variant {row['variant']}" if row["variant"] else ""
        key = f" ({row['key']}{variant})" if row["key"] else ""
        print(f"row {row['row']}{key}: {row['error_class']}: {row['message']}")
    if len(shown) < len(errors):
        print(f"and {len(errors) - len(shown)} more")
