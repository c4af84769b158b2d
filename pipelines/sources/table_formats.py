"""The formats of an input's files, by their names. It knows nothing about what is in the files."""

from pipelines.sources.input_files import FoundInput
from pipelines.sources.table_file import TableFile
from zimage_models.errors import InvalidRequest

_SUFFIXES = {
    "parquet": (".parquet", ".parq", ".pq"),
    "jsonl": (".jsonl", ".ndjson"),
    "csv": (".csv",),
    "tsv": (".tsv", ".tab"),
    "json": (".json",),
    "txt": (".txt",),
}
"""Formats by the ends of files' names. Of a folder with several, the first is read."""

FORMATS = (*_SUFFIXES, "openai-batch")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
_SPREADSHEETS = (".xlsx", ".xlsm", ".xls", ".ods")
_MAX_NAMED = 3


def chosen_files(found: FoundInput, format: str | None, notes: list[str]) -> list[tuple[TableFile, str]]:
    """Return the files of an input to read, with their formats; add a note about the others."""
    if not found.files:
        raise InvalidRequest(f"input: {found.uri} has no files", field="input")
    by_format: dict[str | None, list[TableFile]] = {}
    for file in found.files:
        by_format.setdefault(_suffix_format(file.path), []).append(file)
    suffixed = "jsonl" if format == "openai-batch" else format
    if format is None:
        suffixed = next((name for name in _SUFFIXES if name in by_format), None)
    elif suffixed not in by_format:
        return [(file, format) for file in found.files]
    if suffixed is None and found.is_file and found.uri.lower().endswith(_SPREADSHEETS):
        raise InvalidRequest(f"input: {found.uri} is a spreadsheet; save the sheet as CSV", field="input")
    if suffixed is None:
        subject = f"the format of {found.uri} is" if found.is_file else f"the formats in {found.uri} are"
        raise InvalidRequest(
            f"input: {subject} not clear from the name; give --format, one of {', '.join(FORMATS)}",
            field="format",
        )
    skipped = sorted(file.path for name, files in by_format.items() if name != suffixed for file in files)
    if skipped:
        folder = f"{found.root.rstrip('/')}/"
        names = ", ".join(path.removeprefix(folder) for path in skipped[:_MAX_NAMED])
        more = f" and {len(skipped) - _MAX_NAMED} more" if len(skipped) > _MAX_NAMED else ""
        are = "s that are" if len(skipped) > 1 else " that is"
        notes.append(f"{found.uri}: skipped {len(skipped)} file{are} not {suffixed}: {names}{more}")
    return [(file, format or suffixed) for file in by_format[suffixed]]


def _suffix_format(path: str) -> str | None:
    name = path.lower()
    plain = next((name.removesuffix(end) for end in _COMPRESSED if name.endswith(end)), name)
    for format, suffixes in _SUFFIXES.items():
        # What is inside a compressed Parquet file can be read only from its end.
        if (name if format == "parquet" else plain).endswith(suffixes):
            return format
    return None
