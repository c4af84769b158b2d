"""YAML documents that know the line of every value, and the problems found in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Problem:
    """Something that would go wrong on the cluster, or that its owner has yet to fill in."""

    file: str
    line: int
    place: str
    message: str
    to_fill_in: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.place}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document, possibly embedded in a string of another."""

    file: str
    data: Any
    lines: dict[Place, int]
    inside: Place = ()
    """Where in the file's own document an embedded one stands."""

    def get(self, *place: str | int, default: Any = None) -> Any:
        """Return the value at a place, or the default where there is none."""
        value = self.data
        for key in place:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return default
        return default if value is None else value

    def problem(self, place: Place, message: str, *, to_fill_in: bool = False) -> Problem:
        """Say what is wrong at a place; a missing value is reported at the line of what should hold it."""
        known = place
        while known and known not in self.lines:
            known = known[:-1]
        dotted = ".".join(str(key) for key in (*self.inside, *place)) or "."
        return Problem(
            file=self.file,
            line=self.lines.get(known, 1),
            place=dotted,
            message=message,
            to_fill_in=to_fill_in,
        )

    def embedded(self, *place: str | int) -> tuple[list["Document"], list[Problem]]:
        """Parse a block of text (``key: |``) at a place as YAML of its own."""
        # The text begins on the line after its key.
        return _parse(self.file, str(self.get(*place)), self.lines[place], (*self.inside, *place))


def read_documents(path: Path, file: str) -> tuple[list[Document], list[Problem]]:
    """Parse all documents of a file; what can't be parsed, or says a key twice, is a problem."""
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return [], [Problem(file=file, line=1, place=".", message=f"is not UTF-8: {error}")]
    return _parse(file, text, 0, ())


def _parse(file: str, text: str, above: int, inside: Place) -> tuple[list[Document], list[Problem]]:
    documents = []
    problems = []
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            root = loader.get_node()
            assert root is not None
            doubled = list(_doubled_keys(root, ()))
            # Constructing resolves merge keys (<<) in place: only then has every value a node.
            data = loader.construct_document(root)
            lines = {place: above + line for place, line in _lines(root, (), root.start_mark.line + 1)}
            document = Document(file=file, data=data, lines=lines, inside=inside)
            problems += [document.problem(place, "is given twice") for place in doubled]
            if data is not None:
                documents.append(document)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = above + (mark.line + 1 if mark else 1)
        what = str(getattr(error, "problem", None) or error)
        dotted = ".".join(map(str, inside)) or "."
        problems.append(Problem(file=file, line=line, place=dotted, message=f"is not YAML: {what}"))
    finally:
        loader.dispose()
    return documents, problems


def _children(node: yaml.Node, place: Place) -> Iterator[tuple[Place, int, yaml.Node]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*place, key.value), key.start_mark.line + 1, value
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1, value


def _lines(node: yaml.Node, place: Place, line: int) -> Iterator[tuple[Place, int]]:
    yield place, line
    for child, child_line, value in _children(node, place):
        yield from _lines(value, child, child_line)


def _doubled_keys(node: yaml.Node, place: Place) -> Iterator[Place]:
    seen = set()
    for child, _, value in _children(node, place):
        if child in seen and child[-1] != "<<":
            yield child
        seen.add(child)
        yield from _doubled_keys(value, child)
