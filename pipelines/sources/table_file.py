"""One file of an input, and what reads it. It knows nothing about the other files or the columns' meaning."""

import contextlib
import lzma
import zlib
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.fs

from pipelines.sources.source_rows import RowError, SourceBatch, batched_rows
from zimage_models.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFile:
    """One file, and the partition columns that its path gives (``country=DE/``)."""

    uri: str
    """Its address, for messages."""
    path: str
    """Its path in the filesystem."""
    filesystem: pyarrow.fs.FileSystem
    num_bytes: int
    mtime_ns: int | None
    partitions: Mapping[str, str | None] = field(default_factory=dict)
    """Column -> value, from outer to inner folder; None for Hive's null partition."""

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """Convert errors while reading the file to InvalidRequest."""
        try:
            yield
        except (OSError, EOFError, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
            raise InvalidRequest(f"input: {self.uri} cannot be read: {error}", field="input") from error


class FileReader(ABC):
    """Reads the rows of one file.

    Attributes:
        format: the name of its format.
        schema: its columns, without partition columns.
        refused: the columns that cannot be read, which ``schema`` leaves out, and why.
        num_rows: the number of rows, if it is known before reading them.
        notes: what a person should know about how it is read, a sentence each.
    """

    format: str
    schema: pa.Schema
    refused: Mapping[str, str] = MappingProxyType({})
    num_rows: int | None = None
    notes: tuple[str, ...] = ()

    def read_as_text(self, columns: Collection[str]) -> None:  # noqa: B027 (most readers read nothing else)
        """Read these columns as text from now on, whatever their values look like; the schema says so.

        Only for formats whose types are read from the values' looks.
        """

    @abstractmethod
    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        """Read all rows, at most ``batch_rows`` in each batch; row numbers count from 0 in this file.

        Args:
            batch_rows: the most rows in a batch.
            columns: the columns to read, at least one of the schema's; None for all.

        Raises:
            InvalidRequest: the file is damaged or can no longer be read.
        """


class RowReader(FileReader):
    """Reads the rows of one file one by one."""

    @abstractmethod
    def rows(self) -> Iterable[tuple[int, Sequence[Any]] | RowError]:
        """Yield each usable row's number and values in schema order, and errors for the other rows."""

    def batches(
        self, batch_rows: int = 4096, columns: Collection[str] | None = None
    ) -> Iterator[SourceBatch]:
        """Read all rows in batches."""
        return batched_rows(self.rows(), self.schema, batch_rows, columns)
