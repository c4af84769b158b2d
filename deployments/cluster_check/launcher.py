"""``cluster.yaml``: what Ray's cluster launcher starts on AWS."""

import copy
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import ray.autoscaler
from ray.autoscaler._private.util import prepare_config, validate_config

from deployments.cluster_check.demand import ACCELERATOR_PREFIX
from deployments.cluster_check.documents import Document, Place, Problem
from deployments.cluster_check.fleet import Fleet
from deployments.cluster_check.instance_types import instance_of
from deployments.cluster_check.json_schema import schema_problems

IMAGE_PLACES: tuple[Place, ...] = (("docker", "image"), ("docker", "head_image"), ("docker", "worker_image"))
_TYPES = "available_node_types"
_LABEL = "ray.io/accelerator-type"
_AMI = re.compile(r"ami-([0-9a-f]{8}|[0-9a-f]{17})")
_NO_AMI = re.compile(r"ami-0+")
_PORT = re.compile(r"--port[= ](\d+)")


def launcher_problems(document: Document) -> tuple[list[Problem], Fleet | None]:
    """Check the file as Ray does, then what Ray would find only on the cloud.

    Returns:
        The problems, and the nodes it may start; None where the file is not sound enough to tell.
    """
    problems = schema_problems(document, _ray_schema())
    if problems:
        return problems, None
    problems = [*_provider(document), *_node_types(document), *_start_commands(document)]
    if not problems:
        problems = _as_ray_sees_it(document)
    if problems:
        return problems, None
    return [], Fleet(
        name=document.file,
        node_types=document.data[_TYPES],
        head=document.data["head_node_type"],
        max_workers=document.data["max_workers"],
    )


@cache
def _ray_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads(
        Path(ray.autoscaler.__file__).with_name("ray-schema.json").read_text(encoding="utf-8")
    )
    return schema


def _as_ray_sees_it(document: Document) -> list[Problem]:
    """Run the launcher's own checks, which need no cloud."""
    try:
        validate_config(prepare_config(copy.deepcopy(document.data)))
    except (
        ValueError,
        TypeError,
        KeyError,
        AssertionError,
        RuntimeError,
        jsonschema.ValidationError,
    ) as error:
        return [document.problem((), f"Ray refuses it: {error}")]
    return []


def _provider(document: Document) -> Iterator[Problem]:
    if document.get("provider", "type") != "aws":
        return
    region = document.get("provider", "region")
    if region is None:
        yield document.problem(("provider", "region"), "is missing")
        return
    for zone in str(document.get("provider", "availability_zone", default="")).split(","):
        if zone and not zone.strip().startswith(region):
            place = ("provider", "availability_zone")
            yield document.problem(place, f"{zone.strip()} is not in region {region}")


def _node_types(document: Document) -> Iterator[Problem]:
    types = document.get(_TYPES, default={})
    head = document.get("head_node_type")
    if head not in types:
        known = ", ".join(types) or "none"
        yield document.problem(("head_node_type",), f"{head} is no node type; there are: {known}")
    max_workers = document.get("max_workers")
    if max_workers is None:
        yield document.problem(("max_workers",), "is missing: Ray's default is 2")
    else:
        low = sum(node_type.get("min_workers", 0) for node_type in types.values())
        if low > max_workers:
            yield document.problem(
                ("max_workers",), f"{max_workers} is below the sum of all min_workers, {low}"
            )
    for name, node_type in types.items():
        place = (_TYPES, name)
        if "max_workers" not in node_type:
            yield document.problem(
                (*place, "max_workers"), "is missing: Ray would take the global max_workers"
            )
        elif node_type["max_workers"] < node_type.get("min_workers", 0):
            yield document.problem(
                (*place, "max_workers"), f"{node_type['max_workers']} is below min_workers"
            )
        yield from _labels(document, place, node_type)
        if document.get("provider", "type") == "aws":
            yield from _aws_node(document, place, node_type, is_head=name == head)


def _labels(document: Document, place: Place, node_type: dict[str, Any]) -> Iterator[Problem]:
    label = node_type.get("labels", {}).get(_LABEL)
    types = [
        key.removeprefix(ACCELERATOR_PREFIX) for key in node_type["resources"] if ACCELERATOR_PREFIX in key
    ]
    if label and types and types != [label]:
        message = f"{label}, but resources have {ACCELERATOR_PREFIX}{types[0]}"
        yield document.problem((*place, "labels", _LABEL), message)


def _aws_node(
    document: Document, place: Place, node_type: dict[str, Any], *, is_head: bool
) -> Iterator[Problem]:
    config = (*place, "node_config")
    ami = document.get(*config, "ImageId")
    if ami is None:
        yield document.problem(
            (*config, "ImageId"), "is missing: Ray's default image has too old a driver for torch"
        )
    elif not _AMI.fullmatch(str(ami)):
        yield document.problem((*config, "ImageId"), f"{ami} is no AMI id, such as ami-0123456789abcdef0")
    name = document.get(*config, "InstanceType")
    if name is None:
        yield document.problem((*config, "InstanceType"), "is missing")
        return
    instance = instance_of(str(name))
    if instance is None:
        return
    resources = node_type["resources"]
    gpus = resources.get("GPU", 0)
    if gpus != instance.num_gpus and not (is_head and gpus == 0):
        message = f"{gpus} declared, but {name} has {instance.num_gpus}"
        yield document.problem((*place, "resources", "GPU"), message)
    if resources.get("CPU", 0) > instance.num_cpus:
        message = f"{resources['CPU']} declared, but {name} has {instance.num_cpus}"
        yield document.problem((*place, "resources", "CPU"), message)
    for key in resources:
        if key.startswith(ACCELERATOR_PREFIX) and key != f"{ACCELERATOR_PREFIX}{instance.accelerator_type}":
            message = f"{name} has {instance.accelerator_type or 'no accelerator'}"
            yield document.problem((*place, "resources", key), message)


def _start_commands(document: Document) -> Iterator[Problem]:
    head = " && ".join(document.get("head_start_ray_commands", default=[]))
    worker = " && ".join(document.get("worker_start_ray_commands", default=[]))
    if head:
        if "ray start --head" not in head:
            yield document.problem(("head_start_ray_commands",), "has no `ray start --head`")
        if "--autoscaling-config=" not in head:
            message = "`ray start` has no --autoscaling-config: no worker would ever start"
            yield document.problem(("head_start_ray_commands",), message)
    if worker:
        match = _PORT.search(head)
        address = f"--address=$RAY_HEAD_IP:{match[1] if match else 6379}"
        if "ray start" not in worker or address not in worker:
            message = f"has no `ray start {address}`, where the head listens"
            yield document.problem(("worker_start_ray_commands",), message)


def values_to_fill_in(document: Document) -> Iterator[Problem]:
    """Name the AMIs that are still zeros, one that several node types share only once."""
    lines = set()
    for name in document.get(_TYPES, default={}):
        place = (_TYPES, name, "node_config", "ImageId")
        ami = document.get(*place, default="")
        if _NO_AMI.fullmatch(str(ami)):
            problem = document.problem(place, f"{ami} is a placeholder", to_fill_in=True)
            if problem.line not in lines:
                yield problem
            lines.add(problem.line)
