import io
import json
import sys
from pathlib import Path

import pytest

from tests.jobs.conftest import Zimage, published

LINES = [json.dumps({"id": str(row), "prompt": f"a cup {row}"}) + "\n" for row in range(3)]


def give(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("".join(lines).encode())))


def test_a_folder_a_pattern_and_standard_input_are_the_same_data_set(
    zimage: Zimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards, out = tmp_path / "shards", tmp_path / "out"
    shards.mkdir()
    for number, line in enumerate(LINES):
        (shards / f"shard-{number}.jsonl").write_text(line, encoding="utf-8")
    give(monkeypatch, *LINES)
    assert zimage("generate", "-", out, "--fake").code == 0
    first = published(out)
    assert sorted(first.by_key) == ["0", "1", "2"]
    # Nothing is left to make, whichever way the same rows come.
    for inputs in ([shards], [shards / "*.jsonl"], [*sorted(shards.iterdir())]):
        done = zimage("generate", *inputs, out, "--fake", "--progress", "json")
        assert (done.code, done.event("planned")["new"]) == (0, 0)
        assert published(out).manifest == first.manifest
    assert zimage("retry", out).code == 0, "the lines were kept for it"


def test_a_dry_run_stores_nothing(zimage: Zimage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    give(monkeypatch, *LINES)
    done = zimage("generate", "-", tmp_path / "out", "--fake", "--dry-run")
    assert (done.code, "3 images to make" in done.out) == (0, True)
    assert not (tmp_path / "out").exists()
    give(monkeypatch)
    done = zimage("generate", "-", tmp_path / "out", "--fake")
    assert (done.code, done.err) == (2, "zimage: error: input: standard input is empty\n")
    monkeypatch.setattr(sys, "stdin", None)
    done = zimage("generate", "-", tmp_path / "out", "--fake")
    assert (done.code, done.err) == (2, "zimage: error: input: standard input is closed\n")
