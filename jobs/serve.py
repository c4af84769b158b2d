"""``zimage serve``: the online endpoint on this machine, or on the cluster of ``RAY_ADDRESS``."""

import math
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs.option_groups import AnswerOptions, ServedEngineOptions, with_groups
from jobs.option_values import duration_text, parse_duration, parse_range
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import DEFAULT_MODEL

# Ray, and what reads options, are imported when the command runs: --help and bad usage do not need them.
if TYPE_CHECKING:
    from deployments.app_args import AppArgs, ModelArgs

APP_NAME = "default"
"""Application name, the same as ``serve run`` uses."""

_LOOK_S = 0.5
_REPEAT_S = 30.0


@with_groups
def command(
    *,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ID=CHECKPOINT",
            help="Model to serve: embedded name, folder, Hub ID or s3:// address; repeatable, the first is"
            f" the default model. Without this option: z-image-turbo={DEFAULT_MODEL}.",
        ),
    ] = None,
    replicas: Annotated[
        str | None,
        typer.Option(
            metavar="MIN:MAX", help="Engines per model (1:1); with MIN 0 the last one is removed when idle."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    keys_file: Annotated[str | None, typer.Option(help="YAML file of API keys.")] = None,
    playground: Annotated[
        bool, typer.Option("--playground/--no-playground", help="Serve the page at /.")
    ] = True,
    answers: AnswerOptions,
    engines: ServedEngineOptions,
    engine_cpus: Annotated[
        float | None, typer.Option(help="CPUs (and threads) per engine, or per rank with --tp.")
    ] = None,
    engine_gpus: Annotated[
        float | None,
        typer.Option(help="GPUs per engine, or per rank with --tp; by default 1 if the machine has any."),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Path at which a proxy offers the endpoint, such as /images."),
    ] = None,
    config: Annotated[
        str | None,
        typer.Option(
            help="YAML file of all options (args of deployments/serve.yaml); other options override it."
        ),
    ] = None,
    drain_timeout: Annotated[
        str,
        typer.Option(
            metavar="DURATION", help="How long accepted requests may still take when the endpoint is stopped."
        ),
    ] = "60s",
    verbose: Annotated[bool, typer.Option("--verbose", help="Show Ray's and the replicas' logs.")] = False,
) -> int:
    """Serve OpenAI's Images API over HTTP until interrupted; accepted requests are then finished."""
    from deployments.app_args import AppArgs

    drain_timeout_s = parse_duration(drain_timeout, field="drain_timeout")
    values = _read(config) if config else {}
    if model or "models" not in values:
        values["models"] = [_model(text) for text in model or [f"z-image-turbo={DEFAULT_MODEL}"]]
    for entry in values["models"]:
        if replicas is not None:
            low, high = parse_range(replicas, field="replicas")
            if high < max(low, 1):
                message = f"replicas: {high}, the maximum of {replicas}, is below {max(low, 1)}"
                raise InvalidRequest(message, field="replicas")
            entry.setdefault("scaling", {}).update(min_replicas=low, max_replicas=high)
        engines.update(entry)
    answers.update(values)
    if keys_file:
        values.setdefault("auth", {})["keys_file"] = keys_file
    if not playground:
        values["playground"] = False
    if root_path is not None:
        values["root_path"] = root_path
    args = AppArgs.model_validate(values)
    return _serve(
        args,
        host=host,
        port=port,
        engine_cpus=engine_cpus,
        engine_gpus=engine_gpus,
        drain_timeout_s=drain_timeout_s,
        verbose=verbose,
    )


def _serve(
    args: "AppArgs",
    *,
    host: str,
    port: int,
    engine_cpus: float | None,
    engine_gpus: float | None,
    drain_timeout_s: float,
    verbose: bool,
) -> int:
    from deployments.http.server_protocol import CALLBACK

    start_s = time.monotonic()
    joins = "RAY_ADDRESS" in os.environ
    if not joins:  # engines elsewhere have their own folders
        args.check_models()
    # Serve's processes then call each other by gRPC, not through Ray, which takes three quarters of the CPU.
    # The Dockerfile sets it on clusters. It is read on import, and by the workers of a Ray that starts here.
    os.environ.setdefault("RAY_SERVE_USE_GRPC_BY_DEFAULT", "1")
    # gRPC's own limit is 4 MiB, which the pixels of 1536x1536 exceed.
    os.environ.setdefault("RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH", str(2**31 - 1))
    # Serve kills and restarts a proxy that is not up within three times this: on a busy laptop, for ever.
    os.environ.setdefault("RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S", "60")
    os.environ.setdefault("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", CALLBACK)
    import ray
    from ray import serve

    from deployments.app import build_app
    from deployments.app_lifecycle import num_replicas
    from jobs.ray_session import STAGE_CPUS, join_ray, start_ray

    num_ranks = sum(model.scaling.max_replicas * model.tensor_parallel_size for model in args.models)
    num_cpus = engine_cpus or max(1, (os.cpu_count() or 1) // num_ranks)
    if joins:
        join_ray(verbose=verbose)
    else:
        # Logical CPUs: engines and HTTP always hold theirs; batch jobs that join need some too.
        held = num_ranks * num_cpus + args.ingress.num_replicas * args.ingress.num_cpus
        _tell("starting Ray")
        start_ray(num_cpus=math.ceil(held) + STAGE_CPUS, verbose=verbose)
    models = tuple(_with_resources(model, num_cpus, engine_gpus) for model in args.models)
    args = args.model_copy(update={"models": models})
    # Ray has put its own handler here.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    drained = False
    try:
        # One proxy, at the printed address; others would keep idle engine nodes for half a minute.
        serve.start(proxy_location="HeadOnly", http_options={"host": host, "port": port})
        with _progress(start_s):
            serve.run(build_app(args), name=APP_NAME, route_prefix="/")
        engines = ", ".join(
            f"{num_replicas(APP_NAME, model.id, 'RUNNING')} of {model.id}" for model in models
        )
        _tell(f"ready after {time.monotonic() - start_s:.0f} s; engines: {engines}")
        stop = _stop_signal()
        print(f"serving {', '.join(model.id for model in models)} at http://{host}:{port}/v1", flush=True)
        if args.playground:
            print(f"playground: http://{host}:{port}/", flush=True)
        if not joins:
            where = ray.get_runtime_context().gcs_address
            join = f"RAY_ADDRESS={where} RAY_AUTH_MODE={os.environ.get('RAY_AUTH_MODE', 'disabled')}"
            print(f"batch jobs: {join} zimage generate INPUT OUTPUT --engine serve", flush=True)
        stop.wait()
        _tell("stopping")
        drained = _drain(None if joins else (host, port), drain_timeout_s)
    finally:
        if joins:
            serve.delete(APP_NAME, _blocking=drained)
        else:
            ray.shutdown()  # with all its processes
    return 0


@contextmanager
def _progress(start_s: float) -> Iterator[None]:
    """Report what the engines that start are doing: what is new, and twice a minute what still goes on.

    Raises:
        InvalidRequest: an engine can't start, with its own words.
    """
    from deployments.app_lifecycle import failed, starting

    started = Event()

    def tell() -> None:
        told: dict[str, tuple[str, float]] = {}
        while not started.wait(_LOOK_S):
            now_s = time.monotonic()
            for model_id, phases in starting(APP_NAME).items():
                counts = Counter(phases).items()
                line = ", ".join(
                    f"{count} x {phase}" if len(phases) > 1 else phase for phase, count in counts
                )
                last, last_s = told.get(model_id, ("", 0.0))
                if line != last or now_s > last_s + _REPEAT_S:
                    told[model_id] = line, now_s
                    _tell(f"{model_id}: {line} ({now_s - start_s:.0f} s)")

    thread = Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    except RuntimeError as error:  # Serve's, which only names the model
        problems = [f"{model_id}: {reason}" for model_id, reason in failed(APP_NAME).items()]
        if not problems:
            raise
        raise InvalidRequest("; ".join(problems)) from error
    finally:
        started.set()
        thread.join(timeout=_LOOK_S)


def _stop_signal() -> Event:
    """Return an event that the first SIGINT or SIGTERM sets; the second interrupts the program."""
    stop = Event()

    def received(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, received)
    return stop


def _drain(proxy: tuple[str, int] | None, timeout_s: float) -> bool:
    """Finish the accepted requests, and return whether that was done in time.

    Args:
        proxy: host and port of the proxy that ends with this process, if it does.
        timeout_s: how long it may take.
    """
    from deployments.app_lifecycle import drain, undelivered

    limit = duration_text(timeout_s)
    deadline_s = time.monotonic() + timeout_s
    first = f"accepted requests are finished first, for at most {limit}; a second signal ends them at once"
    num_left = _wait(drain(APP_NAME), deadline_s, first)
    if proxy and not num_left:
        num_left = _wait(undelivered(*proxy), deadline_s, "clients that have not taken their answers yet")
    if num_left:
        end = "cut" if proxy else "left to Ray Serve"
        _tell(f"{limit} are over; requests that are {end}: {num_left}")
    return not num_left


def _wait(counts: Iterator[int], deadline_s: float, waiting: str) -> int:
    """Wait until a count is 0, or return what it is at the deadline."""
    told = False
    for count in counts:
        if count and time.monotonic() > deadline_s:
            return count
        if count and not told:
            _tell(f"stopping: {waiting} ({count})")
            told = True
    return 0


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _with_resources(model: "ModelArgs", num_cpus: float, num_gpus: float | None) -> "ModelArgs":
    """Set a model's resources for this machine, unless they are configured."""
    from jobs.ray_session import default_gpus

    if {"num_cpus", "num_gpus"} & model.model_fields_set:
        return model
    config = model.engine_config()
    if num_gpus is None:
        num_gpus = default_gpus("cuda" if model.accelerator_type else config.device, fake=config.fake)
    return model.model_copy(update={"num_cpus": num_cpus, "num_gpus": num_gpus})


def _read(path: str) -> dict[str, Any]:
    import yaml

    from deployments.app_args import AppArgs

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
