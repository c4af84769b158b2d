"""Measure what losing a rank costs an endpoint: failed requests, and seconds until it makes images again.

    python -m benchmarks.rank_loss [--kills 10] [--placement one_node]

Clients keep sending requests to a model split across two ranks, and rank 1 is killed at random moments.
Targets: at most one failed request per kill, and images again within 15 s.
"""

import argparse
import asyncio
import json
import random
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from benchmarks.endpoint import Endpoint, serving
from benchmarks.load import PROMPTS
from benchmarks.report import write_result

_CLIENTS = 4
_MODEL_ID = "divided"
_RANK_TITLES = {"one_node": "zimage_models.tensor_parallel.rank_server", "any_nodes": "ray::_RankActor"}


async def measure(endpoint: Endpoint, placement: str, *, num_kills: int) -> dict[str, Any]:
    """Kill a rank repeatedly under load."""
    answered: list[tuple[float, int]] = []
    done = asyncio.Event()

    async def client(session: aiohttp.ClientSession) -> None:
        while not done.is_set():
            body = {"prompt": random.choice(PROMPTS), "seed": random.getrandbits(32), "model": _MODEL_ID}
            async with session.post(f"{endpoint.url}/v1/images/generations", json=body) as answer:
                await answer.read()
                answered.append((time.monotonic(), answer.status))

    def num_made() -> int:
        return sum(status == 200 for _, status in answered)

    async def image_started_after(num_before: int) -> None:
        # One image per client may already have been in progress.
        while num_made() <= num_before + _CLIENTS:
            await asyncio.sleep(0.01)

    recovery_s = []
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as clients:
        for _ in range(_CLIENTS):
            clients.create_task(client(session))
        for _ in range(num_kills):
            # By then the new ranks have made images.
            await image_started_after(num_made())
            await asyncio.sleep(random.uniform(0, 1))
            rank = find_rank(endpoint, placement)
            killed_s, num_before = time.monotonic(), num_made()
            rank.kill()
            await image_started_after(num_before)
            recovery_s.append(answered[-1][0] - killed_s)
        done.set()
    num_failed = sum(status != 200 for _, status in answered)
    return {
        "placement": placement,
        "kills": num_kills,
        "requests": len(answered),
        "failed_requests": num_failed,
        "recovery_s": [round(seconds, 2) for seconds in recovery_s],
        "recovery_median_s": round(statistics.median(recovery_s), 2),
        "met": {"failed": num_failed <= num_kills, "recovery": max(recovery_s) < 15},
    }


def find_rank(endpoint: Endpoint, placement: str) -> psutil.Process:
    """Find the process of rank 1; on one node, it is a fork of the server with the same title."""
    found = []
    for process in psutil.Process(endpoint.process.pid).children(recursive=True):
        try:
            if _RANK_TITLES[placement] in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return max(found, key=lambda process: process.create_time())


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--placement", choices=sorted(_RANK_TITLES), default="one_node")
    arguments = parser.parse_args()
    model = {
        "id": _MODEL_ID,
        "num_cpus": 1,
        "tensor_parallel_size": 2,
        "tensor_parallel_placement": arguments.placement,
    }
    with tempfile.TemporaryDirectory() as name, serving(Path(name), models=[model]) as endpoint:
        result = asyncio.run(measure(endpoint, arguments.placement, num_kills=arguments.kills))
    print(json.dumps(result, indent=2))
    write_result(f"rank_loss_{arguments.placement}", result)


if __name__ == "__main__":
    main()
