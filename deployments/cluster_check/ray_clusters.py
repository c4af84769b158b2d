"""The cluster inside a RayCluster, RayJob or RayService: head and worker groups."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import ray
from ray.autoscaler._private.kuberay.autoscaling_config import _generate_available_node_types_from_ray_cr_spec

from deployments.cluster_check.demand import ACCELERATOR_PREFIX
from deployments.cluster_check.documents import Document, Place, Problem
from deployments.cluster_check.fleet import Fleet
from deployments.cluster_check.instance_types import instance_of

_GPU = "nvidia.com/gpu"
_LABEL = "ray.io/accelerator-type"
_INSTANCE = "node.kubernetes.io/instance-type"


@dataclass(frozen=True, slots=True, kw_only=True)
class RayClusterSpec:
    """Where a manifest describes a cluster."""

    document: Document
    place: Place

    @property
    def groups(self) -> list[tuple[Place, dict[str, Any]]]:
        """Head and worker groups with their places."""
        workers = self.document.get(*self.place, "workerGroupSpecs", default=[])
        return [
            ((*self.place, "headGroupSpec"), self.document.get(*self.place, "headGroupSpec")),
            *(((*self.place, "workerGroupSpecs", index), group) for index, group in enumerate(workers)),
        ]

    def problems(self) -> Iterator[Problem]:
        """Check what the operator and Ray's autoscaler would stumble over."""
        document = self.document
        version = document.get(*self.place, "rayVersion")
        if version != ray.__version__:
            message = f"{version}, but the project's Ray is {ray.__version__}"
            yield document.problem((*self.place, "rayVersion"), message)
        names = set()
        for place, group in self.groups[1:]:
            name = group["groupName"]
            if name in names:
                yield document.problem((*place, "groupName"), f"{name} is given twice")
            names.add(name)
            yield from self._counts(place, group)
        for place, group in self.groups:
            yield from self._gpus(place, group)
            yield from self._instance(place, group)

    def fleet(self) -> tuple[Fleet | None, list[Problem]]:
        """Return the nodes as Ray's own autoscaler reads them from the manifest."""
        spec = {"workerGroupSpecs": [], **copy.deepcopy(self.document.get(*self.place))}
        try:
            node_types = _generate_available_node_types_from_ray_cr_spec(spec)
        except (ValueError, AssertionError) as error:
            return None, [self.document.problem(self.place, f"Ray's autoscaler can't read it: {error}")]
        kind = self.document.get("kind")
        name = self.document.get("metadata", "name")
        fleet = Fleet(
            name=f"{kind} {name}",
            node_types=node_types,
            head=next(iter(node_types)),
            max_workers=sum(node_type["max_workers"] for node_type in node_types.values()),
        )
        return fleet, []

    def _counts(self, place: Place, group: dict[str, Any]) -> Iterator[Problem]:
        low, high = group["minReplicas"], group["maxReplicas"]
        if low > high:
            yield self.document.problem((*place, "minReplicas"), f"{low} is above maxReplicas, {high}")
        elif not low <= group.get("replicas", low) <= high:
            message = f"{group['replicas']} is not within minReplicas {low} and maxReplicas {high}"
            yield self.document.problem((*place, "replicas"), message)
        if low != high and not self.document.get(*self.place, "enableInTreeAutoscaling"):
            message = f"must be true: group {group['groupName']} is to grow to {high}"
            yield self.document.problem((*self.place, "enableInTreeAutoscaling"), message)

    def _gpus(self, place: Place, group: dict[str, Any]) -> Iterator[Problem]:
        container = (*place, "template", "spec", "containers", 0, "resources")
        limit = int(self.document.get(*container, "limits", _GPU, default=0))
        requested = self.document.get(*container, "requests", _GPU)
        if requested is not None and int(requested) != limit:
            message = f"{requested} requested, but the limit is {limit}: Kubernetes wants them equal"
            yield self.document.problem((*container, "requests", _GPU), message)
        for field in (("resources", "GPU"), ("rayStartParams", "num-gpus")):
            told = self.document.get(*place, *field)
            if told is not None and told != str(limit):
                message = f"{told}, but the pod's limit of {_GPU} is {limit}"
                yield self.document.problem((*place, *field), message)

    def _instance(self, place: Place, group: dict[str, Any]) -> Iterator[Problem]:
        pod = (*place, "template", "spec")
        label = self.document.get(*place, "labels", _LABEL)
        types = [
            key.removeprefix(ACCELERATOR_PREFIX)
            for key in group.get("resources", {})
            if key.startswith(ACCELERATOR_PREFIX)
        ]
        if label and types and types != [label]:
            message = f"{label}, but resources have {ACCELERATOR_PREFIX}{types[0]}"
            yield self.document.problem((*place, "labels", _LABEL), message)
        name = self.document.get(*pod, "nodeSelector", _INSTANCE)
        instance = instance_of(name) if name else None
        if instance is None:
            return
        limits = (*pod, "containers", 0, "resources", "limits")
        gpus = int(self.document.get(*limits, _GPU, default=0))
        if gpus > instance.num_gpus:
            message = f"{gpus} asked for, but {name} has {instance.num_gpus}"
            yield self.document.problem((*limits, _GPU), message)
        cpus = str(self.document.get(*limits, "cpu", default=0))
        if cpus.isdecimal() and int(cpus) > instance.num_cpus:
            yield self.document.problem(
                (*limits, "cpu"), f"{cpus} asked for, but {name} has {instance.num_cpus}"
            )
        for accelerator in types:
            if accelerator != instance.accelerator_type:
                message = f"{name} has {instance.accelerator_type or 'no accelerator'}"
                yield self.document.problem((*place, "resources", ACCELERATOR_PREFIX + accelerator), message)
