"""``zimage generate``: generate the images of a prompt table and publish them as a data set."""

import sys
from contextlib import redirect_stdout
from enum import StrEnum
from functools import partial
from typing import Annotated, Any

import typer

from jobs.image_options import FieldOptions, FileOptions, ModelOptions
from jobs.option_groups import S3Options, with_groups
from jobs.option_values import parse_pairs, parse_range
from jobs.progress import ProgressMode, make_progress
from jobs.ray_session import connect
from jobs.table_options import TableOptions
from pipelines.dataset.manifest import read_manifest
from pipelines.generate import generate, plan_only
from pipelines.options import GenerateOptions
from pipelines.plan.plan import Plan
from pipelines.storage_address import open_storage
from zimage_models.config import EngineConfig, ParallelConfig

_OUTPUT = "What to write"
_ENGINE = "Engines"
_RUN = "The run"


class EngineHost(StrEnum):
    """Whose engines generate the images."""

    OWN = "own"
    SERVE = "serve"


@with_groups
def command(
    input: Annotated[
        list[str],
        typer.Argument(
            help="Prompt tables: files, folders or patterns (*.parquet); path or s3://. - reads JSON Lines"
            " from standard input."
        ),
    ],
    output: Annotated[str, typer.Argument(help="Folder of the data set; path or s3://.")],
    table: TableOptions,
    model: ModelOptions,
    fields: FieldOptions,
    files: FileOptions,
    s3: S3Options,
    append: Annotated[
        bool,
        typer.Option(
            "--append",
            help="Keep the published images whose keys the table does not name.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace",
            help="Allow the table to drop more than half of the published keys.",
            rich_help_panel=_OUTPUT,
        ),
    ] = False,
    export: Annotated[
        list[str] | None,
        typer.Option(
            help="Also export: files (images by name) or webdataset; repeatable.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    engine: Annotated[
        EngineHost,
        typer.Option(
            help="own: start engines for this job; serve: use a running endpoint's, after its online work.",
            rich_help_panel=_ENGINE,
        ),
    ] = EngineHost.OWN,
    serve_app: Annotated[
        str,
        typer.Option(help="The endpoint's application name, for --engine serve.", rich_help_panel=_ENGINE),
    ] = "default",
    engines: Annotated[
        str, typer.Option(metavar="MIN:MAX", help="Number of engines.", rich_help_panel=_ENGINE)
    ] = "1:1",
    tp: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Split each engine over N GPUs of a node (tensor parallel).",
            rich_help_panel=_ENGINE,
        ),
    ] = 1,
    engine_cpus: Annotated[
        float | None,
        typer.Option(help="CPUs (and threads) per engine, or per rank with --tp.", rich_help_panel=_ENGINE),
    ] = None,
    engine_gpus: Annotated[
        float | None,
        typer.Option(help="GPUs per engine, or per rank with --tp.", rich_help_panel=_ENGINE),
    ] = None,
    accelerator_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE",
            help="Run engines only on nodes with this accelerator, such as L40S.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    node_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Run engines only on nodes with this label; repeatable.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
    device: Annotated[str, typer.Option(rich_help_panel=_ENGINE)] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.", rich_help_panel=_ENGINE)] = "auto",
    compile: Annotated[
        bool,
        typer.Option(
            "--compile", help="Compile the transformer with torch.compile.", rich_help_panel=_ENGINE
        ),
    ] = False,
    max_step_tokens: Annotated[
        int | None, typer.Option(help="Maximum transformer tokens in one step.", rich_help_panel=_ENGINE)
    ] = None,
    fake: Annotated[
        bool,
        typer.Option("--fake", help="Make instant coloured tiles without a model.", rich_help_panel=_ENGINE),
    ] = False,
    cache_dir: Annotated[
        str | None, typer.Option(help="Folder to cache s3:// checkpoints in.", rich_help_panel=_ENGINE)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan only; print counts and an estimate.", rich_help_panel=_RUN)
    ] = False,
    commit_rows: Annotated[
        int | None, typer.Option(help="Rows written together.", rich_help_panel=_RUN)
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(help="Stop (exit code 4) if more images than this fail.", rich_help_panel=_RUN),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop (exit code 4) after this time.", rich_help_panel=_RUN),
    ] = None,
    progress: Annotated[ProgressMode, typer.Option(rich_help_panel=_RUN)] = ProgressMode.AUTO,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Ray's and the workers' logs.", rich_help_panel=_RUN)
    ] = False,
) -> int:
    """Generate the images of a prompt table and publish them as a data set.

    Run the same command again to continue after a stop, or to update the data set after a table change. Exit
    codes: 0 all rows made, 2 bad usage, 3 some rows failed, 4 stopped by a cap, 130 interrupted.
    """
    engines_min, engines_max = parse_range(engines, field="engines")
    options = GenerateOptions.model_validate(
        {
            "input": input,
            "output": output,
            "append": append,
            "replace": replace,
            **table.values(),
            **model.values(),
            **fields.values(),
            **files.values(),
            **s3.values(),
            "exports": tuple(export or ()),
            "engine": EngineConfig(
                **model.engine_values(),
                device=device,
                dtype=dtype,
                max_step_tokens=max_step_tokens,
                compile=compile,
                parallel=ParallelConfig(tensor_parallel_size=tp),
                s3_endpoint_url=s3.s3_endpoint,
                cache_dir=cache_dir,
                fake=fake,
            ),
            "serve_app": serve_app if engine is EngineHost.SERVE else None,
            "engines_min": engines_min,
            "engines_max": engines_max,
            "engine_cpus": engine_cpus,
            "engine_gpus": engine_gpus,
            "accelerator_type": accelerator_type,
            "node_labels": parse_pairs(node_label or [], field="node_label", form="KEY=VALUE"),
            "commit_rows": commit_rows,
            "max_errors": max_errors,
            "time_limit_s": time_limit,
        }
    )
    if dry_run:
        return _show_plan(options, progress.value)
    return run_generation(options, progress=progress.value, verbose=verbose)


def _show_plan(options: GenerateOptions, progress: str) -> int:
    plan = plan_only(options)
    make_progress(progress).planned(plan)
    print(_estimate_text(options, plan))
    _print_rejected(plan)
    return 0


def _print_rejected(plan: Plan) -> None:
    for error in plan.rejected[:20]:
        print(f"row {error.row} ({error.key}): {error.message}", file=sys.stderr)


def _estimate_text(options: GenerateOptions, plan: Plan) -> str:
    """Describe a plan's work, and how long it takes at the speed of this data set's last run."""
    counts = plan.counts
    text = f"{counts.new} images to make, {plan.transformer_steps} transformer steps"
    previous = read_manifest(open_storage(options.output, options.storage))
    speed = previous.speed["images_per_s"] if previous else 0.0
    if not speed:
        return f"{text}; no time estimate, as this output has no earlier run"
    return f"{text}; about {counts.new / speed:.0f} s at the last run's {speed:g} images/s"


def run_generation(options: GenerateOptions, *, progress: str, verbose: bool, **how: Any) -> int:
    """Generate, print where the images are, and return the exit code."""
    display = make_progress(progress)
    # Ray prints warnings on standard output, which schedulers read as JSON lines.
    with redirect_stdout(sys.stderr):
        result = generate(
            options, connect=partial(connect, options, verbose=verbose), progress=display, **how
        )
    if result.outcome is not None and result.outcome.stopped_by:
        print(
            f"stopped by {result.outcome.stopped_by}; run the same command again to continue", file=sys.stderr
        )
    elif result.manifest is None:
        _print_rejected(result.plan)
        rejected = result.plan.counts.rejected
        print(f"nothing is published: all {rejected} rows are rejected", file=sys.stderr)
    elif progress not in ("json", "quiet"):
        counts = result.manifest.counts
        print(f"{counts['published']} images in {options.output}/data ({result.manifest.path})")
        print(f"gallery: {options.output}/gallery.html")
        if counts["failed"] or counts["rejected"]:
            print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed; to see why:")
            print(f"zimage status {options.output}")
    return int(result.exit_code)
