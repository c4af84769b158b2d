"""A bulk generation, from prompt table to published data set: plan, run, publish."""

import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.engine_resources import EngineResources
from pipelines.dataset.exports import EXPORTS
from pipelines.dataset.ledger import finished_units
from pipelines.dataset.manifest import RunManifest, RunSpeed, read_manifest
from pipelines.dataset.pages import write_pages
from pipelines.dataset.parts import read_part
from pipelines.dataset.publish import publish
from pipelines.exit_codes import ExitCode
from pipelines.options import GenerateOptions
from pipelines.plan.picture_plan import picture_folder
from pipelines.plan.plan import Plan
from pipelines.plan.write_plan import write_plan
from pipelines.run.run_monitor import RunCounts
from pipelines.run.run_plan import RunOutcome, run_plan
from pipelines.run.served_engine import ServedModel, find_served_model
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from pipelines.work_table import RUN_ID_TIME, new_run_id
from zimage_models.checkpoints.resolve_model import model_weights_sha256, resolve_model
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest

SUCCESS_FILE = "_SUCCESS"
"""File that names the manifest whose pages and exports are complete."""
_KEEP_PLANS = timedelta(days=1)
_NUM_DELETERS = 32


class Progress(Protocol):
    """Receiver of a generation's progress; calls may come from another thread."""

    def planned(self, plan: Plan) -> None:
        """Receive the plan."""

    def advanced(self, counts: RunCounts) -> None:
        """Receive the run's counts so far."""

    def waiting(self, message: str) -> None:
        """Receive a message about the nodes that the engines are waiting for."""

    def published(self, manifest: RunManifest) -> None:
        """Receive the published manifest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerateResult:
    """Result of a generation."""

    plan: Plan
    outcome: RunOutcome | None
    """None if there was nothing to generate."""
    manifest: RunManifest | None
    """None if the run stopped before publishing."""

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command."""
        if self.manifest is None:
            return ExitCode.STOPPED
        failed = self.manifest.counts["failed"] + self.manifest.counts["rejected"]
        return ExitCode.SOME_ROWS_FAILED if failed else ExitCode.OK


def plan_only(options: GenerateOptions) -> Plan:
    """Make a plan without writing to the output.

    Raises:
        InvalidRequest: the options, the table or the model can't be used.
    """
    spec = resolve_model(options.engine)
    with tempfile.TemporaryDirectory(prefix="zimage-plan-") as folder:
        return write_plan(
            options,
            run_id=new_run_id(),
            spec=spec,
            weights_sha256=model_weights_sha256(options.engine, spec),
            output=open_storage(folder),
            finished=finished_units(open_storage(options.output, options.storage)),
            to_run=False,
        )


def generate(
    options: GenerateOptions,
    *,
    connect: Callable[[], EngineResources],
    progress: Progress,
    retried_classes: Collection[str] | None = (),
) -> GenerateResult:
    """Generate and publish all images of a table, resuming an earlier run of the same command.

    Args:
        options: what to generate.
        connect: starts or joins Ray and returns what to reserve for an engine; called only if there is work.
        progress: receives the progress.
        retried_classes: error classes of earlier runs to retry; None for all.

    Raises:
        InvalidRequest: the options, the table or the model can't be used.
    """
    output = open_storage(options.output, options.storage)
    spec = resolve_model(options.engine)
    weights_sha256 = model_weights_sha256(options.engine, spec)
    plan = write_plan(
        options,
        run_id=new_run_id(),
        spec=spec,
        weights_sha256=weights_sha256,
        output=output,
        finished=finished_units(output, retried_classes=retried_classes),
    )
    progress.planned(plan)
    outcome = None
    if plan.counts.new:
        resources = connect()
        outcome = run_plan(
            plan,
            options,
            output=output,
            spec=spec,
            weights_sha256=weights_sha256,
            engine=_engine(options, weights_sha256),
            resources=resources,
            on_progress=progress.advanced,
            on_waiting=progress.waiting,
        )
        if outcome.stopped_by:
            return GenerateResult(plan=plan, outcome=outcome, manifest=None)
    if not plan.counts.units and (previous := read_manifest(output)) and previous.parts:
        first = f"; row {plan.rejected[0].row}: {plan.rejected[0].message}" if plan.rejected else ""
        raise InvalidRequest(
            f"input: no row of {options.input_text} can be used{first}; {output.uri} is unchanged"
        )
    manifest = publish(
        plan,
        options,
        output=output,
        spec=spec,
        weights_sha256=weights_sha256,
        speed=outcome.speed if outcome else RunSpeed(),
    )
    _finish(output, manifest, options.exports)
    _delete(output, [file.path for file in output.list(picture_folder(plan.run_id))])
    _delete_old_plans(output, kept={manifest.run_id})
    progress.published(manifest)
    return GenerateResult(plan=plan, outcome=outcome, manifest=manifest)


def _engine(options: GenerateOptions, weights_sha256: str) -> EngineConfig | ServedModel:
    if options.serve_app is None:
        return options.engine
    return find_served_model(options.serve_app, options.engine.model, weights_sha256)


def _finish(output: Storage, manifest: RunManifest, exports: Collection[str]) -> None:
    """Write a manifest's pages and exports, then the success file; do nothing if that file is current."""
    mark = " ".join([manifest.path, *sorted(exports)]).encode()
    if output.exists(SUCCESS_FILE) and output.read(SUCCESS_FILE) == mark:
        return
    write_pages(output, manifest)
    export(output, manifest, exports)
    output.write(SUCCESS_FILE, mark)


def export(output: Storage, manifest: RunManifest, names: Collection[str]) -> None:
    """Export a published data set in other formats: image ``files`` by name, or ``webdataset`` shards."""
    for part in manifest.parts if names else ():
        table = read_part(output, part.path)
        for name in names:
            EXPORTS[name](output, part, table)


def _delete_old_plans(output: Storage, *, kept: Collection[str]) -> None:
    """Delete old runs' work tables, but not recent ones, which may belong to a run in progress."""
    limit = (datetime.now(UTC) - _KEEP_PLANS).strftime(RUN_ID_TIME)
    run_ids = {file.path: file.path.split("/")[1] for file in output.list("_runs")}
    _delete(output, [path for path, run_id in run_ids.items() if run_id not in kept and run_id < limit])


def _delete(output: Storage, paths: Collection[str]) -> None:
    # There may be many pictures, and S3 takes 30 ms to delete one.
    with ThreadPoolExecutor(_NUM_DELETERS) as pool:
        list(pool.map(output.delete, paths))
