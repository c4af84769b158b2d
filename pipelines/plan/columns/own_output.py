"""A data set of ours as a table, for edits or other sizes of its images."""

from collections.abc import Collection, Mapping
from typing import Any

import pyarrow as pa

from pipelines.part_schema import COLUMN_NAMES
from pipelines.plan.columns.column_names import MADE_FROM_COLUMNS, QUALITY_COLUMNS, best_named
from pipelines.plan.columns.column_values import ValueCheck, is_text
from zimage_models.model_spec import ModelSpec

KEY_OF_VARIANTS = "{{key}}-{{variant}}"

_MARKS = frozenset({"unit_id", "image_sha256", "row_digest", "weights_sha256"})
"""Columns that only our parts have together."""
_OF_ANY_MODEL = frozenset({"seed", "width", "height"})
_KEPT = frozenset({"key", "prompt"})
"""Columns that say what an image shows, even if another key or prompt is used now."""


class OwnOutput:
    """What our columns in a table are good for: settings to take, or descriptions of images to leave out.

    Attributes:
        columns: those that describe its images.
        is_of_model: whether the model of all images is the one that runs.
        has_one_each: whether every image is the only one of its key.
    """

    def __init__(self, columns: Collection[str], spec: ModelSpec) -> None:
        self.columns = frozenset(columns)
        self.is_of_model = ValueCheck(
            columns=("model",), is_good=lambda model: model == spec.model_id, ignores_null=False
        )
        self.has_one_each = ValueCheck(columns=("variant",), is_good=lambda variant: variant == 0)

    @staticmethod
    def find(types: Mapping[str, pa.DataType], spec: ModelSpec) -> "OwnOutput | None":
        """Return a table's columns of ours, or None if it is not a data set of ours."""
        names = set(types)
        if not names >= _MARKS | {"model", "variant"}:
            return None
        if not (is_text(types["model"]) and pa.types.is_integer(types["variant"])):
            return None
        optional = (columns for columns in (MADE_FROM_COLUMNS, QUALITY_COLUMNS) if names >= columns)
        ours = {*COLUMN_NAMES}.union(*optional)
        return OwnOutput(ours.intersection(names), spec)

    def outdated(self, job_fields: Mapping[str, Any]) -> set[str]:
        """Return what not to guess: settings of another model, and those that the job itself sets."""
        outdated = {*job_fields} | ({"width", "height"} if "size" in job_fields else set())
        if not self.is_of_model.holds:
            outdated |= self.columns - _OF_ANY_MODEL
        return outdated

    def left_out(self, mapped: Mapping[str, str]) -> set[str]:
        """Return the columns that every new image has its own values of; ``--map FIELD=`` keeps a column."""
        unmapped = [field for field, column in mapped.items() if not column]
        kept = {name for field in unmapped for name in best_named(field, self.columns)}
        return {*self.columns} - _KEPT - kept

    def notes(self, chosen: Mapping[str, str], key_template: str | None) -> list[str]:
        """Return what a person may not expect of such a table, a sentence each."""
        notes = ["the table is an output of zimage; what it records of its own images is not copied"]
        if chosen.get("image") == "image":
            notes.append(
                "its images are the pictures to start from; --drop image makes others from its prompts"
            )
        if not self.is_of_model.holds:
            notes.append("its images are another model's, so only their sizes and seeds are taken over")
        if key_template == KEY_OF_VARIANTS:
            notes.append(
                f"it has several images of a key, so the keys are {KEY_OF_VARIANTS}; give --key for others"
            )
        return notes
