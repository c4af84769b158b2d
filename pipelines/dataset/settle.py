"""Settling of a data set's folder: its parts, pages and exports come to show exactly the newest generation.

A manifest alone publishes a generation for readers that go by it, but most readers take what is in a folder.
Every step here may be killed and repeated, and `load_dataset` works at every moment: parts come before the
card that lists them, and go after one that does not.
"""

import contextlib
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor

from pipelines.dataset.kept_exports import find_exports, write_exports
from pipelines.dataset.layout import (
    DATA_FOLDER,
    ERROR_PARTS,
    ERRORS_FOLDER,
    HISTORY_FOLDER,
    PartPlaces,
    part_name,
    published_path,
)
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.dataset.pages import write_card, write_gallery
from pipelines.storage import Storage

SUCCESS_FILE = "_SUCCESS"
"""File that names the manifest whose parts, pages and exports are in place; absent while they are changed."""
_NUM_MOVERS = 32
_Moves = list[tuple[str, str]]


def settle(output: Storage, exports: Collection[str] = (), *, anew: bool = False) -> None:
    """Make a data set's folder show its newest generation, whatever was left undone before.

    Args:
        output: the data set's folder.
        exports: exports to make besides those that are there, which are kept up to date.
        anew: write these exports again, even if they are complete.
    """
    settled = None
    # Another run may publish meanwhile, and move what this one has just moved: the newest generation wins.
    while (manifest := read_manifest(output)) is not None and manifest.number != settled:
        _settle(output, manifest, exports, anew=anew)
        settled = manifest.number


def _settle(output: Storage, manifest: RunManifest, exports: Collection[str], *, anew: bool) -> None:
    places = PartPlaces(output, newest=True)
    arrivals, departures = _moves(places, manifest)
    errors = _error_moves(output)
    kept = find_exports(output, places, manifest.parts, asked=exports, anew=anew)
    pending = arrivals or departures or errors or any(export.is_pending for export in kept)
    if not pending and _is_marked(output, manifest):
        return
    output.delete(SUCCESS_FILE)
    _move(output, arrivals)
    write_card(output, manifest)
    _move(output, [*departures, *errors])
    places = PartPlaces(output)
    write_exports(kept, places)
    write_gallery(output, manifest, places)
    # A run that made nothing is no success: nothing that waits for the file should take it up.
    if manifest.parts:
        output.write(SUCCESS_FILE, manifest.path.encode())


def _moves(places: PartPlaces, manifest: RunManifest) -> tuple[_Moves, _Moves]:
    """Return the moves into ``data/`` and those out of it."""
    in_force = {part_name(part.path) for part in manifest.parts}
    arrivals, departures = [], []
    for name in places.names():
        copies = [file.path for file in places.copies(name)]
        place = published_path(name)
        if name in in_force and copies[0] != place:
            arrivals.append((copies.pop(0), place))
        departures += [
            (path, f"{HISTORY_FOLDER}/{name}")
            for path in copies
            if path.startswith(f"{DATA_FOLDER}/") and not (name in in_force and path == place)
        ]
    return arrivals, departures


def _error_moves(output: Storage) -> _Moves:
    places = PartPlaces(output, ERROR_PARTS)
    paths = [file.path for name in places.names() for file in places.copies(name)]
    targets = [f"{ERRORS_FOLDER}/{part_name(path)}" for path in paths]
    return [(path, target) for path, target in zip(paths, targets, strict=True) if path != target]


def _move(output: Storage, moves: Iterable[tuple[str, str]]) -> None:
    def move(source: str, target: str) -> None:
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            output.move(source, target)

    with ThreadPoolExecutor(_NUM_MOVERS) as pool:
        list(pool.map(lambda pair: move(*pair), moves))


def _is_marked(output: Storage, manifest: RunManifest) -> bool:
    if not manifest.parts:
        return False
    try:
        # Releases up to 0.2 wrote the exports behind the path.
        return output.read(SUCCESS_FILE).split()[:1] == [manifest.path.encode()]
    except FileNotFoundError:
        return False
