"""The rows that are not in the data set, and why: error parts, in ``_errors/``."""

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.layout import ERROR_PARTS, ERRORS_FOLDER, PartPlaces
from pipelines.dataset.ledger import scan_parts
from pipelines.dataset.manifest import RunManifest, list_generations
from pipelines.dataset.parts import PartFile, write_part
from pipelines.part_schema import ERROR_SCHEMA
from pipelines.plan.plan import Plan
from pipelines.storage import Storage

_ERROR_ROWS = 50_000


def read_errors(output: Storage, manifest: RunManifest | None, columns: Sequence[str]) -> Iterator[pa.Table]:
    """Yield some columns of a generation's error rows, part by part; of all that there are if it is None."""
    places = PartPlaces(output, ERROR_PARTS)
    if manifest is None:
        for _, table in scan_parts(places, list(columns)):
            yield table
    else:
        for part in manifest.error_parts:
            yield places.read(part.path, columns)


def write_errors(output: Storage, errors: pa.Table) -> list[PartFile]:
    """Write error rows in parts of bounded size."""
    return [
        write_part(output, ERRORS_FOLDER, errors.slice(start, _ERROR_ROWS))
        for start in range(0, errors.num_rows, _ERROR_ROWS)
    ]


def write_rejected(output: Storage, plan: Plan) -> None:
    """Write the rejected rows of a plan; where nothing is published, in place of an earlier plan's."""
    places = PartPlaces(output, ERROR_PARTS)
    written = {part.path for part in write_errors(output, rejected_rows(plan))}
    if list_generations(output):
        return
    for file, table in scan_parts(places, ["unit_id"]):
        # What a run could not make stays: it would be tried again otherwise.
        if file.path not in written and not pc.any(pc.is_valid(table["unit_id"])).as_py():
            output.delete(file.path)


def rejected_rows(plan: Plan) -> pa.Table:
    """Return the rows that a plan rejected, as error rows."""
    rows = [
        {"key": error.key, "row": error.row, "error_class": error.error_class, "message": error.message}
        for error in plan.rejected
    ]
    return pa.Table.from_pylist(rows, schema=ERROR_SCHEMA)
