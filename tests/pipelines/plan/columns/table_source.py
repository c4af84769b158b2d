"""A table in memory as a source."""

from collections.abc import Collection, Iterator

import pyarrow as pa

from pipelines.sources.source_rows import Source, SourceBatch


class TableSource(Source):
    folder = "/tables"
    fingerprint = "any"

    def __init__(self, table: pa.Table, format: str = "parquet") -> None:
        self.format = format
        self.schema = table.schema
        self.num_batches_read = 0
        self._table = table

    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        for start in range(0, len(self._table), batch_rows):
            self.num_batches_read += 1
            part = self._table.slice(start, batch_rows)
            yield SourceBatch(table=part, rows=list(range(start, start + len(part))), errors=[])
