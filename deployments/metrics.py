"""The endpoint's Prometheus metrics, exported by Ray, which adds the prefix ``ray_`` to each name.

The Ray agent of a node has the metrics of its processes; :func:`gathered_metrics` has those of all nodes.
"""

import asyncio
from collections.abc import Iterable
from typing import TypeVar

import aiohttp
import ray
from ray.util.metrics import Counter, Gauge, Histogram
from yarl import URL

from zimage_models.engine.engine_stats import EngineStats
from zimage_models.requests import ImageResult

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

# With Serve's two about replicas, they are all that deployments/grafana/dashboard.json shows.
_GATHERED = ("ray_zimage_", "ray_serve_deployment_replica_healthy", "ray_serve_autoscaling_target_replicas")
_GATHER_TIMEOUT_S = 5.0
_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0]

# EngineStats field -> counter; the engine counts from its start.
_COUNTERS = {
    "num_images": ("zimage_images_total", "Images made."),
    "num_failed": ("zimage_images_failed_total", "Images that could not be made."),
    "num_cancelled": ("zimage_images_cancelled_total", "Images cancelled or past their deadline."),
    "num_steps": ("zimage_step_batches_total", "Denoising step batches run."),
    "num_item_steps": (
        "zimage_steps_total",
        "Denoising steps computed, summed over images.",
    ),
    "num_preemptions": (
        "zimage_preemptions_total",
        "Times an image of the last step was left out for another priority.",
    ),
    "num_caption_hits": ("zimage_caption_cache_hits_total", "Prompt embeddings found in the cache."),
    "num_rebuilds": ("zimage_rank_rebuilds_total", "Times an engine's lost ranks were replaced."),
    "num_compiled": (
        "zimage_compiled_graphs_total",
        "Graphs compiled, or loaded as compiled; no more of them after the warm-up.",
    ),
    "num_caption_misses": ("zimage_caption_cache_misses_total", "Prompt embeddings computed."),
}
_GAUGES = {
    "num_open": ("zimage_open_requests", "Images waiting or running."),
    "num_online": ("zimage_open_online_requests", "Images of online requests waiting or running."),
    "queue_s": (
        "zimage_queue_estimate_seconds",
        "Seconds of online work that is left to do.",
    ),
    "step_s": ("zimage_step_seconds", "Mean time of the last step batches."),
    "images_per_s": ("zimage_images_per_second", "Speed while busy, over the last step batches."),
    "memory_bytes": ("zimage_memory_peak_bytes", "Peak memory of the accelerator, or of the process."),
}


class EngineMetrics:
    """One replica's metrics, tagged with its model and name."""

    def __init__(self, model_id: str, *, replica: str) -> None:
        tags = {"model": model_id, "replica": replica}
        self._reported: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self._counters = {
            field: _tagged(Counter(name, description=text, tag_keys=tuple(tags)), tags)
            for field, (name, text) in _COUNTERS.items()
        }
        self._gauges = {
            field: _tagged(Gauge(name, description=text, tag_keys=tuple(tags)), tags)
            for field, (name, text) in _GAUGES.items()
        }
        self._pixels = _tagged(
            Counter("zimage_pixels_total", description="Pixels of the images made.", tag_keys=tuple(tags)),
            tags,
        )
        self._queue_s = _tagged(
            seconds_histogram("zimage_queue_seconds", "Wait before the first step.", tags), tags
        )
        self._denoise_s = _tagged(
            seconds_histogram("zimage_denoise_seconds", "From the first to the last step.", tags), tags
        )

    def record(self, stats: EngineStats) -> None:
        """Report an engine's counts and gauges."""
        for field, counter in self._counters.items():
            total = getattr(stats, field)
            if total > self._reported[field]:
                counter.inc(total - self._reported[field])
                self._reported[field] = total
        for field, gauge in self._gauges.items():
            gauge.set(getattr(stats, field))

    def made(self, image: ImageResult) -> None:
        """Report one finished image."""
        self._pixels.inc(image.request.height * image.request.width)
        self._queue_s.observe(image.timings.queue_s)
        self._denoise_s.observe(image.timings.denoise_s)


def seconds_histogram(name: str, text: str, tag_keys: Iterable[str]) -> Histogram:
    """Make a histogram of seconds, from 5 ms to 250 s."""
    return Histogram(name, description=text, boundaries=_SECONDS, tag_keys=tuple(tag_keys))


def _tagged(metric: Metric, tags: dict[str, str]) -> Metric:
    metric.set_default_tags(tags)
    return metric


async def gathered_metrics() -> str:
    """Return the endpoint's metrics from all nodes in Prometheus' text format, as Ray's agents have them now.

    A comment names each node whose agent does not answer.
    """
    nodes = [node for node in await asyncio.to_thread(ray.nodes) if node["Alive"]]
    timeout = aiohttp.ClientTimeout(total=_GATHER_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        addresses = [(str(node["NodeManagerAddress"]), int(node["MetricsExportPort"])) for node in nodes]
        texts = await asyncio.gather(*(_node_metrics(session, *address) for address in addresses))
    return await asyncio.to_thread(merged_metrics, texts)


async def _node_metrics(session: aiohttp.ClientSession, host: str, port: int) -> str:
    try:
        async with session.get(URL.build(scheme="http", host=host, port=port, path="/metrics")) as answer:
            answer.raise_for_status()
            return await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        return f"# no metrics of the node at {host}: {type(error).__name__}\n"


def merged_metrics(texts: Iterable[str]) -> str:
    """Join the endpoint's metrics of several nodes: those of one name follow one description."""
    comments: list[str] = []
    # The lines of each name: its description, by "# HELP" and "# TYPE", and its samples.
    metrics: dict[str, dict[str, str]] = {}
    for text in texts:
        name = ""
        for line in text.splitlines():
            if line.startswith(("# HELP ", "# TYPE ")):
                name = line.split(" ", 3)[2]
            elif line.startswith("#"):
                comments.append(line)
                continue
            if name.startswith(_GATHERED):
                key = line[:6] if line.startswith("# ") else line
                metrics.setdefault(name, {}).setdefault(key, line)
    lines = [*comments, *(line for metric in metrics.values() for line in metric.values())]
    return "".join(f"{line}\n" for line in lines)
