"""``zimage generate``: make the images of a prompt table and publish them as a data set."""

import sys
from contextlib import redirect_stdout
from functools import partial
from typing import Annotated, Any

import typer

from jobs.engine_range import parse_range
from jobs.progress import make_progress
from jobs.ray_session import connect
from jobs.shared_options import (
    INPUT_PANEL,
    AllowUrls,
    EngineHost,
    ImageFormat,
    ImageRoot,
    ProgressMode,
    S3Endpoint,
    S3Region,
    TrustHost,
    parse_pairs,
)
from jobs.work_estimate import estimate_text
from pipelines.generate import generate, plan_only
from pipelines.options import GenerateOptions
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.image_files.image_codec import Encoding
from zimage_models.model_spec import DEFAULT_MODEL

_INPUT = INPUT_PANEL
_IMAGE = "What to make (rows may set the same fields themselves)"
_OUTPUT = "What to write"
_ENGINE = "Engines"
_RUN = "The run"


def command(
    input: Annotated[
        str, typer.Argument(help="Prompt table: Parquet, CSV, JSONL or OpenAI-Batch JSONL; path or s3://.")
    ],
    output: Annotated[str, typer.Argument(help="Folder of the data set; path or s3://.")],
    format: Annotated[
        str | None,
        typer.Option(
            help="parquet, csv, jsonl or openai-batch; by suffix if not given.", rich_help_panel=_INPUT
        ),
    ] = None,
    map: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FIELD=COLUMN",
            help="Take a field from this column, or with FIELD= from none; repeatable.",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            metavar="COLUMN", help="Do not pass this column through; repeatable.", rich_help_panel=_INPUT
        ),
    ] = None,
    template: Annotated[
        str | None,
        typer.Option(
            help='Prompt from columns: "Studio photo of {{brand}} {{title}}" (Jinja2).',
            rich_help_panel=_INPUT,
        ),
    ] = None,
    where: Annotated[
        str | None,
        typer.Option(
            help="Keep rows for which this Jinja2 expression is true: \"category == 'shoes'\".",
            rich_help_panel=_INPUT,
        ),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Take only so many rows.", rich_help_panel=_INPUT)] = None,
    image_root: ImageRoot = None,
    allow_urls: AllowUrls = False,
    trust_host: TrustHost = None,
    model: Annotated[
        str, typer.Option(help="Embedded model, folder, hub id or s3:// address.", rich_help_panel=_IMAGE)
    ] = DEFAULT_MODEL,
    variant: Annotated[
        str | None,
        typer.Option(help="turbo, base or edit, for models not known by name.", rich_help_panel=_IMAGE),
    ] = None,
    controlnet: Annotated[
        str | None, typer.Option(help="ControlNet: folder, hub id or s3:// address.", rich_help_panel=_IMAGE)
    ] = None,
    variants: Annotated[int, typer.Option(help="Images per row.", rich_help_panel=_IMAGE)] = 1,
    seed: Annotated[
        int,
        typer.Option(help="Job seed, from which rows without a seed derive theirs.", rich_help_panel=_IMAGE),
    ] = 0,
    size: Annotated[str | None, typer.Option(metavar="WIDTHxHEIGHT", rich_help_panel=_IMAGE)] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", rich_help_panel=_IMAGE)] = None,
    guidance: Annotated[
        float | None, typer.Option(help="Guidance scale as in diffusers: 0 is none.", rich_help_panel=_IMAGE)
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(
            help="How far from its image a row goes, above 0 to 1; for tables with images.",
            rich_help_panel=_IMAGE,
        ),
    ] = None,
    controlnet_conditioning_scale: Annotated[
        float | None,
        typer.Option(help="How far a row follows its control image, 0 to 2.", rich_help_panel=_IMAGE),
    ] = None,
    negative_prompt: Annotated[str | None, typer.Option(rich_help_panel=_IMAGE)] = None,
    cfg_normalization: Annotated[float | None, typer.Option(rich_help_panel=_IMAGE)] = None,
    cfg_truncation: Annotated[float | None, typer.Option(rich_help_panel=_IMAGE)] = None,
    truncate_prompt: Annotated[
        bool,
        typer.Option(
            "--truncate-prompt/--reject-long-prompt",
            help="What to do with prompts past the token limit.",
            rich_help_panel=_IMAGE,
        ),
    ] = False,
    max_prompt_tokens: Annotated[int | None, typer.Option(rich_help_panel=_IMAGE)] = None,
    image_format: Annotated[ImageFormat, typer.Option(rich_help_panel=_OUTPUT)] = ImageFormat.PNG,
    quality: Annotated[
        int | None, typer.Option(help="1..100, for jpeg, webp and avif.", rich_help_panel=_OUTPUT)
    ] = None,
    embed_prompt: Annotated[
        bool,
        typer.Option(
            "--embed-prompt/--no-embed-prompt",
            help="Write the prompt into each image file.",
            rich_help_panel=_OUTPUT,
        ),
    ] = True,
    name: Annotated[
        str | None,
        typer.Option(help='File name by columns: "{sku}/{variant:02d}.png".', rich_help_panel=_OUTPUT),
    ] = None,
    export: Annotated[
        list[str] | None,
        typer.Option(
            help="Write also: files (images by name) or webdataset; repeatable.", rich_help_panel=_OUTPUT
        ),
    ] = None,
    engine: Annotated[
        EngineHost,
        typer.Option(
            help="own: engines of this job; serve: those of a running endpoint, after its online work.",
            rich_help_panel=_ENGINE,
        ),
    ] = EngineHost.OWN,
    serve_app: Annotated[
        str,
        typer.Option(help="The endpoint's application name, for --engine serve.", rich_help_panel=_ENGINE),
    ] = "default",
    engines: Annotated[
        str, typer.Option(metavar="MIN:MAX", help="How many engines.", rich_help_panel=_ENGINE)
    ] = "1:1",
    tp: Annotated[
        int,
        typer.Option(
            metavar="N",
            help="Divide each engine over N GPUs of a node (tensor parallel).",
            rich_help_panel=_ENGINE,
        ),
    ] = 1,
    engine_cpus: Annotated[
        float | None,
        typer.Option(
            help="CPUs (and threads) of one engine; with --tp of each rank.", rich_help_panel=_ENGINE
        ),
    ] = None,
    engine_gpus: Annotated[
        float | None,
        typer.Option(help="GPUs of one engine; with --tp of each rank.", rich_help_panel=_ENGINE),
    ] = None,
    accelerator_type: Annotated[
        str | None,
        typer.Option(
            metavar="TYPE", help="Engines on nodes with this, such as L40S.", rich_help_panel=_ENGINE
        ),
    ] = None,
    node_label: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE", help="Engines on nodes labelled so; repeatable.", rich_help_panel=_ENGINE
        ),
    ] = None,
    device: Annotated[str, typer.Option(rich_help_panel=_ENGINE)] = "auto",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or auto.", rich_help_panel=_ENGINE)] = "auto",
    compile: Annotated[
        bool, typer.Option("--compile", help="torch.compile the transformer.", rich_help_panel=_ENGINE)
    ] = False,
    max_step_tokens: Annotated[
        int | None, typer.Option(help="Transformer tokens in one step.", rich_help_panel=_ENGINE)
    ] = None,
    fake: Annotated[
        bool,
        typer.Option("--fake", help="Instant coloured tiles instead of a model.", rich_help_panel=_ENGINE),
    ] = False,
    cache_dir: Annotated[
        str | None, typer.Option(help="Where s3:// checkpoints are kept.", rich_help_panel=_ENGINE)
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Plan only: counts and an estimate.", rich_help_panel=_RUN)
    ] = False,
    commit_rows: Annotated[
        int | None, typer.Option(help="Rows written together.", rich_help_panel=_RUN)
    ] = None,
    max_errors: Annotated[
        int | None,
        typer.Option(help="Stop (exit code 4) after more failed images than this.", rich_help_panel=_RUN),
    ] = None,
    time_limit: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Stop (exit code 4) after this long.", rich_help_panel=_RUN),
    ] = None,
    progress: Annotated[ProgressMode, typer.Option(rich_help_panel=_RUN)] = ProgressMode.AUTO,
    verbose: Annotated[
        bool, typer.Option("--verbose", help="Show Ray's and the workers' logs.", rich_help_panel=_RUN)
    ] = False,
    s3_endpoint: S3Endpoint = None,
    s3_region: S3Region = None,
) -> int:
    """Make the images of a prompt table and publish them as a data set.

    Run the same command again to continue after a stop, or to bring the data set up to a changed table. Exit
    codes: 0 all rows made, 2 bad usage, 3 some rows failed, 4 stopped by a cap, 130 interrupted.
    """
    fields: dict[str, Any] = {
        "size": size,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "strength": strength,
        "controlnet_conditioning_scale": controlnet_conditioning_scale,
        "negative_prompt": negative_prompt,
        "cfg_normalization": cfg_normalization,
        "cfg_truncation": cfg_truncation,
        "truncate_prompt": truncate_prompt or None,
    }
    engines_min, engines_max = parse_range(engines, field="engines")
    options = GenerateOptions.model_validate(
        dict(
            input=input,
            output=output,
            input_format=format,
            columns=parse_pairs(map or [], field="map", form="FIELD=COLUMN", may_be_empty=True),
            drop=tuple(drop or ()),
            template=template,
            where=where,
            limit=limit,
            variants=variants,
            seed=seed,
            fields={name: value for name, value in fields.items() if value is not None},
            image_root=image_root,
            allow_urls=allow_urls,
            trusted_hosts=tuple(trust_host or ()),
            name=name,
            encoding=Encoding(format=image_format.value, quality=quality, embed_prompt=embed_prompt),
            exports=tuple(export or ()),
            engine=EngineConfig(
                model=model,
                variant=variant,
                controlnet=controlnet,
                device=device,
                dtype=dtype,
                max_prompt_tokens=max_prompt_tokens,
                max_step_tokens=max_step_tokens,
                compile=compile,
                parallel=ParallelConfig(tensor_parallel_size=tp),
                s3_endpoint_url=s3_endpoint,
                cache_dir=cache_dir,
                fake=fake,
            ),
            serve_app=serve_app if engine is EngineHost.SERVE else None,
            engines_min=engines_min,
            engines_max=engines_max,
            engine_cpus=engine_cpus,
            engine_gpus=engine_gpus,
            accelerator_type=accelerator_type,
            node_labels=parse_pairs(node_label or [], field="node_label", form="KEY=VALUE"),
            commit_rows=commit_rows,
            max_errors=max_errors,
            time_limit_s=time_limit,
            storage={"s3_endpoint_url": s3_endpoint, "s3_region": s3_region},
        )
    )
    if dry_run:
        display = make_progress(progress.value)
        plan = plan_only(options)
        display.planned(plan)
        print(estimate_text(options, plan))
        for error in plan.rejected[:20]:
            print(f"row {error.row} ({error.key}): {error.message}", file=sys.stderr)
        return 0
    return run(options, progress=progress.value, verbose=verbose)


def run(options: GenerateOptions, *, progress: str, verbose: bool, **how: Any) -> int:
    """Generate, and say where the images are."""
    display = make_progress(progress)
    # Ray prints its warnings on standard output, which a scheduler reads as JSON lines.
    with redirect_stdout(sys.stderr):
        result = generate(
            options, connect=partial(connect, options, verbose=verbose), progress=display, **how
        )
    if result.manifest is None:
        assert result.outcome is not None
        print(f"stopped by {result.outcome.stopped_by}; the same command continues", file=sys.stderr)
    elif progress not in ("json", "quiet"):
        counts = result.manifest.counts
        print(f"{counts['published']} images in {options.output}/data ({result.manifest.path})")
        print(f"look at them: {options.output}/gallery.html")
        if counts["failed"] or counts["rejected"]:
            print(f"{counts['rejected']} rows rejected, {counts['failed']} images failed; to see why:")
            print(f"zimage status {options.output}")
    return int(result.exit_code)
