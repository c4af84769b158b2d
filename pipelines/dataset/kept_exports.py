"""Exports that follow the data set: each brings a folder from whatever is there to exactly one generation."""

import json
import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.exports import (
    IMAGES_FOLDER,
    SHARDS_FOLDER,
    export_files,
    export_webdataset,
    image_path,
    shard_path,
)
from pipelines.dataset.layout import PartPlaces, part_name
from pipelines.dataset.manifest import list_generations, read_manifest
from pipelines.dataset.parts import PartFile
from pipelines.dataset.text_hashes import are_in, hash_set, hash_texts
from pipelines.storage import Storage

logger = logging.getLogger(__name__)

EXPORTS = ("files", "webdataset")
"""Exports by the names that users give."""

_RECORD = "_exports/files.json"
_SHARD_NAME = re.compile(rf"^{SHARDS_FOLDER}/part-[0-9a-f]{{64}}\.tar$")
_NUM_THREADS = 16
_PARTS_LOOKED_AT = 4


class KeptExport(ABC):
    """One export in a folder, and what is to do there to hold exactly these parts.

    Args:
        target: the folder.
        parts: the parts.
        anew: write what is there already, too.

    Attributes:
        name: what users call it.
    """

    name: str

    def __init__(self, target: Storage, parts: Sequence[PartFile], *, anew: bool) -> None:
        self.target = target
        self.parts = {part_name(part.path): part for part in parts}
        self.anew = anew

    @property
    @abstractmethod
    def missing(self) -> Collection[str]:
        """Names of the parts to write."""

    @property
    @abstractmethod
    def is_pending(self) -> bool:
        """Whether there is anything to do."""

    def begin(self) -> None:  # noqa: B027 -- most need no preparation
        """Prepare for writing."""

    @abstractmethod
    def add(self, part: PartFile, table: pa.Table) -> None:
        """Write a part's rows."""

    @abstractmethod
    def finish(self, places: PartPlaces) -> None:
        """Remove what no part of the generation gives; only files that an export wrote are removed."""


def find_exports(
    target: Storage,
    places: PartPlaces,
    parts: Sequence[PartFile],
    *,
    asked: Collection[str] = (),
    anew: bool = False,
) -> list[KeptExport]:
    """Find the exports that a folder holds, and those asked for.

    Args:
        target: the folder: the data set's own, or another.
        places: where the data set's parts lie.
        parts: the parts that the exports shall hold.
        asked: exports to make if they are not there.
        anew: write the exports asked for again, as if nothing were there.
    """
    exports: list[KeptExport] = []
    record = _files_record(target, places, parts)
    if record or "files" in asked:
        exports.append(_Files(target, parts, record or _Record(), anew=anew and "files" in asked))
    shards = {file.path for file in target.list(SHARDS_FOLDER) if _SHARD_NAME.match(file.path)}
    if shards or "webdataset" in asked:
        exports.append(_Shards(target, parts, shards, anew=anew and "webdataset" in asked))
    return exports


def write_exports(exports: Sequence[KeptExport], places: PartPlaces) -> None:
    """Do what is to do; may be killed at any point and repeated. Each part is read once for all exports."""
    pending = [export for export in exports if export.is_pending]
    for export in pending:
        export.begin()
    for name, part in pending[0].parts.items() if pending else ():
        wanting = [export for export in pending if name in export.missing]
        if wanting:
            table = places.read(name)
            for export in wanting:
                export.add(part, table)
    for export in pending:
        export.finish(places)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Record:
    """The parts whose image files may be in a folder: exactly these if it is complete, else any of them."""

    parts: tuple[str, ...] = ()
    """Names."""
    complete: bool = False


class _Files(KeptExport):
    name = "files"

    def __init__(self, target: Storage, parts: Sequence[PartFile], record: _Record, *, anew: bool) -> None:
        super().__init__(target, parts, anew=anew)
        self._record = record
        known = frozenset(record.parts) if record.complete and not anew else frozenset()
        self._missing = self.parts.keys() - known
        self._gone = [name for name in record.parts if name not in self.parts]

    @property
    def missing(self) -> Collection[str]:
        return self._missing

    @property
    def is_pending(self) -> bool:
        return bool(self._missing or self._gone or not self._record.complete)

    def begin(self) -> None:
        # Before any file: a run that goes on after a kill then knows which ones may be there.
        self._write_record(_Record(parts=(*self.parts, *self._gone)))

    def add(self, part: PartFile, table: pa.Table) -> None:
        export_files(self.target, table)

    def finish(self, places: PartPlaces) -> None:
        if self._gone:
            with ThreadPoolExecutor(_NUM_THREADS) as pool:
                names = pool.map(lambda name: hash_texts(_image_names(places, name)), self.parts)
                kept = hash_set(names)
                for name in self._gone:
                    try:
                        gone = _image_names(places, name)
                    except (OSError, ValueError) as error:
                        logger.warning("image files of %s are not removed: %s", name, error)
                        continue
                    stale = gone.filter(pa.array(~are_in(hash_texts(gone), kept)))
                    list(pool.map(lambda name: self.target.delete(image_path(name)), stale.to_pylist()))
        self._write_record(_Record(parts=tuple(self.parts), complete=True))

    def _write_record(self, record: _Record) -> None:
        self.target.write(_RECORD, json.dumps(asdict(record), indent=1).encode())


class _Shards(KeptExport):
    # A shard is whole or absent, and its name tells its content, so the folder itself is the record.
    name = "webdataset"

    def __init__(
        self, target: Storage, parts: Sequence[PartFile], shards: Collection[str], *, anew: bool
    ) -> None:
        super().__init__(target, parts, anew=anew)
        self._stale = sorted(set(shards) - {shard_path(name) for name in self.parts})
        self._missing = {name for name in self.parts if anew or shard_path(name) not in shards}

    @property
    def missing(self) -> Collection[str]:
        return self._missing

    @property
    def is_pending(self) -> bool:
        return bool(self._missing or self._stale)

    def add(self, part: PartFile, table: pa.Table) -> None:
        export_webdataset(self.target, part, table)

    def finish(self, places: PartPlaces) -> None:
        for path in self._stale:
            self.target.delete(path)


def _files_record(target: Storage, places: PartPlaces, parts: Sequence[PartFile]) -> _Record | None:
    """Return what a folder's image files are of; None if there are none."""
    try:
        content = json.loads(target.read(_RECORD))
        record = _Record(parts=tuple(content["parts"]), complete=content["complete"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return _unrecorded_files(target, places)
    looked_at = record.parts[:_PARTS_LOOKED_AT] if record.complete else ()
    if looked_at and not any(_has_files_of(target, places, name) for name in looked_at):
        return None  # its owner has removed the folder
    return record


def _unrecorded_files(target: Storage, places: PartPlaces) -> _Record | None:
    """Return what image files without a record may be of: releases up to 0.2 kept none, or it is damaged."""
    if target.uri != places.output.uri or not target.list(IMAGES_FOLDER):
        return None
    generations = [read_manifest(target, number) for number in list_generations(target)]
    parts = [[part_name(part.path) for part in manifest.parts] for manifest in generations if manifest]
    if not any(_has_files_of(target, places, names[0]) for names in parts if names):
        return None
    return _Record(parts=tuple(dict.fromkeys(name for names in parts for name in names)))


def _has_files_of(target: Storage, places: PartPlaces, name: str) -> bool:
    try:
        first = _image_names(places, name)[0].as_py()
        return first is not None and target.exists(image_path(first))
    except (FileNotFoundError, ValueError):
        return False


def _image_names(places: PartPlaces, name: str) -> "pa.ChunkedArray[pa.StringScalar]":
    image = places.read(name, ["image.path"])["image"]
    names: pa.ChunkedArray[pa.StringScalar] = pc.struct_field(image, "path")
    return names
