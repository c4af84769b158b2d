"""Copies of a generation in a folder of its own: as a data set, as image files, or as WebDataset shards."""

from collections.abc import Collection

from pipelines.dataset.exports import IMAGES_FOLDER, SHARDS_FOLDER
from pipelines.dataset.kept_exports import EXPORTS, find_exports, write_exports
from pipelines.dataset.layout import DATA_FOLDER, HISTORY_FOLDER, PartPlaces, part_name, published_path
from pipelines.dataset.manifest import RunManifest, list_generations
from pipelines.dataset.pages import write_card
from pipelines.dataset.parts import list_parts
from pipelines.storage import Storage
from zimage_models.errors import InvalidRequest

COPIES = (*EXPORTS, "parquet")
"""Forms of a copy, by the names that users give."""
FOLDERS = {"files": IMAGES_FOLDER, "webdataset": SHARDS_FOLDER, "parquet": DATA_FOLDER}
"""Where each form lies in the folder of a copy."""
_EXPORTS_FOLDER = "_exports"


def copies_folder(manifest: RunManifest) -> str:
    """Return the folder for copies of a generation, relative to the data set's."""
    return f"{_EXPORTS_FOLDER}/{manifest.number:06d}"


def copy_generation(
    output: Storage, manifest: RunManifest, forms: Collection[str], *, target: Storage
) -> None:
    """Copy a generation, in place of any that an earlier copy left in the same folder.

    Args:
        output: the data set's folder.
        manifest: the generation.
        forms: some of :data:`COPIES`. A copy as ``parquet`` has a card, so that `datasets` loads the folder.
        target: the folder.

    Raises:
        InvalidRequest: the folder belongs to a data set, or parts of the generation are gone.
    """
    _check_free(output, target)
    places = PartPlaces(output)
    lost = [part.path for part in manifest.parts if not places.copies(part.path)]
    if lost:
        raise InvalidRequest(
            f"generation: {manifest.number} cannot be exported: {len(lost)} of its"
            f" {len(manifest.parts)} parts are neither in {DATA_FOLDER}/ nor in {HISTORY_FOLDER}/, such as"
            f" {part_name(lost[0])}",
            field="generation",
        )
    if "parquet" in forms:
        _copy_parts(places, manifest, target)
    exports = find_exports(target, places, manifest.parts, asked=forms, anew=True)
    write_exports([export for export in exports if export.name in forms], places)


def _copy_parts(places: PartPlaces, manifest: RunManifest, target: Storage) -> None:
    paths = [published_path(part.path) for part in manifest.parts]
    for path in paths:
        target.write(path, places.read_bytes(path))
    title = f"{places.output.uri.rstrip('/').rsplit('/', 1)[-1]}, generation {manifest.number}"
    write_card(target, manifest, title=title)
    for file in list_parts(target, DATA_FOLDER):
        if file.path not in paths:
            target.delete(file.path)


def _check_free(output: Storage, target: Storage) -> None:
    below = target.uri.removeprefix(f"{output.uri}/")
    inside = below != target.uri and below.split("/")[0] != _EXPORTS_FOLDER
    if inside or list_generations(target):
        raise InvalidRequest(
            f"into: {target.uri} belongs to a data set of zimage generate; give another folder", field="into"
        )
