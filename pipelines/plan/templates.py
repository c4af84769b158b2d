"""Templates over one row's columns: prompts and filters in Jinja, file names in Python's format syntax.

The person who runs the job writes them; rows are only data and never read as templates. Jinja's sandbox is
restricted further: no built-in functions (so no ``range`` to loop over), no other templates, nothing random
(a run must be repeatable), no powers, no repeated strings, and prompts of at most 100 kB. A careless author
can still write nested loops over a long column, macros that call themselves, and padding to a huge width
(``center``, ``ljust``, ``"%9999d"``).
"""

import re
import string
import unicodedata
from collections.abc import Collection, Iterable, Mapping
from numbers import Number
from typing import Any

from jinja2 import StrictUndefined, TemplateError, Undefined, meta, nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from zimage_models.errors import InvalidRequest
from zimage_models.image_files.image_codec import SUFFIXES

DEFAULT_NAME = "{key}_{variant:02d}.{ext}"
MAX_PROMPT_BYTES = 100_000
MAX_KEY_BYTES = 400
MAX_NAME_BYTES = 900
MAX_SEGMENT_BYTES = 200

_PARSE_ERRORS = (TemplateError, RecursionError, SyntaxError)
_RENDER_ERRORS = (
    TemplateError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
_OTHER_SUFFIXES = {"jpeg": (".jpeg",)}
_FORBIDDEN = frozenset('<>:"|?*\\')  # Windows refuses them
_CONTROL_CATEGORIES = ("Cc", "Cs", "Zl", "Zp")
_TOO_WIDE = re.compile(r"\d{4}")


class PromptTemplate:
    """A template that makes a prompt from a row's columns: ``Studio photo of {{ brand }} {{ title }}``.

    If a column's name is not an identifier, write ``{{ row["Variant SKU"] }}``. A null column is an error
    unless the template checks it first: ``{% if colour %}``, ``{{ colour or "plain" }}``,
    ``{{ colour|default("plain") }}``.

    Args:
        text: the template, in Jinja syntax.
        columns: the known columns; None to check them row by row.

    Raises:
        InvalidRequest: a syntax error or an unknown column.
    """

    def __init__(self, text: str, *, columns: Collection[str] | None = None) -> None:
        environment = _Environment(undefined=_NullColumn)
        try:
            self._template = environment.from_string(text)
            self._columns_used = _columns_used(environment.parse(text), columns, "template")
        except _PARSE_ERRORS as error:
            raise InvalidRequest(f"template: {text[:60]!r}: {error}", field="template") from error

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the prompt for one row.

        Raises:
            InvalidRequest: a null column, a value that does not fit the template, or more than 100 kB.
        """
        values = {name: value for name, value in row.items() if value is not None}
        try:
            return _joined(self._template.generate({"row": values, **values}))
        except _RENDER_ERRORS as error:
            null = [name for name in self._columns_used if name not in values]
            hint = f" (null in this row: {', '.join(null)})" if null else ""
            raise InvalidRequest(f"template: {error}{hint}", field="template") from error


class RowFilter:
    """A condition on a row's columns: ``Category == "Animals" and price|float > 3``.

    A null column is None. Columns of CSV files are text: compare numbers as ``price|float``.

    Args:
        expression: a Jinja expression.
        columns: the known columns; None to check them row by row.

    Raises:
        InvalidRequest: a syntax error or an unknown column.
    """

    def __init__(self, expression: str, *, columns: Collection[str] | None = None) -> None:
        environment = _Environment(undefined=StrictUndefined)
        try:
            self._expression = environment.compile_expression(expression, undefined_to_none=False)
            # It compiled, so the braces hold one whole expression.
            _columns_used(environment.parse(f"{{{{ {expression} }}}}"), columns, "where")
        except _PARSE_ERRORS as error:
            raise InvalidRequest(f"where: {expression[:60]!r}: {error}", field="where") from error

    def keep(self, row: Mapping[str, Any]) -> bool:
        """Return whether the row meets the condition.

        Raises:
            InvalidRequest: a value does not fit the expression.
        """
        try:
            return bool(self._expression({"row": row, **row}))
        except _RENDER_ERRORS as error:
            raise InvalidRequest(f"where: {error}", field="where") from error


class NameTemplate:
    """A template that makes a file name from a row's columns: ``{sku}/{variant:02d}.png``.

    The syntax is Python's format syntax, limited to plain column names with optional format specifications.
    ``{ext}`` is always the image format's suffix, without the dot.

    Args:
        text: the template.
        columns: the known columns.
        image_format: one of `image_codec.IMAGE_FORMATS`; the name must end in its suffix.

    Raises:
        InvalidRequest: a syntax error, an unknown column, another suffix, or an unsafe path.
    """

    def __init__(self, text: str, *, columns: Collection[str], image_format: str) -> None:
        suffixes = (SUFFIXES[image_format], *_OTHER_SUFFIXES.get(image_format, ()))
        self._literals = [""]
        self._fields: list[tuple[str, str]] = []
        for literal, column, specification, conversion in _parsed_name(text):
            self._literals[-1] += literal
            if column == "ext" and not specification and not conversion:
                self._literals[-1] += SUFFIXES[image_format].removeprefix(".")
            elif column is not None:
                if column not in columns:
                    listed = ", ".join(sorted({*columns, "ext"}))
                    raise InvalidRequest(f"name: no column {column!r}; columns are {listed}", field="name")
                self._fields.append((column, _plain_format(column, specification or "", conversion)))
                self._literals.append("")
        if not self._literals[-1].lower().endswith(suffixes):
            raise InvalidRequest(
                f"name: {text!r} does not end in {' or '.join(suffixes)}, the suffix of {image_format}",
                field="name",
            )
        _check_path("x".join(self._literals), "name", MAX_NAME_BYTES)

    def render(self, row: Mapping[str, Any]) -> str:
        """Return one image's file name.

        Returns:
            A relative POSIX path that is safe on every disk and in S3.

        Raises:
            InvalidRequest: a value is null, empty or does not fit its format, or the path is unsafe.
        """
        parts = [self._literals[0]]
        for (column, specification), literal in zip(self._fields, self._literals[1:], strict=True):
            parts += [_formatted(column, row.get(column), specification), literal]
        return _check_path("".join(parts), "name", MAX_NAME_BYTES)


def check_key(key: str) -> str:
    """Return a row's key if it can be part of a file name.

    A key may have several parts, as in ``shoes/123``; at most 400 bytes, 200 per part.

    Raises:
        InvalidRequest: the key cannot be part of a file name.
    """
    return _check_path(key, "key", MAX_KEY_BYTES)


class _NullColumn(StrictUndefined):
    def __bool__(self) -> bool:  # type: ignore[override]  # so that a template can check for null
        return False


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def __init__(self, *, undefined: type[Undefined]) -> None:
        super().__init__(undefined=undefined, autoescape=False)
        self.globals.clear()
        del self.filters["random"]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (isinstance(left, Number) and isinstance(right, Number)):
            raise SecurityError("'*' takes two numbers, and '**' is not available")
        return super().call_binop(context, operator, left, right)


def _columns_used(tree: nodes.Template, columns: Collection[str] | None, option: str) -> list[str]:
    if any(True for _ in meta.find_referenced_templates(tree)):
        raise InvalidRequest(f"{option}: other templates can't be used", field=option)
    used = meta.find_undeclared_variables(tree)
    if "row" in used and (columns is None or "row" not in columns):
        used.remove("row")
        for item in tree.find_all(nodes.Getitem):
            is_of_row = isinstance(item.node, nodes.Name) and item.node.name == "row"
            if is_of_row and isinstance(item.arg, nodes.Const):
                used.add(str(item.arg.value))
    missing = sorted(used.difference(used if columns is None else columns))
    if missing:
        listed = ", ".join(repr(name) for name in columns or ())
        raise InvalidRequest(f"{option}: no column {missing[0]!r}; columns are {listed}", field=option)
    return sorted(used)


def _joined(parts: Iterable[str]) -> str:
    kept = []
    num_bytes = 0
    for part in parts:
        num_bytes += len(part.encode())
        if num_bytes > MAX_PROMPT_BYTES:
            message = f"template: the prompt is longer than {MAX_PROMPT_BYTES} bytes"
            raise InvalidRequest(message, field="template")
        kept.append(part)
    return "".join(kept)


def _parsed_name(text: str) -> list[tuple[str, str | None, str | None, str | None]]:
    try:
        return list(string.Formatter().parse(text))
    except ValueError as error:
        raise InvalidRequest(f"name: {text!r}: {error}", field="name") from error


def _plain_format(column: str, specification: str, conversion: str | None) -> str:
    if conversion or "{" in specification:
        message = f"name: {{{column}}} can only have a plain format, such as {{{column}:>8}}"
        raise InvalidRequest(message, field="name")
    if _TOO_WIDE.search(specification):
        message = f"name: the format {specification!r} of {{{column}}} is wider than 999"
        raise InvalidRequest(message, field="name")
    return specification


def _formatted(column: str, value: Any, specification: str) -> str:
    if value is None or value == "":
        raise InvalidRequest(f"name: column {column!r} is empty in this row", field="name")
    try:
        return format(value, specification)
    except (ValueError, TypeError, OverflowError) as error:
        message = f"name: column {column!r}: {str(value)[:60]!r} does not fit {specification!r} ({error})"
        raise InvalidRequest(message, field="name") from error


def _check_path(path: str, field: str, max_bytes: int) -> str:
    def refuse(reason: str) -> InvalidRequest:
        shown = repr(path) if len(path) <= 80 else f"{path[:80]!r}..."
        return InvalidRequest(f"{field}: {shown} {reason}", field=field)

    for char in path:
        if char in _FORBIDDEN or unicodedata.category(char) in _CONTROL_CATEGORIES:
            raise refuse(f"contains {char!r}, which is not allowed in file names")
    if len(path.encode()) > max_bytes:
        raise refuse(f"is {len(path.encode())} bytes long; the limit is {max_bytes}")
    for segment in path.split("/"):
        if not segment:
            raise refuse("is empty or has an empty part between slashes")
        if segment.startswith(".") or segment.endswith("."):
            raise refuse(f"has the part {segment!r}, which begins or ends with a dot")
        if segment != segment.strip():
            raise refuse(f"has the part {segment!r}, which begins or ends with a space")
        if len(segment.encode()) > MAX_SEGMENT_BYTES:
            raise refuse(f"has a part of {len(segment.encode())} bytes; the limit is {MAX_SEGMENT_BYTES}")
    return path
