"""Memory that is free on this machine, without torch: of the host, and of its first NVIDIA GPU."""

import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

# Limit, use and parts of it, and the parts' names, in control groups of versions 2 and 1.
_CGROUPS = (
    ("memory.max", "memory.current", "memory.stat", "file", "shmem"),
    (
        "memory/memory.limit_in_bytes",
        "memory/memory.usage_in_bytes",
        "memory/memory.stat",
        "total_cache",
        "total_shmem",
    ),
)
_QUERY = ["nvidia-smi", "--query-gpu=name,memory.free", "--format=csv,noheader,nounits"]
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """A GPU and its free memory."""

    name: str
    free_bytes: int


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the host memory that this process can still take, in bytes; None if the system does not say.

    It is what Linux calls available, or what the container may still take if that is less.

    Args:
        root: folder that the system's files are below.
    """
    found = [_linux_available(root), *(_left_in_container(root / "sys/fs/cgroup", *c) for c in _CGROUPS)]
    return min((number for number in found if number is not None), default=None)


def find_gpu() -> Gpu | None:
    """Ask NVIDIA's driver for the first GPU that this process sees; None without one."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and not visible.strip():
        return None
    chosen = ["--id=" + visible.split(",")[0]] if visible else []
    try:
        done = subprocess.run([*_QUERY, *chosen], capture_output=True, text=True, timeout=10, check=True)
        name, free_mib = done.stdout.splitlines()[0].rsplit(",", 1)
        return Gpu(name=name.strip(), free_bytes=int(free_mib) * _MIB)
    except (OSError, subprocess.SubprocessError, ValueError, IndexError):
        return None


def _linux_available(root: Path) -> int | None:
    with suppress(OSError):
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return None


def _left_in_container(
    folder: Path, limit: str, use: str, parts: str, cached: str, shared: str
) -> int | None:
    """Return what a limit of control groups leaves; files that are only cached in memory do not count."""
    with suppress(OSError, ValueError, KeyError):  # "max": there is no limit; old kernels do not count all
        left = int((folder / limit).read_text(encoding="ascii"))
        left -= int((folder / use).read_text(encoding="ascii"))
        lines = (folder / parts).read_text(encoding="ascii").splitlines()
        numbers = {name: int(value) for name, value in (line.split() for line in lines)}
        return left + numbers[cached] - numbers[shared]
    return None
