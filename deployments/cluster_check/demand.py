"""What the processes of a model or a job need of their nodes."""

from dataclasses import dataclass

ACCELERATOR_PREFIX = "accelerator_type:"
"""Ray's resource that ``accelerator_type=`` asks for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """Equal processes that each need their resources on one node."""

    what: str
    count: int
    num_cpus: float = 0
    num_gpus: float = 0
    accelerator_type: str | None = None

    @property
    def bundle(self) -> dict[str, float]:
        """The resources of one, in Ray's words."""
        bundle = {name: amount for name, amount in (("CPU", self.num_cpus), ("GPU", self.num_gpus)) if amount}
        if self.accelerator_type:
            # What Ray asks for: ray._common.utils.resources_from_ray_options.
            bundle[ACCELERATOR_PREFIX + self.accelerator_type] = 0.001
        return bundle
