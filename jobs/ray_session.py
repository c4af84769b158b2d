"""Start or join Ray for a job, and decide what each engine reserves there."""

import logging
import os

import ray

from pipelines.options import GenerateOptions
from pipelines.run import EngineResources
from zimage_models.errors import InvalidRequest

STAGE_CPUS = 4
"""Logical CPUs for reading, encoding and writing beside the engines of a local Ray."""

_WAITING_CPUS = 0.1
"""What the stage reserves that only waits for an endpoint's engines."""


def connect(options: GenerateOptions, *, verbose: bool = False) -> EngineResources:
    """Join the cluster of ``RAY_ADDRESS`` (set inside ``ray job submit``), or start a local Ray.

    Raises:
        InvalidRequest: the cluster can't be reached.
    """
    if not verbose:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
    if not ray.is_initialized():
        address = os.environ.get("RAY_ADDRESS")
        level = logging.INFO if verbose else logging.ERROR
        try:
            if options.serve_app is not None:
                # "auto": the cluster that `zimage serve` started on this machine.
                ray.init(address=address or "auto", log_to_driver=verbose, logging_level=level)
            elif address:
                ray.init(address=address, log_to_driver=verbose, logging_level=level)
            else:
                _start_local(options, verbose, level)
        except ConnectionError as error:
            where = f"at {address}" if address else "runs on this machine"
            raise InvalidRequest(f"RAY_ADDRESS: no Ray cluster {where} ({error})") from error
    return _resources(options)


def _start_local(options: GenerateOptions, verbose: bool, level: int) -> None:
    # Engines hold their CPUs for the whole run, so the other stages need logical CPUs of their own: with none
    # left, nothing is ever read or written (2-core laptops).
    num_cpus = options.engines_max * _engine_cpus(options, os.cpu_count() or 1) + STAGE_CPUS
    if not verbose:
        # Ray's start-up prints a warning for every few workers, and an error line for every actor pool.
        os.environ.setdefault("RAY_worker_maximum_startup_concurrency", str(int(num_cpus)))
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
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
    cluster = ray.cluster_resources()  # type: ignore[no-untyped-call]
    if options.engine_gpus is not None:
        num_gpus = options.engine_gpus
    else:
        wants_gpu = options.engine.device.startswith("cuda") or (
            options.engine.device == "auto" and cluster.get("GPU", 0) > 0
        )
        num_gpus = 1.0 if wants_gpu and not options.engine.fake else 0.0
    if num_gpus:
        return EngineResources(num_cpus=options.engine_cpus or 0, num_gpus=num_gpus)
    return EngineResources(num_cpus=_engine_cpus(options, os.cpu_count() or 1), num_gpus=0)


def _engine_cpus(options: GenerateOptions, num_cores: int) -> float:
    return options.engine_cpus or max(1, num_cores // options.engines_max)
