"""A generation as a command runs it: its progress, what it says at the end, and its exit code.

Progress is a bar for people, JSON lines for schedulers, or nothing. This module imports Ray and pyarrow, so
commands import it when they run.
"""

import json
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import asdict
from functools import partial
from typing import Any

from tqdm import tqdm

from jobs.option_values import duration_text
from jobs.ray_session import connect
from pipelines.dataset.manifest import RunManifest, read_manifest
from pipelines.exit_codes import ExitCode
from pipelines.generate import Progress, generate, plan_only
from pipelines.options import GenerateOptions
from pipelines.plan.plan import Plan
from pipelines.run.run_monitor import RunCounts
from pipelines.sources.standard_input import STANDARD_INPUT, store_standard_input
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest

_SHOWN_ERRORS = 3
_SHOWN_IN_DRY_RUN = 20
_SEE_ALL_OF_NOTHING = "the same command with --dry-run --all-errors lists them"
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def show_plan(options: GenerateOptions, *, progress: str, all_errors: bool) -> int:
    """Plan, print the counts, an estimate and the rejected rows, and return the exit code of such a run."""
    with tempfile.TemporaryDirectory(prefix="zimage-input-") as folder:
        plan = plan_only(_with_stored_input(options, open_storage(folder)))
    make_progress(progress, is_dry=True).planned(plan)
    print(_estimate_text(options, plan))
    print_rejected(
        plan,
        limit=None if all_errors else _SHOWN_IN_DRY_RUN,
        see_all="the same command with --all-errors lists them",
    )
    return ExitCode.SOME_ROWS_FAILED if plan.rejected else ExitCode.OK


def run_generation(
    options: GenerateOptions,
    *,
    progress: str,
    verbose: bool,
    retried_classes: Sequence[str] | None = (),
) -> int:
    """Generate, print where the images are, and return the exit code."""
    display = make_progress(progress)
    options = _with_stored_input(options, open_storage(options.output, options.storage))
    # Ray prints warnings on standard output, which schedulers read as JSON lines.
    with redirect_stdout(sys.stderr):
        result = generate(
            options,
            connect=partial(connect, verbose=verbose),
            progress=display,
            retried_classes=retried_classes,
        )
    if result.outcome is not None and result.outcome.stopped_by:
        print(
            f"stopped by {result.outcome.stopped_by}; run the same command again to continue", file=sys.stderr
        )
    elif result.manifest is None:
        rejected = result.plan.counts.rejected
        if progress in ("json", "quiet"):  # a bar shows them with the plan
            print_rejected(result.plan, limit=_SHOWN_ERRORS, see_all=_SEE_ALL_OF_NOTHING)
        print(f"nothing is published: all {rejected} rows are rejected", file=sys.stderr)
    elif progress not in ("json", "quiet"):
        counts = result.manifest.counts
        print(f"{counts['published']} images in {options.output}/data ({result.manifest.path})")
        if result.outcome is not None and result.outcome.counts.images_per_s:
            print(f"speed: {result.outcome.counts.images_per_s:g} images/s after the first block")
        print(f"gallery: {options.output}/gallery.html")
        if counts["failed"] or counts["rejected"]:
            print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed; to see why:")
            print(f"zimage status {options.output} --errors")
    return int(result.exit_code)


def _with_stored_input(options: GenerateOptions, folder: Storage) -> GenerateOptions:
    """Store a table on standard input in a folder; its pictures are found from the current folder."""
    if STANDARD_INPUT not in options.input:
        return options
    if sys.stdin is None:  # as a daemon or `<&-` has it
        raise InvalidRequest("input: standard input is closed", field="input")
    stored = store_standard_input(sys.stdin.buffer, folder)
    given = tuple(stored if one == STANDARD_INPUT else one for one in options.input)
    return options.model_copy(
        update={"input": given, "image_root": options.image_root or open_storage(".").uri}
    )


def _estimate_text(options: GenerateOptions, plan: Plan) -> str:
    """Describe a plan's work, and how long it takes at the speed of this data set's last run."""
    counts = plan.counts
    text = f"{counts.new} images to make, {plan.transformer_steps} transformer steps"
    previous = read_manifest(open_storage(options.output, options.storage))
    speed = previous.speed["images_per_s"] if previous else 0.0
    if not speed:
        return f"{text}; no time estimate, as this output has no earlier run"
    return f"{text}; about {counts.new / speed:.0f} s at the last run's {speed:g} images/s"


def make_progress(mode: str, *, is_dry: bool = False) -> Progress:
    """Return the display for a mode: ``json``, ``quiet``, else a bar; a dry run lists its errors itself."""
    if mode == "json":
        return JsonProgress()
    return QuietProgress() if mode == "quiet" else BarProgress(num_errors=0 if is_dry else _SHOWN_ERRORS)


def print_rejected(plan: Plan, *, limit: int | None, see_all: str) -> None:
    """Print a plan's first rejected rows on standard error, and how to see the others."""
    shown = plan.rejected[:limit]
    for error in shown:
        key = f" ({error.key})" if error.key else ""
        print(f"row {error.row}{key}: {error.message}", file=sys.stderr)
    if len(shown) < len(plan.rejected):
        print(f"and {len(plan.rejected) - len(shown)} more; {see_all}", file=sys.stderr)


class QuietProgress:
    """Prints nothing."""

    def planned(self, plan: Plan) -> None:
        """Ignore the plan."""

    def advanced(self, counts: RunCounts) -> None:
        """Ignore the counts."""

    def waiting(self, message: str) -> None:
        """Ignore the wait."""

    def published(self, manifest: RunManifest) -> None:
        """Ignore the manifest."""


class BarProgress:
    """A tqdm bar on standard error with images/s, failed images and time left.

    Args:
        num_errors: number of rejected rows to print before it; 0 to say nothing of them.
    """

    def __init__(self, *, num_errors: int) -> None:
        self._num_errors = num_errors
        self._bar: tqdm[Any] | None = None
        self._num_new = 0

    def planned(self, plan: Plan) -> None:
        """Print the plan's counts, what each column became, and the first rejected rows."""
        counts = plan.counts
        print(
            f"planned {counts.units} images from {counts.rows} rows: {counts.new} to make, "
            f"{counts.unchanged} made before, {counts.failed_before} failed before, "
            f"{counts.duplicate} duplicate rows, {counts.rejected} rejected rows",
            file=sys.stderr,
        )
        for line in (*plan.columns, *plan.notes, *(f"hint: {hint}" for hint in plan.hints)):
            print(line, file=sys.stderr)
        self._num_new = counts.new
        if self._num_errors:
            see_all = "zimage status OUTPUT --errors lists them after the run"
            if counts.is_nothing:  # it lists those of the data set in force
                see_all = _SEE_ALL_OF_NOTHING
            print_rejected(plan, limit=self._num_errors, see_all=see_all)

    def advanced(self, counts: RunCounts) -> None:
        """Update the bar."""
        if self._bar is None:
            # In a log, one line every ten seconds is enough.
            interval_s = 0.1 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(total=self._num_new, mininterval=interval_s, bar_format=_BAR)
        self._bar.set_postfix_str(self._speed(counts), refresh=False)
        self._bar.update(counts.written - self._bar.n)

    def waiting(self, message: str) -> None:
        """Print the message above the bar."""
        tqdm.write(f"waiting for nodes: {message}", file=sys.stderr)

    def published(self, manifest: RunManifest) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()

    def _speed(self, counts: RunCounts) -> str:
        failed = f"{counts.failed} failed"
        left_s = counts.left_s(self._num_new)
        if left_s is None:
            return failed
        return f"{counts.images_per_s:.3g} images/s, {duration_text(left_s)} left, {failed}"


class JsonProgress:
    """One JSON object per line on standard output, for schedulers and logs."""

    def __init__(self) -> None:
        self._num_new = 0
        self._last: RunCounts | None = None
        self._lock = threading.Lock()
        self._out = sys.stdout

    def planned(self, plan: Plan) -> None:
        """Print the plan's counts."""
        self._num_new = plan.counts.new
        told = {"columns": plan.columns, "notes": plan.notes, "hints": plan.hints}
        self._print("planned", run_id=plan.run_id, **asdict(plan.counts), **told)

    def advanced(self, counts: RunCounts) -> None:
        """Print the counts when they changed, with images/s and the seconds left."""
        with self._lock:
            if counts == self._last:
                return
            self._last = counts
            self._print("progress", **asdict(counts), eta_s=counts.left_s(self._num_new))

    def waiting(self, message: str) -> None:
        """Print which nodes the engines are waiting for."""
        self._print("waiting", **{"for": message})

    def published(self, manifest: RunManifest) -> None:
        """Print the manifest's path and counts."""
        self._print("published", manifest=manifest.path, counts=manifest.counts, speed=manifest.speed)

    def _print(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}, ensure_ascii=False), file=self._out, flush=True)
