"""What was decided about a table's columns, and how it is told to people."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from zimage_models.field_values import shown

_NUM_LISTED = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMap:
    """The input column of each field, or None; and what becomes of the other columns."""

    prompt: str | None
    """None: prompts come from a template."""
    key: str | None
    key_template: str | None
    """Template of the keys, if no column is the key; None for both: keys come from the rows' content."""
    fields: dict[str, str]
    """Generation field (or ``size``) -> column."""
    pictures: dict[str, str]
    """``image`` (one or several per row), ``mask`` or ``control_image`` -> column."""
    has_recorded_seeds: bool = False
    """Whether the seeds are those that a data set of ours records. Releases before 0.3 recorded larger ones,
    of which torch's CPU generator read the lower 32 bits."""
    model: str | None
    variants: str | None
    passthrough: dict[str, str]
    """Columns to copy into the output, in input order -> their names there."""
    left_out: tuple[str, ...]
    """Columns that are neither used nor copied."""
    notes: tuple[str, ...]
    """What readers of the output may not expect, a sentence each."""
    hints: tuple[str, ...]
    """What the person who runs the job may have meant otherwise, a sentence each."""

    def lines(self) -> list[str]:
        """Return what each column became, in a few short lines however many columns there are."""
        used = {"prompt": self.prompt, "key": self.key, **self.pictures, **self.fields}
        used |= {"variants": self.variants, "model": self.model}
        sources = {field: column_text(column) for field, column in used.items() if column is not None}
        sources.setdefault("prompt", "the template")
        template = self.key_template or ""
        is_one_line = template.isprintable() and len(template) <= 200
        sources.setdefault("key", (template if is_one_line else "a template") or "the row's content")
        order = [name for name in used if name in sources]
        lines = ["columns: " + "; ".join(f"{name} <- {sources[name]}" for name in order)]
        copied = [
            column_text(column) if name == column else f"{column_text(column)} as {column_text(name)}"
            for column, name in self.passthrough.items()
        ]
        if copied:
            lines.append(f"copied: {first_of(copied)}")
        if self.left_out:
            lines.append(f"left out: {first_of([column_text(name) for name in self.left_out])}")
        return lines


def renamings(passthrough: Mapping[str, str]) -> list[str]:
    """Return a note of the columns that have another name in the output, if there are any."""
    renamed = [
        f"{column_text(column)} to {column_text(name)}"
        for column, name in passthrough.items()
        if name != column
    ]
    return [f"renamed, because the output has its own: {first_of(renamed)}"] if renamed else []


def column_text(name: str) -> str:
    """Return a column's name for a line of text, in quotes if it would be unclear or long without."""
    is_clear = name.isprintable() and name == name.strip() and 0 < len(name) <= 60
    return name if is_clear and not set(name) & set(",;'\"") else shown(name)


def first_of(texts: Sequence[str]) -> str:
    """Return the first of some texts, and how many more there are."""
    text = ", ".join(texts[:_NUM_LISTED])
    return text if len(texts) <= _NUM_LISTED else f"{text} and {len(texts) - _NUM_LISTED} more"
