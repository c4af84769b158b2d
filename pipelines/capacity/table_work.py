"""The work of a prompt table, counted by the same planning that a run starts with."""

import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.capacity.image_work import ImageKind
from pipelines.capacity.model_shape import read_model_shape
from pipelines.capacity.workload import Workload
from pipelines.dataset.ledger import finished_units
from pipelines.options import GenerateOptions
from pipelines.plan.plan import PlanCounts
from pipelines.plan.write_plan import write_plan
from pipelines.storage import Storage
from pipelines.storage_address import open_storage
from pipelines.work_table import new_run_id, read_work
from zimage_models.checkpoints.resolve_model import FAKE_WEIGHTS, model_weights_sha256, resolve_model
from zimage_models.errors import InvalidRequest
from zimage_models.model_spec import ModelSpec

_SAMPLE = 1000
"""Prompts of each kind of image whose tokens are counted; their mean is used for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableWork:
    """The work that a table asks for."""

    counts: PlanCounts
    workload: Workload


def count_table(options: GenerateOptions, *, count_made: bool) -> TableWork:
    """Count the images of a table by kind; nothing is written to its output.

    Args:
        options: options as for a run.
        count_made: leave out images that the output already holds; this reads the weights once.

    Raises:
        InvalidRequest: the table or the options can't be used, or there is nothing to make.
    """
    spec = resolve_model(options.engine)
    output = open_storage(options.output, options.storage)
    with tempfile.TemporaryDirectory(prefix="zimage-estimate-") as folder:
        store = open_storage(folder)
        plan = write_plan(
            options,
            run_id=new_run_id(),
            spec=spec,
            weights_sha256=model_weights_sha256(options.engine, spec) if count_made else FAKE_WEIGHTS,
            output=store,
            finished=finished_units(output if count_made else store),
            to_run=False,
        )
        if not plan.counts.new:
            raise InvalidRequest(
                f"input: {options.input_text} has nothing to make: "
                f"{plan.counts.unchanged} images made before, {plan.counts.rejected} rows rejected",
                field="input",
            )
        kinds = _kinds(store, plan.work_files, spec)
    return TableWork(
        counts=plan.counts, workload=Workload(shape=read_model_shape(spec.directory), kinds=kinds)
    )


def _kinds(store: Storage, work_files: Sequence[str], spec: ModelSpec) -> dict[ImageKind, int]:
    from zimage_models.models.prompt_tokenizer import PromptTokenizer

    tokenizer = PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens)
    names = ["height", "width", "num_inference_steps", "num_computed_steps", "is_guided"]
    counts: Counter[tuple[Any, ...]] = Counter()
    prompts: dict[tuple[Any, ...], list[str]] = {}
    for path in work_files:
        work = read_work(store, [path], ["todo", "prompt", "guidance_scale", "step_schedule", *names[:3]])
        work = work.filter(work["todo"])
        work = work.append_column("num_computed_steps", pc.list_value_length(work["step_schedule"]))
        work = work.append_column("is_guided", pc.greater(work["guidance_scale"], pa.scalar(0.0)))
        grouped = work.group_by(names).aggregate([("prompt", "count"), ("prompt", "list")])
        for row in grouped.to_pylist():
            key = tuple(row[name] for name in names)
            counts[key] += row["prompt_count"]
            sample = prompts.setdefault(key, [])
            step = max(1, row["prompt_count"] // _SAMPLE)
            sample += row["prompt_list"][::step][: _SAMPLE - len(sample)]
    kinds: Counter[ImageKind] = Counter()
    for key, number in counts.items():
        tokens = tokenizer.count(prompts[key])
        prompt_tokens = min(spec.max_prompt_tokens, round(sum(tokens) / len(tokens)))
        kinds[ImageKind(**dict(zip(names, key, strict=True)), prompt_tokens=prompt_tokens)] += number
    return dict(kinds)
