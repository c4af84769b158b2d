"""Prompt tables: find the input, detect its format, open it as a stream of rows.

It knows nothing about the columns' meaning; the planner maps columns.
"""

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from pipelines.sources.csv_source import CsvSource
from pipelines.sources.input_files import InputFiles
from pipelines.sources.jsonl_source import JsonLinesSource
from pipelines.sources.openai_batch import OpenAIBatchSource, is_openai_batch
from pipelines.sources.parquet_source import ParquetSource
from pipelines.sources.source_rows import Source
from pipelines.storage import StorageOptions
from zimage_models.errors import InvalidRequest

SOURCES: dict[str, Callable[[InputFiles], Source]] = {
    "parquet": ParquetSource,
    "csv": lambda files: CsvSource(files, delimiter=","),
    "tsv": lambda files: CsvSource(files, delimiter="\t"),
    "jsonl": JsonLinesSource,
    "openai-batch": OpenAIBatchSource,
}

_SUFFIXES = {".parquet": "parquet", ".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_DEFAULT_OPTIONS = StorageOptions()


def open_source(
    inputs: Sequence[str],
    *,
    options: StorageOptions = _DEFAULT_OPTIONS,
    format: str | None = None,
    delimiter: str | None = None,
    encoding: str | None = None,
) -> Source:
    """Open a prompt table for reading.

    Args:
        inputs: a file, on disk or ``s3://``, or a folder of Parquet files. CSV, TSV and JSON Lines may be gzip.
        options: how to reach S3.
        format: a name in :data:`SOURCES`; None to detect it from the suffix, or an OpenAI batch file from its
            first object.

    Raises:
        InvalidRequest: an unknown or unclear format, or an input that is missing, empty or unreadable.
    """
    if format is not None and format not in SOURCES:
        raise InvalidRequest(f"format: {format!r} is not one of {', '.join(SOURCES)}", field="format")
    [uri] = inputs
    files = InputFiles.find(uri, options)
    name = format or _guess(files)
    if files.is_folder and name != "parquet":
        raise InvalidRequest(f"input: {uri} is a folder; only parquet is read from folders", field="input")
    return SOURCES[name](files)


def _guess(files: InputFiles) -> str:
    if files.is_folder:
        return "parquet"
    suffixes = [suffix.lower() for suffix in PurePosixPath(files.uri).suffixes]
    suffix = next((suffix for suffix in reversed(suffixes) if suffix != ".gz"), "")
    if suffix not in _SUFFIXES:
        raise InvalidRequest(
            f"input: the format of {files.uri} is not clear from its name; "
            f"give --format, one of {', '.join(SOURCES)}",
            field="format",
        )
    name = _SUFFIXES[suffix]
    return "openai-batch" if name == "jsonl" and is_openai_batch(files) else name
