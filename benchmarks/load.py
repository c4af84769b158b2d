"""Send image requests to an endpoint from a separate process, and print the results as one JSON line.

    python -m benchmarks.load URL (--rate PER_S | --clients N) [--duration 10] [--size 64x64] [--stream]

``--rate`` is an open loop (Poisson arrivals, independent of the answers), ``--clients`` a closed one (each
client sends its next request when it has its answer). Ctrl-C stops sending early, but waits for the answers;
with ``--until-refused`` so does the first answer but 200, as a load balancer does.
"""

import argparse
import asyncio
import json
import random
import signal
import statistics
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import aiohttp

PROMPTS = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")


@dataclass(slots=True)
class Report:
    """The results of all requests."""

    latencies_s: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    """By outcome: the HTTP status; for streams that ended badly, ``200 error`` or ``200 cut``."""
    codes: Counter[str] = field(default_factory=Counter)
    """The ``code`` of error answers; ``shapeless`` if there is no OpenAI error object."""
    retry_after: Counter[str] = field(default_factory=Counter)
    """The header, in answers with 429 or 503."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Requests that ended without an answer, by the client's exception."""

    def summary(self, wall_s: float) -> dict[str, Any]:
        """Return a summary for people and tests; latencies are in seconds."""
        return {
            "wall_s": round(wall_s, 2),
            "outcomes": {outcome: len(times) for outcome, times in sorted(self.latencies_s.items())},
            "codes": dict(self.codes),
            "unanswered": dict(self.unanswered),
            "retry_after": dict(self.retry_after),
            "latency_s": {outcome: _quantiles(times) for outcome, times in sorted(self.latencies_s.items())},
            "images_per_s": round(len(self.latencies_s["200"]) / wall_s, 2),
        }


def _quantiles(times_s: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(times_s, n=100, method="inclusive") if len(times_s) > 1 else times_s * 99
    shown = {f"p{percent}": round(cuts[percent - 1], 4) for percent in (50, 95, 99)}
    return shown | {"max": round(max(times_s), 4)}


class Load:
    """Sends requests of one kind."""

    def __init__(self, session: aiohttp.ClientSession, options: argparse.Namespace) -> None:
        self._session = session
        self._url = f"{options.url}/v1/images/generations"
        self._options = options
        self._random = random.Random(options.seed)
        self._stopped = asyncio.Event()
        self.report = Report()

    def stop(self) -> None:
        """Stop sending."""
        self._stopped.set()

    async def closed_loop(self) -> None:
        """Keep ``--clients`` requests in flight."""

        async def client() -> None:
            while not self._stopped.is_set():
                await self._send()

        async with asyncio.TaskGroup() as clients:
            for _ in range(self._options.clients):
                clients.create_task(client())

    async def open_loop(self) -> None:
        """Send ``--rate`` requests per second, at most ``--max-open`` at once."""
        places = asyncio.Semaphore(self._options.max_open)

        async def send() -> None:
            try:
                await self._send()
            finally:
                places.release()

        due_s = time.monotonic()
        async with asyncio.TaskGroup() as requests:
            while not self._stopped.is_set():
                await places.acquire()
                requests.create_task(send())
                due_s += self._random.expovariate(self._options.rate)
                await asyncio.sleep(due_s - time.monotonic())

    async def _send(self) -> None:
        body = {
            "prompt": self._random.choice(PROMPTS),
            "size": self._options.size,
            "seed": self._random.getrandbits(32),
        }
        if self._options.steps:
            body["num_inference_steps"] = self._options.steps
        if self._options.model:
            body["model"] = self._options.model
        if self._options.stream:
            body |= {"stream": True, "partial_images": 1}
        start_s = time.monotonic()
        try:
            async with self._session.post(self._url, json=body) as answer:
                outcome = self._outcome(answer, await answer.read())
        except (aiohttp.ClientError, TimeoutError) as error:
            self.report.unanswered[type(error).__name__] += 1
            if self._options.until_refused:
                self.stop()
        else:
            self.report.latencies_s[outcome].append(time.monotonic() - start_s)

    def _outcome(self, answer: aiohttp.ClientResponse, content: bytes) -> str:
        if answer.status in (429, 503):
            self.report.retry_after[answer.headers.get("Retry-After", "missing")] += 1
        if answer.status != 200:
            if self._options.until_refused:
                self.stop()
            self.report.codes[_error_code(content)] += 1
            return str(answer.status)
        if not self._options.stream:
            return "200"
        event, _, data = content.strip().rpartition(b"\n\n")[2].partition(b"\n")
        if event == b"event: image_generation.completed":
            return "200"
        if event != b"event: error":
            return "200 cut"
        self.report.codes[_error_code(data.removeprefix(b"data: "))] += 1
        return "200 error"


def _error_code(content: bytes) -> str:
    try:
        return str(json.loads(content)["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "shapeless"


async def run(options: argparse.Namespace) -> dict[str, Any]:
    """Send the load and return its summary."""
    timeout = aiohttp.ClientTimeout(total=options.timeout)
    # A kept connection that a stopped server closes looks like one that breaks.
    connector = aiohttp.TCPConnector(limit=0, force_close=options.until_refused)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        load = Load(session, options)
        loop = asyncio.get_running_loop()
        loop.call_later(options.duration, load.stop)
        loop.add_signal_handler(signal.SIGINT, load.stop)
        start_s = time.monotonic()
        await (load.open_loop() if options.rate else load.closed_loop())
        return load.report.summary(time.monotonic() - start_s)


def main() -> None:
    """Read the command line, send the load, print the summary."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("url", help="for example http://127.0.0.1:8000")
    loop = parser.add_mutually_exclusive_group(required=True)
    loop.add_argument("--rate", type=float, help="requests per second")
    loop.add_argument("--clients", type=int, help="requests in flight")
    parser.add_argument("--duration", type=float, default=10, help="how many seconds to send requests")
    parser.add_argument("--max-open", type=int, default=512, help="most requests in flight with --rate")
    parser.add_argument("--timeout", type=float, default=120, help="seconds until one counts as unanswered")
    parser.add_argument("--model")
    parser.add_argument("--size", default="64x64")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--stream", action="store_true")
    parser.add_argument("--until-refused", action="store_true", help="stop at the first answer but 200")
    parser.add_argument("--seed", type=int, default=0, help="seed of prompts, image seeds and arrivals")
    print(json.dumps(asyncio.run(run(parser.parse_args()))))


if __name__ == "__main__":
    main()
