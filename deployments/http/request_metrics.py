"""Prometheus metrics of the HTTP replicas, exported through Ray's metrics like those of the engines."""

from ray.util.metrics import Counter, Gauge

from deployments.metrics import seconds_histogram


class HttpMetrics:
    """The metrics of the HTTP replicas."""

    def __init__(self) -> None:
        self._requests = Counter(
            "zimage_http_requests_total",
            description="Answered HTTP requests.",
            tag_keys=("route", "model", "status"),
        )
        self._duration_s = seconds_histogram(
            "zimage_http_request_seconds", "From the request to the last byte of the answer.", ("route",)
        )
        self._in_flight = Gauge(
            "zimage_http_in_flight", description="HTTP requests being answered.", tag_keys=()
        )
        self._num_in_flight = 0

    def began(self) -> None:
        """Count an incoming request."""
        self._num_in_flight += 1
        self._in_flight.set(self._num_in_flight)

    def ended(self, *, route: str, model: str, status: int, duration_s: float) -> None:
        """Count an answered request (499: the client disconnected)."""
        self._num_in_flight -= 1
        self._in_flight.set(self._num_in_flight)
        self._requests.inc(tags={"route": route, "model": model, "status": str(status)})
        self._duration_s.observe(duration_s, tags={"route": route})
