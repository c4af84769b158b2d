"""What finished parts already hold. The parts themselves are the ledger: nothing else must be kept in sync.

It knows nothing about plans: every part under ``data/`` counts, published or not, of any generation.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.parts import list_parts, read_part, sha256_from_name
from pipelines.storage import Storage, StoredFile
from pipelines.unit_ids import FinishedUnits, UnitIndex

logger = logging.getLogger(__name__)

DATA_FOLDER = "data"
ERRORS_FOLDER = "errors"
_NUM_READERS = 16
_FILES_AHEAD = 256


def finished_units(output: Storage, *, retried_classes: Collection[str] | None = ()) -> FinishedUnits:
    """Find the units that parts hold, and those recorded as failed.

    Args:
        output: the data set's folder.
        retried_classes: error classes that count as unfinished; None for all of them.
    """
    made = UnitIndex(table["unit_id"] for _, table in scan_parts(output, DATA_FOLDER, ["unit_id"]))
    failed = []
    if retried_classes is not None:
        for _, table in scan_parts(output, ERRORS_FOLDER, ["unit_id", "error_class"]):
            kept = pc.is_valid(table["unit_id"])
            if retried_classes:
                kept = pc.and_(
                    kept, pc.invert(pc.is_in(table["error_class"], pa.array(sorted(retried_classes))))
                )
            failed.append(table.filter(kept)["unit_id"])
    return FinishedUnits(made=made, failed=UnitIndex(failed))


def scan_parts(
    output: Storage, folder: str, columns: list[str], *, first: Collection[str] = ()
) -> Iterator[tuple[StoredFile, pa.Table]]:
    """Read some columns of every part under a folder, several at once, in order of path.

    A damaged or foreign file is skipped with a warning: its rows count as not made.

    Args:
        output: the data set's folder.
        folder: where to look, at any depth.
        columns: columns to read.
        first: paths of the parts to read first.
    """
    first = frozenset(first)
    files = sorted(list_parts(output, folder), key=lambda file: (file.path not in first, file.path))

    def read(file: StoredFile) -> pa.Table | None:
        try:
            return read_part(output, file.path, columns)
        except (OSError, ValueError, pa.ArrowException) as error:
            # Arrow raises OSError both for a damaged page and for a failing network.
            if isinstance(error, OSError) and not _is_damaged(output, file):
                raise
            logger.warning("%s is skipped: %s", file.path, error)
            return None

    with ThreadPoolExecutor(_NUM_READERS) as pool:
        # map() reads ahead without limit, so it gets only some files at a time.
        for start in range(0, len(files), _FILES_AHEAD):
            some = files[start : start + _FILES_AHEAD]
            for file, table in zip(some, pool.map(read, some), strict=True):
                if table is not None:
                    yield file, table


def _is_damaged(output: Storage, file: StoredFile) -> bool:
    try:
        content = output.read(file.path)
    except FileNotFoundError:
        return True
    return hashlib.sha256(content).hexdigest() != sha256_from_name(file.path)
