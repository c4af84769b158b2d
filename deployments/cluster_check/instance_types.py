"""What the EC2 instance types have on which people run Ray with GPUs."""

import re
from dataclasses import dataclass

_ONE = dict.fromkeys(("xlarge", "2xlarge", "4xlarge", "8xlarge", "16xlarge"), 1)
_G = {**_ONE, "12xlarge": 4, "24xlarge": 4, "48xlarge": 8}
_GPUS = {
    "g5": ("A10G", _G),
    "g6": ("L4", _G),
    "g6e": ("L40S", _G),
    "p4d": ("A100", {"24xlarge": 8}),
    "p4de": ("A100", {"24xlarge": 8}),
    "p5": ("H100", {"4xlarge": 1, "48xlarge": 8}),
    "p5e": ("H200", {"48xlarge": 8}),
    "p5en": ("H200", {"48xlarge": 8}),
    "p6-b200": ("B200", {"48xlarge": 8}),
}
_CPU_FAMILY = re.compile(r"[cmr][5-8][a-z]*")
_SIZE = re.compile(r"(\d*)xlarge")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """One instance type."""

    num_cpus: int
    num_gpus: int = 0
    accelerator_type: str | None = None
    """As Ray names it."""


def instance_of(name: str) -> Instance | None:
    """Return what an instance type has, None if this table does not know it."""
    family, _, size = name.partition(".")
    match = _SIZE.fullmatch(size)
    if match is None:
        return None
    num_cpus = 4 * int(match[1] or 1)
    if family in _GPUS:
        accelerator_type, sizes = _GPUS[family]
        if size in sizes:
            return Instance(num_cpus=num_cpus, num_gpus=sizes[size], accelerator_type=accelerator_type)
    elif _CPU_FAMILY.fullmatch(family):
        return Instance(num_cpus=num_cpus)
    return None
