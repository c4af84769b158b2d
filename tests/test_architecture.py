"""The rules of the house that no linter knows, and one that a linter holds."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("jobs", "pipelines", "deployments", "zimage_models")
ATTICS = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_LINES = 320

# None in sys.modules makes `import ray` fail and find_spec answer "none", as on a machine without Ray.
IMPORT_EVERY_MODEL_MODULE_WITHOUT_RAY = """
import importlib, pkgutil, sys
sys.modules.update(dict.fromkeys(["ray", "fastapi", "starlette", "pydantic"]))
import zimage_models
for module in pkgutil.walk_packages(zimage_models.__path__, "zimage_models."):
    print(importlib.import_module(module.name).__name__)
"""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def shown(paths: list[Path]) -> list[str]:
    return [str(path.relative_to(ROOT)) for path in paths]


def test_models_import_without_ray_and_pydantic() -> None:
    command = [sys.executable, "-c", IMPORT_EVERY_MODEL_MODULE_WITHOUT_RAY]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "zimage_models.engine.engine" in done.stdout.split()


def test_imports_run_one_way() -> None:
    lint_imports = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([lint_imports, "--no-cache"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_room_is_a_package() -> None:
    assert [room for room in ROOMS if not (ROOT / room / "__init__.py").is_file()] == []


def test_no_module_is_an_attic() -> None:
    assert shown([path for path in sources(*ROOMS, "benchmarks", "tests") if path.stem in ATTICS]) == []


def test_no_module_is_named_like_the_standard_library() -> None:
    names = sys.stdlib_module_names
    assert shown([path for path in sources(*ROOMS, "benchmarks", "tests") if path.stem in names]) == []


def test_no_product_file_is_too_long() -> None:
    product = sources(*ROOMS, "benchmarks")
    assert shown([path for path in product if len(path.read_text("utf-8").splitlines()) > MAX_LINES]) == []


@pytest.mark.parametrize("folder", [*ROOMS, "benchmarks", "tests"])
def test_annotations_are_not_postponed(folder: str) -> None:
    # Ray Serve then no longer sees the type of an application builder's argument and passes it a plain dict.
    banned = "from __future__ import " + "annotations"
    assert shown([path for path in sources(folder) if banned in path.read_text("utf-8")]) == []
