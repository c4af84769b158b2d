"""Which columns a template reads, and how to speak of columns to the person who runs the job."""

import json
import keyword
import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from itertools import islice

from jinja2 import meta, nodes

from zimage_models.errors import InvalidRequest

_MAX_LISTED = 30
_TEMPLATES = ("template", "key", "where")
_CONSTANTS = ("true", "false", "none")
_SINGLE_BRACES = re.compile(r"\{ *([^{}]+?) *\}")
_IN_BRACES = re.compile(r"\{[{%](.*?)(?:[}%]\}|\Z)", re.DOTALL)


def columns_read(tree: nodes.Template, columns: Collection[str]) -> tuple[frozenset[str], bool]:
    """Return the columns that a Jinja template names, and whether it can read any others too.

    Args:
        tree: the parsed template, in which columns are variables and items of ``row``.
        columns: the known columns.
    """
    names = meta.find_undeclared_variables(tree)
    if "row" not in names or "row" in columns:
        return frozenset(names), False
    names.remove("row")
    # What is done with the row other than to take one cell of it, such as row|tojson, may read any.
    rows = [node for node in tree.find_all(nodes.Name) if node.name == "row"]
    num_others = len(rows)
    for node in tree.find_all(nodes.Expr):
        if not isinstance(node, nodes.Getitem | nodes.Getattr) or node.node not in rows:
            continue
        name = node.attr if isinstance(node, nodes.Getattr) else _constant(node.arg)
        # Jinja takes row.items for the method, and row["items"] too if there is no such column.
        may_be_method = isinstance(node, nodes.Getattr) or name not in columns
        if name is not None and not (may_be_method and hasattr(dict, name)):
            names.add(name)
            num_others -= 1
    return frozenset(names), num_others > 0


def quoted(name: str) -> str:
    """Return a column's name in double quotes, which templates read as well."""
    return json.dumps(name, ensure_ascii=False)


def listed(names: Collection[str]) -> str:
    """Return up to thirty names as text."""
    first = list(map(quoted, islice(names, _MAX_LISTED)))
    if len(names) > _MAX_LISTED:
        first.append(f"{len(names) - _MAX_LISTED} more")
    return " and ".join([*([", ".join(first[:-1])] if len(first) > 1 else []), *first[-1:]])


def spelled(column: str, option: str) -> str:
    """Return how a person writes a column in this option."""
    if option == "name":
        return f"{{{column}}}"
    if option not in _TEMPLATES:
        return quoted(column)
    is_variable = column.isidentifier() and not keyword.iskeyword(column) and column not in _CONSTANTS
    return column if is_variable else f"row[{quoted(column)}]"


def misspelled(text: str, columns: Iterable[str], option: str, word: str = "") -> str:
    """Return a hint if a template reads a column by a name that no variable can have: ``{{ Variant SKU }}``.

    Args:
        text: the template.
        columns: the known columns.
        option: the option that gave it.
        word: a part of the column's name.

    Returns:
        The hint, or "" if no such column is in the template.
    """
    code = text if option == "where" else " ".join(_IN_BRACES.findall(text))
    found = [
        name
        for name in columns
        if name in code and word in name and spelled(name, option) != name and not _is_quoted(name, code)
    ]
    if not found:
        return ""
    column = max(found, key=len)
    example = spelled(column, option) if option == "where" else f"{{{{ {spelled(column, option)} }}}}"
    return f" (the column {quoted(column)} is written {example})"


def in_single_braces(tree: nodes.Template, columns: Iterable[str]) -> str | None:
    """Return a column that a template names as ``--name`` does, ``{title}``; Jinja takes it for text."""
    known = set(columns)
    texts = (node.data for node in tree.find_all(nodes.TemplateData))
    return next((name for text in texts for name in _SINGLE_BRACES.findall(text) if name in known), None)


def closest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that a misspelled one resembles, or None."""
    folded = {one.casefold(): one for one in reversed(list(known))}
    found = get_close_matches(name.casefold(), folded, n=1)
    return folded[found[0]] if found else None


def unknown_column(name: str, columns: Iterable[str], option: str) -> InvalidRequest:
    """Return the error for a column that is not in the table, with the closest one."""
    return unknown_columns({name: ""}, columns, option)


def unknown_columns(hints: Mapping[str, str], columns: Iterable[str], option: str) -> InvalidRequest:
    """Return the error for columns that are not in the table, with the closest ones if there are no hints.

    Args:
        hints: their names, and a hint or "" for each.
        columns: the known columns.
        option: the option that named them.
    """
    known = list(dict.fromkeys(columns))
    told = []
    for name, hint in hints.items():
        if not hint and (guess := closest(name, known)):
            hint = f" (did you mean {spelled(guess, option)}?)"
        told.append(f"no column {quoted(name)}{hint}")
    message = f"{option}: {', '.join(told)}; columns are {listed(known)}"
    return InvalidRequest(message, field=option)


def _constant(node: nodes.Node) -> str | None:
    return node.value if isinstance(node, nodes.Const) and isinstance(node.value, str) else None


def _is_quoted(name: str, code: str) -> bool:
    return any(f"{mark}{name}{mark}" in code for mark in "\"'")
