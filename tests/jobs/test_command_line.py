"""The command line as a shell sees it: what each command imports, and how a missing Ray ends one."""

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
import sys
from jobs import cli
code = cli.run(sys.argv[2:])
print(code, *(name for name in sys.argv[1].split() if name in sys.modules), file=sys.stderr)
"""


def imported(*arguments: object, of: tuple[str, ...]) -> list[str]:
    """Run a command in a process of its own; returns its exit code and which of the modules it imported."""
    command = [sys.executable, "-c", RUN_AND_LIST_MODULES, " ".join(of), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stderr.splitlines()[-1].split()


def commands() -> list[list[str]]:
    named = [command.name for command in cli.app.registered_commands]
    return [[], *([str(name)] for name in named), ["cluster"], ["cluster", "check"], ["cluster", "sync"]]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    assert imported(*command, "--help", of=HEAVY) == ["0"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "table.csv"],
        ["generate", "table.csv", "out", "--bogus"],
        ["generate", "table.csv", "out", "--engines", "many"],
        ["generate", "table.csv", "out", "--all-errors"],
        ["status", "out", "--limit", "3"],
        ["serve", "--port", "-1"],
        ["explode"],
    ],
    ids=" ".join,
)
def test_usage_errors_import_nothing_heavy(arguments: list[str]) -> None:
    assert imported(*arguments, of=(*HEAVY[:3], "boto3", "pandas")) == ["2"]


@pytest.mark.parametrize("command", ["status", "verify", "models"])
def test_looking_at_a_data_set_imports_neither_ray_nor_torch(command: str) -> None:
    arguments = [] if command == "models" else [DATA_SET]
    assert imported(command, *arguments, of=("ray", "torch", "boto3")) == ["0"]


def test_export_imports_neither_ray_nor_torch(tmp_path: Path) -> None:
    folder = shutil.copytree(DATA_SET, tmp_path / "out")
    assert imported("export", folder, "--to", "files", of=("ray", "torch", "boto3")) == ["0"]
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
    [line] = done.stderr.splitlines()
    assert line.startswith("zimage: error: Ray could not be started on this machine: ")
    assert "Not a directory" in line, "Ray's own reason"
    assert "--verbose" in line, "what to do"


def test_ray_says_nothing_of_its_own(without_cluster: dict[str, str], tmp_path: Path) -> None:
    table = write_csv(tmp_path / "table.csv", [{"id": "a", "prompt": "owl"}])
    arguments = [str(table), str(tmp_path / "out"), "--fake", "--progress", "quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "jobs.cli", "generate", *arguments],
        cwd=ROOT,
        env=without_cluster,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
