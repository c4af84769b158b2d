"""All tests and measurements that need a GPU, in ten minutes: ``make gpu``, or ``python -m benchmarks.gpu``.

Each program prints as it goes and writes its result under ``benchmarks/results/`` (``out/`` with ``--tiny``).
If one fails or runs out of time, the next still runs. ``--tiny`` runs them all on small models and the CPU.
"""

import argparse
import subprocess
import sys
import tempfile
import time

PROGRAMS: tuple[tuple[str, ...], ...] = (
    ("pytest", "-m", "gpu", "-n", "0", "-q", "tests/zimage_models"),
    ("benchmarks.gpu.gpu_latency", "--repeats", "3"),
    ("benchmarks.gpu.whole_product", "--folder", "{folder}/released"),
    ("benchmarks.gpu.gpu_latency", "--fp8", "--repeats", "2"),
    ("benchmarks.gpu.memory_modes",),
    ("benchmarks.gpu.sharded_load", "--folder", "{folder}/released"),
)
"""Modules and their arguments, the most important first; the folder is one that they share."""


def main() -> int:
    """Run the programs one after the other until the time limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU")
    parser.add_argument(
        "--time-limit", type=float, default=570, metavar="SECONDS", help="for all programs together"
    )
    arguments = parser.parse_args()
    end_s = time.monotonic() + arguments.time_limit
    failed = []
    with tempfile.TemporaryDirectory() as folder:
        for program, *options in PROGRAMS:
            left_s = max(1.0, end_s - time.monotonic())
            print(f"== {program}, at most {left_s:.0f} s", flush=True)
            command = [sys.executable, "-u", "-m", program]
            command += [option.format(folder=folder) for option in options]
            if arguments.tiny and program != "pytest":
                command.append("--tiny")
            try:
                code = subprocess.run(command, timeout=left_s, check=False).returncode
                problem = f"failed with exit code {code}" if code else None
            except subprocess.TimeoutExpired:
                problem = "ran out of time"
            if problem:
                failed.append(program)
                print(f"== {program} {problem}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
