"""Simulate clusters larger than this machine: 10 M images on up to 1,000 GPUs, and a day of online traffic.

python -m benchmarks.simulation.simulate_cluster              (both parts below; writes the result)
python -m benchmarks.simulation.simulate_cluster --check      (compares with real runs of two engines here)
python -m benchmarks.simulation.simulate_cluster --scenarios  (the planned clusters)
"""

import argparse
import json
import time
from typing import Any

from benchmarks.report import write_result
from benchmarks.simulation.simulation_check import check
from benchmarks.simulation.simulation_scenarios import batch_scenarios, conclusions, traffic_scenarios
from pipelines.capacity.fleet_estimate import Assumptions


def scenarios(driver_blocks_per_s: float) -> dict[str, Any]:
    """Simulate all planned clusters."""
    start_s = time.monotonic()
    batch = batch_scenarios(driver_blocks_per_s)
    for row in batch:
        print(json.dumps(row), flush=True)
    traffic = traffic_scenarios()
    for row in traffic:
        print(json.dumps(row), flush=True)
    return {
        "driver_blocks_per_s": driver_blocks_per_s,
        "batch": batch,
        "traffic": traffic,
        "conclusions": conclusions(batch, traffic),
        "simulated_in_s": round(time.monotonic() - start_s, 1),
    }


def main() -> None:
    """Run the requested parts; write the result only if both ran."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--check", action="store_true", help="only the comparison with real runs")
    parser.add_argument("--scenarios", action="store_true", help="only the planned clusters")
    arguments = parser.parse_args()
    result: dict[str, Any] = {}
    if arguments.check or not arguments.scenarios:
        result["check"] = check()
    if arguments.scenarios or not arguments.check:
        result["scenarios"] = scenarios(Assumptions().driver_blocks_per_s)
        print(json.dumps(result["scenarios"]["conclusions"], indent=1))
    if "check" in result:
        print(f"largest error {result['check']['largest_error']:.1%} (limit {result['check']['limit']:.0%})")
    if len(result) == 2:
        write_result("simulate_cluster", result)


if __name__ == "__main__":
    main()
