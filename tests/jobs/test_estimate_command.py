"""``zimage estimate``: no Ray, no cluster, nothing written."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import pytest

from jobs import cli
from jobs.option_values import duration_text, parse_duration
from zimage_models.errors import InvalidRequest

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "objects.csv")
RELEASED = ("--model", "Tongyi-MAI/Z-Image-Turbo")
CLUSTER = """
available_node_types:
  head: {resources: {CPU: 8, GPU: 0}, max_workers: 0}
  l40s: {resources: {GPU: 1}, max_workers: 400, node_config: {InstanceType: g6e.4xlarge}}
  h100: {resources: {GPU: 8}, max_workers: 8, node_config: {InstanceType: p5.48xlarge}}
"""


def plan(*arguments: object) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = cli.run(["estimate", *map(str, arguments)])
    return int(code), out.getvalue(), err.getvalue()


def plan_json(*arguments: object) -> dict[str, Any]:
    code, out, err = plan(*arguments, "--json")
    assert (code, err) == (0, "")
    return dict(json.loads(out))


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.yaml"
    path.write_text(CLUSTER, encoding="utf-8")
    return path


def test_example_table_is_planned_on_this_machine() -> None:
    code, out, _ = plan(EXAMPLE)
    assert code == 0
    assert "48 images of tiny-zimage-turbo: 384 transformer forwards" in out
    assert "48 of 64x64, 8 steps: 96 tokens (64 image, 32 caption)" in out
    assert "take 1 x this machine" in out


def test_table_is_counted_exactly(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "prompt": "apple"},
        {"id": "b", "prompt": "pear " * 60, "size": "128x64", "num_inference_steps": 4},
        {"id": "c", "prompt": ""},
    ]
    table = tmp_path / "table.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    report = plan_json(table, "--variants", 3)
    assert (report["images"], report["rows"]["rejected"]) == (6, 1)
    kinds = {(kind["width"], kind["num_inference_steps"]): kind for kind in report["kinds"]}
    assert {key: kind["images"] for key, kind in kinds.items()} == {(64, 8): 3, (128, 4): 3}
    assert kinds[64, 8]["caption_tokens"] == 32
    assert kinds[128, 4]["caption_tokens"] > 32
    assert sorted(tmp_path.iterdir()) == [table]


def test_released_model_needs_no_checkpoint(cluster: Path) -> None:
    report = plan_json("--images", 1_000_000, *RELEASED, "--cluster", cluster, "--deadline", "8h")
    assert report["flops"] == pytest.approx(463e18, rel=0.01)
    [chosen] = report["chosen"]
    assert chosen["node_type"]["name"] == "h100"
    assert chosen["finish_s"][1] <= 8 * 3600
    assert chosen["usd"][0] < chosen["usd"][1]
    assert {option["node_type"]["name"] for option in report["options"]} == {"l40s", "h100"}


def test_text_says_what_to_take_and_why(cluster: Path) -> None:
    code, out, _ = plan("--images", 1_000_000, *RELEASED, "--cluster", cluster, "--deadline", "8h")
    assert code == 0
    assert "take 6 x h100 (48 engines): the cheapest of 2 node types that meet the deadline" in out
    assert ", deadline 8h; $" in out
    assert "published, +-25%: SGLang CI" in out
    assert "68 all-reduces of 2.2 GB in total per forward" in out


def test_deadline_that_nothing_meets_says_how_long_it_takes(cluster: Path) -> None:
    report = plan_json("--images", 10_000_000, *RELEASED, "--cluster", cluster, "--deadline", "8h")
    assert report["chosen"] == []
    assert report["why"].startswith("all nodes together take up to ")


def test_what_the_output_holds_is_not_planned(tmp_path: Path) -> None:
    # Nothing is made there yet: as many as without.
    assert plan_json(EXAMPLE, tmp_path / "out")["images"] == 48
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "input: give either a prompt table or --images"),
        ([EXAMPLE, "--images", 5], "input: give either a prompt table or --images"),
        (["--images", 0], "images: 0 is below 1"),
        (
            ["--images", 5, *RELEASED, "--size", "1000x1000"],
            "size: 1000x1000 is not a multiple of 16 px: use 1008x1008 or 992x992",
        ),
        (["--images", 5, *RELEASED, "--guidance", 4], "guidance_scale"),
        (["--images", 5, "--prompt-tokens", 4000], "prompt_tokens: 4000 is outside 1..512"),
        ([EXAMPLE, "--prompt-tokens", 40], "prompt_tokens: valid only with --images"),
        (["--images", 5, "--deadline", "soon"], "deadline: 'soon' is not a duration"),
        (["--images", 5, "--deadline", "1s"], "deadline: 1 s is not above the 60 s"),
        (["--images", 5, "--tp", 7], "tp: 7 is not one of 1, 2, 3"),
        (["--images", 5, "--cluster", "no.yaml"], "cluster: no.yaml cannot be read"),
        (["--images", 5, "--measured", "no.json"], "measured: no.json cannot be read"),
        (["--images", 5, "--model", "nobody"], "model: 'nobody' is neither"),
    ],
)
def test_bad_usage_says_field_and_limit(arguments: list[object], message: str) -> None:
    code, out, err = plan(*arguments)
    assert code == 2
    assert out == ""
    assert message in err


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("90s", 90), ("1.5h", 5400), ("2d", 172800)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text, field="deadline") == seconds


@pytest.mark.parametrize("text", ["", "h", "-1h", "0s", "8 hours", "1e3"])
def test_durations_of_another_form_are_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="deadline"):
        parse_duration(text, field="deadline")


def test_durations_are_told_in_their_largest_unit() -> None:
    assert [duration_text(value) for value in (5, 300, 30_000, 200_000)] == ["5 s", "5 m", "8.33 h", "2.31 d"]
