"""Measure the engine against plain diffusers on a model of the released size: 6.15 B random parameters.

It measures sizes 1024 x 1024 and 512 x 512, 8 steps, one image and a full step batch, eager and then compiled
(the engine's blocks, and ``compile_repeated_blocks`` for diffusers), in turns within one run. Besides the
seconds, it reports the time of one step and its rate, the measured ceiling of a large matrix product, the
arithmetic floor at that ceiling, and peak memory. It needs torch, transformers, diffusers and 40 GB of GPU
memory, but no Ray and no download:

    python -m benchmarks.gpu.gpu_latency
    python -m benchmarks.gpu.gpu_latency --fp8       (the engine's main blocks in float8)
    python -m benchmarks.gpu.gpu_latency --tiny      (a small model on the CPU: shows that the program works)
"""

import argparse
import copy
import statistics
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu.device_timing import matmul_ceiling, peak_memory, seconds
from benchmarks.gpu.latency_sides import NUM_STEPS, Sides
from benchmarks.gpu.released_shape import RELEASED, TINY, Shape, decode_flops, step_flops
from benchmarks.report import RESULTS, device_name, write_result
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.engine.load_engine import ACCELERATOR_STEP_TOKENS
from zimage_models.models.sequence_layout import num_image_tokens
from zimage_models.requests import ImageRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured, at full size or tiny."""

    shape: Shape
    device: torch.device
    vae_dtype: torch.dtype
    sides: tuple[int, ...]
    max_step_tokens: int
    repeats: int
    gemm_side: int
    compile_backend: str
    fp8: bool


def measure_case(
    settings: Settings, sides: Sides, side: int, num_images: int, ceiling: float
) -> dict[str, Any]:
    """Time both sides in turns on one size and number of images."""
    runs: dict[str, list[float]] = {"engine": [], "diffusers": []}
    work: dict[str, Callable[[list[ImageRequest]], None]] = {
        "engine": sides.run_engine,
        "diffusers": sides.run_pipeline,
    }
    memory = {
        name: peak_memory(partial(run, sides.requests(num_images, side)), settings.device)
        for name, run in work.items()
    }
    sides.step_s(sides.requests(num_images, side))
    for _ in range(settings.repeats):
        for name, run in work.items():
            runs[name].append(seconds(partial(run, sides.requests(num_images, side)), settings.device))
    step_s = statistics.median(
        sides.step_s(sides.requests(num_images, side)) for _ in range(settings.repeats)
    )
    image_tokens = num_image_tokens(side, side, sides.spec.size_multiple)
    of_step = num_images * step_flops(settings.shape, image_tokens, sides.caption_tokens())
    floor_s = (NUM_STEPS * of_step + num_images * decode_flops(settings.shape, side, side)) / ceiling
    medians = {name: statistics.median(times) for name, times in runs.items()}
    return {
        "size": f"{side}x{side}",
        "num_images": num_images,
        "seconds": medians,
        "images_per_s": {name: num_images / median for name, median in medians.items()},
        "diffusers_over_engine": medians["diffusers"] / medians["engine"],
        "floor_s": floor_s,
        "engine_over_floor": medians["engine"] / floor_s,
        "step_s": step_s,
        "step_tflops": of_step / step_s / 1e12,
        "step_share_of_ceiling": of_step / step_s / ceiling,
        "memory": memory,
        "runs": runs,
    }


def decode_seconds(settings: Settings, sides: Sides, side: int) -> dict[str, float]:
    """Time the VAE's decoding of one image in both dtypes; float32 is the engine's default."""
    found = {}
    for dtype in (torch.bfloat16, torch.float32):
        vae = torch.nn.Module.to(copy.deepcopy(sides.vae), dtype)
        latents_BCHW = torch.randn(1, 16, side // 8, side // 8, device=settings.device, dtype=dtype)
        decode = torch.inference_mode()(partial(vae.decode, latents_BCHW))
        decode()
        times = (seconds(decode, settings.device) for _ in range(settings.repeats))
        found[str(dtype).removeprefix("torch.")] = statistics.median(times)
    return found


def cases(settings: Settings, sides: Sides) -> Iterator[tuple[int, int]]:
    """Yield each side in pixels with one image, and with the number of images in a full step batch."""
    for side in settings.sides:
        tokens = num_image_tokens(side, side, sides.spec.size_multiple) + sides.caption_tokens()
        yield side, 1
        yield side, settings.max_step_tokens // tokens


def measure(settings: Settings, checkpoint: Path, keep: Callable[[dict[str, Any]], object]) -> None:
    """Measure everything, and keep the figures so far after every row: a long run may be cut off."""
    sides = Sides(
        settings.shape,
        checkpoint,
        device=settings.device,
        vae_dtype=settings.vae_dtype,
        max_step_tokens=settings.max_step_tokens,
        fp8=settings.fp8,
    )
    ceiling = matmul_ceiling(settings.gemm_side, settings.device)
    print(f"{device_name(settings.device)}: matrix products reach {ceiling / 1e12:.1f} TFLOP/s")
    head = ("mode", "size", "images", "engine s", "diffusers s", "floor s", "step ms", "of ceiling")
    print("".join(f"{title:>12}" for title in head))
    result: dict[str, Any] = {
        "device": device_name(settings.device),
        "num_parameters": {
            name: sum(p.numel() for p in model.parameters())
            for name, model in (("transformer", sides.transformer), ("vae", sides.vae))
        },
        "num_inference_steps": NUM_STEPS,
        "caption_tokens": sides.caption_tokens(),
        "dtype": "bfloat16",
        "engine_precision": "fp8" if settings.fp8 else "bf16",
        "vae_dtype": str(settings.vae_dtype).removeprefix("torch."),
        "matmul_ceiling_tflops": ceiling / 1e12,
        "decode_seconds": {
            f"{side}x{side}": decode_seconds(settings, sides, side) for side in settings.sides
        },
        "cases": [],
    }
    for mode in ("eager", "compiled"):
        if mode == "compiled":
            sides.compile(backend=settings.compile_backend)
            # Two lengths and two batch sizes make the compiler treat all of them as dynamic.
            for num_images, side in product((1, 2, 3), settings.sides):
                sides.run_engine(sides.requests(num_images, side))
                sides.run_pipeline(sides.requests(num_images, side))
        for side, num_images in cases(settings, sides):
            row = {"mode": mode, **measure_case(settings, sides, side, num_images, ceiling)}
            result["cases"].append(row)
            keep(result)
            engine_s, diffusers_s = row["seconds"]["engine"], row["seconds"]["diffusers"]
            print(
                f"{mode:>12}{row['size']:>12}{num_images:>12}{engine_s:>12.3f}{diffusers_s:>12.3f}"
                f"{row['floor_s']:>12.3f}{1000 * row['step_s']:>12.1f}{row['step_share_of_ceiling']:>12.0%}"
            )


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="measure a small model on the CPU")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--vae-dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--fp8", action="store_true", help="the engine's main blocks in float8")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    if not (arguments.tiny or torch.cuda.is_available()):
        print("no GPU here: measuring the tiny model instead, which says nothing about speed")
        arguments.tiny = True
    settings = Settings(
        shape=RELEASED,
        device=torch.device(arguments.device),
        vae_dtype=getattr(torch, arguments.vae_dtype),
        sides=(1024, 512),
        max_step_tokens=ACCELERATOR_STEP_TOKENS,
        repeats=arguments.repeats,
        gemm_side=8192,
        compile_backend="inductor",
        fp8=arguments.fp8,
    )
    if arguments.tiny:
        # With tiny tensors, more threads mostly wait for each other.
        torch.set_num_threads(1)
        settings = replace(
            settings,
            shape=TINY,
            device=torch.device("cpu"),
            sides=(128, 64),
            max_step_tokens=4 * 192,
            repeats=2,
            gemm_side=256,
            # Needs no C++ compiler.
            compile_backend="aot_eager",
        )
    name = "tiny" if arguments.tiny else device_name(settings.device).lower().replace(" ", "-")
    name += "_fp8" if arguments.fp8 else ""
    results = Path("out") if arguments.tiny else RESULTS
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build_tiny_checkpoint(Path(folder) / "tiny")
        measure(settings, checkpoint, partial(write_result, f"gpu_latency_{name}", folder=results))


if __name__ == "__main__":
    main()
