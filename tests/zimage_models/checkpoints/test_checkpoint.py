import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, ZImagePipeline
from safetensors.torch import load_file, save_file
from transformers import Qwen3ForCausalLM, Qwen3Model

from tests.s3_server import S3Server
from tests.zimage_models.diffusers_reference import assert_as_diffusers
from tests.zimage_models.test_model_spec import change
from zimage_models.checkpoints.checkpoint_source import resolve_checkpoint
from zimage_models.checkpoints.components import Components, load_components
from zimage_models.checkpoints.convert import convert_checkpoint
from zimage_models.checkpoints.resolve_model import model_weights_sha256, resolve_model
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.checkpoints.weights_hash import weights_sha256
from zimage_models.config import EngineConfig
from zimage_models.engine.load_engine import load_engine
from zimage_models.errors import CheckpointError
from zimage_models.requests import build_request

WEIGHTS = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
PARTS = pytest.mark.parametrize("part", WEIGHTS)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


@pytest.fixture(scope="module")
def sharded_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_checkpoint(tmp_path_factory.mktemp("sharded") / "tiny", max_shard_size="200KB")


def load(directory: Path, dtype: torch.dtype = torch.float32) -> Components:
    return load_components(directory, device=torch.device("cpu"), dtype=dtype, vae_dtype=torch.float32)


def edit_tensors(file: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def test_weights_load_as_asked(tiny_checkpoint: Path) -> None:
    components = load(tiny_checkpoint, torch.bfloat16)
    assert components.transformer.x_pad_token.dtype == torch.bfloat16
    assert components.text_encoder.dtype == torch.bfloat16
    assert components.vae.dtype == torch.float32
    for model in (components.transformer, components.text_encoder, components.vae):
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())


def test_sharded_weights_load(sharded_checkpoint: Path, tiny_checkpoint: Path) -> None:
    sharded, whole = load(sharded_checkpoint).transformer, load(tiny_checkpoint).transformer
    assert len(list((sharded_checkpoint / "transformer").glob("*.safetensors"))) > 1
    assert all(torch.equal(a, b) for a, b in zip(sharded.parameters(), whole.parameters(), strict=True))


@PARTS
def test_a_missing_file_is_told(checkpoint: Path, part: str) -> None:
    (checkpoint / WEIGHTS[part]).unlink()
    with pytest.raises(CheckpointError, match=f"{part}: no safetensors weights$"):
        load(checkpoint)


@PARTS
def test_pickled_weights_are_not_read(checkpoint: Path, part: str) -> None:
    file = checkpoint / WEIGHTS[part]
    torch.save(load_file(file), file.with_name("model.bin"))
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.bin is not read, only safetensors are"):
        load(checkpoint)


@PARTS
def test_a_truncated_file_is_told(checkpoint: Path, part: str) -> None:
    file = checkpoint / WEIGHTS[part]
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match=rf"{part}/.*: cut short: .* fetch it again$"):
        load(checkpoint)


@PARTS
def test_a_missing_tensor_is_told(checkpoint: Path, part: str) -> None:
    name = max(load_file(checkpoint / WEIGHTS[part]))
    edit_tensors(checkpoint / WEIGHTS[part], lambda tensors: tensors.pop(name))
    with pytest.raises(CheckpointError, match=f"{part}: .*1 missing"):
        load(checkpoint)


@PARTS
def test_an_extra_tensor_is_told(checkpoint: Path, part: str) -> None:
    edit_tensors(checkpoint / WEIGHTS[part], lambda tensors: tensors.update(extra=torch.ones(3)))
    with pytest.raises(CheckpointError, match=rf"{part}: .*1 unexpected \(such as extra\)"):
        load(checkpoint)


@PARTS
def test_a_misshapen_tensor_is_told(checkpoint: Path, part: str) -> None:
    name = max(load_file(checkpoint / WEIGHTS[part]))
    edit_tensors(checkpoint / WEIGHTS[part], lambda tensors: tensors.update({name: torch.ones(3, 5, 7)}))
    with pytest.raises(CheckpointError, match=f"{part}: (cannot be loaded|.*misshapen)"):
        load(checkpoint)


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_a_missing_shard_is_told(sharded_checkpoint: Path, tmp_path: Path, part: str) -> None:
    directory = Path(shutil.copytree(sharded_checkpoint, tmp_path / "copy"))
    shard = min((directory / part).glob("*.safetensors"))
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}: missing, though .*index.json names it"):
        load(directory)


@pytest.mark.parametrize("content", ["{}", "[]", "{", '{"weight_map": []}', '{"weight_map": {}}'])
def test_a_broken_index_is_told(checkpoint: Path, content: str) -> None:
    (checkpoint / "vae" / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="not a safetensors index"):
        load(checkpoint)


def test_a_causal_lm_encoder_loads(checkpoint: Path) -> None:
    encoder = Qwen3Model.from_pretrained(checkpoint / "text_encoder")
    causal_lm = Qwen3ForCausalLM(encoder.config)
    causal_lm.model = encoder
    shutil.rmtree(checkpoint / "text_encoder")
    causal_lm.save_pretrained(checkpoint / "text_encoder")
    loaded = load(checkpoint).text_encoder
    assert torch.equal(loaded.embed_tokens.weight, encoder.embed_tokens.weight)


def test_the_shift_is_the_checkpoints_own(
    tmp_path: Path, pipeline_of: Callable[[Path], ZImagePipeline]
) -> None:
    for shift in (3.0, 6.0):
        directory = build_tiny_checkpoint(tmp_path / str(shift), num_layers=1, shift=shift)
        engine = load_engine(EngineConfig(model=str(directory), variant="turbo"))
        assert engine.spec.shift == shift
        handle = engine.submit(build_request(engine.spec, {"prompt": "owl", "seed": 1}))
        while engine.step():
            pass
        pipeline = pipeline_of(directory)
        assert pipeline.scheduler.config.shift == shift
        assert_as_diffusers(pipeline, handle.result())
        pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=9.0 - shift)
        with pytest.raises(AssertionError):
            assert_as_diffusers(pipeline, handle.result(), tolerance=10)


@pytest.mark.parametrize(
    "settings",
    [
        {"shift": ...},
        {"use_dynamic_shifting": True, "max_shift": 3.0, "max_image_seq_len": 300},
        {"use_dynamic_shifting": True, "base_shift": 0.1, "time_shift_type": "linear", "shift_terminal": 0.1},
    ],
)
def test_step_times_are_diffusers_own(
    checkpoint: Path, pipeline_of: Callable[[Path], ZImagePipeline], settings: dict[str, Any]
) -> None:
    change(checkpoint / "scheduler" / "scheduler_config.json", **settings)
    engine = load_engine(EngineConfig(model=str(checkpoint), variant="turbo"))
    values = {"prompt": "owl", "seed": 1, "num_inference_steps": 3}
    handles = [
        engine.submit(build_request(engine.spec, {**values, "size": size})) for size in ("64x64", "96x160")
    ]
    while engine.step():
        pass
    pipeline = pipeline_of(checkpoint)
    for handle in handles:
        assert_as_diffusers(pipeline, handle.result())
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    with pytest.raises(AssertionError):
        assert_as_diffusers(pipeline, handles[1].result(), tolerance=10)


def test_a_scheduler_that_cannot_be_made_is_told(checkpoint: Path) -> None:
    path = checkpoint / "scheduler" / "scheduler_config.json"
    change(path, use_karras_sigmas=True, use_exponential_sigmas=True)
    with pytest.raises(CheckpointError, match="scheduler: cannot be loaded"):
        load(checkpoint)


def test_the_hash_changes_with_a_byte_and_only_then(checkpoint: Path, tiny_checkpoint: Path) -> None:
    first = weights_sha256(checkpoint)
    assert len(first) == 64
    assert weights_sha256(tiny_checkpoint) == first
    (checkpoint / "README.md").write_text("hello")
    assert weights_sha256(checkpoint) == first
    for file in WEIGHTS.values():
        path = checkpoint / file
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        changed = weights_sha256(checkpoint)
        assert changed != first
        first = changed


def test_the_hash_is_cached(checkpoint: Path, tmp_path: Path) -> None:
    first = weights_sha256(checkpoint, cache_dir=tmp_path / "hashes")
    [cache] = (tmp_path / "hashes").iterdir()
    digests = json.loads(cache.read_text())
    assert len(digests) == 3
    cache.write_text(json.dumps(dict.fromkeys(digests, "from the cache")))
    assert weights_sha256(checkpoint, cache_dir=tmp_path / "hashes") != first
    cache.write_text("{damaged")
    assert weights_sha256(checkpoint, cache_dir=tmp_path / "hashes") == first


def test_a_cache_that_cannot_be_written_is_only_a_warning(
    checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    assert len(weights_sha256(checkpoint, cache_dir=tmp_path / "file" / "cache")) == 64
    assert "cannot be written" in caplog.text


def test_the_hash_needs_the_weights(checkpoint: Path) -> None:
    (checkpoint / WEIGHTS["vae"]).unlink()
    with pytest.raises(CheckpointError, match="vae: no safetensors weights"):
        weights_sha256(checkpoint)


def test_the_fake_engines_weights_are_called_fake(tiny_checkpoint: Path) -> None:
    config = EngineConfig(model=str(tiny_checkpoint), variant="turbo", fake=True)
    assert model_weights_sha256(config, resolve_model(config)) == "fake"


def test_conversion_halves_float32(sharded_checkpoint: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(sharded_checkpoint, tmp_path / "source"))
    (source / "README.md").write_text("whose model this is")
    (source / ".cache").mkdir()
    (source / ".cache" / "note").write_text("hidden")
    (source / "vae" / "old.bin").write_bytes(b"pickle")
    target = tmp_path / "out" / "bf16"
    num_bytes = convert_checkpoint(source, target)
    files = {part: list((target / part).glob("*.safetensors")) for part in WEIGHTS}
    originals = sum(file.stat().st_size for part in WEIGHTS for file in (source / part).glob("*.safetensors"))
    assert num_bytes == pytest.approx(originals / 2, rel=0.05)
    assert {t.dtype for part in files.values() for f in part for t in load_file(f).values()} == {
        torch.bfloat16
    }
    assert (target / "README.md").read_text() == "whose model this is"
    assert not (target / ".cache").exists()
    assert not (target / "vae" / "old.bin").exists()
    assert target.stat().st_mode & 0o777 == source.stat().st_mode & 0o777
    assert [path.name for path in target.parent.iterdir()] == ["bf16"]
    before, after = load(source), load(target)
    for part in WEIGHTS:
        old, new = (dict(getattr(c, part).named_parameters()) for c in (before, after))
        assert all(torch.equal(new[name], old[name].bfloat16().float()) for name in old)
    ZImagePipeline.from_pretrained(str(target), dtype=torch.bfloat16)


def test_a_siglip_encoder_is_hashed_converted_and_loaded_strictly(
    siglip_checkpoint: Path, tmp_path: Path
) -> None:
    file = "siglip/model.safetensors"
    convert_checkpoint(siglip_checkpoint, tmp_path / "bf16")
    assert {tensor.dtype for tensor in load_file(tmp_path / "bf16" / file).values()} == {torch.bfloat16}
    components = load(tmp_path / "bf16", torch.bfloat16)
    assert (components.siglip.dtype, components.siglip.training) == (torch.bfloat16, False)
    before = weights_sha256(tmp_path / "bf16")
    edit_tensors(tmp_path / "bf16" / file, lambda tensors: tensors.pop(max(tensors)))
    assert weights_sha256(tmp_path / "bf16") != before
    with pytest.raises(CheckpointError, match=r"siglip: .*1 missing"):
        load(tmp_path / "bf16")
    (tmp_path / "bf16" / file).unlink()
    with pytest.raises(CheckpointError, match="siglip: no safetensors weights"):
        load(tmp_path / "bf16")


def test_conversion_never_overwrites(checkpoint: Path, tmp_path: Path) -> None:
    target = tmp_path / "there"
    target.mkdir()
    with pytest.raises(CheckpointError, match=r"^target: .* exists$"):
        convert_checkpoint(checkpoint, target)


def test_a_failed_conversion_leaves_nothing(checkpoint: Path, tmp_path: Path) -> None:
    file = checkpoint / WEIGHTS["vae"]
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="vae"):
        convert_checkpoint(checkpoint, tmp_path / "out" / "bf16")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["no-such-model", "a/b/c", "./nowhere", "/nowhere/at/all", ""])
def test_unknown_models_are_told(model: str) -> None:
    with pytest.raises(
        CheckpointError, match=r"^model: .* is neither embedded \(tiny-zimage-turbo"
    ) as caught:
        resolve_checkpoint(model)
    assert caught.value.field == "model"


def test_a_hub_id_offline_is_told(tmp_path: Path) -> None:
    script = (
        "from zimage_models.checkpoints.checkpoint_source import *; resolve_checkpoint('Tongyi-MAI/Z-Image')"
    )
    # The hub's library reads its environment as it is imported.
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    last_line = done.stderr.splitlines()[-1]
    assert last_line.startswith("zimage_models.errors.CheckpointError: model: Tongyi-MAI/Z-Image is neither")
    assert last_line.endswith("and the hub cannot be reached")


def test_a_hub_checkpoint_in_the_cache_needs_no_hub(
    monkeypatch: pytest.MonkeyPatch, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    repo = tmp_path / "models--someone--tiny"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("abc123")
    shutil.copytree(tiny_checkpoint, repo / "snapshots" / "abc123")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert resolve_checkpoint("someone/tiny") == repo / "snapshots" / "abc123"


def put_checkpoint(s3: S3Server, directory: Path, uri: str) -> None:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client = s3.client()
    for file in (path for path in directory.rglob("*") if path.is_file()):
        client.upload_file(str(file), bucket, f"{prefix}/{file.relative_to(directory)}")


# What an engine does first, without the seconds of importing torch: fetch, then read every tensor.
FETCH_AND_READ = """
import sys
from pathlib import Path
from safetensors import safe_open
from zimage_models.checkpoints.checkpoint_source import resolve_checkpoint
uri, endpoint_url, cache_dir = sys.argv[1:]
sys.stdin.read()
directory = resolve_checkpoint(uri, cache_dir=Path(cache_dir), s3_endpoint_url=endpoint_url)
for file in directory.rglob("*.safetensors"):
    with safe_open(file, framework="np") as stream:
        for name in stream.keys():
            stream.get_tensor(name)
print(directory, directory.stat().st_ino)
"""


def test_processes_that_start_together_fetch_once(
    s3: S3Server, bucket: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    uri = f"{bucket}/models/Z-Image-Turbo"
    put_checkpoint(s3, tiny_checkpoint, uri)
    command = [sys.executable, "-c", FETCH_AND_READ, uri, s3.endpoint_url, str(tmp_path / "cache")]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True))
            for _ in range(4)
        ]
        for process in processes:
            assert process.stdin
            process.stdin.close()
        found = {process.stdout.read() for process in processes if process.stdout}
    assert [process.returncode for process in processes] == [0] * 4
    # One folder, and never replaced: each process saw the same one.
    [line] = found
    directory = Path(line.split()[0])
    load(directory)
    assert list((tmp_path / "cache" / "s3").iterdir()) == [directory.parent]
    assert sorted(path.name for path in directory.parent.iterdir()) == [".lock", "Z-Image-Turbo"]
    assert weights_sha256(directory) == weights_sha256(tiny_checkpoint)
    config = EngineConfig(model=uri, s3_endpoint_url=s3.endpoint_url, cache_dir=str(tmp_path / "cache"))
    spec = resolve_model(config)
    assert (spec.directory, spec.variant.name) == (directory, "turbo")


def test_a_changed_object_is_fetched_again(
    s3: S3Server, bucket: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    uri = f"{bucket}/tiny"
    put_checkpoint(s3, tiny_checkpoint, uri)

    def resolve() -> Path:
        return resolve_checkpoint(uri, cache_dir=tmp_path / "cache", s3_endpoint_url=s3.endpoint_url)

    first = resolve()
    old_hash = weights_sha256(first)
    changed = build_tiny_checkpoint(tmp_path / "changed", seed=1)
    put_checkpoint(s3, changed, uri)
    second = resolve()
    assert weights_sha256(second) == weights_sha256(changed)
    # An engine that is loading the old one is not disturbed.
    assert weights_sha256(first) == old_hash
    assert resolve() == second


def test_only_checkpoint_files_are_fetched(
    s3: S3Server, bucket: str, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    uri = f"{bucket}/tiny"
    put_checkpoint(s3, tiny_checkpoint, uri)
    client, name = s3.client(), bucket.removeprefix("s3://")
    client.put_object(Bucket=name, Key="tiny/training/optimizer.bin", Body=b"x")
    client.put_object(Bucket=name, Key="tiny-other/model_index.json", Body=b"{}")
    directory = resolve_checkpoint(uri, cache_dir=tmp_path / "cache", s3_endpoint_url=s3.endpoint_url)
    fetched = {path.relative_to(directory) for path in directory.rglob("*") if path.is_file()}
    assert fetched == {
        path.relative_to(tiny_checkpoint) for path in tiny_checkpoint.rglob("*") if path.is_file()
    }


def test_bad_s3_addresses_are_told(s3: S3Server, bucket: str, tmp_path: Path) -> None:
    for uri, told in (
        (f"{bucket}/nothing", "holds no model_index.json"),
        ("s3://no-such-bucket-here/model", "cannot be fetched .*NoSuchBucket"),
        ("s3://", "cannot be fetched"),
    ):
        with pytest.raises(CheckpointError, match=told) as caught:
            resolve_checkpoint(uri, cache_dir=tmp_path / "cache", s3_endpoint_url=s3.endpoint_url)
        assert caught.value.field == "model"
    with pytest.raises(CheckpointError, match="cannot be fetched"):
        resolve_checkpoint(f"{bucket}/m", cache_dir=tmp_path, s3_endpoint_url="not an address")
