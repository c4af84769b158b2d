"""A rank's share of a checkpoint: only its slices are read, and as strictly as whole models are."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import DeviceMesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from zimage_models.checkpoints.components import load_components
from zimage_models.checkpoints.tensor_file import TensorFile
from zimage_models.checkpoints.tensor_split import Split
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.errors import CheckpointError
from zimage_models.models.denoisers.fp8_linear import to_fp8
from zimage_models.tensor_parallel.parallel import parallelize, parameter_splits
from zimage_models.tensor_parallel.sharded_checkpoint import (
    Share,
    load_text_encoder_share,
    load_transformer_share,
)

CPU = torch.device("cpu")
FILES = {
    "transformer": "transformer/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}
LOADERS: dict[str, Callable[..., Share]] = {
    "transformer": load_transformer_share,
    "text_encoder": load_text_encoder_share,
}
PARTS = pytest.mark.parametrize("part", FILES)


@contextmanager
def mesh_of(rank: int, world_size: int) -> Iterator[DeviceMesh]:
    """Make this process a rank of a group without others: loading needs no collective."""
    dist.init_process_group("fake", rank=rank, world_size=world_size, store=FakeStore())
    world = dist.group.WORLD
    assert world is not None
    try:
        yield DeviceMesh.from_group(world, "cpu")
    finally:
        dist.destroy_process_group()


def load(directory: Path, part: str, rank: int, world_size: int, dtype: torch.dtype = torch.float32) -> Share:
    with mesh_of(rank, world_size) as mesh:
        return LOADERS[part](directory, mesh, device=CPU, dtype=dtype)


@pytest.fixture
def checkpoint(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def splits_of(model: Any) -> dict[str, Split]:
    return {
        f"{name}.{parameter}": split
        for name, module in model.named_modules()
        for parameter, split in parameter_splits(module).items()
    }


def assert_all_weights_are_there(directory: Path, part: str, world_size: int) -> None:
    """Check that the shares together are the whole model, and that their padding is 0."""
    components = load_components(directory, device=CPU, dtype=torch.float32, vae_dtype=torch.float32)
    whole = dict(getattr(components, part).named_parameters())
    shares = [load(directory, part, rank, world_size).model for rank in range(world_size)]
    parts = [dict(share.named_parameters()) for share in shares]
    splits = splits_of(shares[0])
    assert parts[0].keys() == whole.keys()
    assert splits
    for name, weight in whole.items():
        if name not in splits:
            assert all(torch.equal(share[name], weight) for share in parts if name in share)
            continue
        dim = splits[name].dim
        together = torch.cat([share[name] for share in parts], dim)
        assert torch.equal(together.narrow(dim, 0, weight.shape[dim]), weight)
        assert not together.narrow(dim, weight.shape[dim], together.shape[dim] - weight.shape[dim]).any()


@PARTS
@pytest.mark.parametrize("world_size", [2, 4])
def test_shares_make_up_the_whole(six_heads: Path, part: str, world_size: int) -> None:
    assert_all_weights_are_there(six_heads, part, world_size)


@PARTS
def test_a_checkpoint_of_several_files(tmp_path: Path, part: str) -> None:
    directory = build_tiny_checkpoint(tmp_path / "several", max_shard_size="100KB")
    assert len(list((directory / "transformer").glob("*.safetensors"))) > 2
    assert_all_weights_are_there(directory, part, 2)


@pytest.mark.skipif(sys.platform != "linux", reason="counts by /proc")
def test_a_rank_reads_its_share_of_the_bytes(thirty_heads: Path) -> None:
    def bytes_read() -> int:
        lines = Path("/proc/self/io").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("rchar"))

    world_size = 5
    whole = sum(tensor.nbytes for tensor in load_file(thirty_heads / FILES["transformer"]).values())
    for rank in (0, 4):
        with mesh_of(rank, world_size) as mesh:
            before = bytes_read()
            share = load_transformer_share(thirty_heads, mesh, device=CPU, dtype=torch.float32)
            really = bytes_read() - before
        splits = splits_of(share.model)
        parameters = dict(share.model.named_parameters())
        divided = sum(parameters[name].nbytes for name in splits)
        undivided = sum(p.nbytes for name, p in parameters.items() if name not in splits)
        # 30 heads and 640 hidden units divide by 5: nothing is padded.
        assert share.num_bytes_read == share.num_bytes == divided + undivided
        assert divided * world_size + undivided == whole
        # Beside the tensors: the file's header and the configuration.
        assert share.num_bytes_read <= really <= share.num_bytes_read + 50_000


def test_types_are_cast_slice_by_slice(six_heads: Path) -> None:
    exact = load(six_heads, "transformer", 1, 2)
    cast = load(six_heads, "transformer", 1, 2, torch.bfloat16)
    assert cast.num_bytes_read == exact.num_bytes_read
    assert cast.num_bytes * 2 == exact.num_bytes
    for one, other in zip(cast.model.parameters(), exact.model.parameters(), strict=True):
        assert torch.equal(one, other.bfloat16())
    assert not any(parameter.requires_grad for parameter in cast.model.parameters())
    assert not cast.model.training


def test_float8_rounds_what_a_rank_has_read(six_heads: Path) -> None:
    exact = load(six_heads, "transformer", 1, 2)
    with mesh_of(1, 2) as mesh:
        rounded = load_transformer_share(six_heads, mesh, device=CPU, dtype=torch.float32, fp8=True)
    assert rounded.num_bytes_read == exact.num_bytes_read
    splits, weights = splits_of(rounded.model), dict(exact.model.named_parameters())
    assert splits == splits_of(exact.model)
    saved = 0
    for name, found in rounded.model.named_parameters():
        if name.endswith(".scales"):
            saved -= found.nbytes
        elif name in splits and name.startswith("layers."):
            values, scales = to_fp8(weights[name])
            assert torch.equal(found.view(torch.uint8), values.view(torch.uint8))
            assert torch.equal(rounded.model.get_parameter(name.replace("weight", "scales")), scales)
            saved += weights[name].nbytes - found.nbytes
        else:
            assert torch.equal(found, weights[name])
    assert exact.num_bytes - rounded.num_bytes == saved > 0


def test_a_whole_transformer_can_be_divided_too(six_heads: Path) -> None:
    components = load_components(six_heads, device=CPU, dtype=torch.float32, vae_dtype=torch.float32)
    with mesh_of(3, 4) as mesh:
        parallelize(components.transformer, mesh)
    read = load(six_heads, "transformer", 3, 4).model
    for one, other in zip(components.transformer.parameters(), read.parameters(), strict=True):
        assert torch.equal(one, other)
    assert {block.attention.heads for block in components.transformer.layers} == {2}


def edit_tensors(file: Path, edit: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def drop_first(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["stowaway.weight"] = torch.zeros(1)


def add_a_row(tensors: dict[str, torch.Tensor]) -> None:
    name = min(name for name in tensors if tensors[name].ndim == 2)
    tensors[name] = torch.cat([tensors[name], tensors[name][:1]])


def spoil_the_unread_layer(tensors: dict[str, torch.Tensor]) -> None:
    tensors.pop(max(name for name in tensors if name.startswith("layers.")))


def store_integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[min(tensors)] = tensors[min(tensors)].to(torch.int32)


@PARTS
@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (drop_first, r"the tensors do not match its config\.json: 1 missing \(such as "),
        (add_one, r"1 unexpected \(such as stowaway\.weight\)"),
        (add_a_row, r"1 misshapen \(such as "),
        (spoil_the_unread_layer, r"1 missing \(such as layers\.2\."),
        (store_integers, r" is I32, not one of F64, F32, F16, BF16"),
    ],
)
def test_other_tensors_are_refused(
    checkpoint: Path, part: str, edit: Callable[[dict[str, torch.Tensor]], Any], told: str
) -> None:
    edit_tensors(checkpoint / FILES[part], edit)
    with pytest.raises(CheckpointError, match=told):
        load(checkpoint, part, 0, 2)


@PARTS
def test_damaged_and_missing_files_are_refused(checkpoint: Path, part: str) -> None:
    file = checkpoint / FILES[part]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=f"{file.name}: cut short"):
        load(checkpoint, part, 0, 2)
    file.unlink()
    with pytest.raises(CheckpointError, match="no safetensors weights"):
        load(checkpoint, part, 0, 2)


@PARTS
def test_a_broken_configuration_is_refused(checkpoint: Path, part: str) -> None:
    (checkpoint / part / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=f"{part}: cannot be loaded"):
        load(checkpoint, part, 0, 2)


def test_a_language_model_may_hold_the_text_encoder(checkpoint: Path) -> None:
    expected = load(checkpoint, "text_encoder", 0, 2).model

    def wrap(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[f"model.{name}"] = tensors.pop(name)
        tensors["lm_head.weight"] = torch.zeros(4, 4)

    edit_tensors(checkpoint / FILES["text_encoder"], wrap)
    found = load(checkpoint, "text_encoder", 0, 2).model
    for one, other in zip(found.parameters(), expected.parameters(), strict=True):
        assert torch.equal(one, other)


def test_files_that_no_index_names_are_not_read(tmp_path: Path) -> None:
    directory = build_tiny_checkpoint(tmp_path / "several", max_shard_size="100KB")
    save_file({"stowaway.weight": torch.zeros(1)}, directory / "transformer" / "other.safetensors")
    index = json.loads(next((directory / "transformer").glob("*.index.json")).read_text())
    assert "stowaway.weight" not in index["weight_map"]
    assert load(directory, "transformer", 0, 2).num_bytes_read > 0


def test_a_tensor_file_reads_any_slice(tmp_path: Path) -> None:
    tensor = torch.arange(60.0).view(6, 10)
    save_file({"a": torch.ones(3), "b": tensor}, tmp_path / "some.safetensors")
    columns = Split(dim=1, start=7, stop=10, size=4, full_size=10)
    rows = Split(dim=0, start=4, stop=6, size=4, full_size=6)
    nothing = Split(dim=0, start=6, stop=6, size=2, full_size=6)
    with TensorFile(tmp_path / "some.safetensors") as file:
        assert file.shapes() == {"a": (3,), "b": (6, 10)}
        for split, num_bytes in ((columns, 72), (rows, 80), (nothing, 0), (None, 240)):
            expected = split.take(tensor) if split else tensor
            target, before = torch.full(expected.shape, torch.nan), file.num_bytes_read
            file.read_into(target, "b", split)
            assert torch.equal(target, expected)
            assert file.num_bytes_read - before == num_bytes
