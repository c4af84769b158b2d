"""What one engine reserves in a Ray cluster, and on which nodes; the same in Ray Data and in Serve."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from zimage_models.errors import InvalidRequest

_ANY_OF_TYPE = 0.001
"""The amount of ``accelerator_type:...`` that Ray requests; a node of the type has 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineResources:
    """Resources of one engine, all on one node unless ``deployments.app`` places its ranks separately."""

    num_cpus: float
    """CPUs per rank."""
    num_gpus: float
    """GPUs per rank."""
    num_ranks: int = 1
    """Ranks of the engine (its tensor-parallel degree)."""
    accelerator_type: str | None = None
    """A Ray accelerator type such as ``L40S``; only nodes of this type are used."""
    node_labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that the node must have; values as in Ray's label selectors (``a``, ``!a``, ``in(a,b)``)."""

    def __post_init__(self) -> None:
        whole = float(self.num_gpus).is_integer()
        if self.num_gpus > 1 and not whole:
            raise InvalidRequest(
                f"engine_gpus: {self.num_gpus} is above 1 and not a whole number", field="engine_gpus"
            )
        if self.num_ranks > 1 and not (whole and self.num_gpus <= 1):
            raise InvalidRequest(
                f"engine_gpus: {self.num_gpus} for each of {self.num_ranks} ranks; a rank takes 0 or 1",
                field="engine_gpus",
            )

    def actor_options(self) -> dict[str, Any]:
        """Return options that Ray Data's ``map_batches`` and Serve's ``ray_actor_options`` both accept."""
        options: dict[str, Any] = {
            "num_cpus": self.num_cpus * self.num_ranks,
            "num_gpus": self.num_gpus * self.num_ranks,
        }
        if self.accelerator_type:
            options["accelerator_type"] = self.accelerator_type
        if self.node_labels:
            options["label_selector"] = dict(self.node_labels)
        return options

    def bundle(self) -> dict[str, float]:
        """Return the demand as Ray's autoscaler lists it, which is without labels."""
        options = self.actor_options()
        amounts = {"CPU": float(options["num_cpus"]), "GPU": float(options["num_gpus"])}
        if self.accelerator_type:
            amounts[f"accelerator_type:{self.accelerator_type}"] = _ANY_OF_TYPE
        return {name: amount for name, amount in amounts.items() if amount}

    def __str__(self) -> str:
        words = [
            f"{amount:g} {name}"
            for name, amount in sorted(self.bundle().items(), reverse=True)
            if name in ("GPU", "CPU")
        ]
        text = " and ".join(words) or "nothing"
        if self.accelerator_type or self.node_labels:
            text += f" on {self.accelerator_type} nodes" if self.accelerator_type else " on nodes"
        if self.node_labels:
            text += " with " + ", ".join(f"{name}={value}" for name, value in self.node_labels.items())
        return text
