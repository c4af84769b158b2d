"""The rules of the house that no linter knows, and one that a linter holds."""

import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("jobs", "pipelines", "deployments", "zimage_models")
ATTICS = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_LINES = 320
MAX_MEDIAN_LINES = 110
MAX_FILES = 16

# None in sys.modules makes `import ray` fail and find_spec answer "none", as on a machine without Ray.
IMPORT_EVERY_MODEL_MODULE_WITHOUT_RAY = """
import importlib.util, pkgutil, sys
sys.modules.update(dict.fromkeys(["ray", "fastapi", "starlette", "pydantic"]))
import zimage_models
for module in pkgutil.walk_packages(zimage_models.__path__, "zimage_models."):
    if module.name.endswith(".block_kernels") and not importlib.util.find_spec("triton"):
        continue  # it comes with torch for GPUs
    print(importlib.import_module(module.name).__name__)
"""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def shown(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def num_lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


def test_models_import_without_ray_and_pydantic() -> None:
    command = [sys.executable, "-c", IMPORT_EVERY_MODEL_MODULE_WITHOUT_RAY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "zimage_models.engine.engine" in done.stdout.split()


def lint_imports(root: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    # The packages of this folder come first, whatever is installed.
    environment = {**os.environ, "PYTHONPATH": str(root)}
    return subprocess.run([program, "--no-cache"], cwd=root, env=environment, capture_output=True, text=True)


def test_imports_run_one_way() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "imported"),
    [
        ("zimage_models/models/prompt_encoder.py", "zimage_models.engine.engine"),
        ("zimage_models/checkpoints/tiny.py", "zimage_models.tensor_parallel.parallel"),
        ("zimage_models/pictures.py", "zimage_models.image_files.xmp"),
        ("zimage_models/checkpoints/components.py", "boto3"),
        ("pipelines/dataset/publish.py", "pipelines.run.run_plan"),
        ("pipelines/dataset/ledger.py", "pipelines.sources.open_source"),
        ("pipelines/plan/columns/choose_columns.py", "pipelines.dataset.parts"),
        ("deployments/access/callers.py", "deployments.http.openai_errors"),
        ("deployments/model_server.py", "deployments.app"),
        ("jobs/ray_session.py", "jobs.generate"),
    ],
)
def test_a_local_import_of_a_room_above_breaks_the_rule(module: str, imported: str, tmp_path: Path) -> None:
    for room in ROOMS:
        shutil.copytree(
            ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("embedded", "__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / module).open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef _planted() -> None:\n    import {imported}\n")
    done = lint_imports(tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "BROKEN" in done.stdout
    assert module.removesuffix(".py").replace("/", ".") in " ".join(done.stdout.split())


def test_every_room_is_a_package() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "__init__.py").is_file()] == []


def test_no_module_is_an_attic() -> None:
    assert shown([path for path in sources(*ROOMS, "benchmarks", "tests") if path.stem in ATTICS]) == []


def test_no_module_is_named_like_the_standard_library() -> None:
    names = sys.stdlib_module_names
    assert shown([path for path in sources(*ROOMS, "benchmarks", "tests") if path.stem in names]) == []


def test_no_product_file_is_too_long() -> None:
    product = sources(*ROOMS, "benchmarks")
    assert shown([path for path in product if num_lines(path) > MAX_LINES]) == []


def test_product_files_are_short_as_a_rule() -> None:
    # The empty __init__.py files do not count.
    assert statistics.median(filter(None, map(num_lines, sources(*ROOMS)))) <= MAX_MEDIAN_LINES


def test_no_folder_of_the_product_is_too_full() -> None:
    folders = {path.parent for path in sources(*ROOMS, "benchmarks")}
    full = [folder for folder in folders if sum(path.is_file() for path in folder.iterdir()) > MAX_FILES]
    assert shown(full) == []


def test_tests_mirror_the_rooms() -> None:
    # A folder of tests is named like the room that it tests, or its modules share what its conftest starts.
    rooms = (*ROOMS, "benchmarks")
    folders = {path.parent for room in rooms for path in (ROOT / "tests" / room).rglob("test_*.py")}
    strangers = [
        folder
        for folder in folders
        if not (ROOT / folder.relative_to(ROOT / "tests")).is_dir() and not (folder / "conftest.py").is_file()
    ]
    assert shown(sorted(strangers)) == []


@pytest.mark.parametrize("folder", [*ROOMS, "benchmarks", "tests"])
def test_annotations_are_not_postponed(folder: str) -> None:
    # Ray Serve then no longer sees the type of an application builder's argument and passes it a plain dict.
    banned = "from __future__ import " + "annotations"
    assert shown([path for path in sources(folder) if banned in path.read_text("utf-8")]) == []
