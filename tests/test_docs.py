"""What the documentation names exists: files, and the classes and functions it links to."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>[^)\s#]+)(?:#[^)]*)?\)")
# A path in code font that begins with one of our folders.
NAMED_PATH = re.compile(
    r"`((?:jobs|pipelines|deployments|zimage_models|benchmarks|tests|examples|docs)/[\w./-]*)`"
)
MODULE_RUN = re.compile(r"python -m ((?:benchmarks|jobs)(?:\.\w+)+)")


def links(page: Path) -> list[tuple[str, Path]]:
    found = LINK.finditer(page.read_text("utf-8"))
    return [(link["text"], page.parent / link["target"]) for link in found if "://" not in link["target"]]


def names_in(module: Path) -> set[str]:
    """List what a module defines: functions, classes, constants, and methods as ``Class.method``."""
    names = set()
    for node in ast.parse(module.read_text("utf-8")).body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if hasattr(inner, "name")}
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [str(target) for _, target in links(page) if not target.exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_named_files_and_programs_exist(page: Path) -> None:
    text = page.read_text("utf-8")
    paths = [ROOT / path for path in NAMED_PATH.findall(text)]
    modules = [ROOT / module.replace(".", "/") for module in MODULE_RUN.findall(text)]
    programs = [one / "__main__.py" if one.is_dir() else one.with_suffix(".py") for one in modules]
    assert [str(path) for path in (*paths, *programs) if not path.exists()] == []


def test_the_walks_name_what_the_files_define() -> None:
    page = ROOT / "docs" / "architecture.md"
    steps = [
        (text.strip("`"), target)
        for text, target in links(page)
        if text.startswith("`") and target.suffix == ".py"
    ]
    assert len(steps) > 40
    assert [f"{name} in {target}" for name, target in steps if name not in names_in(target)] == []


def test_the_commands_for_claims_select_tests() -> None:
    page = (ROOT / "docs" / "testing.md").read_text("utf-8")
    commands = re.findall(r"`pytest((?: -m soak)?)((?: tests/[\w./]+)+)`", page)
    assert len(commands) > 20
    for soak, paths in commands:
        for path in paths.split():
            files = [ROOT / path] if path.endswith(".py") else (ROOT / path).rglob("test_*.py")
            assert any(_has_tests(file, soak=bool(soak)) for file in files), (
                f"pytest{soak} {path} selects nothing"
            )


def _has_tests(file: Path, *, soak: bool) -> bool:
    tree = ast.parse(file.read_text("utf-8"))
    all_soak = any("soak" in ast.unparse(node) for node in tree.body if isinstance(node, ast.Assign))
    functions = [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    marked = [
        all_soak or any(ast.unparse(mark) == "pytest.mark.soak" for mark in node.decorator_list)
        for node in functions
    ]
    return any(mark is soak for mark in marked)
