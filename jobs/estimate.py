"""``zimage estimate``: the work of a job, and the engines and nodes that finish it by a deadline."""

import json
import os
import tempfile
from dataclasses import asdict, replace
from typing import Annotated, Any

import typer

from jobs.estimate_text import NARROW_DIM, estimate_text
from jobs.image_options import FieldOptions, FileOptions, ModelOptions
from jobs.option_groups import S3Options, with_groups
from jobs.option_values import parse_duration
from jobs.table_options import TableOptions
from pipelines.capacity.cluster_file import Cluster, any_machine, read_cluster, this_machine
from pipelines.capacity.fleet import estimate_fleet
from pipelines.capacity.fleet_estimate import DEGREES, Assumptions, FleetEstimate
from pipelines.capacity.image_work import ImageKind, image_work
from pipelines.capacity.measured import CapacityTable, read_table
from pipelines.capacity.model_shape import RELEASED_SHAPE, read_model_shape
from pipelines.capacity.workload import Workload
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import KNOWN_MODELS, ModelSpec, released_spec

_WORK = "The work: a table, or a number of images"
_FLEET = "Where it runs"
_ASSUMED = "Assumptions"
_PROMPT_TOKENS = 128
_DEFAULTS = Assumptions()


@with_groups
def command(
    model: ModelOptions,
    table: TableOptions,
    fields: FieldOptions,
    files: FileOptions,
    s3: S3Options,
    input: Annotated[
        str | None, typer.Argument(metavar="INPUT", help="Prompt table, as for zimage generate.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Argument(
            metavar="OUTPUT", help="Folder of the data set; images that it already holds are not counted."
        ),
    ] = None,
    images: Annotated[
        int | None, typer.Option(help="Estimate this many images instead of a table.", rich_help_panel=_WORK)
    ] = None,
    prompt_tokens: Annotated[
        int | None,
        typer.Option(
            help=f"Tokens per prompt, for --images [{_PROMPT_TOKENS}]; a table's prompts are counted.",
            rich_help_panel=_WORK,
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Finish within this time, such as 90m, 8h or 2d.", rich_help_panel=_FLEET
        ),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Cluster file with the available nodes; by default any machine in the price table "
            "(for the tiny models, this machine).",
            rich_help_panel=_FLEET,
        ),
    ] = None,
    tp: Annotated[
        int | None,
        typer.Option(
            help="GPUs per engine; by default as few as memory and --max-latency allow.",
            rich_help_panel=_FLEET,
        ),
    ] = None,
    max_latency: Annotated[
        str | None, typer.Option(metavar="TIME", help="Maximum time per image.", rich_help_panel=_FLEET)
    ] = None,
    commit_rows: Annotated[
        int, typer.Option(min=1, help="Rows written together.", rich_help_panel=_FLEET)
    ] = _DEFAULTS.commit_rows,
    measured: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Speeds and prices to replace the table's: result of benchmarks.gpu.gpu_latency, or YAML;"
            " repeatable.",
            rich_help_panel=_ASSUMED,
        ),
    ] = None,
    node_start: Annotated[
        str, typer.Option(metavar="TIME", help="Time to start a node.", rich_help_panel=_ASSUMED)
    ] = f"{_DEFAULTS.node_start_s:g}s",
    engine_start: Annotated[
        str, typer.Option(metavar="TIME", help="Time to start an engine.", rich_help_panel=_ASSUMED)
    ] = f"{_DEFAULTS.engine_start_s:g}s",
    interruptions: Annotated[
        float, typer.Option(min=0, help="Interruptions of one spot node per hour.", rich_help_panel=_ASSUMED)
    ] = _DEFAULTS.interruptions_per_h,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> int:
    """Estimate the work of a job, the engines and nodes that finish it by a deadline, and what they cost.

    Nothing is started or written. docs/capacity.md has the formulas and their sources.
    """
    if (input is None) == (images is None):
        raise InvalidRequest("input: give either a prompt table or --images", field="input")
    if tp is not None and tp not in DEGREES:
        raise InvalidRequest(f"tp: {tp} is not one of {', '.join(map(str, DEGREES))}", field="tp")
    engine = EngineConfig(**model.engine_values(), s3_endpoint_url=s3.s3_endpoint)
    if images is not None:
        for name in (*table.given_options(), *files.given_options()):
            raise InvalidRequest(f"{name}: has no effect without a prompt table", field=name)
        given = fields.values()["fields"]
        workload = _counted(engine, images * model.variants, given, prompt_tokens or _PROMPT_TOKENS)
        rows = None
    else:
        if prompt_tokens is not None:
            raise InvalidRequest(
                "prompt_tokens: valid only with --images; a table's prompts are counted",
                field="prompt_tokens",
            )
        # These import pyarrow, which --help and an estimate without a table do not need.
        from pipelines.capacity.table_work import count_table
        from pipelines.options import GenerateOptions

        with tempfile.TemporaryDirectory() as no_output:
            options = GenerateOptions.model_validate(
                {
                    "input": input,
                    "output": output or no_output,
                    **table.values(),
                    **model.values(),
                    **fields.values(),
                    **files.values(),
                    **s3.values(),
                    "engine": engine,
                }
            )
            table_work = count_table(options, count_made=output is not None)
        workload, rows = table_work.workload, table_work.counts
    speeds = read_table(measured or [])
    estimate = estimate_fleet(
        workload,
        _cluster(cluster, workload, speeds),
        speeds,
        deadline_s=parse_duration(deadline, field="deadline") if deadline else None,
        degree=tp,
        max_latency_s=parse_duration(max_latency, field="max_latency") if max_latency else None,
        assumptions=replace(
            _DEFAULTS,
            node_start_s=parse_duration(node_start, field="node_start"),
            engine_start_s=parse_duration(engine_start, field="engine_start"),
            interruptions_per_h=interruptions,
            commit_rows=commit_rows,
        ),
    )
    if as_json:
        print(json.dumps(_report(workload, estimate) | {"rows": rows and asdict(rows)}, indent=1))
    else:
        print(estimate_text(model.model, workload, estimate, speeds, deadline=deadline))
    return 0


def _cluster(path: str | None, workload: Workload, table: CapacityTable) -> Cluster:
    """Read the cluster file; without one, return all machines, or this machine for the tiny models."""
    if path is not None:
        return read_cluster(path, table)
    if workload.shape.transformer.dim < NARROW_DIM:
        return this_machine(os.cpu_count() or 1)
    return any_machine(table)


def _counted(config: EngineConfig, num_images: int, fields: dict[str, Any], prompt_tokens: int) -> Workload:
    if num_images < 1:
        raise InvalidRequest(f"images: {num_images} is below 1", field="images")
    spec, shape = _model(config)
    if not 1 <= prompt_tokens <= spec.max_prompt_tokens:
        raise InvalidRequest(
            f"prompt_tokens: {prompt_tokens} is outside 1..{spec.max_prompt_tokens}", field="prompt_tokens"
        )
    from zimage_models.requests import build_request

    request = build_request(spec, {"prompt": "any", "seed": 0, **fields})
    kind = ImageKind(
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        num_computed_steps=request.num_computed_steps if request.step_schedule else None,
        is_guided=request.is_guided,
        prompt_tokens=prompt_tokens,
    )
    return Workload(shape=shape, kinds={kind: num_images})


def _model(config: EngineConfig) -> tuple[ModelSpec, Any]:
    """Find a model's limits and shape, without fetching a released model."""
    known = KNOWN_MODELS.get(config.model)
    if known is not None and known.directory is None:
        spec = released_spec(config.model, variant=config.variant, max_prompt_tokens=config.max_prompt_tokens)
        return spec, RELEASED_SHAPE
    spec = resolve_model(config)
    return spec, read_model_shape(spec.directory)


def _report(workload: Workload, estimate: FleetEstimate) -> dict[str, Any]:
    return {
        "images": workload.num_images,
        "forwards": workload.num_forwards,
        "flops": workload.flops,
        "kinds": [
            {**asdict(kind), "images": number, **asdict(image_work(workload.shape, kind))}
            for kind, number in workload.kinds.items()
        ],
        "options": [_finite(asdict(option)) for option in estimate.options],
        "chosen": [_finite(asdict(option)) for option in estimate.chosen],
        "why": estimate.why,
    }


def _finite(value: Any) -> Any:
    """Replace infinite numbers with None, because JSON has no such numbers."""
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value in (float("inf"), float("-inf")) else value
