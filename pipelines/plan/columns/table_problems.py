"""What is wrong with how a job reads a table, told in one message."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import pyarrow as pa

from pipelines.hub_features import feature_of
from pipelines.options import GenerateOptions
from pipelines.plan.file_names import OWN_COLUMNS, NameTemplate
from pipelines.plan.fill_down import FillDown
from pipelines.plan.templates import KeyTemplate, PromptTemplate, RowFilter
from zimage_models.errors import InvalidRequest


def template_problems(options: GenerateOptions, schema: pa.Schema) -> Iterator[InvalidRequest]:
    """Yield what is wrong with the options that name columns in a text, such as a template."""
    names = schema.names
    checks: tuple[tuple[object, Callable[[], object]], ...] = (
        (options.fill_down, lambda: FillDown(options.fill_down, schema)),
        (options.where, lambda: RowFilter(options.where or "", columns=names)),
        (options.template, lambda: PromptTemplate(options.template or "", columns=names)),
        (options.key, lambda: KeyTemplate(options.key or "", columns=names)),
        (
            options.name,
            lambda: NameTemplate(
                options.name or "",
                columns=[*OWN_COLUMNS, *names],
                image_format=options.encoding.format,
            ),
        ),
    )
    for is_given, check in checks:
        try:
            if is_given:
                check()
        except InvalidRequest as error:
            yield error


def type_problems(types: Mapping[str, pa.DataType]) -> Iterator[InvalidRequest]:
    """Yield what is wrong with the types of columns to copy, by name."""
    for name, dtype in types.items():
        try:
            feature_of(dtype, column=name)
        except InvalidRequest as error:
            yield error


def raise_all(problems: Sequence[InvalidRequest]) -> None:
    """Raise the problems as one error, if there are any.

    Raises:
        InvalidRequest: the only problem, or all of them, numbered.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        told = "; ".join(f"({number}) {problem}" for number, problem in enumerate(problems, start=1))
        raise InvalidRequest(f"columns: {len(problems)} problems: {told}", field="columns")
