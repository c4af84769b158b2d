"""The dashboard that operators import into Grafana, against what a running endpoint tells Prometheus."""

import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import deployments
from tests.conditions import eventually
from tests.deployments.busy_endpoint.conftest import FAKE, MODEL
from tests.deployments.cluster import Driver
from tests.deployments.conftest import Endpoint

ROUTE = "/v1/images/generations"
DASHBOARD = Path(deployments.__file__).parent / "grafana/dashboard.json"


def _dashboard() -> dict[str, Any]:
    dashboard: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return dashboard


def _asked() -> set[str]:
    """Name the metrics in all expressions of the dashboard."""
    dashboard = _dashboard()
    expressions = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    expressions += [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    return {name for text in expressions for name in re.findall(r"\b(?:ray_|zimage_|serve_)\w+", text)}


def _work_of_every_kind(endpoint: Endpoint, driver: Driver) -> None:
    """Have images made, made again, failed, dropped, and made before others that were there first."""
    # A step of it takes long enough for another request to come meanwhile.
    long = {"model": MODEL, "prompt": "owl", "size": "256x256", "num_inference_steps": 50}
    with endpoint.http() as http, ThreadPoolExecutor(1) as pool:
        for body, headers, status in (
            ({"model": FAKE, "prompt": "owl"}, {}, 200),
            ({"model": FAKE, "prompt": "[fake: blank]"}, {}, 500),
            ({"model": MODEL, "prompt": "owl"}, {}, 200),
            ({"model": MODEL, "prompt": "owl"}, {}, 200),
            (long, {"X-Request-Timeout": "0.2"}, 504),
        ):
            assert http.post(ROUTE, json=body, headers=headers).status_code == status
        before = driver.stats(MODEL)
        passed = pool.submit(http.post, ROUTE, json=long | {"priority": "batch"})
        eventually(
            lambda: driver.stats(MODEL)["num_item_steps"] > before["num_item_steps"], "the first is begun"
        )
        assert http.post(ROUTE, json={"model": MODEL, "prompt": "owl"}).status_code == 200
        assert passed.result().status_code == 200


def test_every_metric_that_the_dashboard_asks_for_is_served(endpoint: Endpoint, driver: Driver) -> None:
    asked = _asked()
    assert len(asked) > 15
    _work_of_every_kind(endpoint, driver)
    seen: set[str] = set()

    def all_seen() -> bool:
        # Ray exports a gauge only for the interval in which it was set.
        with endpoint.http() as http:
            seen.update(re.findall(r"^(\w+)[{ ]", http.get("/metrics").text, re.MULTILINE))
        return asked <= seen

    try:
        eventually(all_seen, "all metrics are served")
    except AssertionError:
        pytest.fail(f"not served: {', '.join(sorted(asked - seen))}")


def test_dashboard_has_a_row_for_each_side_of_the_endpoint() -> None:
    dashboard = _dashboard()
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Engine", "Capacity"]
    charts = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in charts} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
