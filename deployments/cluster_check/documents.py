"""YAML documents that know the line of every value, and the problems found in them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

Place = tuple[str | int, ...]
"""The keys and indexes that lead to a value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """One mistake in a file."""

    file: str
    line: int
    place: str
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.place}: {self.message}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """One YAML document, possibly embedded in a string of another."""

    file: str
    data: Any
    lines: dict[Place, int]
    inside: Place = ()
    """The place of an embedded document in the outer one."""

    def get(self, *place: str | int) -> Any:
        """Return the value at a place, or None if there is none."""
        value = self.data
        for key in place:
            try:
                value = value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def problem(self, place: Place, message: str) -> Problem:
        """Return a problem at a place; a missing value gets the line of what should contain it."""
        known = place
        while known not in self.lines:
            known = known[:-1]
        dotted = ".".join(map(str, (*self.inside, *place))) or "."
        return Problem(file=self.file, line=self.lines[known], place=dotted, message=message)

    def embedded(self, *place: str | int) -> tuple[list["Document"], list[Problem]]:
        """Parse a block of text (``key: |``) as separate YAML documents."""
        # The text begins on the line after its key.
        return _parse(self.file, self.get(*place), self.lines[place], (*self.inside, *place))


def read_documents(path: Path) -> tuple[list[Document], list[Problem]]:
    """Parse all documents of a file; report invalid YAML and keys given twice.

    An empty file is one document without data; other empty documents are left out.
    """
    return _parse(str(path), path.read_bytes(), 0, ())


class _Loader(yaml.SafeLoader):
    """Refuses a key given twice; PyYAML would use the last one."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen = []
        for key, _ in node.value:
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.append(key.value)
        return node


def _parse(file: str, text: str | bytes, above: int, inside: Place) -> tuple[list[Document], list[Problem]]:
    documents = []
    try:
        loader = _Loader(text)
        while loader.check_node():
            root = loader.get_node()
            assert root is not None
            # Constructing copies the values of merge keys (<<) into the nodes, so lines are read afterwards.
            data = loader.construct_document(root)
            lines = {place: above + line for place, line in _lines(root, (), root.start_mark.line + 1)}
            if data is not None:
                documents.append(Document(file=file, data=data, lines=lines, inside=inside))
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date such as 2026-13-01
        mark = getattr(error, "problem_mark", None)
        message = f"is not valid YAML: {getattr(error, 'problem', None) or error}"
        place = ".".join(map(str, inside)) or "."
        line = above + (mark.line + 1 if mark else 1)
        return [], [Problem(file=file, line=line, place=place, message=message)]
    return documents or [Document(file=file, data=None, lines={(): above + 1}, inside=inside)], []


def _lines(node: yaml.Node, place: Place, line: int) -> Iterator[tuple[Place, int]]:
    yield place, line
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _lines(value, (*place, key.value), key.start_mark.line + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _lines(value, (*place, index), value.start_mark.line + 1)
