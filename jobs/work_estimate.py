"""What a plan will cost, for ``--dry-run``."""

from pipelines.dataset.manifest import read_manifest
from pipelines.options import GenerateOptions
from pipelines.plan.plan import Plan
from pipelines.storage_address import open_storage


def estimate_text(options: GenerateOptions, plan: Plan) -> str:
    """Say how much work a plan is, and how long the last run of this data set suggests it takes."""
    counts = plan.counts
    text = f"{counts.new} images to make, {plan.transformer_steps} transformer steps"
    previous = read_manifest(open_storage(options.output, options.storage))
    speed = previous.speed["images_per_s"] if previous else 0.0
    if not speed:
        return f"{text}; no earlier run of this output to take a speed from"
    return f"{text}; at the last run's {speed:g} images/s about {counts.new / speed:.0f} s"
