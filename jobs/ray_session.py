"""Start or join Ray for a job, and decide how many engines it has there and what each reserves."""

import logging
import math
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from typing import Any

import ray
from ray._private import ray_constants
from ray._private.accelerators import get_all_accelerator_managers
from ray._private.utils import get_num_cpus

from deployments.autoscaler import has_autoscaler
from deployments.engine_resources import EngineResources
from deployments.errors import RayNotStarted
from pipelines.options import GenerateOptions
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.errors import InvalidRequest
from zimage_models.memory.machine import available_bytes

STAGE_CPUS = 4
"""Logical CPUs of a local Ray for reading, encoding and writing, in addition to its engines'."""

_GPU_ENGINE_CPUS = 1.0
"""CPUs that keep an engine on a GPU supplied with work."""

_IDLE_WORKER_MS = 600_000

_PROCESS_BYTES = 2**30
"""What an engine's process takes without its weights."""

_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")

_WAITING_CPUS = 0.1
"""CPUs for the stage that only waits for an endpoint's engines."""


def connect(options: GenerateOptions, *, verbose: bool = False) -> EngineResources:
    """Join the cluster of ``RAY_ADDRESS`` (set inside ``ray job submit``), or start a local Ray.

    Raises:
        InvalidRequest: the cluster can't be reached, ``--engine-gpus`` is needed there, or this machine has
            fewer GPUs than an engine takes.
        RayNotStarted: the local Ray does not start.
    """
    if ray.is_initialized():
        return _resources(options)
    if "RAY_ADDRESS" in os.environ or options.serve_app is not None:
        join_ray(verbose=verbose)
        return _resources(options)
    # Engines hold their CPUs for the whole run, so the other stages need extra logical CPUs: with none left,
    # nothing is ever read or written (2-core laptops).
    num_ranks = options.engines_max * options.engine.parallel.tensor_parallel_size
    num_cpus = math.ceil(num_ranks * _engine_cpus(options, os.cpu_count() or 1)) + STAGE_CPUS
    # Every Ray process sends these to the dashboard, which a local Ray does not have.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    # Ray would end a worker after a second without work, and the next one takes a second to import.
    os.environ.setdefault("RAY_idle_worker_killing_time_threshold_ms", str(_IDLE_WORKER_MS))
    start_ray(num_cpus=num_cpus, verbose=verbose)
    resources = _resources(options)
    _require_gpus(resources.num_gpus * resources.num_ranks)
    return resources


def _require_gpus(num_gpus: float) -> None:
    """Refuse an engine for which a local Ray, to which no node can be added, would wait for ever."""
    found = ray.cluster_resources().get("GPU", 0)  # type: ignore[no-untyped-call]
    if num_gpus > found:
        raise InvalidRequest(
            f"engine_gpus: an engine takes {num_gpus:g}, but Ray finds {found:g} on this machine",
            field="engine_gpus",
        )


def join_ray(*, verbose: bool) -> None:
    """Join the cluster of ``RAY_ADDRESS``, or the one that ``zimage serve`` started on this machine.

    Raises:
        InvalidRequest: it can't be reached.
    """
    address = os.environ.get("RAY_ADDRESS")
    if (address or "").rpartition(":")[0] in _LOOPBACK:  # other nodes could not reach this process there
        _keep_to_loopback()
    try:
        _init(address=address or "auto", verbose=verbose)
    except ConnectionError as error:
        where = f"at {address}" if address else "runs on this machine"
        raise InvalidRequest(f"RAY_ADDRESS: no Ray cluster {where} ({error})") from error


def start_ray(*, num_cpus: int, verbose: bool) -> None:
    """Start a Ray on this machine, which ends with this process and which other machines can't reach.

    Args:
        num_cpus: logical CPUs.
        verbose: whether to show Ray's and the workers' logs.

    Raises:
        RayNotStarted: it does not start, with what may help.
    """
    if not verbose:
        # Ray's start-up prints a warning for every few workers.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(num_cpus))
    _keep_to_loopback()
    try:
        _init(address="local", num_cpus=num_cpus, include_dashboard=False, verbose=verbose)
    except Exception as error:
        # Of many classes: for a node that does not start in time, Ray raises a bare Exception.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise RayNotStarted(
            f"Ray could not be started on this machine: {reason.rstrip('.')}. Check for free memory, also in"
            " /dev/shm, and for disk space in /tmp; if the machine is busy, try again later; --verbose shows"
            " Ray's own messages"
        ) from error


def _keep_to_loopback() -> None:
    """Make Ray use the loopback address: a Ray that starts listens there only, as on Windows and macOS.

    Else Ray (2.60) takes the address of the machine instead, for what it starts and for what it joins.
    """
    ray_constants.ENABLE_RAY_CLUSTER = False


def _init(*, verbose: bool, **how: Any) -> None:
    if verbose:
        ray.init(log_to_driver=True, logging_level=logging.INFO, **how)
        return
    # Ray Data (2.60) logs every error that it then raises.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    # Else Ray's C++ (2.60) prints an error line for every actor pool: "has constructor arguments in ...".
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # A container may have no grep, and then it shows the line.
    quiet = _stderr_without("Set ray log level from environment variable")
    with quiet if shutil.which("grep") else nullcontext():
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)


@contextmanager
def _stderr_without(line: str) -> Iterator[None]:
    """Drop the lines with a text from standard error, of C++ code too; everything else passes at once.

    Ray (2.60, logging.cc) announces RAY_BACKEND_LOG_LEVEL in such a line before the level takes effect. The
    filter is a process of its own, so that what C++ prints before it aborts is not lost.
    """
    stderr = os.dup(2)
    command = ["grep", "--line-buffered", "--invert-match", "--fixed-strings", line]
    # In a session of its own, it outlives Ctrl-C.
    grep = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=stderr, start_new_session=True)
    assert grep.stdin is not None
    os.dup2(grep.stdin.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        grep.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            grep.wait(timeout=1)  # with RAY_LOG_TO_STDERR, Ray's processes write to it until they end


def _resources(options: GenerateOptions) -> EngineResources:
    if options.serve_app is not None:
        return EngineResources(num_cpus=_WAITING_CPUS, num_gpus=0)
    num_gpus = options.engine_gpus
    if num_gpus is None:
        device = "cuda" if options.accelerator_type else options.engine.device
        num_gpus = default_gpus(device, fake=options.engine.fake)
    if num_gpus:
        num_cpus = options.engine_cpus or _GPU_ENGINE_CPUS
    else:
        num_cpus = _engine_cpus(options, os.cpu_count() or 1)
    return EngineResources(
        num_cpus=num_cpus,
        num_gpus=num_gpus,
        num_ranks=options.engine.parallel.tensor_parallel_size,
        accelerator_type=options.accelerator_type,
        node_labels=options.node_labels,
    )


def default_gpus(device: str, *, fake: bool) -> float:
    """Return how many GPUs an engine takes in the joined cluster: one if it has any.

    Raises:
        InvalidRequest: there are none now, but an autoscaler might start nodes with GPUs.
    """
    if fake or not (device == "auto" or device.startswith("cuda")):
        return 0
    if device != "auto" or ray.cluster_resources().get("GPU", 0):  # type: ignore[no-untyped-call]
        return 1
    if has_autoscaler():
        # In a cluster that is scaled to zero, nobody wants engines on the head node's CPUs.
        raise InvalidRequest(
            "engine_gpus: no node of the cluster has a GPU now, and its autoscaler does not report whether it"
            " can start any; give --engine-gpus 1, or 0 for engines on CPUs",
            field="engine_gpus",
        )
    return 0


def _engine_cpus(options: GenerateOptions, num_cores: int) -> float:
    num_ranks = options.engines_max * options.engine.parallel.tensor_parallel_size
    return options.engine_cpus or max(1, num_cores // num_ranks)


def with_default_engines(options: GenerateOptions) -> GenerateOptions:
    """Let a job on this machine's CPUs start an engine for each core, as far as memory allows.

    One engine of all cores makes fewer images per second: it waits for its slowest thread at every step. Jobs
    elsewhere keep one engine.
    """
    if not _is_on_own_cpus(options):
        return options
    most = max(1, int(get_num_cpus() // (options.engine_cpus or 1)))
    free_bytes = available_bytes()
    if free_bytes is not None:
        most = min(most, free_bytes // _engine_bytes(options))
    return options.model_copy(update={"engines_max": max(options.engines_min, most)})


def _is_on_own_cpus(options: GenerateOptions) -> bool:
    engine = options.engine
    joins = options.serve_app or "RAY_ADDRESS" in os.environ or ray.is_initialized()
    if joins or engine.fake or options.engine_gpus:
        return False
    if options.accelerator_type or engine.parallel.tensor_parallel_size > 1:
        return False
    if engine.device == "auto":
        return not any(kind.get_current_node_num_accelerators() for kind in get_all_accelerator_managers())
    return engine.device == "cpu"


def _engine_bytes(options: GenerateOptions) -> int:
    """Bound the memory of an engine: bfloat16 weights become float32, which takes twice their files."""
    spec = resolve_model(options.engine)
    folders = [spec.directory, *([spec.controlnet.directory] if spec.controlnet else [])]
    weights = sum(file.stat().st_size for folder in folders for file in folder.rglob("*.safetensors"))
    return _PROCESS_BYTES + 2 * weights
