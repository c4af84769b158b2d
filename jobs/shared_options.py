"""Options that several commands take, and the values that they may have."""

from enum import StrEnum
from typing import Annotated

import typer

from zimage_models.errors import InvalidRequest

S3Endpoint = Annotated[str | None, typer.Option("--s3-endpoint", help="S3-compatible server instead of AWS.")]
S3Region = Annotated[str | None, typer.Option("--s3-region")]


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


def parse_pairs(texts: list[str], *, field: str, form: str) -> dict[str, str]:
    """Read an option of pairs, such as ``--map FIELD=COLUMN``.

    Raises:
        InvalidRequest: a text is not of the form.
    """
    pairs = {}
    for text in texts:
        name, separator, value = text.partition("=")
        if not (name and separator and value):
            raise InvalidRequest(f"{field}: {text!r} is not of the form {form}", field=field)
        pairs[name] = value
    return pairs
