"""Part files: the Parquet files of a data set, named by the hash of their bytes.

It knows nothing about plans and manifests, which decide which parts belong to the data set.
"""

import hashlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipelines.parquet_columns import leaf_columns, repeating_columns
from pipelines.storage import Storage, StoredFile

# Arrow binary columns have 32-bit offsets, and `datasets` does not load images from wider ones.
MAX_PART_IMAGE_BYTES = 2**31 - 1
MAX_ROW_GROUP_IMAGE_BYTES = 64 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class PartFile:
    """One part as written; ``path`` is relative to the storage's root, ``sha256`` is that of the file."""

    path: str
    num_rows: int
    num_bytes: int
    sha256: str


def write_part(storage: Storage, folder: str, table: pa.Table) -> PartFile:
    """Write rows as one Parquet file, whole or not at all. The same rows always get the same file name.

    Raises:
        ValueError: no rows, over 2 GiB of image bytes, or images with a schema that `datasets` does not show.
    """
    if not table.num_rows:
        raise ValueError("a part needs at least one row")
    if "image" in table.column_names and b"huggingface" not in (table.schema.metadata or {}):
        raise ValueError("a part with images needs the metadata of part_schema()")
    buffer = _to_parquet(table)
    sha256 = hashlib.sha256(buffer).hexdigest()
    part = PartFile(
        path=f"{folder}/part-{sha256}.parquet",
        num_rows=table.num_rows,
        num_bytes=buffer.size,
        sha256=sha256,
    )
    storage.write(part.path, memoryview(buffer))
    return part


def read_part(storage: Storage, path: str, columns: Sequence[str] | None = None) -> pa.Table:
    """Read a part, or some of its columns; only these are fetched.

    Args:
        storage: storage of the part.
        path: path relative to the storage's root.
        columns: top-level names or dotted paths into structs, such as ``image.path``; None for all.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a Parquet file, or has no such column.
    """
    filesystem, root = storage.arrow()
    try:
        with (
            filesystem.open_input_file(f"{root}/{path}") as file,
            pq.ParquetFile(file, pre_buffer=True) as part,
        ):
            if columns is not None:
                # Parquet readers silently omit a column that they do not find.
                known = {*part.schema_arrow.names, *leaf_columns(part.schema_arrow)}
                for name in columns:
                    if name not in known:
                        raise ValueError(
                            f"{path}: no column {name!r}; it has {', '.join(part.schema_arrow.names)}"
                        )
            return part.read(columns=None if columns is None else list(columns))
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a readable Parquet file ({error})") from error


def read_part_schema(storage: Storage, path: str) -> pa.Schema:
    """Read the schema of a part.

    Raises:
        FileNotFoundError: there is no such file.
        pyarrow.ArrowException: it is not a Parquet file.
    """
    filesystem, root = storage.arrow()
    return pq.read_schema(f"{root}/{path}", filesystem=filesystem)


def rows_where(table: pa.Table, mask: npt.NDArray[np.bool_]) -> pa.Table:
    """Return the rows of a mask.

    Unlike ``pa.Table.filter``, this works for columns of any type (pyarrow 26 does not filter string views).
    """
    edges = np.flatnonzero(np.diff(mask, prepend=False, append=False))
    runs = [table.slice(start, end - start) for start, end in edges.reshape(-1, 2).tolist()]
    return pa.concat_tables(runs or [table.slice(0, 0)])


def list_parts(storage: Storage, folder: str) -> list[StoredFile]:
    """List the part files under a folder, sorted by path; other files are ignored."""
    return [file for file in storage.list(folder) if _PART_NAME.search(file.path)]


def sha256_from_name(path: str) -> str:
    """Return the hash that a part's name gives for its content.

    Raises:
        ValueError: the path is not that of a part.
    """
    match = _PART_NAME.search(path)
    if match is None:
        raise ValueError(f"path {path!r} is not that of a part: part-<sha256>.parquet")
    return match[1]


_PART_NAME = re.compile(r"(?:^|/)part-([0-9a-f]{64})\.parquet$")


def _to_parquet(table: pa.Table) -> pa.Buffer:
    # Image files are already compressed and all different, so they get no codec, dictionary or statistics.
    compressed = [path for path in leaf_columns(table.schema) if path != "image.bytes"]
    repeating = [path for path in repeating_columns(table.schema) if path != "image.bytes"]
    sink = pa.BufferOutputStream()
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression=dict.fromkeys(compressed, "zstd"),
        use_dictionary=repeating,  # type: ignore[arg-type]  # the stubs know only bool
        write_statistics=repeating,
    ) as writer:
        for group in _row_groups(table):
            # A table's chunks would decide where pages end, and so the file's hash.
            writer.write_table(group.combine_chunks())
    return sink.getvalue()


def _row_groups(table: pa.Table) -> Iterator[pa.Table]:
    if "image" not in table.column_names:
        yield table
        return
    lengths = pc.binary_length(pc.struct_field(table["image"], "bytes")).fill_null(0).to_pylist()
    if sum(lengths) > MAX_PART_IMAGE_BYTES:
        raise ValueError(
            f"{sum(lengths)} image bytes in one part; the limit is {MAX_PART_IMAGE_BYTES} (2 GiB)"
        )
    start = held = 0
    for row, length in enumerate(lengths):
        if held and held + length > MAX_ROW_GROUP_IMAGE_BYTES:
            yield table.slice(start, row - start)
            start, held = row, 0
        held += length
    yield table.slice(start)
