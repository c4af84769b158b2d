"""Groups of options that several commands share: a command names a group, and users see its options.

Each group converts its values to fields of :class:`pipelines.options.GenerateOptions`.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

import typer

from jobs.option_values import parse_pairs
from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.image_files.image_codec import Encoding
from zimage_models.model_spec import DEFAULT_MODEL
from zimage_models.request_fields import fields_of

_INPUT = "What to read"
_IMAGE = "What to make (a row's own fields take precedence)"
_OUTPUT = "What to write"


class ImageFormat(StrEnum):
    """Formats of image files."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"


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
class TableOptions(OptionGroup):
    """How to read a prompt table."""

    format: Annotated[
        str | None,
        typer.Option(
            help="parquet, csv, tsv, jsonl or openai-batch; by default from the suffix.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Read a field from this column, or from none with FIELD=; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN",
            help="Do not copy this column to the output; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    template: Annotated[
        str | None,
        typer.Option(
            help='Build the prompt from columns: "Studio photo of {{brand}} {{title}}" (Jinja2).',
            rich_help_panel=_INPUT,
        ),
    ] = None
    where: Annotated[
        str | None,
        typer.Option(
            help="Keep only rows for which this Jinja2 expression is true: \"category == 'shoes'\".",
            rich_help_panel=_INPUT,
        ),
    ] = None
    limit: Annotated[int | None, typer.Option(help="Use at most this many rows.", rich_help_panel=_INPUT)] = (
        None
    )
    image_root: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER",
            help="Folder that image paths are relative to and may not leave; by default the table's.",
            rich_help_panel=_INPUT,
        ),
    ] = None
    allow_urls: Annotated[
        bool,
        typer.Option("--allow-urls", help="Fetch images from public web addresses.", rich_help_panel=_INPUT),
    ] = False
    trust_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST[:PORT]",
            help="Also fetch images from this host, even if its address is not public; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        return {
            "input_format": self.format,
            "columns": parse_pairs(self.map or [], field="map", form="FIELD=COLUMN", may_be_empty=True),
            "drop": tuple(self.drop or ()),
            "template": self.template,
            "where": self.where,
            "limit": self.limit,
            "image_root": self.image_root,
            "allow_urls": self.allow_urls,
            "trusted_hosts": tuple(self.trust_host or ()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions(OptionGroup):
    """Which model generates the images, and how many per row."""

    model: Annotated[
        str, typer.Option(help="Embedded model, folder, Hub ID or s3:// address.", rich_help_panel=_IMAGE)
    ] = DEFAULT_MODEL
    variant: Annotated[
        str | None,
        typer.Option(help="turbo, base or edit, for models not known by name.", rich_help_panel=_IMAGE),
    ] = None
    controlnet: Annotated[
        str | None, typer.Option(help="ControlNet: folder, Hub ID or s3:// address.", rich_help_panel=_IMAGE)
    ] = None
    max_prompt_tokens: Annotated[
        int | None,
        typer.Option(help="Token limit of prompts, including the chat template.", rich_help_panel=_IMAGE),
    ] = None
    variants: Annotated[int, typer.Option(help="Images per row.", rich_help_panel=_IMAGE)] = 1
    seed: Annotated[
        int,
        typer.Option(help="Job seed; rows without a seed derive theirs from it.", rich_help_panel=_IMAGE),
    ] = 0

    def engine_values(self) -> dict[str, Any]:
        """Return the fields of EngineConfig."""
        return {
            "model": self.model,
            "variant": self.variant,
            "controlnet": self.controlnet,
            "max_prompt_tokens": self.max_prompt_tokens,
        }

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        return {"variants": self.variants, "seed": self.seed}


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldOptions(OptionGroup):
    """Values of request fields for rows that leave them open, one option per entry of the table of fields."""

    given: dict[str, Any] = field(default_factory=dict)
    """Values by name of the option."""

    @classmethod
    def parameters(cls) -> list[inspect.Parameter]:
        """Return the options as parameters of a command."""
        return [_field_parameter(one) for one in fields_of(Way.OPTION)]

    @classmethod
    def build(cls, given: dict[str, Any]) -> Self:
        """Build the group from its options, which are removed from ``given``."""
        return cls(given={one.name: given.pop(one.name) for one in cls.parameters()})

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        named = {one.name: self.given[one.option_name] for one in fields_of(Way.OPTION)}
        return {"fields": {name: value for name, value in named.items() if value is not None}}


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions(OptionGroup):
    """How to write the image files."""

    image_format: Annotated[ImageFormat, typer.Option(rich_help_panel=_OUTPUT)] = ImageFormat.PNG
    quality: Annotated[
        int | None, typer.Option(help="Quality 1..100, for jpeg, webp and avif.", rich_help_panel=_OUTPUT)
    ] = None
    embed_prompt: Annotated[
        bool,
        typer.Option(
            "--embed-prompt/--no-embed-prompt",
            help="Write the prompt into each image file.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True
    name: Annotated[
        str | None,
        typer.Option(
            help='Build file names from columns: "{sku}/{variant:02d}.png".', rich_help_panel=_OUTPUT
        ),
    ] = None

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        encoding = Encoding(
            format=self.image_format.value, quality=self.quality, embed_prompt=self.embed_prompt
        )
        return {"encoding": encoding, "name": self.name}


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(OptionGroup):
    """How to reach object storage."""

    s3_endpoint: Annotated[
        str | None, typer.Option("--s3-endpoint", help="S3-compatible server to use instead of AWS.")
    ] = None
    s3_region: Annotated[str | None, typer.Option("--s3-region", help="Region of the bucket.")] = None

    def values(self) -> dict[str, Any]:
        """Return the fields of GenerateOptions."""
        return {"storage": {"s3_endpoint_url": self.s3_endpoint, "s3_region": self.s3_region}}


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


_OPTION_TYPES: dict[FieldKind, Any] = {
    FieldKind.TEXT: str,
    FieldKind.SIZE: str,
    FieldKind.INTEGER: int,
    FieldKind.NUMBER: float,
    FieldKind.BOOLEAN: bool,
}


def _field_parameter(one: RequestField) -> inspect.Parameter:
    metavar = "WIDTHxHEIGHT" if one.kind is FieldKind.SIZE else None
    words: Any = StrEnum(one.name, {word: word for word in one.choices}) if one.choices else None
    option = typer.Option(help=one.summary, metavar=metavar, rich_help_panel=_IMAGE, show_default=False)
    return inspect.Parameter(
        one.option_name,
        inspect.Parameter.KEYWORD_ONLY,
        annotation=Annotated[(words or _OPTION_TYPES[one.kind]) | None, option],
        default=None,
    )
