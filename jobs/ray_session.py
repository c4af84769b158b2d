"""Start or join Ray for a job, and decide what each engine reserves there."""

import logging
import os

import ray

from deployments.autoscaler import has_autoscaler
from deployments.engine_resources import EngineResources
from pipelines.options import GenerateOptions
from zimage_models.errors import InvalidRequest

STAGE_CPUS = 4
"""Logical CPUs of a local Ray for reading, encoding and writing, in addition to its engines'."""

_GPU_ENGINE_CPUS = 1.0
"""CPUs that keep an engine on a GPU supplied with work."""

_WAITING_CPUS = 0.1
"""CPUs for the stage that only waits for an endpoint's engines."""


def connect(options: GenerateOptions, *, verbose: bool = False) -> EngineResources:
    """Join the cluster of ``RAY_ADDRESS`` (set inside ``ray job submit``), or start a local Ray.

    Raises:
        InvalidRequest: the cluster can't be reached, or ``--engine-gpus`` is needed there.
    """
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        level = logging.INFO if verbose else logging.ERROR
        try:
            if address or options.serve_app is not None:
                # "auto": the cluster that `zimage serve` started on this machine.
                ray.init(address=address or "auto", log_to_driver=verbose, logging_level=level)
            else:
                _start_local(options, verbose, level)
        except ConnectionError as error:
            where = f"at {address}" if address else "runs on this machine"
            raise InvalidRequest(f"RAY_ADDRESS: no Ray cluster {where} ({error})") from error
    return _resources(options)


def _start_local(options: GenerateOptions, verbose: bool, level: int) -> None:
    # Engines hold their CPUs for the whole run, so the other stages need extra logical CPUs: with none left,
    # nothing is ever read or written (2-core laptops).
    num_ranks = options.engines_max * options.engine.parallel.tensor_parallel_size
    num_cpus = num_ranks * _engine_cpus(options, os.cpu_count() or 1) + STAGE_CPUS
    if not verbose:
        # Ray's start-up prints a warning for every few workers, and an error line for every actor pool.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(int(num_cpus)))
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    # Every Ray process sends these to the dashboard, which a local Ray does not have.
    os.environ.setdefault("RAY_task_events_report_interval_ms", "0")
    os.environ.setdefault("RAY_enable_metrics_collection", "0")
    ray.init(
        address="local",
        num_cpus=int(num_cpus + 0.999),
        include_dashboard=False,
        log_to_driver=verbose,
        logging_level=level,
    )


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
