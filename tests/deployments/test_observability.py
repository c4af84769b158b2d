"""The dashboard that operators import into Grafana."""

import json
import re
from pathlib import Path

import ray.serve

from deployments import metrics

_ROOM = Path(metrics.__file__).parent


def _expressions() -> list[str]:
    dashboard = json.loads((_ROOM / "grafana_dashboard.json").read_text(encoding="utf-8"))
    targets = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", [])]
    variables = [variable.get("definition", "") for variable in dashboard["templating"]["list"]]
    return targets + variables


def test_dashboard_asks_for_metrics_that_there_are() -> None:
    ours = re.findall(r'"(zimage_\w+)"', (_ROOM / "metrics.py").read_text(encoding="utf-8"))
    sources = Path(ray.serve.__file__).parent.rglob("*.py")
    serves = [name for path in sources for name in re.findall(r'"(serve_\w+)"', path.read_text())]
    asked = {
        re.sub("_(bucket|sum|count)$", "", name)
        for text in _expressions()
        for name in re.findall(r"\b(?:ray_|zimage_|serve_)\w+", text)
    }
    assert len(asked) > 15
    assert asked <= {f"ray_{name}" for name in (*ours, *serves)}


def test_dashboard_has_a_row_for_each_side_of_the_endpoint() -> None:
    dashboard = json.loads((_ROOM / "grafana_dashboard.json").read_text(encoding="utf-8"))
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic", "Latency", "Engine", "Capacity"]
    charts = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    assert {panel["datasource"]["uid"] for panel in charts} == {"${datasource}"}
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])
