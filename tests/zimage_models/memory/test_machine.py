"""Free memory is what the system and the container leave."""

from pathlib import Path

import pytest

from zimage_models.memory.machine import Gpu, available_bytes, find_gpu

MIB = 2**20


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def meminfo(mib: int) -> dict[str, str]:
    return {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {mib * 1024} kB\n"}


def cgroup(limit: str, used_mib: int) -> dict[str, str]:
    """Return a container's files; 100 MiB are cached files, of which 30 are shared memory."""
    folder = "sys/fs/cgroup"
    return {
        f"{folder}/memory.max": limit,
        f"{folder}/memory.current": str(used_mib * MIB),
        f"{folder}/memory.stat": f"anon {MIB}\nfile {100 * MIB}\nshmem {30 * MIB}\n",
    }


def first_cgroup(limit: str, used_mib: int) -> dict[str, str]:
    folder = "sys/fs/cgroup/memory"
    return {
        f"{folder}/memory.limit_in_bytes": limit,
        f"{folder}/memory.usage_in_bytes": str(used_mib * MIB),
        f"{folder}/memory.stat": f"cache 5\ntotal_cache {100 * MIB}\ntotal_shmem {30 * MIB}\n",
    }


@pytest.mark.parametrize(
    ("files", "expected_mib"),
    [
        (meminfo(500), 500),
        (meminfo(500) | cgroup("max\n", 300), 500),
        (meminfo(500) | cgroup(f"{400 * MIB}\n", 300), 400 - 300 + 70),
        (meminfo(100) | cgroup(f"{400 * MIB}\n", 300), 100),
        (meminfo(500) | first_cgroup(f"{400 * MIB}\n", 300), 400 - 300 + 70),
        (meminfo(500) | first_cgroup("9223372036854771712\n", 300), 500),
    ],
)
def test_the_smaller_of_machine_and_container(
    files: dict[str, str], expected_mib: int, tmp_path: Path
) -> None:
    write(tmp_path, files)
    assert available_bytes(tmp_path) == expected_mib * MIB


def test_another_system_does_not_say(tmp_path: Path) -> None:
    assert available_bytes(tmp_path) is None


def test_a_container_that_does_not_count_what_is_cached(tmp_path: Path) -> None:
    write(tmp_path, meminfo(500) | cgroup(f"{400 * MIB}\n", 300) | {"sys/fs/cgroup/memory.stat": "anon 5\n"})
    assert available_bytes(tmp_path) == 500 * MIB


def test_this_machine_says() -> None:
    found = available_bytes()
    assert found is None or found > 50 * MIB


def test_the_driver_tells_the_gpu_that_is_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    program.write_text(
        '#!/bin/sh\ncase "$*" in *--id=1) echo "NVIDIA T4, 15000";; *) echo "NVIDIA L4, 22478";; esac\n'
    )
    program.chmod(0o755)
    assert find_gpu() == Gpu(name="NVIDIA L4", free_bytes=22478 * MIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert find_gpu() == Gpu(name="NVIDIA T4", free_bytes=15000 * MIB)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_gpu() is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    program.write_text("#!/bin/sh\nexit 9\n")
    assert find_gpu() is None
