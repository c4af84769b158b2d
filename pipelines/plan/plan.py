"""The nouns of a plan: what there is to do, and in which files it is written down."""

from dataclasses import dataclass

import pyarrow as pa

from pipelines.sources.source_rows import RowError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """Counts of one plan: input rows down to ``duplicate``, images from ``units`` on."""

    rows: int
    filtered: int
    rejected: int
    duplicate: int
    """Rows that repeat an earlier row exactly."""
    units: int
    unchanged: int
    """Made before, by this or an earlier run."""
    failed_before: int
    """Failed in an earlier run; ``zimage retry`` redoes them."""
    new: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One planned run: where its work table lies, and what is in it."""

    run_id: str
    counts: PlanCounts
    work_files: tuple[str, ...]
    """Parquet files of the work table, relative to the output."""
    passthrough: pa.Schema
    """Columns that parts take over from the work table: the input's own, and of pictures what is known."""
    rejected: tuple[RowError, ...]
    """In input order."""
    source_folder: str
    """Where the table lies."""
    source_fingerprint: str
    transformer_steps: int
    """Denoising steps to run, guided ones counted twice."""
