"""A checkpoint that cannot be used ends each command with one line and exit code 2."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from jobs import cli
from tests.jobs.conftest import Zimage
from tests.jobs.test_generate import write_csv
from zimage_models.model_spec import DEFAULT_MODEL, KNOWN_MODELS

VAE = "vae/diffusion_pytorch_model.safetensors"
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 167666902\n"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    embedded = KNOWN_MODELS[DEFAULT_MODEL].directory
    assert embedded
    return Path(shutil.copytree(embedded, tmp_path / "copy"))


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "TABLE", "OUT", "--dry-run", "--variant", "turbo", "--model"],
        ["generate", "TABLE", "OUT", "--variant", "turbo", "--model"],
        ["estimate", "--variant", "turbo", "--images", "3", "--model"],
        ["serve", "--config", "CONFIG"],
        ["convert"],
    ],
)
def test_commands_refuse_in_one_line_before_ray_starts(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str]
) -> None:
    vae = checkpoint / VAE
    vae.write_bytes(LFS)
    (tmp_path / "table.jsonl").write_text('{"prompt": "owl"}\n')
    model = {"id": "one", "model": str(checkpoint), "engine": {"variant": "turbo"}}
    (tmp_path / "serve.yaml").write_text(json.dumps({"models": [model]}))
    places = {"TABLE": "table.jsonl", "OUT": "out", "CONFIG": "serve.yaml"}
    words = [str(tmp_path / places[word]) if word in places else word for word in command]
    if command[-1] != "CONFIG":
        words.append(str(checkpoint))
    if command == ["convert"]:
        words.append(str(tmp_path / "target"))
    assert cli.run(words) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith(f"zimage: error: {vae}: only a Git LFS pointer")


@pytest.mark.soak
def test_an_engine_that_cannot_be_made_ends_a_run_in_one_line(
    checkpoint: Path, tmp_path: Path, zimage: Zimage
) -> None:
    vae = checkpoint / VAE
    tensors = load_file(vae)
    # The check of the files does not look for this one, but whoever loads it does.
    del tensors["encoder.mid_block.resnets.1.norm2.weight"]
    save_file(tensors, vae, metadata={"format": "pt"})
    table = write_csv(tmp_path / "table.csv", [{"prompt": "owl"}])
    options = ["--variant", "turbo", "--progress", "quiet"]
    done = zimage("generate", table, tmp_path / "out", "--model", checkpoint, *options)
    assert done.code == 2
    # A Ray that the command starts itself also keeps quiet about the stage's error.
    assert "Traceback" not in done.err
    assert "vae: the tensors do not match its config.json: 1 missing" in done.err.splitlines()[-1]
