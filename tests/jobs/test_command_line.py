"""The command line as a shell sees it: what each command imports, and how a missing Ray ends one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs import cli
from tests.jobs.test_generate import write_csv

ROOT = Path(__file__).parents[2]
DATA_SET = ROOT / "tests" / "data" / "release_0_1" / "plain"
HEAVY = ("ray", "torch", "pyarrow", "boto3", "PIL", "numpy", "jinja2", "pandas", "diffusers")

RUN_AND_LIST_MODULES = """
import json
import sys
from jobs import cli
found = [
    [cli.run(command), *(name for name in json.loads(sys.argv[1]) if name in sys.modules)]
    for command in json.loads(sys.argv[2])
]
print(json.dumps(found), file=sys.stderr)
"""
USAGE_ERRORS = (
    "generate",
    "generate table.csv",
    "generate table.csv out --bogus",
    "generate table.csv out --engines many",
    "generate table.csv out --all-errors",
    "status out --limit 3",
    "serve --port -1",
    "explode",
)


def imported(*commands: str, of: tuple[str, ...]) -> dict[str, tuple[object, ...]]:
    """Run commands in a new process; return each one's exit code and which modules are imported after it."""
    arguments = [json.dumps(of), json.dumps([command.split() for command in commands])]
    done = subprocess.run(
        [sys.executable, "-c", RUN_AND_LIST_MODULES, *arguments], cwd=ROOT, capture_output=True, text=True
    )
    return dict(zip(commands, map(tuple, json.loads(done.stderr.splitlines()[-1])), strict=True))


def test_help_imports_nothing_heavy() -> None:
    names = ["", *(str(command.name) for command in cli.app.registered_commands)]
    commands = [f"{name} --help" for name in (*names, "cluster", "cluster check", "cluster sync")]
    assert imported(*commands, of=HEAVY) == dict.fromkeys(commands, (0,))


def test_usage_errors_import_nothing_heavy() -> None:
    found = imported(*USAGE_ERRORS, of=("ray", "torch", "pyarrow", "boto3", "pandas"))
    assert found == dict.fromkeys(USAGE_ERRORS, (2,))


def test_looking_at_a_data_set_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA_SET, tmp_path / "out")
    commands = ["models", f"status {folder}", f"verify {folder}", f"export {folder} --to files"]
    assert imported(*commands, of=("ray", "torch", "boto3")) == dict.fromkeys(commands, (0,))
    assert any((folder / "images").iterdir())


@pytest.fixture
def without_cluster() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}


@pytest.mark.parametrize("command", ["generate", "serve"])
def test_ray_that_does_not_start_is_one_line_and_code_1(
    command: str, without_cluster: dict[str, str], tmp_path: Path
) -> None:
    table = write_csv(tmp_path / "table.csv", [{"id": "a", "prompt": "owl"}])
    arguments = [str(table), str(tmp_path / "out"), "--progress", "quiet"] if command == "generate" else []
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", command, *arguments, "--fake"],
        cwd=ROOT,
        env={**without_cluster, "RAY_TMPDIR": str(tmp_path / "file" / "ray")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    *told, line = done.stderr.splitlines()
    assert told == (["starting Ray"] if command == "serve" else [])
    assert line.startswith("zimage: error: Ray could not be started on this machine: ")
    assert "Not a directory" in line, "Ray's own reason"
    assert "--verbose" in line, "what to do"
