"""A driver in the Ray cluster of a running endpoint: `python -m tests.deployments.serve_driver ADDRESS`.

A process of its own, for a process has one Ray at a time. Answers JSON requests, one a line:
{"stats": model id} with an engine's stats, {"num_running": model id} and {"num_placement_groups": true} with
a number, {"deploy": args} by deploying the app anew.
"""

import json
import sys
from dataclasses import asdict
from typing import Any

import ray
from ray import serve

from deployments.app import build_app
from deployments.app_args import AppArgs
from jobs.serve import APP_NAME


def _answer(request: dict[str, Any]) -> Any:
    if "stats" in request:
        handle = serve.get_deployment_handle(request["stats"], APP_NAME)
        return asdict(handle.stats.remote().result(timeout_s=30))
    if "num_running" in request:
        deployment = serve.status().applications[APP_NAME].deployments[request["num_running"]]
        return deployment.replica_states.get("RUNNING", 0)
    if "num_placement_groups" in request:
        groups = ray.util.placement_group_table().values()
        return sum(group["state"] != "REMOVED" for group in groups)
    serve.run(build_app(AppArgs.model_validate(request["deploy"])), name=APP_NAME, route_prefix="/")
    return None


def main() -> None:
    ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
    _print(None)
    for line in sys.stdin:
        _print(_answer(json.loads(line)))


def _print(answer: Any) -> None:
    # Ray writes to the standard output, too.
    print(f"answer:{json.dumps(answer)}", flush=True)


if __name__ == "__main__":
    main()
