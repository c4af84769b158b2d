"""Progress of a generation: a bar for people, JSON lines for schedulers, or nothing."""

import json
import sys
import threading
from dataclasses import asdict
from typing import Any

from tqdm import tqdm

from jobs.option_values import duration_text
from pipelines.dataset.manifest import RunManifest
from pipelines.generate import Progress
from pipelines.plan.plan import Plan
from pipelines.run.run_monitor import RunCounts

_SHOWN_ERRORS = 3
_BAR = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"


def make_progress(mode: str, *, is_dry: bool = False) -> Progress:
    """Return the display for a mode: ``json``, ``quiet``, else a bar; a dry run lists its errors itself."""
    if mode == "json":
        return JsonProgress()
    return QuietProgress() if mode == "quiet" else BarProgress(num_errors=0 if is_dry else _SHOWN_ERRORS)


def print_rejected(plan: Plan, *, limit: int | None, see_all: str) -> None:
    """Print a plan's first rejected rows on standard error, and how to see the others."""
    shown = plan.rejected[:limit]
    for error in shown:
        print(f"row {error.row} ({error.key}): {error.message}", file=sys.stderr)
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
        """Print the plan's counts and its first rejected rows."""
        counts = plan.counts
        print(
            f"planned {counts.units} images from {counts.rows} rows: {counts.new} to make, "
            f"{counts.unchanged} made before, {counts.failed_before} failed before, "
            f"{counts.duplicate} duplicate rows, {counts.rejected} rejected rows",
            file=sys.stderr,
        )
        self._num_new = counts.new
        if self._num_errors:
            print_rejected(
                plan, limit=self._num_errors, see_all="zimage status OUTPUT --errors lists them after the run"
            )

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
        self._print("planned", run_id=plan.run_id, **asdict(plan.counts))

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
