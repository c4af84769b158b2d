"""The meaning of a table's columns.

Fields are guessed from the columns' names. Names that mean nothing else in a prompt table are taken as they
are; those that mean something else in a catalogue (``size``, ``height``, ``image``, ``model`` and so on) only
where types, values and the job leave no other reading. ``--map`` decides otherwise.
"""

import pyarrow as pa

from pipelines.options import GenerateOptions
from pipelines.plan.columns.column_hints import hints, map_option
from pipelines.plan.columns.column_map import ColumnMap, renamings
from pipelines.plan.columns.column_names import (
    ALIASES,
    COLUMN_FIELDS,
    MADE_FROM_COLUMNS,
    NEEDED,
    PICTURE_COLUMNS,
    RESERVED_COLUMNS,
    best_named,
    free_name,
    look_alike,
)
from pipelines.plan.columns.column_values import (
    ValueCheck,
    accepted_values,
    check_values,
    holds_pictures,
    is_text,
    is_text_or_number,
    may_name_pictures,
)
from pipelines.plan.columns.own_output import KEY_OF_VARIANTS, OwnOutput
from pipelines.plan.columns.table_problems import raise_all, template_problems, type_problems
from pipelines.plan.template_columns import closest, listed, quoted, unknown_column
from pipelines.sources.source_rows import Source
from zimage_models.errors import InvalidRequest
from zimage_models.field_values import is_written_number
from zimage_models.model_spec import ModelSpec

_PICTURES = tuple(name for name, field in COLUMN_FIELDS.items() if field.is_picture)
_SIZE_FIELDS = ("size", "width", "height")
_BY_VALUE = (("size",), ("width", "height"), ("strength",))
"""Fields whose columns are taken, together, only if their values can mean nothing else."""
# A field that has no effect without another is guessed after it.
_FIRST = ("prompt", "key", *sorted(_PICTURES, key=lambda name: name in NEEDED))
_LATER = tuple(name for name in ALIASES if name not in _FIRST)
_NUMBERS = ("seed", "num_inference_steps", "guidance_scale", "variants")
"""Fields whose columns are taken only if they may hold numbers: a catalogue's may list seeds or recipes."""


def choose_columns(source: Source, *, options: GenerateOptions, spec: ModelSpec) -> ColumnMap:
    """Decide what each column of a table means.

    Columns without a meaning are passed through, under another name if theirs is taken in the output, and so
    is the key column unless it is called ``key``. With a template, no column is the prompt. If the table is
    our own output, columns that only describe its images are left out. Rows are read only where a column's
    meaning depends on its values.

    Raises:
        InvalidRequest: everything that is wrong with the table's columns, in one message: an unknown field or
            column, a template that can't be used, no prompt, an ambiguous guess, a type that can't be a key,
            a field without the one that it needs, or a type that `datasets` can't hold.
    """
    return _Chooser(source, options, spec).choose()


class _Chooser:
    def __init__(self, source: Source, options: GenerateOptions, spec: ModelSpec) -> None:
        self._source = source
        self._options = options
        self._spec = spec
        self._types = {field.name: field.type for field in source.schema}
        taken = {*options.columns.values(), *options.drop}
        self._free = [name for name in self._types if name not in taken]
        self._is_batch_file = source.format == "openai-batch"
        self._own = OwnOutput.find(self._types, spec)
        self._is_image_job = bool(spec.variant.max_reference_images) or "strength" in options.fields
        self._chosen: dict[str, str] = {}
        self._problems: list[InvalidRequest] = []

    def choose(self) -> ColumnMap:
        self._take_explicit()
        self._refuse_unreadable()
        for name in _FIRST:
            self._guess(name)
        self._check_prompt()
        self._check_key()
        for name in self._clear_fields():
            self._guess(name)
        self._check_needs()
        key_template = self._key_template()
        passthrough, left_out = self._copied()
        self._problems += type_problems({name: self._types[name] for name in passthrough})
        raise_all(self._problems)
        refused = {*self._options.columns, "prompt", *(["key"] if key_template else [])}
        advice = hints(
            self._source.schema,
            copied=passthrough,
            chosen=self._chosen,
            refused=refused,
            has_image_job=self._is_image_job,
            has_controlnet=self._spec.controlnet is not None or self._is_batch_file,
        )
        notes = [
            *(self._own.notes(self._chosen, key_template) if self._own else ()),
            *renamings(passthrough),
        ]
        fields = dict(self._chosen)
        return ColumnMap(
            prompt=fields.pop("prompt", None),
            key=fields.pop("key", None),
            key_template=key_template,
            model=fields.pop("model", None),
            variants=fields.pop("variants", None),
            has_recorded_seeds=self._own is not None and self._chosen.get("seed") == "seed",
            pictures={name: fields.pop(name) for name in _PICTURES if name in fields},
            fields=fields,
            passthrough=passthrough,
            left_out=left_out,
            notes=tuple(notes),
            hints=tuple(advice),
        )

    def _take_explicit(self) -> None:
        refused = self._source.refused
        names = [*self._types, *refused]
        for field, column in self._options.columns.items():
            if field not in ALIASES:
                guess = look_alike(field) or closest(field, ALIASES)
                meant = f" (did you mean {guess}?)" if guess else ""
                self._refuse(
                    f"map: unknown field {quoted(field)}{meant}; fields are {listed(ALIASES)}", "map"
                )
            elif column and column not in names:
                self._problems.append(unknown_column(column, names, "map"))
            elif column and column not in refused:
                self._chosen[field] = column
        for column in self._options.drop:
            if column not in names:
                self._problems.append(unknown_column(column, names, "drop"))
        for field, template in (("prompt", self._options.template), ("key", self._options.key)):
            given = self._options.columns.get(field)
            if given and template:
                self._refuse(f"{field}: both a template and column {given!r} are given; leave one out", field)
        self._problems += template_problems(self._options, self._source.schema)

    def _refuse_unreadable(self) -> None:
        dropped = set(self._options.drop) - set(self._options.columns.values())
        for column, message in self._source.refused.items():
            if column not in dropped:
                self._refuse(message, column)

    def _guess(self, field: str) -> None:
        templates = {"prompt": self._options.template, "key": self._options.key}
        if field in self._options.columns or templates.get(field):
            return
        if NEEDED.get(field, field) not in (field, *self._chosen):
            return
        best = self._best(field)
        if field == "key" and not best:
            # Told to be of a wrong type, instead of being overlooked.
            best = best_named(field, self._free)
        if len(best) > 1:
            self._refuse(f"{field}: columns {listed(best)} all match; give --map {field}=COLUMN", field)
        if best:
            self._chosen[field] = best[0]

    def _best(self, field: str) -> list[str]:
        """Return the free columns of a fitting type whose names fit a field best."""
        return best_named(field, [name for name in self._free if self._fits(field, self._types[name])])

    def _fits(self, field: str, dtype: pa.DataType) -> bool:
        """Return whether a column of this type may be guessed for a field."""
        if field == "prompt":
            return is_text(dtype)
        if field == "image" and not (self._is_image_job or self._is_batch_file):
            return holds_pictures(dtype)
        if field in _PICTURES:
            return may_name_pictures(dtype)
        if field in _NUMBERS and not self._is_batch_file:
            return is_text_or_number(dtype) or pa.types.is_null(dtype)
        return is_text_or_number(dtype) or field not in ("key", "strength", *_SIZE_FIELDS)

    def _check_prompt(self) -> None:
        if self._options.template or "prompt" in self._chosen or self._options.columns.get("prompt"):
            return
        if self._options.columns.get("prompt") == "":
            self._refuse("prompt: --map prompt= leaves the rows without one; give --template too", "prompt")
            return
        similar = [name for name in self._free if look_alike(name) == "prompt"]
        texts = [name for name in similar if is_text(self._types[name])]
        others = [f"{name!r} is {self._types[name]}" for name in similar if name not in texts]
        wrong = f" ({', '.join(others)})" if others else ""
        column = texts[0] if texts else "COLUMN"
        self._refuse(
            f"prompt: no text column is called prompt, {', '.join(ALIASES['prompt'][:-1])} or "
            f"{ALIASES['prompt'][-1]}{wrong}; columns are {listed(self._types)}; "
            f"give {map_option(prompt=column)} or --template",
            "prompt",
        )

    def _check_key(self) -> None:
        column = self._chosen.get("key")
        if column is not None and not is_text_or_number(self._types[column]):
            self._refuse(
                f"key: column {column!r} is {self._types[column]}; keys are text or numbers; "
                "give --map key=COLUMN, or --map key= for none",
                "key",
            )

    def _clear_fields(self) -> list[str]:
        """Return the fields to guess by name, because their columns can mean nothing else."""
        if self._is_batch_file:
            return list(_LATER)
        checks: dict[tuple[str, ...], ValueCheck | None] = {}
        checks |= {fields: self._value_check(fields) for fields in _BY_VALUE}
        checks |= self._number_checks()
        own = self._own
        questions = [*checks.values(), *((own.is_of_model, own.has_one_each) if own else ())]
        check_values(self._source, [check for check in questions if check])
        unclear = {"model"}.union(*(of for of, check in checks.items() if not (check and check.holds)))
        if not self._is_prompt_table and list(map(str.lower, self._best("variants"))) == ["n"]:
            unclear.add("variants")  # of a catalogue, it may count anything
        if own:
            unclear |= own.outdated(self._options.fields)
        return [field for field in _LATER if field not in unclear]

    def _number_checks(self) -> dict[tuple[str, ...], ValueCheck]:
        """Return the question, by field, whether any text in the columns of numbers is one."""
        best = {field: self._best(field) for field in _NUMBERS if field not in self._options.columns}
        return {
            (field,): ValueCheck(columns=tuple(names), is_good=is_written_number, share=0)
            for field, names in best.items()
            if len(names) == 1 and is_text(self._types[names[0]]) and not self._own
        }

    def _value_check(self, fields: tuple[str, ...]) -> ValueCheck | None:
        """Return what to ask the values of the columns that may be these fields', or None if none may be."""
        if not self._may_be_set(fields) or not self._options.columns.keys().isdisjoint(fields):
            return None
        usable = [name for name in self._free if is_text_or_number(self._types[name])]
        columns = [name for field in fields for name in best_named(field, usable)]
        if len(columns) != len(fields):
            return None
        return ValueCheck(
            columns=tuple(columns),
            is_good=accepted_values(fields, self._spec),
            share=0.5 if fields == ("size",) else 1.0,
            ignores_null=len(fields) == 1,
        )

    def _may_be_set(self, fields: tuple[str, ...]) -> bool:
        if fields == ("strength",):
            return "image" in self._chosen
        if not self._chosen.keys().isdisjoint(_SIZE_FIELDS):
            return False
        return self._is_prompt_table and (fields == ("size",) or not best_named("size", self._types))

    @property
    def _is_prompt_table(self) -> bool:
        """Whether sizes are those of images; a catalogue's are those of its goods or photos."""
        return self._own is not None or self._chosen.get("prompt", "").lower() == "prompt"

    def _check_needs(self) -> None:
        for field, needed in NEEDED.items():
            if field in self._chosen and needed not in self._chosen:
                self._refuse(
                    f"{field}: column {self._chosen[field]!r} has no effect without a column for {needed}; "
                    f"give --map {needed}=COLUMN",
                    field,
                )

    def _key_template(self) -> str | None:
        if self._options.key or not self._own or self._own.has_one_each.holds:
            return self._options.key
        if self._chosen.get("key") != "key" or "key" in self._options.columns:
            return None
        del self._chosen["key"]
        return KEY_OF_VARIANTS

    def _copied(self) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the columns to pass through with their names in the output, and those to leave out."""
        used = {column for field, column in self._chosen.items() if field != "key" or column == "key"}
        left_out = set(self._options.drop)
        if self._own:
            left_out |= self._own.left_out(self._options.columns)
        copied = [name for name in self._types if name not in used | left_out]
        reserved = set(RESERVED_COLUMNS)
        if not self._chosen.keys().isdisjoint(_PICTURES) or MADE_FROM_COLUMNS.issubset(copied):
            reserved |= PICTURE_COLUMNS
        passthrough: dict[str, str] = {}
        for name in copied:
            is_taken = name in reserved
            taken = {*reserved, *self._types, *passthrough.values()} if is_taken else ()
            passthrough[name] = free_name(name, taken)
        left_out -= set(self._chosen.values())
        names = [*self._types, *self._source.refused]
        return passthrough, tuple(name for name in names if name in left_out)

    def _refuse(self, message: str, field: str) -> None:
        self._problems.append(InvalidRequest(message, field=field))
