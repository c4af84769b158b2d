"""Files that tests write, and what their readers give."""

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipelines.sources.table_file import FileReader, TableFile


def zstd(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return packed.getvalue().to_pybytes()


Packer = Callable[[bytes], bytes]
PACKERS: dict[str, Packer] = {
    "plain": bytes,
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "zstd": zstd,
}


def table_file(path: Path) -> TableFile:
    return TableFile(
        uri=str(path),
        path=str(path),
        filesystem=pyarrow.fs.LocalFileSystem(),
        num_bytes=path.stat().st_size,
        mtime_ns=None,
    )


def written(folder: Path, content: str | bytes) -> TableFile:
    path = folder / "table"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return table_file(path)


def rows(reader: FileReader, batch_rows: int = 4096) -> dict[int, dict[str, Any]]:
    """Return usable rows by their numbers; JSON text stays text."""
    found = {}
    for batch in reader.batches(batch_rows):
        assert batch.table.schema == reader.schema
        found.update(zip(batch.rows, batch.table.to_pylist(), strict=True))
    return found


def errors(reader: FileReader) -> dict[int, str]:
    return {error.row: error.message for batch in reader.batches() for error in batch.errors}
