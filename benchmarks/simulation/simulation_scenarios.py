"""Simulates planned clusters: 10 M images on up to 1,000 H100s with spot losses, and a day of traffic.

Speeds come from the measured table (pipelines.capacity), so that estimate and simulation describe the same
cluster.
"""

from dataclasses import asdict, replace
from typing import Any

from benchmarks.simulation.arrivals import DAY_S, Burst, Traffic, arrivals
from benchmarks.simulation.batch_simulation import SimulatedFleet, SimulatedJob, simulate_job
from benchmarks.simulation.simulated_endpoint import SimulatedReplica, SimulatedScaling
from benchmarks.simulation.traffic_simulation import simulate_traffic
from pipelines.capacity.accelerators import ACCELERATORS, MACHINES
from pipelines.capacity.fleet_estimate import Assumptions
from pipelines.capacity.image_work import ImageKind, image_work
from pipelines.capacity.model_shape import RELEASED_SHAPE
from pipelines.capacity.workload import Workload

NUM_IMAGES = 10_000_000
TURBO_1024 = ImageKind(height=1024, width=1024, num_inference_steps=8, is_guided=False, prompt_tokens=128)
H100 = ACCELERATORS["H100"]
NODE = MACHINES["p5.48xlarge"]
GIVEN = Assumptions()
ENCODE_AND_WRITE_S = 20.0
"""Time from a block's last image to its part: PNGs of 1024 x 1024 on the node's CPUs, and one upload."""

NODES = (13, 38, 125)
LOSSES_PER_H = (0.0, 0.05, 0.5)
COMMIT_ROWS = (16, 64, 256, 1024)

DAY = Traffic(
    duration_s=DAY_S, per_s=3.0, swing=0.8, bursts=(Burst(start_s=50_000, duration_s=600, per_s=10.0),)
)
SCALING = SimulatedScaling(
    min_replicas=1,
    max_replicas=40,
    node_start_s=GIVEN.node_start_s,
    usd_per_gpu_h=NODE.usd_per_hour / NODE.num_accelerators,
)
SCALINGS = {
    "defaults": SCALING,
    "target 1 s": replace(SCALING, target_queue_s=1.0),
    "target 0.5 s": replace(SCALING, target_queue_s=0.5),
    "target 0.5 s, down after 30 min": replace(SCALING, target_queue_s=0.5, downscale_delay_s=1800),
    "target 0.5 s, 8 kept": replace(SCALING, target_queue_s=0.5, min_replicas=8),
    "8, never scaled": replace(SCALING, min_replicas=8, max_replicas=8),
    "16, never scaled": replace(SCALING, min_replicas=16, max_replicas=16),
}


def batch_scenarios(driver_blocks_per_s: float) -> list[dict[str, Any]]:
    """Simulate 10 M images for each fleet size, rate of lost nodes and commit size."""
    engine = Workload(shape=RELEASED_SHAPE, kinds={TURBO_1024: NUM_IMAGES}).engine(H100, 1)
    speed = engine.images_per_s * GIVEN.job_ratio
    rows = []
    for nodes in NODES:
        for losses_per_h in LOSSES_PER_H:
            fleet = SimulatedFleet(
                nodes=nodes,
                engines_per_node=NODE.num_accelerators,
                node_start_s=GIVEN.node_start_s,
                node_start_spread_s=60.0,
                engine_start_s=GIVEN.engine_start_s,
                node_losses_per_h=losses_per_h,
                usd_per_node_h=NODE.usd_per_hour,
            )
            for commit_rows in COMMIT_ROWS:
                job = SimulatedJob(
                    num_images=NUM_IMAGES,
                    commit_rows=commit_rows,
                    images_per_s=speed,
                    commit_s=ENCODE_AND_WRITE_S * commit_rows / 256,
                    driver_s_per_block=1 / driver_blocks_per_s,
                )
                rows.append(_batch_row(fleet, job))
    return rows


def _batch_row(fleet: SimulatedFleet, job: SimulatedJob) -> dict[str, Any]:
    outcome = simulate_job(fleet, job)
    engines = fleet.nodes * fleet.engines_per_node
    # The formula of the estimate (pipelines.capacity.fleet), at the same speed and without a driver.
    block_s = job.commit_rows / job.images_per_s
    start_s = fleet.node_start_s + fleet.engine_start_s
    available = 1 + fleet.node_losses_per_h * (block_s / 2 + start_s) / 3600
    planned_s = start_s + job.num_images / (engines * job.images_per_s) * available + block_s
    return {
        "gpus": engines,
        "node_losses_per_h": fleet.node_losses_per_h,
        "commit_rows": job.commit_rows,
        "makespan_h": round(outcome.makespan_s / 3600, 3),
        "planned_h": round(planned_s / 3600, 3),
        "utilisation": round(outcome.utilisation, 3),
        "lost_share": round(outcome.lost_share, 5),
        "tail_s": round(outcome.tail_s),
        "driver_share": round(outcome.driver_share, 3),
        "nodes_lost": outcome.num_node_losses,
        "blocks": outcome.num_blocks,
        "redone": outcome.num_redone,
        "gpu_hours": round(outcome.node_hours * fleet.engines_per_node),
        "usd_list_price": round(outcome.usd),
    }


def traffic_scenarios() -> list[dict[str, Any]]:
    """Simulate a day of traffic with a burst for several ways of scaling."""
    work = image_work(RELEASED_SHAPE, TURBO_1024)
    speed = H100.sustained_tflops * 1e12
    replica = SimulatedReplica(
        num_steps=work.forwards,
        step_s=work.forward_flops / speed,
        finish_s=(work.caption_flops + work.decode_flops) / speed,
        start_s=GIVEN.engine_start_s,
    )
    rows = []
    for name, scaling in SCALINGS.items():
        outcome = asdict(simulate_traffic(arrivals(DAY), replica, scaling))
        changes = len(outcome.pop("history")) - 1
        rows.append(
            {
                "scaling": name,
                **{
                    key: round(value, 3) if isinstance(value, float) else value
                    for key, value in outcome.items()
                },
                "latency_s": {key: round(value, 2) for key, value in outcome["latency_s"].items()},
                "times_scaled": changes,
            }
        )
    return rows


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return round(value, 2) if isinstance(value, float) else value


def conclusions(batch: list[dict[str, Any]], traffic: list[dict[str, Any]]) -> dict[str, Any]:
    """Find the fastest commit size for each fleet, and the cheapest scaling that keeps latency low."""
    fleets = sorted({(row["gpus"], row["node_losses_per_h"]) for row in batch})
    best = []
    for gpus, losses_per_h in fleets:
        rows = [row for row in batch if (row["gpus"], row["node_losses_per_h"]) == (gpus, losses_per_h)]
        soonest = min(rows, key=lambda row: row["makespan_h"])
        best.append(
            {
                "gpus": gpus,
                "node_losses_per_h": losses_per_h,
                "commit_rows": soonest["commit_rows"],
                "makespan_h": soonest["makespan_h"],
                "others_take_longer_by": {
                    str(row["commit_rows"]): round(row["makespan_h"] / soonest["makespan_h"] - 1, 3)
                    for row in rows
                },
            }
        )
    plain = [row for row in batch if row["driver_share"] < 0.9 and row["node_losses_per_h"] <= 0.05]
    formula = max(abs(row["planned_h"] / row["makespan_h"] - 1) for row in plain)
    good = [row for row in traffic if not row["num_rejected"] and row["latency_s"]["p99"] <= 10]
    return {
        "soonest_commit_rows": best,
        "largest_error_of_the_formula_up_to_0.05_losses_per_h_where_the_driver_is_not_the_limit": round(
            formula, 3
        ),
        "cheapest_scaling_without_refusals_and_p99_under_10_s": (
            min(good, key=lambda row: row["usd"])["scaling"] if good else None
        ),
    }
