"""A table in memory as a source."""

from collections.abc import Iterator

import pyarrow as pa

from pipelines.sources.source_rows import Source, SourceBatch


class TableSource(Source):
    folder = "/tables"
    fingerprint = "any"

    def __init__(self, table: pa.Table, format: str = "parquet") -> None:
        self.format = format
        self.schema = table.schema
        self.times_read = 0
        self._table = table

    def batches(self, batch_rows: int = 4096) -> Iterator[SourceBatch]:
        self.times_read += 1
        for start in range(0, len(self._table), batch_rows):
            part = self._table.slice(start, batch_rows)
            yield SourceBatch(table=part, rows=list(range(start, start + len(part))), errors=[])
