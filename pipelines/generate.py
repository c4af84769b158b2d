"""A bulk generation, from prompt table to published data set: plan, run, publish."""

import tempfile
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol

from deployments.engine_resources import EngineResources
from pipelines.dataset.errors import write_rejected
from pipelines.dataset.in_force import PublishedKeys, published_rows
from pipelines.dataset.ledger import finished_units
from pipelines.dataset.manifest import RunManifest, RunSpeed, read_manifest
from pipelines.dataset.pages import write_first_card
from pipelines.dataset.publish import check_plan_keeps, publish
from pipelines.dataset.settle import settle
from pipelines.exit_codes import ExitCode
from pipelines.options import GenerateOptions
from pipelines.plan.kept_rows import PublishedRows
from pipelines.plan.picture_plan import picture_folder
from pipelines.plan.plan import Plan
from pipelines.plan.write_plan import write_plan
from pipelines.run.run_monitor import RunCounts
from pipelines.run.run_plan import RunOutcome, fit_engines, run_plan
from pipelines.run.served_engine import ServedModel, find_served_model
from pipelines.sources.standard_input import INPUTS_FOLDER
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from pipelines.work_table import RUN_ID_TIME, new_run_id
from zimage_models.checkpoints.resolve_model import model_weights_sha256, resolve_model, with_own_schedules
from zimage_models.config import EngineConfig
from zimage_models.errors import InvalidRequest

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
    """None if the run stopped before publishing, or every row was rejected."""

    @property
    def exit_code(self) -> ExitCode:
        """Exit code of the command."""
        if self.manifest is None:
            return ExitCode.STOPPED if self.outcome else ExitCode.SOME_ROWS_FAILED
        failed = self.manifest.counts["failed"] + self.manifest.counts["rejected"]
        return ExitCode.SOME_ROWS_FAILED if failed else ExitCode.OK


def plan_only(options: GenerateOptions) -> Plan:
    """Make a plan without writing to the output.

    Raises:
        InvalidRequest: the options, the table or the model can't be used.
    """
    spec = with_own_schedules(options.engine, resolve_model(options.engine))
    output = open_storage(options.output, options.storage)
    previous = read_manifest(output)
    published = PublishedKeys(previous)
    with tempfile.TemporaryDirectory(prefix="zimage-plan-") as folder:
        planned = open_storage(folder)
        plan = write_plan(
            options,
            run_id=new_run_id(),
            spec=spec,
            weights_sha256=model_weights_sha256(options.engine, spec),
            output=planned,
            finished=finished_units(output, published=published),
            to_run=False,
            published=_kept(options, output, previous),
        )
        _check_plan(plan, options, published, output=planned)
    return plan


def generate(
    options: GenerateOptions,
    *,
    connect: Callable[[GenerateOptions], EngineResources],
    progress: Progress,
    retried_classes: Collection[str] | None = (),
) -> GenerateResult:
    """Generate and publish all images of a table, resuming an earlier run of the same command.

    Args:
        options: what to generate.
        connect: starts or joins Ray for a job and returns what to reserve for an engine; called only if there
            is work, with as many engines as that keeps busy.
        progress: receives the progress.
        retried_classes: error classes of earlier runs to retry; None for all.

    Raises:
        InvalidRequest: the options, the table or the model can't be used.
    """
    output = open_storage(options.output, options.storage)
    spec = with_own_schedules(options.engine, resolve_model(options.engine))
    weights_sha256 = model_weights_sha256(options.engine, spec)
    previous = read_manifest(output)
    published = PublishedKeys(previous)
    plan = write_plan(
        options,
        run_id=new_run_id(),
        spec=spec,
        weights_sha256=weights_sha256,
        output=output,
        finished=finished_units(output, retried_classes=retried_classes, published=published),
        published=_kept(options, output, previous),
    )
    progress.planned(plan)
    _check_plan(plan, options, published, output=output)
    if previous is None:
        write_first_card(output)
    if plan.counts.is_nothing:
        if previous is None:
            write_rejected(output, plan)
        settle(output)
        return GenerateResult(plan=plan, outcome=None, manifest=None)
    outcome = None
    if plan.counts.new:
        fitted = fit_engines(options, plan.counts.new)
        resources = connect(fitted)
        outcome = run_plan(
            plan,
            fitted,
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
    manifest = publish(
        plan,
        options,
        output=output,
        spec=spec,
        weights_sha256=weights_sha256,
        speed=outcome.speed if outcome else RunSpeed(),
    )
    settle(output, options.exports)
    _delete(output, [file.path for file in output.list(picture_folder(plan.run_id))])
    _delete_old_plans(output, kept={manifest.run_id})
    # Those of this run and of the manifest, which is an earlier one's if nothing has changed.
    named = {*options.input, *manifest.options["input"]}
    stored = (file.path for file in output.list(INPUTS_FOLDER))
    _delete(output, [path for path in stored if f"{output.uri}/{path}" not in named])
    progress.published(manifest)
    return GenerateResult(plan=plan, outcome=outcome, manifest=manifest)


def _kept(options: GenerateOptions, output: Storage, previous: RunManifest | None) -> PublishedRows | None:
    """Return the published rows of which a run keeps those that its table does not name."""
    return published_rows(output, previous) if options.append and previous else None


def _check_plan(plan: Plan, options: GenerateOptions, published: PublishedKeys, *, output: Storage) -> None:
    """Refuse a plan, before any engine starts, that is surely not what its user means.

    Args:
        plan: the plan.
        options: the run's options.
        published: the keys in force.
        output: where the plan's work table is.

    Raises:
        InvalidRequest: no row is left to make, and none is rejected; or too many keys would be dropped.
    """
    if not plan.counts.is_nothing:
        if not options.replace:
            check_plan_keeps(plan, published, output=output)
    elif not plan.rejected:
        raise InvalidRequest(
            f"input: no row of {options.input_text} is wanted; {options.output} is unchanged", field="input"
        )


def _engine(options: GenerateOptions, weights_sha256: str) -> EngineConfig | ServedModel:
    if options.serve_app is None:
        return options.engine
    return find_served_model(options.serve_app, options.engine, weights_sha256)


def _delete_old_plans(output: Storage, *, kept: Collection[str]) -> None:
    """Delete old runs' work tables, but not recent ones, which may belong to a run in progress."""
    limit = (datetime.now(UTC) - _KEEP_PLANS).strftime(RUN_ID_TIME)
    run_ids = {file.path: file.path.split("/")[1] for file in output.list("_runs")}
    _delete(output, [path for path, run_id in run_ids.items() if run_id not in kept and run_id < limit])


def _delete(output: Storage, paths: Collection[str]) -> None:
    # There may be many pictures, and S3 takes 30 ms to delete one.
    with ThreadPoolExecutor(_NUM_DELETERS) as pool:
        list(pool.map(output.delete, paths))
