"""Opening a data set's folder, and reporting what it holds: what is published, what failed and why."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.errors import read_errors
from pipelines.dataset.layout import PartPlaces, part_name
from pipelines.dataset.ledger import scan_parts
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.part_schema import ERROR_SCHEMA
from pipelines.storage import Storage, StorageOptions
from pipelines.storage_address import open_storage
from pipelines.unit_ids import UnitIndex
from zimage_models.errors import InvalidRequest

_ERROR_COLUMNS = ["row", "key", "variant", "error_class", "message"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorClass:
    """The errors of one class, with one of them as an example."""

    count: int
    row: int
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSetStatus:
    """What a data set's folder holds."""

    manifest: RunManifest | None
    """The manifest in force; None if nothing is published."""
    errors: dict[str, ErrorClass]
    unpublished: int
    """Images that are in no part of the manifest."""


def open_folder(
    address: str, *, s3_endpoint_url: str | None = None, s3_region: str | None = None, field: str = "output"
) -> Storage:
    """Open a folder, whether or not anything is published there.

    Raises:
        InvalidRequest: the address or the endpoint is malformed; the message names the field.
    """
    try:
        return open_storage(address, StorageOptions(s3_endpoint_url=s3_endpoint_url, s3_region=s3_region))
    except ValueError as error:
        raise InvalidRequest(f"{field}: {error}", field=field) from error


def open_data_set(
    address: str, *, s3_endpoint_url: str | None = None, s3_region: str | None = None
) -> tuple[Storage, RunManifest]:
    """Open a data set's folder, and read the manifest in force.

    Raises:
        InvalidRequest: the address is malformed, or nothing is published there.
    """
    output = open_folder(address, s3_endpoint_url=s3_endpoint_url, s3_region=s3_region)
    manifest = read_manifest(output)
    if manifest is None:
        raise InvalidRequest(f"output: nothing is published in {address}", field="output")
    return output, manifest


def read_status(output: Storage) -> DataSetStatus:
    """Read what is published, what failed, and what an unfinished run has written."""
    manifest = read_manifest(output)
    by_class = _errors(output, manifest).group_by("error_class", use_threads=False)
    classes = by_class.aggregate([("row", "count"), ("row", "first"), ("message", "first")])
    return DataSetStatus(
        manifest=manifest,
        errors={
            one["error_class"]: ErrorClass(
                count=one["row_count"], row=one["row_first"], message=one["message_first"]
            )
            for one in classes.to_pylist()
        },
        unpublished=_count_unpublished(output, manifest),
    )


def _count_unpublished(output: Storage, manifest: RunManifest | None) -> int:
    published = {part_name(part.path) for part in manifest.parts} if manifest else set()
    in_force: list[pa.ChunkedArray[pa.StringScalar]] = []
    others: list[pa.ChunkedArray[pa.StringScalar]] = []
    # An image may be in several parts, as one that stays is when the row beside it leaves.
    for file, table in scan_parts(PartPlaces(output), ["unit_id"]):
        (in_force if part_name(file.path) in published else others).append(table["unit_id"])
    rest = pc.unique(pa.chunked_array([chunk for ids in others for chunk in ids.chunks], pa.string()))
    return int((~UnitIndex(in_force).contains(rest)).sum())


def list_errors(output: Storage, *, error_class: str | None = None) -> pa.Table:
    """Return the rows that could not be made, in input order: row, key, variant, error_class and message.

    Args:
        output: the data set's folder.
        error_class: the only class to list; None for all.

    Raises:
        InvalidRequest: no row failed with that class.
    """
    errors = _errors(output, read_manifest(output))
    if error_class is not None:
        chosen = errors.filter(pc.field("error_class") == error_class)
        if not chosen.num_rows:
            known = sorted(map(str, errors["error_class"].unique().to_pylist()))
            there_are = f"the classes here are {', '.join(known)}" if known else "no row failed here"
            raise InvalidRequest(f"class: no error is {error_class!r}; {there_are}", field="class")
        errors = chosen
    return errors


def _errors(output: Storage, manifest: RunManifest | None) -> pa.Table:
    schema = pa.schema([ERROR_SCHEMA.field(name) for name in _ERROR_COLUMNS])
    tables = [table.cast(schema) for table in read_errors(output, manifest, _ERROR_COLUMNS)]
    return pa.concat_tables([schema.empty_table(), *tables]).sort_by(
        [("row", "ascending"), ("variant", "ascending")]
    )
