"""Tables that tests write, and what a source gives for them."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.sources.source_rows import Source


def written(folder: Path, name: str, content: str | bytes | dict[str, Any] | pa.Table) -> str:
    """Write a file, as Parquet if it is a table or columns, and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, dict):
        content = pa.table(content)
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def records(source: Source, batch_rows: int = 4096) -> dict[int, Any]:
    """Return the usable rows by their numbers."""
    return {
        row: record
        for batch in source.batches(batch_rows)
        for row, record in batch.records(batch.table.column_names)
    }


def column(source: Source, name: str) -> list[Any]:
    return [record[name] for record in records(source).values()]


def errors(source: Source) -> dict[int, str]:
    return {error.row: error.message for batch in source.batches() for error in batch.errors}


def json_lines(*values: Any) -> str:
    return "".join(json.dumps(value) + "\n" for value in values)
