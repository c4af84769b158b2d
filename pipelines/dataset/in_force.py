"""Keys and rows of the data set in force, for plans that drop or keep some of them."""

from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.dataset.layout import PartPlaces, part_name
from pipelines.dataset.manifest import RunManifest
from pipelines.dataset.text_hashes import Hashes, are_in, hash_set, hash_texts
from pipelines.part_schema import COLUMN_NAMES
from pipelines.plan.kept_rows import PublishedRows
from pipelines.storage import Storage
from zimage_models.errors import InvalidRequest


class PublishedKeys:
    """The keys of a generation's parts.

    Args:
        manifest: the generation; None if nothing is published.
    """

    def __init__(self, manifest: RunManifest | None) -> None:
        self._parts = {part_name(part.path) for part in manifest.parts} if manifest else set()
        self._hashes: list[Hashes] = []

    def see(self, path: str, part: pa.Table) -> None:
        """Take the column ``key`` of a part, if the generation has this part."""
        if part_name(path) in self._parts:
            self._hashes.append(hash_texts(part["key"]))

    def check_kept(self, kept: Iterable[Hashes], *, reason: str, advice: str) -> None:
        """Check that no more than half of the keys are dropped; a key counts once, whatever its variants.

        Args:
            kept: hashes of the keys that stay or are new, in any pieces.
            reason: why keys are dropped, for the error: "... of the ... published keys {reason}".
            advice: what to do, for the error.

        Raises:
            InvalidRequest: more than half of the keys are not kept.
        """
        published = hash_set(self._hashes)
        if not len(published):
            return
        num_dropped = len(published) - int(are_in(published, hash_set(kept)).sum())
        if 2 * num_dropped > len(published):
            raise InvalidRequest(
                f"output: {num_dropped:,} of the {len(published):,} published keys {reason}; {advice}",
                field="output",
            )


def published_rows(output: Storage, manifest: RunManifest) -> PublishedRows:
    """Return the rows of a generation, without the images themselves, for a plan that keeps some of them."""
    places = PartPlaces(output)
    schemas = [places.read_schema(part.path) for part in manifest.parts[:1]]
    passthrough = [field for schema in schemas for field in schema if field.name not in COLUMN_NAMES]
    columns = [*COLUMN_NAMES, *(field.name for field in passthrough)]
    columns[columns.index("image")] = "image.path"

    def tables() -> Iterator[pa.Table]:
        for part in manifest.parts:
            rows = places.read(part.path, columns)
            index = rows.schema.get_field_index("image")
            yield rows.set_column(index, "file_name", pc.struct_field(rows["image"], "path"))

    return PublishedRows(generation=manifest.number, passthrough=pa.schema(passthrough), tables=tables)
