"""The files that an input names: a file, a folder's, or a pattern's. It knows nothing about table formats."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from urllib.parse import unquote

import pyarrow.fs
from pyarrow.fs import FileType

from pipelines.sources.table_file import TableFile
from pipelines.storage import StorageOptions
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest

_ANY_FOLDERS = "**"
_WILDCARDS = frozenset("*?[")
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundInput:
    """One input and its files."""

    uri: str
    """The input as it was given."""
    is_file: bool
    """It names one file, and so asks for exactly that file."""
    folder: str
    """Address of its folder: itself, the one that holds the file, or the one before a pattern's wildcards."""
    root: str
    """Path of the folder, or of the file, in the filesystem."""
    files: tuple[TableFile, ...]
    """Sorted by path; hidden ones (a name on the way starts with "." or "_") only if asked for."""


def find_input(uri: str, options: StorageOptions) -> FoundInput:
    """Find the files of a file's, a folder's or a pattern's address.

    In a pattern, ``*``, ``?`` and ``[...]`` match within one name and ``**`` matches any number of folders; a
    folder that matches stands for the files in it. An address that exists is not read as a pattern. Folders
    called ``column=value``, below the folder or the pattern's first wildcard, give columns.

    Raises:
        InvalidRequest: it does not exist, matches no file, or cannot be reached.
    """
    try:
        storage = open_storage(uri, options)
        filesystem, root = storage.arrow()
        info = filesystem.get_file_info(root)
        scheme = storage.uri.removesuffix(root)
        # What stands before the files' names, as the person wrote it.
        start = uri.rstrip("/")
        pattern: tuple[str, ...] = ()
        if info.type == FileType.Directory:
            pattern = (_ANY_FOLDERS,)
        elif info.type == FileType.NotFound and not _WILDCARDS.isdisjoint(root):
            root, pattern = _split(root)
            start = "/".join(start.split("/")[: -len(pattern)])
        infos = [info] if info.is_file else list(_matches(filesystem, root, pattern)) if pattern else []
    except (ValueError, OSError) as error:
        raise InvalidRequest(f"input: {uri}: {error}", field="input") from error
    if not infos and info.type != FileType.Directory:
        reason = "matches no file" if pattern else "does not exist"
        if info.type == FileType.Unknown:
            reason = "is neither a file nor a folder"
        raise InvalidRequest(f"input: {uri} {reason}", field="input")
    files = []
    for info in sorted(infos, key=lambda info: str(info.path)):
        names = _names_below(root, info.path)
        files.append(
            TableFile(
                uri="/".join([start, *names] if start or uri.startswith("/") else names),
                path=info.path,
                filesystem=filesystem,
                num_bytes=info.size,
                mtime_ns=info.mtime_ns,
                partitions=dict(_partitions(names[:-1])),
            )
        )
    is_file = not pattern
    folder = root.rpartition("/")[0] or "/" if is_file else root
    return FoundInput(uri=uri, is_file=is_file, folder=scheme + folder, root=root, files=tuple(files))


def fingerprint(inputs: Iterable[FoundInput]) -> str:
    """Return a sha256 over the files' names, sizes and modification times; their content is not read."""
    digest = hashlib.sha256()
    for found in inputs:
        for file in found.files:
            name = file.path.removeprefix(found.root) or file.path.rpartition("/")[2]
            digest.update(f"{name}\0{file.num_bytes}\0{file.mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def common_folder(folders: Sequence[str]) -> str:
    """Return the address of the innermost folder that holds all; the first one if only a root holds them."""
    parts = [folder.split("/") for folder in folders]
    common = []
    for names in zip(*parts, strict=False):
        if len(set(names)) > 1:
            break
        common.append(names[0])
    # "s3://bucket" has three parts, and "/" two, of which the first is empty.
    is_root = len(common) < (3 if folders[0].startswith("s3://") else 2)
    return folders[0] if is_root else "/".join(common)


def _matches(
    filesystem: pyarrow.fs.FileSystem, folder: str, pattern: Sequence[str]
) -> Iterator[pyarrow.fs.FileInfo]:
    """Yield the files in a folder that match a pattern, or that lie in a folder that does."""
    name, rest = pattern[0], pattern[1:]
    if name == _ANY_FOLDERS:
        for info in _listed(filesystem, folder, recursive=True):
            names = _names_below(folder, info.path)
            if info.is_file and not any(map(_is_hidden, names)) and _is_match(names, pattern):
                yield info
        return
    for info in _listed(filesystem, folder, recursive=False):
        is_asked_for = not _is_hidden(info.base_name) or name[0] == info.base_name[0]
        if not (is_asked_for and fnmatchcase(info.base_name, name)):
            continue
        if info.is_file:
            if not rest:
                yield info
        elif info.type == FileType.Directory:
            yield from _matches(filesystem, info.path, rest or (_ANY_FOLDERS,))


def _is_match(names: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return True
    name, rest = pattern[0], pattern[1:]
    if name == _ANY_FOLDERS:
        return any(_is_match(names[skipped:], rest) for skipped in range(len(names)))
    return bool(names) and fnmatchcase(names[0], name) and _is_match(names[1:], rest)


def _listed(filesystem: pyarrow.fs.FileSystem, folder: str, *, recursive: bool) -> list[pyarrow.fs.FileInfo]:
    selector = pyarrow.fs.FileSelector(folder, recursive=recursive, allow_not_found=True)
    return filesystem.get_file_info(selector)


def _split(path: str) -> tuple[str, tuple[str, ...]]:
    """Split a pattern into the folder before its first wildcard, and the names from there."""
    names = path.split("/")
    first = next(place for place, name in enumerate(names) if not _WILDCARDS.isdisjoint(name))
    return "/".join(names[:first]) or "/", tuple(names[first:])


def _names_below(folder: str, path: str) -> list[str]:
    below = path.removeprefix(folder).removeprefix("/")
    return below.split("/") if below else []


def _partitions(folders: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    for folder in folders:
        column, equals, value = folder.partition("=")
        if column and equals:
            yield unquote(column), None if value == _HIVE_NULL else unquote(value)


def _is_hidden(name: str) -> bool:
    # A partition's column may start with "_", as Spark has it.
    return name.startswith(".") or (name.startswith("_") and "=" not in name)
