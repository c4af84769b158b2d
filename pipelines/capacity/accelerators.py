"""Table of accelerators and machines: their speed with Z-Image, their memory and their prices.

Nothing here is a promise. Every entry states its source and how certain it is; ``--measured`` replaces
entries with your own figures (:mod:`pipelines.capacity.measured`).
"""

from dataclasses import dataclass
from enum import StrEnum

CPU_CORE = "CPU-core"
"""The entry that stands for one core of a machine without a GPU."""


class Evidence(StrEnum):
    """How certain a speed is."""

    MEASURED = "measured"
    """Measured with this engine on this accelerator."""
    PUBLISHED = "published"
    """Published figure of another engine for Z-Image on this accelerator."""
    ESTIMATED = "estimated"
    """Estimated from the data sheet and a related accelerator."""


SPREAD: dict[Evidence, float] = {
    Evidence.MEASURED: 0.1,
    Evidence.PUBLISHED: 0.25,
    Evidence.ESTIMATED: 0.4,
}
"""Fraction by which the true speed may be higher or lower."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """One kind of accelerator, named as in Ray's label ``ray.io/accelerator-type``."""

    name: str
    sustained_tflops: float
    """Operations of whole images divided by the time they take, with the accelerator kept full."""
    evidence: Evidence
    speed_source: str
    memory_gb: float
    """Memory that the driver reports, in 10^9 bytes."""
    all_reduce_gb_per_s: float | None = None
    """Bus bandwidth of all-reduces of some 30 MB between accelerators of one machine; None: no known link."""
    all_reduce_latency_s: float = 25e-6
    """Latency of a small all-reduce (NVIDIA/nccl issue 1453: 26 us at 4 kB)."""
    link_source: str = ""

    @property
    def spread(self) -> float:
        """Fraction by which the true speed may be higher or lower."""
        return SPREAD[self.evidence]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One rentable machine: its accelerators and its price."""

    instance_type: str
    accelerator: str
    num_accelerators: int
    usd_per_hour: float
    price_source: str = "AWS list price, Linux on demand, us-east-1, 2026 (checked in public copies)"


# A published speed is what another engine computed, divided by the time it took. 9 forwards at 1024 x 1024
# with a caption of 64 tokens are 511 TFLOP, with text encoder and decoder (pipelines.capacity.image_work).
_PCIE = "vllm-omni #735: 26.9 s on one L20, 21.1 s on two (20 steps, guided), leaves 11 GB/s for all-reduces"
_NVLINK = (
    "sglang #16719: 5.38 s on one H100, 3.74 s on two at 2048 x 2048, leaves 84 GB/s for all-reduces"
    " (nccl-tests reach 370 GB/s, but with larger ones and nothing else running)"
)
_TABLE = (
    Accelerator(
        name="H100",
        sustained_tflops=565,
        evidence=Evidence.PUBLISHED,
        speed_source="SGLang CI, perf_baselines/h100.json, 2026-10: 9 forwards, 906 ms in total",
        memory_gb=85.5,
        all_reduce_gb_per_s=84,
        link_source=_NVLINK,
    ),
    Accelerator(
        name="H200",
        sustained_tflops=565,
        evidence=Evidence.ESTIMATED,
        speed_source="as the H100: the same arithmetic units, which limit the speed of one image",
        memory_gb=150.8,
        all_reduce_gb_per_s=84,
        link_source=f"as the H100 ({_NVLINK})",
    ),
    Accelerator(
        name="A100",
        sustained_tflops=190,
        evidence=Evidence.ESTIMATED,
        speed_source="0.6 of 312 TFLOP/s; the H100 reaches 0.57 of its peak, the L20 0.64",
        memory_gb=42.9,
        all_reduce_gb_per_s=60,
        link_source="the H100's, scaled by the links' ratio of 600 to 900 GB/s",
    ),
    Accelerator(
        name="A100-80G",
        sustained_tflops=190,
        evidence=Evidence.ESTIMATED,
        speed_source="0.6 of 312 TFLOP/s; the H100 reaches 0.57 of its peak, the L20 0.64",
        memory_gb=85.9,
        all_reduce_gb_per_s=60,
        link_source="the H100's, scaled by the links' ratio of 600 to 900 GB/s",
    ),
    Accelerator(
        name="L40S",
        sustained_tflops=180,
        evidence=Evidence.ESTIMATED,
        speed_source="0.5 of 362 TFLOP/s: the L20 of the same family reaches 0.64, this one throttles first",
        memory_gb=48.3,
        all_reduce_gb_per_s=11,
        link_source=_PCIE,
    ),
    Accelerator(
        name="L20",
        sustained_tflops=76,
        evidence=Evidence.PUBLISHED,
        speed_source="cache-dit NVIDIA_GPU.md: 9 forwards, 6.71 s",
        memory_gb=48.3,
        all_reduce_gb_per_s=11,
        link_source=_PCIE,
    ),
    Accelerator(
        name="A10G",
        sustained_tflops=40,
        evidence=Evidence.ESTIMATED,
        speed_source="0.57 of 70 TFLOP/s, as related accelerators reach of their peaks",
        memory_gb=24.1,
        all_reduce_gb_per_s=8,
        link_source="two thirds of the L20's: PCIe without peer-to-peer",
    ),
    Accelerator(
        name="L4",
        sustained_tflops=60,
        evidence=Evidence.ESTIMATED,
        speed_source="0.5 of 121 TFLOP/s, 72 W",
        memory_gb=24.1,
        all_reduce_gb_per_s=8,
        link_source="as the A10G",
    ),
    Accelerator(
        name="RTX-5090",
        sustained_tflops=205,
        evidence=Evidence.PUBLISHED,
        speed_source="SGLang CI, perf_baselines/5090.json, 2026-10: 9 forwards, 2492 ms in total",
        memory_gb=34.2,
    ),
    Accelerator(
        name=CPU_CORE,
        sustained_tflops=0.07,
        evidence=Evidence.MEASURED,
        speed_source="benchmarks.pipeline_overhead: 10.8 tiny images/s on a core of an AMD EPYC",
        memory_gb=4.0,
    ),
)
ACCELERATORS: dict[str, Accelerator] = {accelerator.name: accelerator for accelerator in _TABLE}

MACHINES: dict[str, Machine] = {
    name: Machine(instance_type=name, accelerator=accelerator, num_accelerators=number, usd_per_hour=price)
    for name, accelerator, number, price in (
        ("g5.2xlarge", "A10G", 1, 1.212),
        ("g5.12xlarge", "A10G", 4, 5.672),
        ("g6.4xlarge", "L4", 1, 1.3232),
        ("g6.12xlarge", "L4", 4, 4.6016),
        ("g6e.xlarge", "L40S", 1, 1.861),
        ("g6e.2xlarge", "L40S", 1, 2.24208),
        ("g6e.4xlarge", "L40S", 1, 3.00424),
        ("g6e.8xlarge", "L40S", 1, 4.52856),
        ("g6e.12xlarge", "L40S", 4, 10.49264),
        ("g6e.24xlarge", "L40S", 4, 15.06559),
        ("g6e.48xlarge", "L40S", 8, 30.13118),
        ("p4d.24xlarge", "A100", 8, 21.957642),
        ("p4de.24xlarge", "A100-80G", 8, 27.44705),
        ("p5.4xlarge", "H100", 1, 6.88),
        ("p5.48xlarge", "H100", 8, 55.04),
        ("p5en.48xlarge", "H200", 8, 63.296),
    )
}

SPOT_SHARE = (0.35, 0.7)
"""Spot price as a fraction of the list price, on a good day and on a bad one."""
