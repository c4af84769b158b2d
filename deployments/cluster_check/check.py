"""All files of a deployment, alone and against each other."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deployments.cluster_check.documents import Document, Place, Problem, read_documents
from deployments.cluster_check.entrypoints import CommandReader
from deployments.cluster_check.fleet import Fleet
from deployments.cluster_check.image import NamedImage, dockerfile_problems, image_problems
from deployments.cluster_check.launcher import IMAGE_PLACES, launcher_problems, values_to_fill_in
from deployments.cluster_check.manifests import (
    SERVE_CONFIG,
    cluster_of,
    cron_problems,
    images_of,
    job_problems,
    kind_of,
    manifest_schema_problems,
    service_problems,
)
from deployments.cluster_check.ray_clusters import RayClusterSpec
from deployments.cluster_check.serve_config import placement_problems, serve_problems


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """The documents of the given files, by what they are."""

    launchers: tuple[Document, ...]
    serve_configs: tuple[Document, ...]
    manifests: tuple[Document, ...]


def check_files(paths: Sequence[Path], read_command: CommandReader) -> list[Problem]:
    """Check the files of a deployment without a cloud, a cluster or Docker.

    Args:
        paths: cluster launcher files, Serve configurations, Kubernetes manifests, files named ``Dockerfile``.
        read_command: reads command lines of ``zimage`` in manifests.

    Returns:
        The problems in the order of the files, and among them the values that are still to be filled in.
    """
    problems: list[Problem] = []
    launchers, serve_configs, manifests = [], [], []
    for path in paths:
        if path.name == "Dockerfile":
            problems += dockerfile_problems(path, str(path))
            continue
        documents, wrong = read_documents(path, str(path))
        problems += wrong
        for document in documents:
            if document.get("apiVersion"):
                manifests.append(document)
            elif document.get("applications") is not None:
                serve_configs.append(document)
            elif document.get("cluster_name") is not None or document.get("provider") is not None:
                launchers.append(document)
            else:
                message = "is no cluster launcher file, no Serve configuration and no Kubernetes manifest"
                problems.append(document.problem((), message))
    files = Files(launchers=tuple(launchers), serve_configs=tuple(serve_configs), manifests=tuple(manifests))
    problems += _check(files, read_command)
    order = {str(path): number for number, path in enumerate(paths)}
    return sorted(problems, key=lambda problem: (order[problem.file], problem))


def _check(files: Files, read_command: CommandReader) -> Iterator[Problem]:
    sound = []
    for document in files.manifests:
        problems = manifest_schema_problems(document)
        yield from problems
        sound += [] if problems else [document]
    yield from image_problems(list(_images(files.launchers, sound)))
    fleets = []
    for document in files.launchers:
        problems, fleet = launcher_problems(document)
        yield from problems or values_to_fill_in(document)
        fleets += [fleet] if fleet else []
    for document in files.serve_configs:
        problems, args = serve_problems(document)
        yield from problems
        if args:
            for fleet in fleets:
                yield from placement_problems(document, args, fleet)
    yield from _check_manifests(sound, files.serve_configs, read_command)


def _check_manifests(
    manifests: Sequence[Document], serve_configs: Sequence[Document], read_command: CommandReader
) -> Iterator[Problem]:
    clusters: dict[str, RayClusterSpec] = {}
    fleets: dict[str, Fleet] = {}
    for document in manifests:
        kind = kind_of(document)
        cluster = cluster_of(document)
        fleet = None
        if cluster:
            yield from cluster.problems()
            fleet, problems = cluster.fleet()
            yield from problems
        name = document.get("metadata", "name")
        if kind == "RayCluster" and cluster:
            clusters[name] = cluster
            fleets |= {name: fleet} if fleet else {}
        elif kind == "RayService":
            yield from service_problems(document, fleet)
            yield from _drift(document, serve_configs)
        elif kind == "RayJob":
            yield from job_problems(document, fleet, read_command)
    for document in manifests:
        if kind_of(document) == "CronJob":
            yield from cron_problems(document, clusters, fleets, read_command)


def _images(launchers: Sequence[Document], manifests: Sequence[Document]) -> Iterator[NamedImage]:
    for document in launchers:
        for place in IMAGE_PLACES:
            if document.get(*place) is not None:
                yield NamedImage(document=document, place=place)
    for document in manifests:
        yield from images_of(document)


def _drift(service: Document, serve_configs: Sequence[Document]) -> Iterator[Problem]:
    """Compare what a RayService serves with the one Serve configuration."""
    embedded, _ = service.embedded(*SERVE_CONFIG)
    if len(embedded) != 1 or len(serve_configs) != 1:
        return
    [here], [there] = embedded, serve_configs
    place = _first_difference(here.data, there.data)
    if place is None:
        return
    mine, theirs = (config.get(*place, default="nothing") for config in (here, there))
    message = f"{_short(mine)}, but {there.file} has {_short(theirs)}: `zimage cluster sync` copies it"
    yield here.problem(place, message)


def _first_difference(one: Any, other: Any, place: Place = ()) -> Place | None:
    if isinstance(one, dict) and isinstance(other, dict):
        keys: list[str | int] = [*one, *(key for key in other if key not in one)]
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        keys = list(range(len(one)))
    else:
        return None if one == other else place
    for key in keys:
        if isinstance(one, dict) and (key not in one or key not in other):
            return (*place, key)
        found = _first_difference(one[key], other[key], (*place, key))
        if found is not None:
            return found
    return None


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
