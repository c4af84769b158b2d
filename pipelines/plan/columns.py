"""The meaning of a table's columns. It knows nothing about their values.

Guesses ignore case. A field's column may also have one of the aliases in :data:`ALIASES`, which are words
that mean nothing else in a prompt table; ``cfg``, ``name`` or ``image_url`` need ``--map``. ``mask`` and
``strength`` are guessed only in tables with an image column, ``controlnet_conditioning_scale`` only in tables
with a control image column.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import pyarrow as pa

from pipelines.part_schema import COLUMN_NAMES
from pipelines.work_table import MADE_FROM_FIELDS, PICTURE_WORK_FIELDS, WORK_FIELDS
from zimage_models.errors import InvalidRequest
from zimage_models.field_spec import Way
from zimage_models.request_fields import REQUEST_FIELDS, fields_of

_COLUMN_FIELDS = {field.outer_name: field for field in fields_of(Way.COLUMN)}
# A field that has no effect without another is guessed after it.
_IN_ORDER = sorted(_COLUMN_FIELDS.values(), key=lambda field: bool(field.needs))

ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": REQUEST_FIELDS["prompt"].aliases,
    "key": ("id", "sku", "custom_id"),
    "model": (),
    "variants": ("n",),
    **{field.outer_name: field.aliases for field in _IN_ORDER},
}
"""Fields that a column can be mapped to, and other names that a column for each may have."""

_PICTURE_FIELDS = tuple(name for name, field in _COLUMN_FIELDS.items() if field.is_picture)
_NEEDED = {
    name: REQUEST_FIELDS[field.needs].outer_name for name, field in _COLUMN_FIELDS.items() if field.needs
}
"""Fields that have no effect without another field, and that field."""

RESERVED_COLUMNS = frozenset({*COLUMN_NAMES, *(field.name for field in WORK_FIELDS)})
"""Column names that the output and the work table use themselves."""

_PICTURE_COLUMNS = frozenset(field.name for field in (*PICTURE_WORK_FIELDS, *MADE_FROM_FIELDS))
"""Further names that they use for a table with pictures."""

_TEXT_TYPES = (pa.string(), pa.large_string(), pa.string_view())
_BINARY_TYPES = (pa.binary(), pa.large_binary(), pa.binary_view())


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """The input column of each field, or None."""

    prompt: str | None
    key: str | None
    fields: dict[str, str]
    """Generation field (or ``size``) -> column."""
    pictures: dict[str, str]
    """``image`` (one or several per row), ``mask`` or ``control_image`` -> column."""
    model: str | None
    variants: str | None
    passthrough: tuple[str, ...]
    """Columns to copy into the output, in input order."""


def map_columns(
    schema: pa.Schema, *, explicit: Mapping[str, str], has_template: bool, drop: Collection[str] = ()
) -> ColumnMap:
    """Decide what each column means.

    A column with exactly a field's name comes first. Next come its name in a different case and the
    lower-case aliases, which rank the same, and last the aliases in a different case. Prompts are taken only
    from text columns, pictures only from columns that can name them.

    Columns without a meaning are passed through, and so is the key column unless it is called ``key``. With a
    template, no column is the prompt's: all are passed through, except that the rendered prompt replaces a
    column called ``prompt``.

    Args:
        schema: the input's columns.
        explicit: field -> column, or "" for none; these fields are not guessed.
        has_template: prompts come from a template.
        drop: columns to neither guess nor pass through; explicit fields and templates may still use them.

    Raises:
        InvalidRequest: an unknown field or column, no prompt, an ambiguous guess, or a column to pass through
            whose name the output uses itself.
    """
    _check_names(schema, explicit, drop)
    if has_template and explicit.get("prompt"):
        message = f"prompt: both a template and column {explicit['prompt']!r} are given; leave one out"
        raise InvalidRequest(message, field="prompt")
    taken = {*explicit.values(), *drop}
    free = [name for name in schema.names if name not in taken]
    chosen = {field: column for field, column in explicit.items() if column}
    for field in ALIASES:
        if field in explicit or (field == "prompt" and has_template):
            continue
        if _NEEDED.get(field, field) not in (field, *chosen):
            continue
        fits = _FITTING.get(field)
        candidates = [name for name in free if fits is None or fits(schema.field(name).type)]
        guess = _guess(field, candidates)
        if guess is not None:
            chosen[field] = guess
    prompt = chosen.pop("prompt", None)
    if prompt is None and not has_template:
        raise InvalidRequest(
            f"prompt: no text column is called prompt, text, caption or instruction; "
            f"columns are {_listed(schema.names)}; give --map prompt=COLUMN or --template",
            field="prompt",
        )
    key = chosen.pop("key", None)
    if key is not None and not _is_key(schema.field(key).type):
        raise InvalidRequest(
            f"key: column {key!r} is {schema.field(key).type}; keys are text or whole numbers; "
            "give --map key=COLUMN, or --map key= for none",
            field="key",
        )
    hidden = {*chosen.values(), *drop, "prompt" if has_template else prompt}
    if key == "key":
        hidden.add(key)
    passthrough = tuple(name for name in schema.names if name not in hidden)
    for name, needed in _NEEDED.items():
        if name in chosen and needed not in chosen:
            raise InvalidRequest(
                f"{name}: column {chosen[name]!r} has no effect without a column for {needed}; "
                f"give --map {needed}=COLUMN",
                field=name,
            )
    pictures = {name: chosen.pop(name) for name in _PICTURE_FIELDS if name in chosen}
    _check_reserved(passthrough, RESERVED_COLUMNS | (_PICTURE_COLUMNS if pictures else set()))
    return ColumnMap(
        prompt=prompt,
        key=key,
        model=chosen.pop("model", None),
        variants=chosen.pop("variants", None),
        fields=chosen,
        pictures=pictures,
        passthrough=passthrough,
    )


def _check_names(schema: pa.Schema, explicit: Mapping[str, str], drop: Collection[str]) -> None:
    for field in explicit:
        if field not in ALIASES:
            raise InvalidRequest(f"map: unknown field {field!r}; fields are {_listed(ALIASES)}", field="map")
    for option, columns in (("map", explicit.values()), ("drop", drop)):
        for column in columns:
            if column not in schema.names and (column or option == "drop"):
                raise InvalidRequest(
                    f"{option}: no column {column!r}; columns are {_listed(schema.names)}", field=option
                )


def _guess(field: str, candidates: list[str]) -> str | None:
    aliases = ALIASES[field]
    ranks = (
        [name for name in candidates if name == field],
        [name for name in candidates if name.lower() == field or name in aliases],
        [name for name in candidates if name.lower() in aliases],
    )
    best = next((names for names in ranks if names), [])
    if len(best) > 1:
        raise InvalidRequest(
            f"{field}: columns {_listed(best)} all match; give --map {field}=COLUMN", field=field
        )
    return best[0] if best else None


def _check_reserved(passthrough: tuple[str, ...], reserved: Collection[str]) -> None:
    for name in passthrough:
        if name in reserved:
            uses = f", use it (--map {name}={name})" if name in ALIASES else ""
            raise InvalidRequest(
                f"column {name!r}: the output has its own column of that name; "
                f"leave yours out (--drop {name}){uses} or rename it",
                field=name,
            )


def _is_text(type_: pa.DataType) -> bool:
    return (type_.value_type if isinstance(type_, pa.DictionaryType) else type_) in _TEXT_TYPES


def _can_name_pictures(type_: pa.DataType) -> bool:
    if isinstance(type_, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        type_ = type_.value_type
    if isinstance(type_, pa.StructType):
        return {field.name for field in type_} == {"bytes", "path"}
    return _is_text(type_) or type_ in _BINARY_TYPES


_FITTING: dict[str, Callable[[pa.DataType], bool]] = {
    "prompt": _is_text,
    **dict.fromkeys(_PICTURE_FIELDS, _can_name_pictures),
}
"""Type checks for columns that are guessed for a field."""


def _is_key(type_: pa.DataType) -> bool:
    return _is_text(type_) or pa.types.is_integer(type_)


def _listed(names: Collection[str]) -> str:
    shown = ", ".join(repr(name) for name in list(names)[:30])
    return shown if len(names) <= 30 else f"{shown} and {len(names) - 30} more"
