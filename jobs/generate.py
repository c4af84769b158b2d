"""``zimage generate``: generate the images of a prompt table and publish them as a data set."""

from enum import StrEnum
from typing import Annotated

import typer

from jobs.image_options import FieldOptions, FileOptions, ModelOptions
from jobs.option_groups import DisplayOptions, S3Options, with_groups
from jobs.option_values import parse_pairs, parse_range
from jobs.table_options import TableOptions
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.errors import InvalidRequest
from zimage_models.memory.modes import RESIDENT

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
            default_factory=list,
            show_default=False,
            metavar="INPUT",
            help="One or more prompt tables: files, folders or patterns (*.parquet), each a path or s3://"
            " address. - reads JSON Lines from standard input.",
        ),
    ],
    output: Annotated[str, typer.Argument(metavar="OUTPUT", help="Folder of the data set; path or s3://.")],
    table: TableOptions,
    model: ModelOptions,
    fields: FieldOptions,
    files: FileOptions,
    s3: S3Options,
    display: DisplayOptions,
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
        str | None,
        typer.Option(
            metavar="MIN:MAX",
            help="Number of engines; by default one, or on this machine's CPUs up to one for each core.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
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
    device: Annotated[
        str,
        typer.Option(
            help="torch device, such as cuda or cpu; auto: the first accelerator, else the CPU.",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.", rich_help_panel=_ENGINE)] = "auto",
    memory: Annotated[
        str,
        typer.Option(
            metavar="MODE",
            help="resident, or 16gb, 8gb or 4gb to fit a smaller GPU (zimage models lists what they take).",
            rich_help_panel=_ENGINE,
        ),
    ] = RESIDENT,
    vae_dtype: Annotated[str, typer.Option(help="The same for the VAE.", rich_help_panel=_ENGINE)] = "auto",
    precision: Annotated[
        str,
        typer.Option(
            help="auto: as --dtype says; bf16; fp8: the transformer's products in 8-bit floats, on GPUs that"
            " have units for them (L4, L40S, RTX 40, H100).",
            rich_help_panel=_ENGINE,
        ),
    ] = "auto",
    compile: Annotated[
        bool | None,
        typer.Option(
            "--compile/--no-compile",
            help="Whether to compile the transformer (torch.compile); by default on accelerators.",
            rich_help_panel=_ENGINE,
        ),
    ] = None,
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
        bool,
        typer.Option(
            "--dry-run",
            help="Plan only: print counts, an estimate and the first rejected rows.",
            rich_help_panel=_RUN,
        ),
    ] = False,
    all_errors: Annotated[
        bool,
        typer.Option("--all-errors", help="With --dry-run: print all rejected rows.", rich_help_panel=_RUN),
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
) -> int:
    """Generate the images of a prompt table and publish them as a data set.

    Run the same command again to continue after a stop, or to update the data set after a table change.

    Exit codes: 0 all rows made, 1 Ray could not be started, 2 bad usage, 3 some rows failed, 4 stopped by a
    cap, 130 interrupted.
    """
    if not input:
        raise InvalidRequest(
            f"output: missing after {output!r}; name the prompt tables, then the folder of the data set",
            field="output",
        )
    if all_errors and not dry_run:
        raise InvalidRequest("all_errors: valid only with --dry-run", field="all_errors")
    engines_min, engines_max = parse_range(engines or "1:1", field="engines")
    # This imports pyarrow, and what runs it Ray, which --help and bad usage do not need.
    from pipelines.options import GenerateOptions

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
                vae_dtype=vae_dtype,
                precision=precision,
                max_step_tokens=max_step_tokens,
                memory=memory,
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
    from jobs.generation import run_generation, show_plan
    from jobs.ray_session import with_default_engines

    if dry_run:
        return show_plan(options, progress=display.progress, all_errors=all_errors)
    if engines is None:
        options = with_default_engines(options)
    return run_generation(options, progress=display.progress, verbose=display.verbose)
