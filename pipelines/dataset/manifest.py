"""Manifests: a numbered log of the data set's files after each run; the last one is current."""

import json
import re
from dataclasses import asdict, dataclass
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
    format_version: int = FORMAT_VERSION

    @property
    def path(self) -> str:
        """Path relative to the data set's folder."""
        return manifest_path(self.number)


def manifest_path(number: int) -> str:
    """Return the path of the manifest with that number, relative to the data set's folder."""
    return f"{_FOLDER}/{number:06d}.json"


def read_manifest(output: Storage) -> RunManifest | None:
    """Read the manifest with the highest number; return None if nothing is published.

    Raises:
        InvalidRequest: the manifest has another format version, or is damaged.
    """
    numbers = [int(match[1]) for file in output.list(_FOLDER) if (match := _NAME.match(file.path))]
    if not numbers:
        return None
    path = manifest_path(max(numbers))
    try:
        content = json.loads(output.read(path))
        if content["format_version"] != FORMAT_VERSION:
            raise InvalidRequest(
                f"{path}: format_version {content['format_version']}; this release reads {FORMAT_VERSION}"
            )
        for name in ("parts", "error_parts"):
            content[name] = tuple(PartFile(**part) for part in content[name])
        content["work_files"] = tuple(content["work_files"])
        return RunManifest(**content)
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(f"{path}: not a manifest ({error})") from error


def commit_manifest(output: Storage, manifest: RunManifest) -> bool:
    """Publish a manifest with one exclusive write; return False if its number is taken."""
    text = json.dumps(asdict(manifest), indent=1, ensure_ascii=False)
    return output.create(manifest.path, text.encode())
