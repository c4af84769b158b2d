"""Templates in Jinja over one row's columns: prompts, keys and filters.

The person who runs the job writes them; rows are only data and never read as templates. Jinja's sandbox is
restricted further: no built-in functions (so no ``range`` to loop over), no other templates, nothing random
(a run must be repeatable), no powers, no repeated strings, and texts of at most 100 kB. A careless author
can still write nested loops over a long column, macros that call themselves, and padding to a huge width
(``center``, ``ljust``, ``"%9999d"``).
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from numbers import Number
from typing import Any

from jinja2 import (
    StrictUndefined,
    TemplateError,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    meta,
    nodes,
)
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import missing

from pipelines.plan.keys import check_key, key_text
from pipelines.plan.template_columns import (
    columns_read,
    in_single_braces,
    listed,
    misspelled,
    quoted,
    spelled,
    unknown_columns,
)
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import shown

MAX_PROMPT_BYTES = 100_000

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


class PromptTemplate:
    """A template that makes a prompt from a row's columns: ``Studio photo of {{ brand }} {{ title }}``.

    If a column's name is not an identifier, write ``{{ row["Variant SKU"] }}``. A null column is an error
    unless the template checks it first: ``{% if colour %}``, ``{{ colour or "plain" }}``,
    ``{{ colour|default("plain") }}``.

    Args:
        text: the template, in Jinja syntax.
        columns: the known columns.

    Attributes:
        columns_used: every column that the template can read; None if that may be any.

    Raises:
        InvalidRequest: a syntax error or an unknown column.
    """

    def __init__(self, text: str, *, columns: Collection[str]) -> None:
        self._text = _TextTemplate(text, columns, "template", _part_of_prompt)
        self.columns_used = self._text.columns_used

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the prompt for one row, which needs to hold only the columns used.

        Raises:
            InvalidRequest: a null column, a value that does not fit the template, or more than 100 kB.
        """
        return self._text.render(row)


class KeyTemplate:
    """A template that makes a row's key from its columns: ``{{ category }}-{{ id }}``.

    It is written like a `PromptTemplate`. Values that are no text are written as `key_text` does.

    Args:
        text: the template, in Jinja syntax.
        columns: the known columns.

    Attributes:
        columns_used: every column that the template can read; None if that may be any.

    Raises:
        InvalidRequest: a syntax error or an unknown column.
    """

    def __init__(self, text: str, *, columns: Collection[str]) -> None:
        self._text = _TextTemplate(text, columns, "key", _part_of_key)
        self.columns_used = self._text.columns_used

    def render(self, row: Mapping[str, Any]) -> str:
        """Return the key of one row, which needs to hold only the columns used.

        Raises:
            InvalidRequest: a null column, a value that does not fit the template, or a text that is no key.
        """
        return check_key(self._text.render(row))


class RowFilter:
    """A condition on a row's columns: ``Category == "Animals" and price|float > 3``.

    A null column is None. Columns of CSV files are text: compare numbers as ``price|float``.

    Args:
        expression: a Jinja expression.
        columns: the known columns.

    Attributes:
        columns_used: every column that the expression can read; None if that may be any.

    Raises:
        InvalidRequest: a syntax error or an unknown column.
    """

    def __init__(self, expression: str, *, columns: Collection[str]) -> None:
        environment = _Environment(undefined=StrictUndefined)
        try:
            self._expression = environment.compile_expression(expression, undefined_to_none=False)
            # It compiled, so the braces hold one whole expression.
            tree = environment.parse(f"{{{{ {expression} }}}}")
        except _PARSE_ERRORS as error:
            raise _unreadable(error, expression, columns, "where") from error
        self.columns_used = _checked_columns(tree, expression, columns, "where")

    def keep(self, row: Mapping[str, Any]) -> bool:
        """Return whether the row, which needs to hold only the columns used, meets the condition.

        Raises:
            InvalidRequest: a value does not fit the expression.
        """
        try:
            return bool(self._expression({"row": row, **row}))
        except _RENDER_ERRORS as error:
            empty = [name for name in sorted(self.columns_used or ()) if row.get(name) is None]
            if not empty:
                raise InvalidRequest(f"where: {error}", field="where") from error
            raise InvalidRequest(
                f"where: {_are_empty(empty)}; check first: {spelled(empty[0], 'where')} and ... ({error})",
                field="where",
            ) from error


class _TextTemplate:
    def __init__(
        self,
        text: str,
        columns: Collection[str],
        option: str,
        finalize: Callable[[Any], Any],
    ) -> None:
        self._option = option
        environment = _Environment(undefined=EmptyColumn, finalize=finalize)
        try:
            self._template = environment.from_string(text)
            tree = environment.parse(text)
        except _PARSE_ERRORS as error:
            raise _unreadable(error, text, columns, option) from error
        self.columns_used = _checked_columns(tree, text, columns, option)
        if (column := in_single_braces(tree, columns or ())) is not None:
            example = f"{{{{ {spelled(column, option)} }}}}"
            message = f"{option}: {{{column}}} is plain text; the column is written {example}"
            raise InvalidRequest(message, field=option)

    def render(self, row: Mapping[str, Any]) -> str:
        cells = _Cells((name, value) for name, value in row.items() if value is not None)
        variables = cells if "row" in row else {"row": cells, **cells}
        try:
            return self._joined(self._template.generate(variables))
        except _RENDER_ERRORS as error:
            raise self._unsuitable(error, cells) from error

    def _joined(self, parts: Iterable[str]) -> str:
        kept = []
        num_bytes = 0
        for part in parts:
            num_bytes += len(part.encode())
            if num_bytes > MAX_PROMPT_BYTES:
                message = f"{self._option}: its text is longer than {MAX_PROMPT_BYTES} bytes"
                raise InvalidRequest(message, field=self._option)
            kept.append(part)
        return "".join(kept)

    def _unsuitable(self, error: Exception, cells: Mapping[str, Any]) -> InvalidRequest:
        empty = [name for name in sorted(self.columns_used or ()) if name not in cells]
        if not isinstance(error, EmptyColumnError):
            hint = f" (empty in this row: {listed(empty)})" if empty else ""
            return InvalidRequest(f"{self._option}: {error}{hint}", field=self._option)
        column = str(error)
        empty = list(dict.fromkeys([column, *empty]))
        fill = "fill it" if len(empty) == 1 else "fill them"
        example = f'{{{{ {spelled(column, self._option)}|default("something") }}}}'
        return InvalidRequest(
            f"{self._option}: {_are_empty(empty)}; {fill}, or write {example}", field=self._option
        )


class _Cells(dict[str, Any]):
    """The cells of a row that are not null."""


class EmptyColumnError(UndefinedError):
    """A template uses a column that is null in this row; the message is the column's name."""


class EmptyColumn(StrictUndefined):
    """A column that is null in this row; Jinja's messages may name this class."""

    __slots__ = ()

    def __init__(
        self,
        hint: str | None = None,
        obj: Any = missing,
        name: str | None = None,
        exc: type[TemplateRuntimeError] = UndefinedError,
    ) -> None:
        is_column = hint is None and (obj is missing or isinstance(obj, _Cells))
        super().__init__(hint, obj, name, EmptyColumnError if is_column else exc)

    @property
    def _undefined_message(self) -> str:
        is_column = self._undefined_exception is EmptyColumnError
        return str(self._undefined_name) if is_column else super()._undefined_message

    def __bool__(self) -> bool:  # type: ignore[override]  # so that a template can check for null
        return False


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("*", "**"))

    def __init__(self, *, undefined: type[Undefined], finalize: Callable[[Any], Any] | None = None) -> None:
        super().__init__(undefined=undefined, finalize=finalize, autoescape=False)
        self.globals.clear()
        del self.filters["random"]

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "**" or not (isinstance(left, Number) and isinstance(right, Number)):
            raise SecurityError("'*' takes two numbers, and '**' is not available")
        return super().call_binop(context, operator, left, right)


def _part_of_prompt(value: Any) -> Any:
    # As text it would have its address in memory, another one each run.
    if callable(value) and not isinstance(value, Undefined):
        raise TypeError('a function is no text: add (), or write row["NAME"] for a column of that name')
    return value


def _part_of_key(value: Any) -> Any:
    if isinstance(value, str | Undefined):
        return value
    try:
        return key_text(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{error}, or make it text with |string", field="key") from error


def _checked_columns(
    tree: nodes.Template, text: str, columns: Collection[str], option: str
) -> frozenset[str] | None:
    if any(True for _ in meta.find_referenced_templates(tree)):
        raise InvalidRequest(f"{option}: other templates can't be used", field=option)
    named, reads_all = columns_read(tree, columns)
    if unknown := sorted(named.difference(columns)):
        hints = {name: misspelled(text, columns, option, name) for name in unknown}
        raise unknown_columns(hints, columns, option)
    return None if reads_all else named


def _unreadable(error: Exception, text: str, columns: Collection[str], option: str) -> InvalidRequest:
    # A syntax error as text has several lines.
    reason = str(error.message if isinstance(error, TemplateSyntaxError) else error).rstrip(".")
    hint = misspelled(text, columns, option)
    return InvalidRequest(f"{option}: {shown(text)}: {reason}{hint}", field=option)


def _are_empty(columns: list[str]) -> str:
    if len(columns) == 1:
        return f"the column {quoted(columns[0])} is empty in this row"
    return f"the columns {listed(columns)} are empty in this row"
