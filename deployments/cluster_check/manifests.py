"""The manifests of ``deployments/kuberay``, each on its own."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

import yaml
from ray.dashboard.modules.job.cli import submit

from deployments.app_args import AppArgs
from deployments.cluster_check.documents import Document, Place, Problem
from deployments.cluster_check.entrypoints import CommandReader, entrypoint_problems
from deployments.cluster_check.fleet import Fleet
from deployments.cluster_check.image import NamedImage
from deployments.cluster_check.json_schema import schema_problems
from deployments.cluster_check.ray_clusters import RayClusterSpec
from deployments.cluster_check.schedules import schedule_fault
from deployments.cluster_check.serve_config import placement_problems, serve_problems

SERVE_CONFIG: Place = ("spec", "serveConfigV2")
_CLUSTERS: dict[str, Place] = {
    "RayCluster": ("spec",),
    "RayService": ("spec", "rayClusterConfig"),
    "RayJob": ("spec", "rayClusterSpec"),
}
_CRON_POD: Place = ("spec", "jobTemplate", "spec", "template", "spec")


@cache
def _schemas() -> dict[str, Any]:
    text = Path(__file__).with_name("kuberay_schema.yaml").read_text(encoding="utf-8")
    schemas: dict[str, Any] = yaml.safe_load(text)
    return schemas


def kind_of(document: Document) -> str:
    """Return the manifest's kind."""
    return str(document.get("kind", default=""))


def manifest_schema_problems(document: Document) -> list[Problem]:
    """Check a manifest against the fields of its kind; kinds that are not of Ray's or ours pass."""
    schemas = _schemas()
    kind = kind_of(document)
    if kind.startswith("$") or kind not in schemas:
        if str(document.get("apiVersion", default="")).startswith("ray.io/"):
            known = ", ".join(name for name in schemas if name.startswith("Ray"))
            return [
                document.problem(("kind",), f"{kind} is not a kind that can be checked; those are {known}")
            ]
        return []
    return schema_problems(document, {"$defs": schemas["$defs"], **schemas[kind]})


def cluster_of(document: Document) -> RayClusterSpec | None:
    """Return the cluster that a manifest describes."""
    place = _CLUSTERS.get(kind_of(document))
    if place is None or document.get(*place) is None:
        return None
    return RayClusterSpec(document=document, place=place)


def images_of(document: Document) -> Iterator[NamedImage]:
    """Name the images of all containers."""
    cluster = cluster_of(document)
    pods = [(*place, "template", "spec") for place, _ in cluster.groups] if cluster else []
    if kind_of(document) == "CronJob":
        pods.append(_CRON_POD)
    for pod in pods:
        for index in range(len(document.get(*pod, "containers", default=[]))):
            yield NamedImage(document=document, place=(*pod, "containers", index, "image"))


def service_problems(document: Document, fleet: Fleet | None) -> Iterator[Problem]:
    """Check what a RayService serves, and whether it fits on its nodes."""
    embedded, problems = document.embedded(*SERVE_CONFIG)
    yield from problems
    for config in embedded:
        problems, args = serve_problems(config)
        yield from problems
        if not args:
            continue
        if fleet:
            yield from placement_problems(config, args, fleet)
        for place, endpoint in args.items():
            yield from _key_file(document, config, place, endpoint)


def _key_file(document: Document, config: Document, place: Place, endpoint: AppArgs) -> Iterator[Problem]:
    path = endpoint.auth.keys_file
    cluster = cluster_of(document)
    if path is None or cluster is None:
        return
    for group_place, _ in cluster.groups:
        container = (*group_place, "template", "spec", "containers", 0)
        mounts = [mount["mountPath"] for mount in document.get(*container, "volumeMounts", default=[])]
        if not any(PurePosixPath(path).is_relative_to(mount) for mount in mounts):
            message = (
                f"{path} is on no volume of {'.'.join(map(str, group_place))}, where HTTP replicas may run"
            )
            yield config.problem((*place, "auth", "keys_file"), message)


def job_problems(document: Document, fleet: Fleet | None, read_command: CommandReader) -> Iterator[Problem]:
    """Check a RayJob's command and the life of its cluster."""
    spec = document.get("spec")
    if ("rayClusterSpec" in spec) == ("clusterSelector" in spec):
        yield document.problem(("spec",), "needs either rayClusterSpec or clusterSelector")
    if spec.get("ttlSecondsAfterFinished") and not spec.get("shutdownAfterJobFinishes"):
        message = "has no effect without shutdownAfterJobFinishes: true"
        yield document.problem(("spec", "ttlSecondsAfterFinished"), message)
    yield from entrypoint_problems(document, ("spec", "entrypoint"), spec["entrypoint"], read_command, fleet)


def cron_problems(
    document: Document,
    clusters: dict[str, RayClusterSpec],
    fleets: dict[str, Fleet],
    read_command: CommandReader,
) -> Iterator[Problem]:
    """Check a CronJob that submits to one of the given RayClusters."""
    fault = schedule_fault(document.get("spec", "schedule"))
    if fault:
        yield document.problem(("spec", "schedule"), fault)
    container = (*_CRON_POD, "containers", 0)
    place = (*container, "command")
    words = [*document.get(*place, default=[]), *document.get(*container, "args", default=[])]
    if words[:3] != ["ray", "job", "submit"]:
        yield document.problem(place, "runs no `ray job submit`")
        return
    try:
        # --verify is the one option with a file behind it; the rest is read without a cluster.
        options = submit.make_context("submit", words[3:]).params
    except Exception as error:  # click's own classes; which click is Ray's affair
        yield document.problem(place, f"ray job submit does not take it: {error}")
        return
    services = {f"http://{name}-head-svc:8265": name for name in clusters}
    name = services.get(options["address"])
    if name is None and clusters:
        message = (
            f"--address {options['address']} is no head of the checked RayClusters: {', '.join(services)}"
        )
        yield document.problem(place, message)
    if name is not None:
        yield from _token(document, container, clusters[name])
    yield from entrypoint_problems(
        document, place, list(options["entrypoint"]), read_command, fleets.get(name or "")
    )


def _token(document: Document, container: Place, cluster: RayClusterSpec) -> Iterator[Problem]:
    auth = cluster.document.get(*cluster.place, "authOptions", default={})
    secret = auth.get("secretName")
    if auth.get("mode", "token") != "token" or secret is None:
        return
    env = {entry["name"]: entry for entry in document.get(*container, "env", default=[])}
    reference = env.get("RAY_AUTH_TOKEN", {}).get("valueFrom", {}).get("secretKeyRef", {})
    if (
        reference != {"name": secret, "key": "auth_token"}
        or env.get("RAY_AUTH_MODE", {}).get("value") != "token"
    ):
        message = f"RAY_AUTH_MODE must be token and RAY_AUTH_TOKEN the key auth_token of secret {secret}"
        yield document.problem((*container, "env"), message)
