"""Measure the CPU seconds (user and system) of commands that a person waits for, each in a fresh process.

    python -m benchmarks.command_line [--repeats 5]

The median of the repeats counts, after one run that fills the file cache. The data set holds fake images of
`examples/objects.csv`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import write_result
from jobs import cli

_TABLE = Path(__file__).parents[1] / "examples" / "objects.csv"
_HELP_S = 0.7
_STATUS_S = 2.0
_VERIFY_S = 3.0


def cpu_seconds(arguments: list[str], *, code: int = 0) -> float:
    """Run a command line, check its exit code, and return the CPU seconds of its process."""
    command = [sys.executable, "-m", "jobs.cli", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == code, (arguments, process.returncode)
    return usage.ru_utime + usage.ru_stime


def measure(arguments: list[str], limit_s: float, *, repeats: int, code: int = 0) -> dict[str, Any]:
    """Measure a command line against its limit."""
    cpu_seconds(arguments, code=code)
    cpu_s = statistics.median(cpu_seconds(arguments, code=code) for _ in range(repeats))
    return {"cpu_s": round(cpu_s, 3), "limit_s": limit_s, "met": cpu_s < limit_s}


def main() -> None:
    """Measure every command and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    names = [*(str(command.name) for command in cli.app.registered_commands), "cluster"]
    with tempfile.TemporaryDirectory() as folder:
        cpu_seconds(["generate", str(_TABLE), folder, "--fake", "--progress", "quiet"])
        results = {
            "--help": measure(["--help"], _HELP_S, repeats=repeats),
            **{f"{name} --help": measure([name, "--help"], _HELP_S, repeats=repeats) for name in names},
            "generate (no output given)": measure(["generate", "x"], _HELP_S, repeats=repeats, code=2),
            "generate --bogus": measure(["generate", "x", "y", "--bogus"], _HELP_S, repeats=repeats, code=2),
            "models": measure(["models"], _STATUS_S, repeats=repeats),
            "status": measure(["status", folder], _STATUS_S, repeats=repeats),
            "status --errors": measure(["status", folder, "--errors"], _STATUS_S, repeats=repeats),
            "verify": measure(["verify", folder], _VERIFY_S, repeats=repeats),
        }
    print(json.dumps(results, indent=2))
    write_result("command_line", {"results": results, "met": all(one["met"] for one in results.values())})


if __name__ == "__main__":
    main()
