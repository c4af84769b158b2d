"""Commands about models: which memory modes fit this machine, and what calibrating prints and writes."""

import json
from pathlib import Path

import pytest

from jobs import cli, models
from jobs.models import list_models
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.step_schedules import SCHEDULE_FILE

GPU = '#!/bin/sh\necho "NVIDIA L4, {mib}"\n'


@pytest.fixture
def has_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put NVIDIA's program on the path, which is to be written."""
    program = tmp_path / "nvidia-smi"
    program.touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def lines_of(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    assert list_models() == 0
    printed = capsys.readouterr().out.splitlines()
    start = next(number for number, line in enumerate(printed) if line.startswith("memory modes"))
    return {"head": printed[start]} | {line.split()[0]: line for line in printed[start + 1 :]}


@pytest.mark.parametrize(
    ("mib", "best"), [(24000, "resident"), (20000, "16gb"), (7700, "8gb"), (3900, "4gb"), (2000, None)]
)
def test_the_best_mode_of_a_gpu(
    mib: int,
    best: str | None,
    has_gpu: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_gpu.write_text(GPU.format(mib=mib))
    monkeypatch.setattr(models, "available_bytes", lambda: 64 * 10**9)
    lines = lines_of(capsys)
    assert f"on NVIDIA L4, {mib * 2**20 / 1e9:.1f} GB free" in lines["head"]
    assert [name for name, line in lines.items() if "best here" in line] == ([best] if best else [])


def test_what_a_mode_costs(
    has_gpu: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    has_gpu.write_text(GPU.format(mib=81000))
    monkeypatch.setattr(models, "available_bytes", lambda: 10 * 10**9)
    lines = lines_of(capsys)
    assert "22.2 GB" in lines["resident"]
    assert "copies" not in lines["resident"]
    assert "14.1 GB and 7.8 GB of the host's" in lines["16gb"]
    assert "fits" in lines["16gb"]
    assert "4.1 GB and 18.5 GB of the host's" in lines["8gb"]
    assert "does not fit" in lines["8gb"], "the host's memory is too small"
    assert "copies 7.1 GB per batch of prompts, 0.28 s; copies 10.6 GB per step, 0.42 s" in lines["8gb"]
    assert "estimates" in lines["(estimates;"]


def test_a_machine_without_gpu(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(models, "available_bytes", lambda: 60 * 10**9)
    lines = lines_of(capsys)
    assert "on the CPU, 60.0 GB free" in lines["head"]
    assert "best here" in lines["resident"]
    assert "of the host's" not in lines["8gb"]


def test_a_system_that_does_not_tell_its_memory(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(models, "available_bytes", lambda: None)
    assert lines_of(capsys)["head"].endswith("on the CPU")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_checkpoint(
        tmp_path_factory.mktemp("checkpoints") / "tiny", dim=16, num_layers=1, num_refiner_layers=1
    )


def test_calibrate_says_what_it_found_and_where_it_is(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts.txt").write_text("owl\n\n猫\n", "utf-8")
    options = ["--variant", "turbo", "--steps", "4", "--size", "32x32", "--prompts", tmp_path / "prompts.txt"]
    assert cli.run(["calibrate", *map(str, [checkpoint, *options])]) == 0
    high, fast, written = capsys.readouterr().out.splitlines()
    assert high.startswith("high: computes 3 of 4 steps (0 ")
    assert fast.startswith("fast: computes 2 of 4 steps (0 3); the largest error of a skip is ")
    assert written == f"written: {checkpoint / SCHEDULE_FILE}"
    assert json.loads((checkpoint / SCHEDULE_FILE).read_text())["schedules"]["4"]["num_prompts"] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["Tongyi-MAI/Z-Image"], "output: Tongyi-MAI/Z-Image is fetched"),
        (["s3://bucket/model"], "output: s3://bucket/model is fetched"),
        (["tiny-zimage-turbo", "--prompts", "nowhere.txt"], "prompts: nowhere.txt cannot be read"),
        (["tiny-zimage-turbo", "--image", "examples/pictures/owl.png"], "image: turbo reads no images"),
        (
            ["tiny-zimage-turbo", "--output", "nowhere/file.json"],
            "output: nowhere/file.json cannot be written",
        ),
        (
            ["tiny-zimage-turbo", "--steps", "2", "--output", "file.json"],
            "steps: 2 steps leave none to reuse",
        ),
    ],
)
def test_calibrate_refuses_in_one_line(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(["calibrate", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zimage: error: {message}")
