"""Run one `zimage generate` in a process of its own and measure it: the driver's peak memory, phases, speed.

`python -m benchmarks.timed_job INPUT OUTPUT ...` prints one JSON object on its last line.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from jobs import cli


def timed_job(*arguments: object) -> dict[str, Any]:
    """Run the job; returns its exit code, seconds, the driver's peak memory and its published manifest."""
    start_s = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.timed_job", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    report: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    manifest = json.loads(_newest_manifest(Path(str(arguments[1]))).read_text(encoding="utf-8"))
    return {**report, "wall_s": round(time.monotonic() - start_s, 2), "manifest": manifest}


def _newest_manifest(output: Path) -> Path:
    return max((output / "_manifests").glob("*.json"))


def main() -> None:
    """Run the job in this process and report what it took."""
    code = cli.run(["generate", *sys.argv[1:], "--progress", "quiet"])
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"exit_code": int(code), "driver_peak_mb": round(peak_mb, 1)}))


if __name__ == "__main__":
    main()
