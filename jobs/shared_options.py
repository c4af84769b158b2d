"""Options that several commands take, and the values that they may have."""

from enum import StrEnum
from typing import Annotated

import typer

from zimage_models.errors import InvalidRequest

INPUT_PANEL = "What to read"

S3Endpoint = Annotated[str | None, typer.Option("--s3-endpoint", help="S3-compatible server instead of AWS.")]
S3Region = Annotated[str | None, typer.Option("--s3-region")]

ImageRoot = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Where paths of images start, and which they never leave; by default the table's folder.",
        rich_help_panel=INPUT_PANEL,
    ),
]
AllowUrls = Annotated[
    bool,
    typer.Option("--allow-urls", help="Fetch images from public web addresses.", rich_help_panel=INPUT_PANEL),
]
TrustHost = Annotated[
    list[str] | None,
    typer.Option(
        metavar="HOST[:PORT]",
        help="Fetch images from this host too, whatever its address; repeatable.",
        rich_help_panel=INPUT_PANEL,
    ),
]


class ProgressMode(StrEnum):
    """How progress is told."""

    AUTO = "auto"
    BAR = "bar"
    JSON = "json"
    QUIET = "quiet"


class ImageFormat(StrEnum):
    """Formats of image files."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    AVIF = "avif"


class EngineHost(StrEnum):
    """Whose engines make the images."""

    OWN = "own"
    SERVE = "serve"


def parse_pairs(texts: list[str], *, field: str, form: str, may_be_empty: bool = False) -> dict[str, str]:
    """Read an option of pairs, such as ``--map FIELD=COLUMN``, whose values may be empty if so said.

    Raises:
        InvalidRequest: a text is not of the form.
    """
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and (value or may_be_empty)):
            raise InvalidRequest(f"{field}: {text!r} is not of the form {form}", field=field)
        pairs[name] = value
    return pairs
