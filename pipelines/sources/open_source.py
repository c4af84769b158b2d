"""Prompt tables: find the input's files, detect their formats, open them as one stream of rows.

It knows nothing about the columns' meaning; the planner maps columns.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from pipelines.sources.combined_source import CombinedSource
from pipelines.sources.input_files import common_folder, find_input, fingerprint
from pipelines.sources.openai_batch import OpenAIBatchReader, is_openai_batch
from pipelines.sources.parquet_reader import ParquetReader
from pipelines.sources.source_rows import Source
from pipelines.sources.table_file import FileReader, TableFile
from pipelines.sources.table_formats import FORMATS, chosen_files
from pipelines.sources.text_formats.csv_reader import CsvReader
from pipelines.sources.text_formats.json_array_reader import JsonArrayReader
from pipelines.sources.text_formats.json_lines_reader import JsonLinesReader
from pipelines.sources.text_formats.text_reader import TextReader
from pipelines.storage import StorageOptions
from zimage_models.errors import InvalidRequest

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_TEXT_READERS: dict[str, Callable[..., FileReader]] = {
    "jsonl": JsonLinesReader,
    "json": JsonArrayReader,
    "txt": TextReader,
    "openai-batch": OpenAIBatchReader,
}
_DEFAULT_OPTIONS = StorageOptions()
_NUM_THREADS = 16


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
        inputs: files, folders (at any depth) or patterns (``*``, ``?``, ``[...]``, ``**``), on disk or
            ``s3://``. Their files are read in this order, those of one input in order of their paths, and
            each once. Of a folder or a pattern, only files of one format are read.
        options: how to reach S3.
        format: one of ``FORMATS`` for all files; None to detect it from a file's suffix, or an OpenAI batch
            file from its first object.
        delimiter: between the cells of CSV; None to detect it.
        encoding: of text; None to detect it.

    Raises:
        InvalidRequest: an unknown or unclear format, an input that is missing, empty or unreadable, or files
            whose columns do not go together.
    """
    if format is not None and format not in FORMATS:
        raise InvalidRequest(f"format: {format!r} is not one of {', '.join(FORMATS)}", field="format")
    found = [find_input(uri, options) for uri in inputs]
    notes: list[str] = []
    chosen: dict[tuple[str, str], tuple[TableFile, str]] = {}
    for one in found:
        for file, name in chosen_files(one, format, notes):
            chosen.setdefault((file.filesystem.type_name, file.path), (file, name))
    files = list(chosen.values())
    json_lines = [file for file, name in files if name == "jsonl"]
    if format is None and is_openai_batch(json_lines, encoding=encoding):
        files = [(file, "openai-batch" if name == "jsonl" else name) for file, name in files]
    names = {name for _, name in files}
    if delimiter is not None and names.isdisjoint(("csv", "tsv")):
        raise InvalidRequest("delimiter: no file of the input is CSV; leave it out", field="delimiter")
    if encoding is not None and names == {"parquet"}:
        raise InvalidRequest("encoding: Parquet files have none; leave it out", field="encoding")

    def reader(item: tuple[TableFile, str]) -> FileReader:
        file, name = item
        if name == "parquet":
            return ParquetReader(file)
        if name in ("csv", "tsv"):
            return CsvReader(file, delimiter=delimiter, usual=_DELIMITERS[name], encoding=encoding)
        return _TEXT_READERS[name](file, encoding=encoding)

    # Texts are read whole to find their columns, which threads would not speed up.
    with ThreadPoolExecutor(_NUM_THREADS if names == {"parquet"} else 1) as pool:
        readers = list(pool.map(reader, files))
    return CombinedSource(
        [(file, reader) for (file, _), reader in zip(files, readers, strict=True)],
        folder=common_folder([one.folder for one in found]),
        fingerprint=fingerprint(found),
        notes=notes,
    )
