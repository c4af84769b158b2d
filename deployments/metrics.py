"""The endpoint's Prometheus metrics, exported by Ray, which adds the prefix ``ray_`` to each name."""

from collections.abc import Iterable
from typing import TypeVar

from ray.util.metrics import Counter, Gauge, Histogram

from zimage_models.engine.engine_stats import EngineStats
from zimage_models.requests import ImageResult

Metric = TypeVar("Metric", Counter, Gauge, Histogram)

_SECONDS = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0]

# EngineStats field -> counter; the engine counts from its start.
_COUNTERS = {
    "num_images": ("zimage_images_total", "Images made."),
    "num_failed": ("zimage_images_failed_total", "Images that could not be made."),
    "num_cancelled": ("zimage_images_cancelled_total", "Images cancelled or past their deadline."),
    "num_steps": ("zimage_step_batches_total", "Denoising step batches run."),
    "num_item_steps": ("zimage_steps_total", "Denoising steps, summed over the images of each batch."),
    "num_preemptions": (
        "zimage_preemptions_total",
        "Times a running image was left out for another priority.",
    ),
    "num_caption_hits": ("zimage_caption_cache_hits_total", "Prompt embeddings found in the cache."),
    "num_rebuilds": ("zimage_rank_rebuilds_total", "Times an engine's lost ranks were replaced."),
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
