"""Everything that needs a GPU, in at most ten minutes: ``make gpu``, or ``python -m benchmarks.gpu``.

Each program prints as it goes and writes its own result under ``benchmarks/results/``. One that fails or runs
out of time does not stop the next. ``--tiny`` runs all of them on small models and the CPU.
"""

import argparse
import subprocess
import sys
import time

PROGRAMS = {
    "benchmarks.gpu.gpu_latency": ["--repeats", "3"],
    "benchmarks.gpu.sharded_load": [],
}
"""Program -> its arguments, the most important first."""


def main() -> int:
    """Run the programs one after the other, within the time there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="small models on the CPU")
    parser.add_argument("--time-limit", type=float, default=570, metavar="SECONDS", help="of all together")
    arguments = parser.parse_args()
    end_s = time.monotonic() + arguments.time_limit
    failed = []
    for program, options in PROGRAMS.items():
        left_s = max(1.0, end_s - time.monotonic())
        print(f"== {program}, at most {left_s:.0f} s", flush=True)
        command = [sys.executable, "-u", "-m", program, *options, *(["--tiny"] if arguments.tiny else [])]
        try:
            code = subprocess.run(command, timeout=left_s, check=False).returncode
        except subprocess.TimeoutExpired:
            code = -1
        if code:
            failed.append(program)
            print(f"== {program} {'ran out of time' if code == -1 else 'failed'}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
