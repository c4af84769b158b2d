"""Manifests: a numbered log of the data set's files after each run; the last one is current."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from typing import Any

from pipelines.dataset.parts import PartFile
from pipelines.storage import Storage
from zimage_models.errors import InvalidRequest

FORMAT_VERSION = 1
_FOLDER = "_manifests"
_NAME = re.compile(r"^_manifests/(\d{6,})\.json$")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSpeed:
    """The speed of a run; all zeros if it had nothing to generate."""

    generate_s: float = 0.0
    """Time from the first part to the last, without start-up."""
    images_per_s: float = 0.0
    """Speed for the images after the first part; 0 if there was only one part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunManifest:
    """Record of a run: what it read and made, what failed, and the data set's files after it."""

    number: int
    run_id: str
    created_at: str
    """UTC, ISO 8601."""
    model: str
    variant: str
    weights_sha256: str
    options: dict[str, Any]
    """The run's :class:`GenerateOptions`, as JSON."""
    source_fingerprint: str
    counts: dict[str, int]
    """The plan's counts, plus the ``published`` and ``failed`` images."""
    speed: dict[str, float]
    """The run's :class:`RunSpeed`, as JSON."""
    versions: dict[str, str]
    work_files: tuple[str, ...]
    """The planned units: Parquet files relative to the data set's folder."""
    parts: tuple[PartFile, ...]
    """The files of the data set, and no others."""
    error_parts: tuple[PartFile, ...]
    """Rows that could not be made, with their reasons."""
    notes: tuple[str, ...] = ()
    """How the input's columns were read, a sentence each."""
    format_version: int = FORMAT_VERSION

    @property
    def path(self) -> str:
        """Path relative to the data set's folder."""
        return manifest_path(self.number)


def manifest_path(number: int) -> str:
    """Return the path of the manifest with that number, relative to the data set's folder."""
    return f"{_FOLDER}/{number:06d}.json"


def list_generations(output: Storage) -> list[int]:
    """Return the numbers of all manifests, in ascending order."""
    return sorted(int(match[1]) for file in output.list(_FOLDER) if (match := _NAME.match(file.path)))


def read_manifest(output: Storage, number: int | None = None) -> RunManifest | None:
    """Read a manifest, by default the one with the highest number; return None if nothing is published.

    Raises:
        InvalidRequest: there is no such number, or the manifest has another format version or is damaged.
    """
    numbers = list_generations(output)
    if not numbers:
        return None
    if number is not None and number not in numbers:
        raise InvalidRequest(
            f"generation: {number} is none of {output.uri}; it has {_ranges(numbers)}", field="generation"
        )
    path = manifest_path(numbers[-1] if number is None else number)
    try:
        content = json.loads(output.read(path))
        if content["format_version"] != FORMAT_VERSION:
            raise InvalidRequest(
                f"{path}: format_version {content['format_version']}; this release reads {FORMAT_VERSION}"
            )
        for name in ("parts", "error_parts"):
            content[name] = tuple(PartFile(**part) for part in content[name])
        content["work_files"] = tuple(content["work_files"])
        content["notes"] = tuple(content.get("notes", ()))
        return RunManifest(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path}: not a manifest ({error})") from error


def _ranges(numbers: Sequence[int]) -> str:
    """Write ascending numbers briefly: 1 to 7, 9."""
    texts = []
    for _, run in groupby(enumerate(numbers), key=lambda item: item[1] - item[0]):
        found = [number for _, number in run]
        texts.append(f"{found[0]}" if len(found) == 1 else f"{found[0]} to {found[-1]}")
    return ", ".join(texts)


def commit_manifest(output: Storage, manifest: RunManifest) -> bool:
    """Publish a manifest with one exclusive write; return False if its number is taken."""
    content = asdict(manifest)
    if not manifest.notes:
        del content["notes"]  # releases up to 0.2 refuse a field that they do not know
    return output.create(manifest.path, json.dumps(content, indent=1, ensure_ascii=False).encode())
