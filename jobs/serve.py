"""``zimage serve``: the online endpoint on this machine, or on the cluster of ``RAY_ADDRESS``."""

import logging
import os
import signal
import sys
from threading import Event
from typing import Annotated, Any

import typer
import yaml

from deployments.app_args import AppArgs
from jobs.engine_range import parse_range
from jobs.ray_session import STAGE_CPUS
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import DEFAULT_MODEL

APP_NAME = "default"
"""As ``serve run`` names it."""


def command(
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=CHECKPOINT",
            help="A model to serve: embedded name, folder, hub id or s3:// address; repeatable, the first is"
            f" the default. Without: z-image-turbo={DEFAULT_MODEL}.",
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX", help="Engines of each model (1:1); MIN 0 lets the last go when idle."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    keys_file: Annotated[str | None, typer.Option(help="YAML file of API keys.")] = None,
    playground: Annotated[bool, typer.Option("--playground/--no-playground", help="The page at /.")] = True,
    engine_cpus: Annotated[float | None, typer.Option(help="CPUs (and threads) of one engine.")] = None,
    engine_gpus: Annotated[
        float | None, typer.Option(help="GPUs of one engine; one where the machine has any.")
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(help="YAML file of all options (args of deployments/serve.yaml); others override it."),
    ] = None,
    fake: Annotated[bool, typer.Option("--fake", help="Instant coloured tiles instead of a model.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's and the replicas' logs.")] = False,
) -> int:
    """Serve images over HTTP as OpenAI's API does, until interrupted."""
    values = _read(config) if config else {}
    if model or "models" not in values:
        values["models"] = [_model(text) for text in model or [f"z-image-turbo={DEFAULT_MODEL}"]]
    for entry in values["models"]:
        if replicas is not None:
            low, high = parse_range(replicas, field="replicas")
            entry.setdefault("scaling", {}).update(min_replicas=low, max_replicas=high)
        if fake:
            entry.setdefault("engine", {})["fake"] = True
    if keys_file:
        values.setdefault("auth", {})["keys_file"] = keys_file
    if not playground:
        values["playground"] = False
    args = AppArgs.model_validate(values)
    return _serve(
        args, host=host, port=port, engine_cpus=engine_cpus, engine_gpus=engine_gpus, verbose=verbose
    )


def _serve(
    args: AppArgs,
    *,
    host: str,
    port: int,
    engine_cpus: float | None,
    engine_gpus: float | None,
    verbose: bool,
) -> int:
    # Ray takes a second to import, and its Serve another: not for --help.
    import ray
    from ray import serve

    from deployments.app import build_app

    level = logging.INFO if verbose else logging.ERROR
    address = os.environ.get("RAY_ADDRESS")
    if not verbose:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        logging.getLogger("ray.serve").setLevel(logging.ERROR)
    num_engines = sum(model.scaling.max_replicas for model in args.models)
    num_cores = os.cpu_count() or 1
    cpus = engine_cpus or max(1, num_cores // num_engines)
    if address:
        ray.init(address=address, log_to_driver=verbose, logging_level=level)
    else:
        # Logical CPUs: engines and HTTP hold theirs all the time; batch jobs that join need some as well.
        total = (
            int(num_engines * cpus + args.ingress.num_replicas * args.ingress.num_cpus + 0.999) + STAGE_CPUS
        )
        ray.init(
            address="local",
            num_cpus=total,
            include_dashboard=False,
            log_to_driver=verbose,
            logging_level=level,
        )
    has_gpu = ray.cluster_resources().get("GPU", 0) > 0  # type: ignore[no-untyped-call]
    gpus = engine_gpus if engine_gpus is not None else float(has_gpu)
    models = tuple(
        model.model_copy(update={"num_cpus": cpus, "num_gpus": 0.0 if model.engine_config().fake else gpus})
        if {"num_cpus", "num_gpus"}.isdisjoint(model.model_fields_set)
        else model
        for model in args.models
    )
    stop = Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        serve.start(http_options={"host": host, "port": port})
        serve.run(build_app(args.model_copy(update={"models": models})), name=APP_NAME, route_prefix="/")
        print(f"serving {', '.join(model.id for model in models)} at http://{host}:{port}/v1", flush=True)
        if args.playground:
            print(f"playground: http://{host}:{port}/", flush=True)
        if not address:
            where = ray.get_runtime_context().gcs_address
            join = f"RAY_ADDRESS={where} RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'disabled')}"
            print(f"batch jobs: {join} zimage generate INPUT OUTPUT --engine serve", flush=True)
        stop.wait()
        print("stopping: accepted requests are finished first", file=sys.stderr, flush=True)
    finally:
        if address:
            serve.delete(APP_NAME)
        else:
            serve.shutdown()  # type: ignore[no-untyped-call]
            ray.shutdown()
    return 0


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            values = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InvalidRequest(f"config: {path} can't be read ({error})", field="config") from error
    if not isinstance(values, dict):
        raise InvalidRequest(f"config: {path} is not a YAML mapping", field="config")
    AppArgs.model_validate(values)
    return values


def _model(text: str) -> dict[str, Any]:
    model_id, separator, checkpoint = text.partition("=")
    if not separator:
        model_id, checkpoint = text.rstrip("/").rsplit("/", 1)[-1], text
    return {"id": model_id, "model": checkpoint}
