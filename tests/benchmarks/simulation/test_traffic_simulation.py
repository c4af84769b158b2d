"""The simulated endpoint: every request is answered or refused, and replicas follow the load."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.simulation.arrivals import DAY_S, Burst, Traffic, arrivals, read_arrivals
from benchmarks.simulation.simulated_endpoint import SimulatedReplica, SimulatedScaling, TrafficOutcome
from benchmarks.simulation.traffic_simulation import simulate_traffic

REPLICA = SimulatedReplica(num_steps=8, step_s=0.1, finish_s=0.02, start_s=20, max_queue_s=30)
SCALING = SimulatedScaling(
    min_replicas=0, max_replicas=8, downscale_delay_s=60, node_start_s=40, node_idle_s=60, usd_per_gpu_h=2
)
FIXED = replace(SCALING, min_replicas=1, max_replicas=1)


PATIENT = replace(REPLICA, max_queue_s=3600)


def run(
    traffic: Traffic,
    replica: SimulatedReplica = REPLICA,
    scaling: SimulatedScaling = SCALING,
    *,
    seed: int = 0,
) -> TrafficOutcome:
    outcome = simulate_traffic(arrivals(traffic, seed=seed), replica, scaling, seed=seed, settle_s=600)
    assert outcome.num_answered + outcome.num_rejected == outcome.num_requests
    return outcome


def test_lone_request_takes_its_steps_alone() -> None:
    outcome = simulate_traffic([5.0], REPLICA, FIXED)
    assert outcome.latency_s["max"] == pytest.approx(8 * 0.1 + 0.02)


def test_requests_share_steps() -> None:
    outcome = simulate_traffic([5.0, 5.0, 5.0, 5.0, 5.0], REPLICA, FIXED)
    four_s = REPLICA.batch_s(4)
    assert four_s < 4 * REPLICA.batch_s(1)
    # The first began alone and the fourth step later the others were with it; the fifth waits for a place.
    assert outcome.latency_s["p50"] < outcome.latency_s["max"]
    assert outcome.latency_s["max"] < 8 * four_s + 9 * REPLICA.batch_s(1)
    assert outcome.num_answered == 5


def test_replicas_go_from_none_to_some_to_none() -> None:
    outcome = run(Traffic(duration_s=600, per_s=4.0), PATIENT)
    numbers = [number for _, number in outcome.history]
    assert numbers[0] == numbers[-1] == 0
    assert max(numbers) == outcome.most_replicas > 2
    assert outcome.num_rejected == 0


def test_first_request_waits_for_node_and_engine() -> None:
    outcome = simulate_traffic([5.0], REPLICA, SCALING)
    start_s = SCALING.node_start_s + REPLICA.start_s
    assert start_s < outcome.latency_s["max"] < start_s + 2 + 0.82 + 0.1


def test_bounds_hold_and_the_rest_is_refused() -> None:
    outcome = run(Traffic(duration_s=600, per_s=20.0), scaling=replace(SCALING, max_replicas=2))
    assert outcome.most_replicas == 2
    assert outcome.num_rejected > outcome.num_requests / 2
    # What is accepted waits no longer than the limit, give or take how the engine estimates.
    assert outcome.latency_s["p50"] < 1.5 * REPLICA.max_queue_s


def test_busier_endpoint_costs_more_and_idle_gpus_are_given_back() -> None:
    quiet, busy = (run(Traffic(duration_s=1200, per_s=per_s)) for per_s in (1.0, 6.0))
    assert quiet.gpu_hours < busy.gpu_hours
    assert busy.usd == pytest.approx(2 * busy.gpu_hours)
    assert 0 < quiet.utilisation <= 1
    at_most_h = busy.most_replicas * (1200 + 600 + 300) / 3600
    assert busy.gpu_hours < at_most_h


def test_more_replicas_kept_ready_answer_sooner() -> None:
    traffic = Traffic(duration_s=900, per_s=0.5, bursts=(Burst(start_s=300, duration_s=60, per_s=8),))
    waits = [
        run(traffic, scaling=replace(SCALING, min_replicas=number)).latency_s["p99"] for number in (0, 2, 8)
    ]
    assert waits == sorted(waits, reverse=True)


def test_requests_of_a_crashed_replica_are_answered_by_others() -> None:
    outcome = run(Traffic(duration_s=1200, per_s=3.0), replace(PATIENT, crashes_per_h=30))
    assert outcome.num_retried > 0
    assert outcome.num_rejected == 0


def test_same_seed_same_run() -> None:
    traffic = Traffic(duration_s=300, per_s=3.0)
    assert run(traffic, seed=1) == run(traffic, seed=1)
    assert run(traffic, seed=1).latency_s != run(traffic, seed=2).latency_s


def test_arrivals_follow_the_day_and_its_bursts() -> None:
    burst = Burst(start_s=3600, duration_s=600, per_s=5.0)
    traffic = Traffic(duration_s=DAY_S, per_s=0.5, swing=0.8, bursts=(burst,))
    times = list(arrivals(traffic))
    assert times == sorted(times)
    assert len(times) == pytest.approx(0.5 * DAY_S + 3000, rel=0.02)
    night = sum(time < 3600 for time in times)
    noon = sum(abs(time - DAY_S / 2) < 1800 for time in times)
    assert noon > 5 * night
    assert sum(3600 <= time < 4200 for time in times) > 2800


def test_trace_is_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "trace.txt").write_text("12.5\n10\n11\n", encoding="utf-8")
    assert read_arrivals(tmp_path / "trace.txt") == [0.0, 1.0, 2.5]
