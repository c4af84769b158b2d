"""Running a generation for a person or a scheduler: progress, what is said at the end, and the exit code.

``generate`` and ``retry`` import it when they run, since it imports Ray and pyarrow.
"""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from functools import partial

from jobs.progress import make_progress, print_rejected
from jobs.ray_session import connect
from pipelines.dataset.manifest import read_manifest
from pipelines.exit_codes import ExitCode
from pipelines.generate import generate, plan_only
from pipelines.options import GenerateOptions
from pipelines.plan.plan import Plan
from pipelines.storage_address import open_storage

_SHOWN_ERRORS = 20


def show_plan(options: GenerateOptions, *, progress: str, all_errors: bool) -> int:
    """Plan, print the counts, an estimate and the rejected rows, and return the exit code of such a run."""
    plan = plan_only(options)
    make_progress(progress, is_dry=True).planned(plan)
    print(_estimate_text(options, plan))
    print_rejected(
        plan,
        limit=None if all_errors else _SHOWN_ERRORS,
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
    # Ray prints warnings on standard output, which schedulers read as JSON lines.
    with redirect_stdout(sys.stderr):
        result = generate(
            options,
            connect=partial(connect, options, verbose=verbose),
            progress=display,
            retried_classes=retried_classes,
        )
    if result.manifest is None:
        assert result.outcome is not None
        print(
            f"stopped by {result.outcome.stopped_by}; run the same command again to continue", file=sys.stderr
        )
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


def _estimate_text(options: GenerateOptions, plan: Plan) -> str:
    """Describe a plan's work, and how long it takes at the speed of this data set's last run."""
    counts = plan.counts
    text = f"{counts.new} images to make, {plan.transformer_steps} transformer steps"
    previous = read_manifest(open_storage(options.output, options.storage))
    speed = previous.speed["images_per_s"] if previous else 0.0
    if not speed:
        return f"{text}; no time estimate, as this output has no earlier run"
    return f"{text}; about {counts.new / speed:.0f} s at the last run's {speed:g} images/s"
