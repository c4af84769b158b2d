"""Options that say what images are made, and how their files are written."""

import inspect
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Self

import typer

from jobs.option_groups import OptionGroup
from zimage_models.field_spec import FieldKind, RequestField, Way
from zimage_models.model_spec import DEFAULT_MODEL
from zimage_models.request_fields import fields_of

_IMAGE = "What to make (a row's own fields take precedence)"
_OUTPUT = "What to write"


class ImageFormat(StrEnum):
    """Formats of image files."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"


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
        # Words arrive as members of the enumerations that typer needs.
        return {
            "fields": {
                name: str(value) if isinstance(value, StrEnum) else value
                for name, value in named.items()
                if value is not None
            }
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FileOptions(OptionGroup):
    """How to write the image files."""

    image_format: Annotated[
        ImageFormat, typer.Option(help="Format of the image files.", rich_help_panel=_OUTPUT)
    ] = ImageFormat.PNG
    image_quality: Annotated[
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
        # Imports Pillow and NumPy, which --help does not need.
        from zimage_models.image_files.image_codec import Encoding

        encoding = Encoding(
            format=self.image_format.value, quality=self.image_quality, embed_prompt=self.embed_prompt
        )
        return {"encoding": encoding, "name": self.name}


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
