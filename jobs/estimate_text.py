"""A capacity estimate as text for people."""

import itertools
import math
from collections.abc import Sequence

from jobs.option_values import duration_text
from pipelines.capacity.accelerators import CPU_CORE
from pipelines.capacity.engine_speed import num_sums, sum_bytes
from pipelines.capacity.fleet_estimate import FleetEstimate, FleetOption, Range
from pipelines.capacity.image_work import image_work
from pipelines.capacity.measured import CapacityTable
from pipelines.capacity.workload import Workload

_MAX_KINDS = 5
NARROW_DIM = 1024
"""Width below which a model does not fill an accelerator."""


def estimate_text(
    model: str, workload: Workload, estimate: FleetEstimate, table: CapacityTable, *, deadline: str | None
) -> str:
    """Format an estimate: the work, the node types, the choice, and the reasons."""
    sections = [_work(model, workload), _options(estimate.options)]
    chosen = [_choice(estimate, deadline) if estimate.chosen else estimate.why]
    sections.append("\n".join([*chosen, *_reasons(workload, estimate, table)]))
    return "\n\n".join(sections)


def _work(model: str, workload: Workload) -> str:
    lines = [
        f"{workload.num_images:,} images of {model}: {workload.num_forwards:,} transformer forwards, "
        f"{_flops(workload.flops)}"
    ]
    kinds = sorted(workload.kinds.items(), key=lambda item: -item[1])
    for kind, number in kinds[:_MAX_KINDS]:
        work = image_work(workload.shape, kind)
        computed = "" if kind.num_computed_steps is None else f" ({kind.num_computed_steps} computed)"
        guided = f"{computed}, guided" if kind.is_guided else computed
        lines.append(
            f"  {number:,} of {kind.width}x{kind.height}, {kind.num_inference_steps} steps{guided}: "
            f"{work.sequence} tokens ({work.image_tokens} image, {work.caption_tokens} caption), "
            f"{work.forwards} x {_flops(work.forward_flops)} + {_flops(work.decode_flops)} decoder + "
            f"{_flops(work.caption_flops)} text = {_flops(work.flops)}"
        )
    if len(kinds) > _MAX_KINDS:
        lines.append(f"  and {len(kinds) - _MAX_KINDS} other kinds")
    return "\n".join(lines)


def _options(options: Sequence[FleetOption]) -> str:
    head = ("node type", "GPUs", "engine", "images/s", "engines", "nodes", "done in", "cost", "")
    # Usable options first, the cheapest at the top.
    by_cost = sorted(options, key=lambda one: (one.problem is not None, one.usd[1] if one.usd else math.inf))
    rows = [head, *map(_option, by_cost)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _option(option: FleetOption) -> tuple[str, ...]:
    node_type = option.node_type
    is_possible = option.nodes > 0
    limit = "" if node_type.max_nodes is None else f" of {node_type.max_nodes}"
    return (
        f"{node_type.name}{' (spot)' if node_type.is_spot else ''}",
        f"{node_type.num_accelerators} {node_type.accelerator}",
        f"TP{option.engine.degree}",
        f"{option.images_per_s:.3g}" if is_possible else "-",
        f"{option.engines:,}" if is_possible else "-",
        f"{option.nodes:,}{limit}" if is_possible else "-",
        _times(option.finish_s) if is_possible else "-",
        _dollars(option.usd) if is_possible else "-",
        option.problem or "",
    )


def _choice(estimate: FleetEstimate, deadline: str | None) -> str:
    parts = [f"{one.nodes:,} x {one.node_type.name} ({_engines(one.engines)})" for one in estimate.chosen]
    assert estimate.finish_s is not None
    within = f", deadline {deadline}" if deadline else ""
    cost = _dollars(estimate.usd)
    return f"take {' + '.join(parts)}: {estimate.why}\n  done in {_times(estimate.finish_s)}{within}; {cost}"


def _reasons(workload: Workload, estimate: FleetEstimate, table: CapacityTable) -> list[str]:
    lines = []
    for option in estimate.chosen:
        accelerator = table.accelerator(option.node_type.accelerator)
        engine = option.engine
        lines.append(
            f"  {accelerator.name}: {engine.image_s:.3g} s per image alone at "
            f"{accelerator.sustained_tflops:g} TFLOP/s "
            f"({accelerator.evidence}, +-{accelerator.spread:.0%}: {accelerator.speed_source})"
        )
        lines.append(
            f"  TP{engine.degree}: {option.engine_why}; "
            f"{engine.memory_gb:.1f} of {accelerator.memory_gb:g} GB"
        )
        is_gpu = accelerator.name != CPU_CORE
        if option.node_type.num_accelerators > 1 and is_gpu:
            lines.append(_speed_up(workload, option, table))
        if workload.shape.transformer.dim < NARROW_DIM and is_gpu:
            lines.append(
                "  such a small model does not fill an accelerator: expect only a fraction of this speed"
            )
    return lines


def _speed_up(workload: Workload, option: FleetOption, table: CapacityTable) -> str:
    """Describe how much faster one engine would be if spread over more GPUs of the node."""
    accelerator = table.accelerator(option.node_type.accelerator)
    alone = workload.engine(accelerator, 1)
    degrees = [n for n in (2, 4, 8) if n <= option.node_type.num_accelerators]
    times = [
        f"TP{n} {engine.image_s:.2g} s ({alone.image_s / engine.image_s:.2f}x)"
        for n in degrees
        for engine in [workload.engine(accelerator, n)]
    ]
    transformer = workload.shape.transformer
    sequence = image_work(workload.shape, workload.main_kind).sequence
    moved = num_sums(transformer) * sum_bytes(transformer, sequence) / 1e9
    return (
        f"  one image over more GPUs: {', '.join(times)}; {num_sums(transformer)} all-reduces of "
        f"{moved:.2g} GB in total per forward"
    )


def _engines(number: int) -> str:
    return f"{number:,} engine{'' if number == 1 else 's'}"


def _flops(flops: float) -> str:
    """Format a number of operations with a unit prefix."""
    units = itertools.takewhile(lambda unit: flops >= unit[0], _UNITS)
    size, name = list(units)[-1] if flops >= _UNITS[0][0] else _UNITS[0]
    return f"{flops / size:.3g} {name}FLOP"


_UNITS = ((1e6, "M"), (1e9, "G"), (1e12, "T"), (1e15, "P"), (1e18, "E"), (1e21, "Z"))


def _times(ends: Range) -> str:
    fast, slow = map(duration_text, ends)
    return slow if fast == slow else f"{fast} - {slow}"


def _dollars(ends: Range | None) -> str:
    if ends is None:
        return "no price"
    low, high = (f"{end:,.0f}" if end >= 10 else f"{end:.2f}" for end in ends)
    return f"${low}" if low == high else f"${low} - {high}"
