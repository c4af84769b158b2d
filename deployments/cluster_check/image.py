"""The Dockerfile and the images that other files name: one image, one Ray, one Python."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray

from deployments.cluster_check.documents import Document, Place, Problem

_RAY_IMAGE = re.compile(r"rayproject/ray:(?P<ray>\d+\.\d+\.\d+)-py(?P<major>\d)(?P<minor>\d+)(?P<kind>-.+)?")
_INSTRUCTIONS = {
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "RUN",
}
_INSTRUCTIONS |= {"SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"}
_PLACEHOLDER = "registry.example.com/"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedImage:
    """An image that a file tells the nodes to run."""

    document: Document
    place: Place

    @property
    def name(self) -> str:
        """The image."""
        return str(self.document.get(*self.place))

    def problem(self, message: str, *, to_fill_in: bool = False) -> Problem:
        """Say what is wrong with it."""
        return self.document.problem(self.place, message, to_fill_in=to_fill_in)


def image_problems(images: Sequence[NamedImage]) -> Iterator[Problem]:
    """Check that all nodes run one image, and always the same one."""
    for image in images:
        name, _, tag = image.name.rpartition(":")
        if image.name != images[0].name:
            first = images[0].problem("")
            yield image.problem(f"{image.name}, but {first.file}:{first.line} has {images[0].name}")
        elif not name or "/" in tag or tag == "latest":
            yield image.problem(f"{image.name} has no tag of its own: later nodes would run another image")
        elif "rayproject/ray" in image.name:
            yield image.problem(f"{image.name} holds no zimage: name the image that the Dockerfile makes")
        elif image is images[0] and image.name.startswith(_PLACEHOLDER):
            yield image.problem(f"{image.name} is a placeholder for your registry", to_fill_in=True)


def dockerfile_problems(path: Path, file: str) -> Iterator[Problem]:
    """Check the Dockerfile against the checkout it stands in."""

    def problem(line: int, place: str, message: str) -> Problem:
        return Problem(file=file, line=line, place=place, message=message)

    root = path.parent
    copied = set()
    installs = False
    bases = []
    for line, name, value in _instructions(path.read_text(encoding="utf-8")):
        if name not in _INSTRUCTIONS:
            yield problem(line, name, "is no instruction of a Dockerfile")
        elif name == "FROM":
            bases.append(value)
            yield from (problem(line, "FROM", message) for message in _base_faults(value, root))
        elif name == "COPY":
            sources = [word for word in value.split()[:-1] if not word.startswith("--")]
            copied |= set(sources)
            for source in sources:
                if not (root / source).exists():
                    yield problem(line, "COPY", f"{source} is not in {root.resolve().name}/")
        elif name == "RUN" and "-c constraints.txt" in value:
            installs = True
    if not bases:
        yield problem(1, "FROM", "is missing")
    if not installs:
        yield problem(
            1,
            "RUN",
            "nothing is installed with -c constraints.txt, so versions are not the tested ones",
        )
    for package in _project(root, "tool", "hatch", "build", "targets", "wheel", "packages"):
        if package not in copied:
            yield problem(1, "COPY", f"{package}, a package of pyproject.toml, is not copied")


def _base_faults(base: str, root: Path) -> Iterator[str]:
    match = _RAY_IMAGE.fullmatch(base)
    if match is None:
        yield f"{base} is no Ray image with its versions, such as rayproject/ray:{ray.__version__}-py311-gpu"
        return
    if match["ray"] != ray.__version__:
        yield f"Ray {match['ray']}, but the project's is {ray.__version__}"
    python = f"{match['major']}.{match['minor']}"
    tested = [
        text.rpartition(" ")[2]
        for text in _project(root, "project", "classifiers")
        if text.startswith("Programming Language :: Python :: 3.")
    ]
    if tested and python not in tested:
        yield f"Python {python}, but the project is for {', '.join(tested)}"
    if not match["kind"]:
        yield f"{base} is without CUDA: take {base}-gpu"
    constraints = root / "constraints.txt"
    if constraints.exists() and f"\nray=={match['ray']}\n" not in constraints.read_text(encoding="utf-8"):
        yield f"Ray {match['ray']}, but constraints.txt pins another"


def _instructions(text: str) -> Iterator[tuple[int, str, str]]:
    start = 0
    words: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("#") or (not stripped and not words):
            continue
        start = start if words else number
        words.append(stripped.removesuffix("\\"))
        if not stripped.endswith("\\"):
            name, _, value = " ".join(words).partition(" ")
            yield start, name.upper(), value.strip()
            words = []


def _project(root: Path, *place: str) -> list[str]:
    """Return a list of ``pyproject.toml``, an empty one where there is none."""
    path = root / "pyproject.toml"
    value: Any = tomllib.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for key in place:
        value = value.get(key, {})
    return list(value)
