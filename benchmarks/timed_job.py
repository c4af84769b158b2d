"""Runs one `zimage generate` in a separate process and measures the driver's peak memory, phases and speed.

`python -m benchmarks.timed_job REPORT WARM_UP INPUT OUTPUT ...` writes one JSON object to the file REPORT,
because Ray also writes to standard output. A job over the table WARM_UP (none if it is "-") runs first, so
that Ray and its workers are up.
"""

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from jobs import cli


def timed_job(*arguments: object, warm_up: Path | None = None) -> dict[str, Any]:
    """Run the job and return its exit code, seconds, the driver's peak memory and the published manifest."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        given = [file.name, str(warm_up or "-"), *map(str, arguments)]
        subprocess.run([sys.executable, "-m", "benchmarks.timed_job", *given], check=True)
        report: dict[str, Any] = json.load(file)
    manifest = json.loads(_newest_manifest(Path(str(arguments[1]))).read_text(encoding="utf-8"))
    return {**report, "manifest": manifest}


def _newest_manifest(output: Path) -> Path:
    return max((output / "_manifests").glob("*.json"))


def main() -> None:
    """Run the job in this process and write the report."""
    report, warm_up, table, output, *options = sys.argv[1:]
    options += ["--progress", "quiet"]
    if warm_up != "-":
        with tempfile.TemporaryDirectory() as folder:
            cli.run(["generate", warm_up, folder, *options])
    start_s = time.monotonic()
    code = cli.run(["generate", table, output, *options])
    wall_s = time.monotonic() - start_s
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    measured = {"exit_code": int(code), "wall_s": round(wall_s, 2), "driver_peak_mb": round(peak_mb, 1)}
    Path(report).write_text(json.dumps(measured), encoding="utf-8")


if __name__ == "__main__":
    main()
