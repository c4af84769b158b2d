"""Running a plan's work table through Ray Data: read, generate, encode, write."""

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import ray
import ray.data
from ray.data.expressions import col
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.autoscaler import has_autoscaler
from deployments.engine_resources import EngineResources
from pipelines.dataset.manifest import RunSpeed
from pipelines.options import GenerateOptions
from pipelines.plan.picture_plan import picture_folder
from pipelines.plan.plan import Plan
from pipelines.run.generate_stage import GenerateStage
from pipelines.run.node_wait import NodeWait
from pipelines.run.picture_stage import PictureSettings, picture_stage
from pipelines.run.run_monitor import RunCounts, RunMonitor
from pipelines.run.served_engine import ServedModel
from pipelines.run.write_stages import StageSettings, encode_stage, write_stage
from pipelines.storage import Storage
from pipelines.work_table import has_pictures
from zimage_models.config import EngineConfig
from zimage_models.model_spec import ModelSpec

_MIN_COMMIT_ROWS = 16
_MAX_COMMIT_ROWS = 256
_BLOCKS_PER_ENGINE = 2
"""Blocks that one engine works on at once: while one finishes, the next keeps the step batch full."""

_COMMITS_PER_READ = 4
_MOST_BLOCKS = 200
_WIDE_BLOCK_BYTES = 2**19

_PICTURE_CPUS = 0.9
"""CPUs to fetch and decode one block. No engine reserves the same, so Ray does not fuse the two stages."""

_PROGRESS_INTERVAL_S = 0.5
"""Interval between polls of the counts; polling after every part slows a fast run by a tenth."""

ProgressCallback = Callable[[RunCounts], None]
WaitCallback = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOutcome:
    """How a run ended; its parts are in the output in any case."""

    counts: RunCounts
    speed: RunSpeed
    stopped_by: str | None
    """Cap that ended the run early, if any."""


def commit_rows(options: GenerateOptions, num_units: int) -> int:
    """Choose how many rows are written together: few enough to lose little, many enough for few files."""
    return options.commit_rows or min(_MAX_COMMIT_ROWS, max(_MIN_COMMIT_ROWS, math.ceil(num_units / 10_000)))


def fit_engines(options: GenerateOptions, num_units: int) -> GenerateOptions:
    """Lower the most engines of a job to those that its work keeps busy, which then share its cores.

    Args:
        options: the run's options.
        num_units: images to make.
    """
    num_blocks = math.ceil(num_units / commit_rows(options, num_units))
    most = min(options.engines_max, math.ceil(num_blocks / _BLOCKS_PER_ENGINE))
    return options.model_copy(update={"engines_max": max(options.engines_min, most)})


def run_plan(
    plan: Plan,
    options: GenerateOptions,
    *,
    output: Storage,
    spec: ModelSpec,
    weights_sha256: str,
    engine: EngineConfig | ServedModel,
    resources: EngineResources,
    on_progress: ProgressCallback,
    on_waiting: WaitCallback,
) -> RunOutcome:
    """Generate every unit that the plan marks as to do, and write the images in parts.

    Rows that fail become error rows; the work of a dead engine, actor or node is retried. Ray must be
    initialised.

    Args:
        plan: the plan; its work table is in the output.
        options: the run's options, after :func:`fit_engines`.
        output: where parts are written.
        spec: the model.
        weights_sha256: hash that identifies the weights, published with every image.
        engine: the engine that generates the images.
        resources: what Ray reserves for one engine.
        on_progress: called from a thread about twice a second, and at the end.
        on_waiting: called from the same thread with what engines without a node are waiting for.

    Raises:
        InvalidRequest: no engine can be made, in its own words.
    """
    # On the driver's node: on a worker it would keep an idle node, and end the run if that node is lost.
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    monitor: Any = ray.remote(RunMonitor).options(num_cpus=0, scheduling_strategy=here).remote()
    settings = StageSettings(
        output=output,
        encoding=options.encoding,
        model=options.engine.model,
        weights_sha256=weights_sha256,
        passthrough=plan.passthrough,
        monitor=monitor,
    )
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # Version 2 lists files in a separate task, which adds seconds of start-up for a table of a few files.
    context.use_datasource_v2 = False
    # Ray Data would fail a run that finishes no block for half an hour. Spot nodes may take longer to
    # start, and so may one block of large Base images; a run's cap is --time-limit.
    context.execution_no_progress_timeout_s = -1
    pictures = None
    if has_pictures(plan.passthrough):
        pictures = PictureSettings(
            access=options.picture_access(plan.source_folder),
            output=output,
            folder=picture_folder(plan.run_id),
            spec=spec,
        )
    written = _dataset(plan, options, settings, pictures, engine, resources)
    start_s = time.monotonic()
    stopped_by: str | None = None
    with _polling(monitor, NodeWait(resources), on_progress, on_waiting) as polled:
        for number, _ in enumerate(_blocks(written, monitor)):
            if number == 0:  # a short run may end before the first poll
                polled.counts = ray.get(monitor.counts.remote())
            stopped_by = _cap_reached(options, polled.counts, time.monotonic() - start_s)
            if stopped_by:
                break
    counts = ray.get(monitor.counts.remote())
    on_progress(counts)
    ray.kill(monitor)
    return RunOutcome(
        counts=counts,
        speed=RunSpeed(generate_s=counts.generate_s, images_per_s=counts.images_per_s),
        stopped_by=stopped_by,
    )


def _blocks(written: ray.data.Dataset, monitor: Any) -> Iterator[Any]:
    """Run a data set, and yield as its blocks are done.

    Not iter_batches: nothing reads the blocks, and fetching them costs the driver as much as the plan.
    """
    try:
        yield from written.iter_internal_ref_bundles()
    except Exception:
        refusal = ray.get(monitor.refusal.remote())
        if refusal is None:
            raise
        raise refusal from None


@dataclass(slots=True)
class _Polled:
    counts: RunCounts


@contextmanager
def _polling(
    monitor: Any, wait: NodeWait, on_progress: ProgressCallback, on_waiting: WaitCallback
) -> Iterator[_Polled]:
    """Poll and report the run's counts and waits, in a thread while the ``with`` body runs."""
    polled = _Polled(RunCounts())
    done = threading.Event()

    def poll() -> None:
        while not done.wait(_PROGRESS_INTERVAL_S):
            polled.counts = ray.get(monitor.counts.remote())
            on_progress(polled.counts)
            if message := wait.look(polled.counts):
                on_waiting(message)

    thread = threading.Thread(target=poll, name="zimage-progress", daemon=True)
    thread.start()
    try:
        yield polled
    finally:
        done.set()
        thread.join()


def _dataset(
    plan: Plan,
    options: GenerateOptions,
    settings: StageSettings,
    pictures: PictureSettings | None,
    engine: EngineConfig | ServedModel,
    resources: EngineResources,
) -> ray.data.Dataset:
    filesystem, root = settings.output.arrow()
    block_rows = commit_rows(options, plan.counts.new)
    paths = [f"{root}/{path}" for path in plan.work_files]
    num_bytes = sum(file.size or 0 for file in filesystem.get_file_info(paths))
    work = ray.data.read_parquet(
        paths,
        filesystem=filesystem,
        partitioning=None,  # else an output under date=2026-01-01/ would add a column
        override_num_blocks=_num_read_blocks(plan, block_rows, num_bytes=num_bytes),
    )
    # Ray would read a small prompt table as one block, with one engine busy and no part until the end.
    blocks = work.filter(expr=col("todo")).repartition(target_num_rows_per_block=block_rows)
    if pictures is not None:
        blocks = blocks.map_batches(
            cast(Any, picture_stage),
            fn_args=(pictures,),
            batch_size=None,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=_PICTURE_CPUS,
        )
    images = blocks.map_batches(
        GenerateStage,
        fn_constructor_args=(engine, settings.monitor),
        batch_size=block_rows,
        batch_format="pyarrow",
        compute=_pool(options, engine, resources),
        **resources.actor_options(),
    )
    # Ray types a batch as the union of its formats; these stages take the one requested.
    encode, write = cast(Any, encode_stage), cast(Any, write_stage)
    encoded = images.map_batches(
        encode, fn_args=(settings,), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )
    return encoded.map_batches(
        write, fn_args=(settings,), batch_size=None, batch_format="pyarrow", zero_copy_batch=True
    )


def _num_read_blocks(plan: Plan, block_rows: int, *, num_bytes: int) -> int | None:
    """Choose how many blocks the work table, of so many bytes, is read in; None leaves it to Ray Data.

    Ray Data reads 200, whatever the table's size, and each costs a task that only cuts it again. It passes
    small blocks by value, which is fast; those of wide rows go through the object store, so fewer are faster.
    """
    if num_bytes < _MOST_BLOCKS * _WIDE_BLOCK_BYTES:
        return None
    wanted = math.ceil(plan.counts.new / (_COMMITS_PER_READ * block_rows))
    return max(len(plan.work_files), min(wanted, _MOST_BLOCKS))


def _pool(
    options: GenerateOptions, engine: EngineConfig | ServedModel, resources: EngineResources
) -> ray.data.ActorPoolStrategy:
    if isinstance(engine, EngineConfig):
        low, high = options.engines_min, options.engines_max
        scales_nodes = bool(resources.num_gpus) and has_autoscaler()
        if scales_nodes:
            _ask_for_nodes_by_engines_only()
        if scales_nodes or _have_room(resources, high):
            # At once: Ray Data would add one after the other, each seconds after the last is busy.
            low = high
        return ray.data.ActorPoolStrategy(
            min_size=low, max_size=high, max_concurrent_calls_per_actor=_BLOCKS_PER_ENGINE
        )
    # One actor that only waits: it keeps as many of the endpoint's replicas busy as --engines allows.
    return ray.data.ActorPoolStrategy(
        size=1, max_concurrent_calls_per_actor=_BLOCKS_PER_ENGINE * options.engines_max
    )


def _have_room(resources: EngineResources, num_engines: int) -> bool:
    """Return whether so many engines fit into the cluster now, with a CPU left for the other stages."""
    free = ray.available_resources()  # type: ignore[no-untyped-call]
    spare = {"CPU": 1.0}
    return all(
        free.get(kind, 0) >= num_engines * amount + spare.get(kind, 0)
        for kind, amount in resources.bundle().items()
    )


def _ask_for_nodes_by_engines_only() -> None:
    """Keep Ray Data from requesting nodes itself.

    Its requests (2.60) name CPUs and GPUs but no accelerator type or label, so they start and keep nodes that
    no engine can use, and they double the pool only once the last nodes are at work. The whole queue of a run
    is known: every engine that it keeps busy is requested at once; engines without a node yet do no harm.
    """
    for kind in ("CPU", "GPU", "MEMORY", "OBJECT_STORE_MEMORY"):
        # Cluster utilisation above which it requests more; read when the first run of this process starts.
        os.environ.setdefault(f"RAY_DATA_DEFAULT_CLUSTER_SCALING_UP_{kind}_UTIL_THRESHOLD", "1e9")


def _cap_reached(options: GenerateOptions, counts: RunCounts, elapsed_s: float) -> str | None:
    if options.time_limit_s is not None and elapsed_s >= options.time_limit_s:
        return f"the time limit of {options.time_limit_s:g} s"
    if options.max_errors is not None and counts.failed > options.max_errors:
        return f"the limit of {options.max_errors} failed images"
    return None
