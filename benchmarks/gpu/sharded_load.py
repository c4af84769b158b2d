"""Measure how long a tensor-parallel engine takes to load, and what each rank reads and holds.

It writes a checkpoint of the released shape once, with random weights (bfloat16, 12.3 GB transformer), or
takes a real one. Every rank of the group is a separate process. With one GPU, the group is one rank over
NCCL, which tests the sharded path at real size; with several GPUs, it has one rank per GPU:

    python -m benchmarks.gpu.sharded_load --folder /data/released            (one GPU: an NCCL world of one)
    python -m benchmarks.gpu.sharded_load --folder /data/released --ranks 2  (two GPUs)
    python -m benchmarks.gpu.sharded_load --checkpoint /data/Z-Image-Turbo --ranks 2
    python -m benchmarks.gpu.sharded_load --tiny --ranks 2                   (CPU: shows that it works)
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, ZImagePipeline

from benchmarks.gpu.released_shape import RELEASED, build_models
from benchmarks.report import RESULTS, device_name, write_result
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.config import EngineConfig, ParallelConfig
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import build_request
from zimage_models.tensor_parallel.group_member import GroupMember
from zimage_models.tensor_parallel.rank_store import RankStore
from zimage_models.tensor_parallel.sharded_checkpoint import load_text_encoder_share, load_transformer_share


def write_released(folder: Path, device: torch.device) -> Path:
    """Write a checkpoint of the released shape with random weights, unless it exists."""
    if (folder / "model_index.json").is_file():
        return folder
    # The tokenizer is that of a tiny checkpoint; the models have the released shape.
    small = build_tiny_checkpoint(folder.with_name(f"{folder.name}-small"))
    models = build_models(RELEASED, device=device, dtype=torch.bfloat16, vae_dtype=torch.float32)
    vae: AutoencoderKL = models["vae"]
    pipeline: Any = ZImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
        tokenizer=ZImagePipeline.from_pretrained(str(small)).tokenizer,
        text_encoder=models["text_encoder"],
        transformer=models["transformer"],
        vae=vae,
    )
    pipeline.save_pretrained(str(folder), max_shard_size="5GB")
    return folder


def load_one_rank(directory: Path, device: torch.device) -> dict[str, Any]:
    """Load through the sharded path in a group of one rank, and run one collective on it."""
    store = RankStore.open("127.0.0.1", world_size=1, timeout_s=60)
    member = GroupMember(store.store, rank=0, world_size=1, device=device, timeout_s=60)
    backend = dist.get_backend()
    loads = {}
    for part, load in (("transformer", load_transformer_share), ("text_encoder", load_text_encoder_share)):
        started_s = time.perf_counter()
        share = load(directory, member.mesh, device=device, dtype=torch.bfloat16)
        if device.type != "cpu":
            torch.accelerator.synchronize(device)
        loads[part] = {
            "seconds": time.perf_counter() - started_s,
            "num_bytes_read": share.num_bytes_read,
            "num_bytes": share.num_bytes,
        }
        del share
    ones = torch.ones(1024, device=device)
    dist.all_reduce(ones, group=member.mesh.get_group())
    assert bool((ones == 1).all()), "a sum over one rank is the value itself"
    member.leave()
    return {"ranks": 1, "backend": backend, "loads": {0: loads}}


def load_group(directory: Path, num_ranks: int) -> dict[str, Any]:
    """Load an engine of several ranks and make one image with it."""
    config = EngineConfig(
        model=str(directory),
        variant="turbo",
        parallel=ParallelConfig(tensor_parallel_size=num_ranks),
    )
    started_s = time.perf_counter()
    engine = load_engine(config)
    loaded_s = time.perf_counter() - started_s
    try:
        handle = engine.submit(build_request(engine.spec, {"prompt": "owl", "seed": 1}))
        started_s = time.perf_counter()
        while engine.step():
            pass
        handle.result(0)
        image_s = time.perf_counter() - started_s
        ranks: Any = engine._runner.ranks
        return {
            "ranks": num_ranks,
            "backend": dist.get_backend(),
            "engine_seconds": loaded_s,
            "first_image_seconds": image_s,
            "loads": ranks.loads,
        }
    finally:
        engine.close()


def main() -> None:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="a real checkpoint in diffusers layout")
    parser.add_argument("--folder", type=Path, help="folder of the random one, written if missing (21 GB)")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument("--tiny", action="store_true", help="measure a small model on the CPU")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available() and not arguments.tiny
    device = torch.device("cuda", 0) if on_gpu else torch.device("cpu")
    with tempfile.TemporaryDirectory() as temporary:
        if arguments.tiny:
            torch.set_num_threads(1)
            directory = build_tiny_checkpoint(Path(temporary) / "tiny")
        elif arguments.checkpoint:
            directory = arguments.checkpoint
        else:
            directory = write_released(arguments.folder or Path(temporary) / "released", device)
        if arguments.ranks == 1:
            result = load_one_rank(directory, device)
        else:
            result = load_group(directory, arguments.ranks)
    result["device"] = device_name(device)
    print(json.dumps(result, indent=2))
    folder = Path("out") if arguments.tiny else RESULTS
    write_result(f"sharded_load_{arguments.ranks}", result, folder=folder)


if __name__ == "__main__":
    main()
