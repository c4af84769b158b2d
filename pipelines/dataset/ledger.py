"""What finished parts already hold. The parts themselves are the ledger: nothing else must be kept in sync.

It knows nothing about plans: every part counts, published or not, of any generation.
"""

import hashlib
import logging
from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.in_force import PublishedKeys
from pipelines.dataset.layout import ERROR_PARTS, PartPlaces
from pipelines.dataset.parts import sha256_from_name
from pipelines.storage import Storage, StoredFile
from pipelines.unit_ids import FinishedUnits, UnitIndex

logger = logging.getLogger(__name__)

_NUM_READERS = 16
_FILES_AHEAD = 256


def finished_units(
    output: Storage,
    *,
    retried_classes: Collection[str] | None = (),
    published: PublishedKeys | None = None,
) -> FinishedUnits:
    """Find the units that parts hold, and those recorded as failed.

    Args:
        output: the data set's folder.
        retried_classes: error classes that count as unfinished; None for all of them.
        published: is shown the keys of all parts on the way, which saves reading the parts again.
    """
    columns = ["unit_id", "key"] if published else ["unit_id"]
    ids = []
    for file, table in scan_parts(PartPlaces(output, newest=True), columns):
        ids.append(table["unit_id"])
        if published:
            published.see(file.path, table)
    failed = []
    if retried_classes is not None:
        for _, table in scan_parts(PartPlaces(output, ERROR_PARTS), ["unit_id", "error_class"]):
            kept = pc.is_valid(table["unit_id"])
            if retried_classes:
                kept = pc.and_(
                    kept, pc.invert(pc.is_in(table["error_class"], pa.array(sorted(retried_classes))))
                )
            failed.append(table.filter(kept)["unit_id"])
    return FinishedUnits(made=UnitIndex(ids), failed=UnitIndex(failed))


def scan_parts(
    places: PartPlaces, columns: list[str], *, first: Collection[str] = ()
) -> Iterator[tuple[StoredFile, pa.Table]]:
    """Read some columns of every part, several parts at once, in order of name.

    A damaged or foreign file is skipped with a warning: its rows count as not made.

    Args:
        places: where the parts lie.
        columns: columns to read.
        first: names of the parts to read first.
    """
    first = frozenset(first)
    files = [places.copies(name)[0] for name in sorted(places.names(), key=lambda name: name not in first)]

    def read(file: StoredFile) -> pa.Table | None:
        try:
            return places.read(file.path, columns)
        except (OSError, ValueError, pa.ArrowException) as error:
            # Arrow raises OSError both for a damaged page and for a failing network.
            if isinstance(error, OSError) and not _is_damaged(places, file):
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


def _is_damaged(places: PartPlaces, file: StoredFile) -> bool:
    try:
        content = places.read_bytes(file.path)
    except FileNotFoundError:
        return True
    return hashlib.sha256(content).hexdigest() != sha256_from_name(file.path)
