"""Groups of options: a command names a group, and users see its options.

Those that several commands share convert their values to fields of
:class:`pipelines.options.GenerateOptions`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Self

import typer

from jobs.option_values import parse_pairs

_RUN = "The run"


@dataclass(frozen=True, slots=True, kw_only=True)
class OptionGroup:
    """Options that commands take together; each field of a group is one."""

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Return the options as parameters of a command."""
        keyword = inspect.Parameter.KEYWORD_ONLY
        return [
            inspect.Parameter(one.name, keyword, annotation=one.type, default=one.default)
            for one in dataclasses.fields(cls)
        ]

    @classmethod
    def build(cls, given: dict[str, Any]) -> Self:
        """Build the group from its options, which are removed from ``given``."""
        return cls(**{one.name: given.pop(one.name) for one in cls.parameters()})

    def given_options(self) -> list[str]:
        """Return the options that differ from their defaults."""
        return [one.name for one in self.parameters() if getattr(self, one.name) != one.default]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(OptionGroup):
    """How to reach object storage."""

    s3_endpoint: Annotated[
        str | None, typer.Option("--s3-endpoint", help="S3-compatible server to use instead of AWS.")
    ] = None
    s3_region: Annotated[str | None, typer.Option("--s3-region", help="Region of the bucket.")] = None

    def settings(self) -> dict[str, Any]:
        """Return the fields of StorageOptions."""
        return {"s3_endpoint_url": self.s3_endpoint, "s3_region": self.s3_region}

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        return {"storage": self.settings()}


class ProgressMode(StrEnum):
    """How progress is displayed."""

    AUTO = "auto"
    BAR = "bar"
    JSON = "json"
    QUIET = "quiet"


@dataclass(frozen=True, slots=True, kw_only=True)
class DisplayOptions(OptionGroup):
    """What a run shows while it works."""

    progress: Annotated[
        ProgressMode,
        typer.Option(
            help="bar: for people; json: one JSON object per line; quiet: nothing; auto: a bar.",
            rich_help_panel=_RUN,
        ),
    ] = ProgressMode.AUTO
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Ray's and the workers' logs.", rich_help_panel=_RUN)
    ] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ServedEngineOptions(OptionGroup):
    """What the engines of an endpoint are."""

    tp: Annotated[
        int | None, typer.Option(metavar="N", help="Split each engine over N GPUs (tensor parallel).")
    ] = None
    precision: Annotated[
        str | None,
        typer.Option(
            help="bf16, or fp8: the transformer's products in 8-bit floats, on GPUs that have units for them."
        ),
    ] = None
    memory: Annotated[
        str | None,
        typer.Option(
            metavar="MODE",
            help="resident, or 16gb, 8gb or 4gb to fit a smaller GPU (zimage models lists what they take).",
        ),
    ] = None
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Whether to compile the transformer (torch.compile); by default on accelerators.",
        ),
    ] = None
    fake: Annotated[bool, typer.Option("--fake", help="Make instant coloured tiles without a model.")] = False

    def update(self, model: dict[str, Any]) -> None:
        """Change one of a configuration's ``models``; what is not given stays."""
        if self.tp is not None:
            model["tensor_parallel_size"] = self.tp
        if self.precision is not None:
            model.setdefault("engine", {})["precision"] = self.precision
        if self.memory is not None:
            model.setdefault("engine", {})["memory"] = self.memory
        if self.compile is not None:
            model.setdefault("engine", {})["compile"] = self.compile
        if self.fake:
            model.setdefault("engine", {})["fake"] = True


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerOptions(OptionGroup):
    """What the clients of an endpoint may ask for, and what they get."""

    alias: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=ID", help="Further name of a model, such as gpt-image-1=z-image-turbo; repeatable."
        ),
    ] = None
    local_urls: Annotated[
        bool,
        typer.Option(
            "--local-urls", help="Answer with URLs of images too, which are kept in memory for an hour."
        ),
    ] = False
    public_url: Annotated[
        str | None,
        typer.Option(
            help="Address at which clients reach the endpoint, for these URLs; by default each request's own."
        ),
    ] = None
    strict_fields: Annotated[
        bool,
        typer.Option("--strict-fields", help="Refuse request fields that would be accepted and ignored."),
    ] = False

    def update(self, args: dict[str, Any]) -> None:
        """Change the ``args`` of a configuration file; what is not given stays."""
        if self.alias:
            args.setdefault("aliases", {}).update(parse_pairs(self.alias, field="alias", form="NAME=ID"))
        if self.local_urls:
            args["local_urls"] = args.get("local_urls") or {}
        if self.public_url is not None:
            args["public_url"] = self.public_url
        if self.strict_fields:
            args["strict_fields"] = True


def with_groups(command: Callable[..., int]) -> Callable[..., int]:
    """Let a command take groups of options; typer sees the options of each group as the command's own."""
    groups: dict[str, type[OptionGroup]] = {}
    parameters: list[inspect.Parameter] = []
    signature = inspect.signature(command)
    for parameter in signature.parameters.values():
        group = parameter.annotation
        if isinstance(group, type) and issubclass(group, OptionGroup):
            groups[parameter.name] = group
            parameters += group.parameters()
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @functools.wraps(command)
    def run(**given: Any) -> int:
        built = {name: group.build(given) for name, group in groups.items()}
        return command(**given, **built)

    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
