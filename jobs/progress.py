"""Progress of a generation: a bar for people, JSON lines for schedulers, or nothing."""

import json
import sys
import threading
import time
from dataclasses import asdict
from enum import StrEnum
from typing import Any

from tqdm import tqdm

from pipelines.dataset.manifest import RunManifest
from pipelines.generate import Progress
from pipelines.plan.plan import Plan
from pipelines.run.run_monitor import RunCounts


class ProgressMode(StrEnum):
    """How progress is displayed."""

    AUTO = "auto"
    BAR = "bar"
    JSON = "json"
    QUIET = "quiet"


def make_progress(mode: str) -> Progress:
    """Return the display for a mode: ``json``, ``quiet``, else a bar."""
    displays: dict[str, type[Progress]] = {"json": JsonProgress, "quiet": QuietProgress}
    return displays.get(mode, BarProgress)()


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
    """A tqdm bar on standard error with images/s, failed images and time left."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._num_new = 0

    def planned(self, plan: Plan) -> None:
        """Print the plan's counts."""
        counts = plan.counts
        print(
            f"planned {counts.units} images from {counts.rows} rows: {counts.new} to make, "
            f"{counts.unchanged} made before, {counts.failed_before} failed before, "
            f"{counts.duplicate} duplicate rows, {counts.rejected} rejected rows",
            file=sys.stderr,
        )
        self._num_new = counts.new

    def advanced(self, counts: RunCounts) -> None:
        """Update the bar."""
        if self._bar is None:
            # In a log, one line every ten seconds is enough.
            interval_s = 0.1 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(total=self._num_new, unit="image", mininterval=interval_s, smoothing=0.05)
        self._bar.set_postfix(failed=counts.failed, refresh=False)
        self._bar.update(counts.written - self._bar.n)

    def waiting(self, message: str) -> None:
        """Print the message above the bar."""
        tqdm.write(f"waiting for nodes: {message}", file=sys.stderr)

    def published(self, manifest: RunManifest) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class JsonProgress:
    """One JSON object per line on standard output, for schedulers and logs."""

    def __init__(self) -> None:
        self._num_new = 0
        self._first: tuple[float, int] | None = None
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
            now_s = time.monotonic()
            if self._first is None and counts.generated:
                self._first = (now_s, counts.generated)
            speed = 0.0
            if self._first and now_s > self._first[0]:
                speed = (counts.generated - self._first[1]) / (now_s - self._first[0])
            left = self._num_new - counts.written
            self._print(
                "progress",
                **asdict(counts),
                images_per_s=round(speed, 3),
                eta_s=round(left / speed, 1) if speed else None,
            )

    def waiting(self, message: str) -> None:
        """Print which nodes the engines are waiting for."""
        self._print("waiting", **{"for": message})

    def published(self, manifest: RunManifest) -> None:
        """Print the manifest's path and counts."""
        self._print("published", manifest=manifest.path, counts=manifest.counts, speed=manifest.speed)

    def _print(self, event: str, **values: Any) -> None:
        print(json.dumps({"event": event, **values}, ensure_ascii=False), file=self._out, flush=True)
