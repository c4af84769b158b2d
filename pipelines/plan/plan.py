"""Data types of a plan: what there is to do, and the files that list it."""

from dataclasses import dataclass

import pyarrow as pa

from pipelines.sources.source_rows import RowError


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanCounts:
    """Counts of one plan: input rows up to ``duplicate``, images from ``units`` on."""

    rows: int
    filtered: int
    rejected: int
    duplicate: int
    """Rows that repeat an earlier row exactly."""
    units: int
    unchanged: int
    """Images already made, by this or an earlier run."""
    failed_before: int
    """Images that failed in an earlier run; ``zimage retry`` retries them."""
    new: int

    @property
    def is_nothing(self) -> bool:
        """Whether no row of the table gives an image; ``--append`` may keep others."""
        return self.rows == self.filtered + self.rejected + self.duplicate


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One planned run: its work table, and what is in it."""

    run_id: str
    counts: PlanCounts
    work_files: tuple[str, ...]
    """Parquet files of the work table, relative to the output."""
    passthrough: pa.Schema
    """Columns that parts copy from the work table: the input's own, and those about pictures."""
    rejected: tuple[RowError, ...]
    """Rejected rows, in input order."""
    source_folder: str
    """Folder of the input table."""
    source_fingerprint: str
    transformer_steps: int
    """Denoising steps to run, guided ones counted twice."""
    appends_to: int | None = None
    """The generation of which the plan keeps rows; None if of none."""
    columns: tuple[str, ...] = ()
    """Which column became what, in lines for people."""
    notes: tuple[str, ...] = ()
    """What readers of the data set should know about how the table was read, a sentence each."""
    hints: tuple[str, ...] = ()
    """What the person who runs the job may have meant otherwise, a sentence each."""
