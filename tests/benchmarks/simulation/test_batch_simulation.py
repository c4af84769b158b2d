"""The simulated bulk job: nothing is lost, nothing is made twice without a failure, time adds up."""

from dataclasses import replace

import pytest

from benchmarks.simulation.batch_simulation import JobOutcome, SimulatedFleet, SimulatedJob, simulate_job

FLEET = SimulatedFleet(nodes=4, engines_per_node=2)
JOB = SimulatedJob(num_images=10_000, commit_rows=16, images_per_s=2.0)
EXACT = replace(JOB, engine_spread=0.0, block_spread=0.0)


def run(fleet: SimulatedFleet = FLEET, job: SimulatedJob = JOB, *, seed: int = 0) -> JobOutcome:
    outcome = simulate_job(fleet, job, seed=seed)
    assert outcome.committed_images == job.num_images
    assert len(outcome.attempts) == outcome.num_blocks == -(-job.num_images // job.commit_rows)
    assert min(outcome.attempts) >= 1
    assert sum(outcome.attempts) == outcome.num_blocks + outcome.num_redone
    return outcome


@pytest.mark.parametrize("num_images", [1, 15, 16, 17, 9_999])
def test_every_image_is_made_once(num_images: int) -> None:
    outcome = run(job=replace(JOB, num_images=num_images))
    assert set(outcome.attempts) == {1}
    assert (outcome.lost_share, outcome.num_redone) == (0, 0)


def test_equal_engines_take_work_over_engines_and_at_most_one_block_more() -> None:
    outcome = run(job=EXACT)
    at_least_s = JOB.num_images / (8 * JOB.images_per_s)
    assert at_least_s <= outcome.makespan_s <= at_least_s + JOB.commit_rows / JOB.images_per_s
    assert outcome.utilisation == pytest.approx(at_least_s / outcome.makespan_s)


def test_start_up_and_commit_come_on_top() -> None:
    fleet = replace(FLEET, node_start_s=300, engine_start_s=60)
    outcome = run(fleet, replace(EXACT, commit_s=10))
    assert outcome.makespan_s == pytest.approx(run(job=EXACT).makespan_s + 370)
    assert outcome.first_block_s == pytest.approx(360 + 8 + 10)


def test_nodes_that_come_one_by_one_take_longer() -> None:
    slow = run(replace(FLEET, nodes_per_s=0.01), EXACT)
    assert slow.makespan_s > run(job=EXACT).makespan_s + 50


def test_more_engines_are_never_slower() -> None:
    times = [run(replace(FLEET, nodes=nodes), EXACT).makespan_s for nodes in (1, 2, 3, 4, 8, 16, 64)]
    assert times == sorted(times, reverse=True)


def test_straggling_engines_lengthen_the_tail() -> None:
    assert run(job=replace(JOB, engine_spread=0.3)).tail_s > run(job=EXACT).tail_s


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("kind", ["node_losses_per_h", "engine_crashes_per_h"])
def test_failures_redo_the_blocks_they_hit_and_no_other(kind: str, seed: int) -> None:
    job = replace(EXACT, num_images=50_000, commit_s=5)
    outcome = run(replace(FLEET, **{kind: 5.0}), job, seed=seed)
    num_failures = outcome.num_node_losses + outcome.num_engine_crashes
    assert num_failures > 10
    # An engine has one block in work, a node of two engines perhaps one more each on its way to storage.
    assert 0 < outcome.num_redone <= num_failures * (4 if kind == "node_losses_per_h" else 1)
    assert 0 < outcome.lost_share < 0.2
    assert outcome.makespan_s > run(job=job).makespan_s


def test_smaller_blocks_lose_less() -> None:
    fleet = replace(FLEET, node_losses_per_h=3.0)
    lost = [
        run(fleet, replace(JOB, num_images=100_000, commit_rows=rows)).lost_share for rows in (16, 256, 1024)
    ]
    assert lost == sorted(lost)
    assert lost[2] > 5 * lost[0]


def test_one_driver_bounds_any_number_of_engines() -> None:
    job = replace(EXACT, driver_s_per_block=0.1, driver_s_per_row=0.01)
    outcome = run(replace(FLEET, nodes=500), job)
    at_least_s = outcome.num_blocks * (0.1 + 0.01 * JOB.commit_rows)
    assert outcome.makespan_s == pytest.approx(at_least_s + JOB.commit_rows / JOB.images_per_s, rel=0.01)
    assert outcome.driver_share > 0.9


def test_same_seed_same_run_other_seed_other_run() -> None:
    fleet = replace(FLEET, node_losses_per_h=1.0, node_start_spread_s=30)
    assert run(fleet, seed=1) == run(fleet, seed=1)
    assert run(fleet, seed=1).makespan_s != run(fleet, seed=2).makespan_s


def test_node_hours_are_paid_from_the_first_request() -> None:
    outcome = run(replace(FLEET, node_start_s=1800, usd_per_node_h=10))
    assert outcome.node_hours == pytest.approx(4 * outcome.makespan_s / 3600)
    assert outcome.usd == pytest.approx(10 * outcome.node_hours)
