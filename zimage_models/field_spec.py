"""What one entry in the table of request fields says."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, StrEnum, auto
from typing import Any

from zimage_models.model_spec import ModelSpec


class FieldKind(StrEnum):
    """The type of a field's values."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    CHOICE = "choice"
    """One of a few words."""
    SIZE = "size"
    """``WIDTHxHEIGHT``, which sets two other fields."""
    PICTURE = "picture"
    PICTURES = "pictures"


class Way(Flag):
    """An input or output that has a field."""

    COLUMN = auto()
    """A column of a prompt table."""
    OPTION = auto()
    """An option of ``zimage generate``, for rows that do not set the field."""
    BATCH_LINE = auto()
    """The body of a line of an OpenAI batch file."""
    HTTP = auto()
    """The body of ``POST /v1/images/generations`` and ``/v1/images/edits``."""
    HTTP_EDIT = auto()
    """The form of ``POST /v1/images/edits`` only."""
    PART = auto()
    """A column of every part of a data set."""
    IMAGE_FILE = auto()
    """The metadata of the image file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestField:
    """One field. Its limits hold for every model; ``high_of`` returns one model's upper limit."""

    name: str
    """Name in :class:`zimage_models.requests.ImageRequest`."""
    kind: FieldKind
    ways: Way
    summary: str = ""
    """Text for help and API descriptions."""
    arrow_type: str = ""
    """Name of the Arrow type in work tables and parts; empty for pictures, which are not stored there."""
    low: float | None = None
    high: float | None = None
    if_low: str = ""
    """What to do instead of a value below ``low`` or a word, for messages."""
    if_high_of: Callable[[ModelSpec], str] = lambda spec: ""
    """Why values above ``high`` are refused, for messages."""
    is_above_low: bool = False
    """Whether values must be above ``low``, not equal to it."""
    choices: tuple[str, ...] = ()
    default: Any = None
    """Default value; None if the field is required or the model decides."""
    default_of: Callable[[ModelSpec], Any] | None = None
    high_of: Callable[[ModelSpec], float] | None = None
    aliases: tuple[str, ...] = ()
    """Other names accepted for its column."""
    option: str = ""
    """Shorter name on the command line, if there is one."""
    public_name: str = ""
    """Name in tables and for clients, if it differs."""
    needs: str = ""
    """Picture field without which it has no effect."""
    hash_column: str = ""
    """Column for the sha256 of its files, in data sets made from pictures."""

    @property
    def is_picture(self) -> bool:
        """Whether its values are pictures."""
        return self.kind in (FieldKind.PICTURE, FieldKind.PICTURES)

    @property
    def is_of_edits(self) -> bool:
        """Whether only requests with pictures use it."""
        return self.is_picture or bool(self.needs)

    @property
    def outer_name(self) -> str:
        """Name in tables and for clients."""
        return self.public_name or self.name

    @property
    def option_name(self) -> str:
        """Name on the command line, in Python's spelling."""
        return self.option or self.name

    def default_for(self, spec: ModelSpec) -> Any:
        """Return a model's default for it; None if it is required."""
        return self.default if self.default_of is None else self.default_of(spec)

    def limits_for(self, spec: ModelSpec) -> tuple[float, float]:
        """Return the lowest and the highest number that a model takes."""
        high = self.high if self.high_of is None else self.high_of(spec)
        assert self.low is not None, f"{self.name} is not a number"
        assert high is not None, f"{self.name} has no fixed upper limit"
        return self.low, high
