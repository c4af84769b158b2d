"""Where a data set's parts lie. A part is known by its name, a hash of its bytes, and moves between folders.

A run writes to ``_staging/``; a publish moves the parts in force to ``data/``, and what they supersede to
``_history/``. Failed rows are in ``_errors/``. Up to release 0.2, there were only ``data/`` and ``errors/``.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import pyarrow as pa

from pipelines.dataset.parts import list_parts, read_part, read_part_schema
from pipelines.storage import Storage, StoredFile

STAGING_FOLDER = "_staging"
DATA_FOLDER = "data"
HISTORY_FOLDER = "_history"
ERRORS_FOLDER = "_errors"
OLD_ERRORS_FOLDER = "errors"

IMAGE_PARTS = (STAGING_FOLDER, DATA_FOLDER, HISTORY_FOLDER)
"""Folders of parts with images, in the order in which a part goes through them."""
ERROR_PARTS = (OLD_ERRORS_FOLDER, ERRORS_FOLDER)
"""Folders of parts with failed rows, in the order in which a part goes through them."""

_MOVES_WHILE_READING = 4
_Read = TypeVar("_Read")


class PartPlaces:
    """Where the parts in some folders lie now; a part that another run moves meanwhile is found again.

    Args:
        output: the data set's folder.
        folders: :data:`IMAGE_PARTS` or :data:`ERROR_PARTS`.
        newest: of several copies of a part, read the first in the order of ``folders``, as a run does: the
            copy in ``_staging/`` is the remade one if the other is damaged. Otherwise, as other readers do,
            the one in ``data/``.
    """

    def __init__(
        self, output: Storage, folders: Sequence[str] = IMAGE_PARTS, *, newest: bool = False
    ) -> None:
        self.output = output
        self._folders = folders if newest else sorted(folders, key=lambda folder: folder != DATA_FOLDER)
        self._copies: dict[str, dict[str, StoredFile]] = {}
        # In the order of their moves, so that a part that moves meanwhile is not missed; one that comes back
        # from the last folder is then in the one before.
        for folder in (*folders, folders[-2]):
            for file in list_parts(output, folder):
                self._copies.setdefault(part_name(file.path), {})[file.path] = file

    def names(self) -> Iterator[str]:
        """Yield the names of all parts, in order."""
        yield from sorted(self._copies)

    def copies(self, name: str) -> list[StoredFile]:
        """Return the files that hold a part, the one to read first; [] if there is none."""
        files = self._copies.get(part_name(name), {}).values()
        return sorted(files, key=lambda file: (self._folders.index(file.path.split("/", 1)[0]), file.path))

    def read(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """Read a part, or some of its columns, as :func:`read_part` does.

        Args:
            name: its name, or a path that ends with it.
            columns: see :func:`read_part`.
        """
        return self._read(name, lambda path: read_part(self.output, path, columns))

    def read_schema(self, name: str) -> pa.Schema:
        """Read the schema of a part, as :func:`read_part_schema` does."""
        return self._read(name, lambda path: read_part_schema(self.output, path))

    def read_bytes(self, name: str) -> bytes:
        """Read the file of a part.

        Raises:
            FileNotFoundError: the part is in none of the folders.
        """
        return self._read(name, self.output.read)

    def _read(self, name: str, read: Callable[[str], _Read]) -> _Read:
        name = part_name(name)
        copies = self.copies(name)
        path = copies[0].path if copies else f"{self._folders[0]}/{name}"
        for _ in range(_MOVES_WHILE_READING):
            try:
                return read(path)
            except FileNotFoundError:
                places = [f"{folder}/{name}" for folder in self._folders]
                path = next(filter(self.output.exists, places), path)
        return read(path)


def part_name(path: str) -> str:
    """Return the name of the part at a path."""
    return path.rsplit("/", 1)[-1]


def published_path(name: str) -> str:
    """Return the path of a part that is in force, whatever folder it lies in now."""
    return f"{DATA_FOLDER}/{part_name(name)}"
