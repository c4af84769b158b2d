"""Compare edits/s of the engine and of ZImageOmniPipeline called edit by edit: 16 edits, the same weights.

All edits are queued at the start, each with its own reference image and instruction, in English or Chinese.
The pipeline shares one list of references across a batch, so 16 edits are 16 calls. Images are compared too.

    python -m benchmarks.edit_batching
    python -m benchmarks.edit_batching --model CHECKPOINT --num-references 2
"""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.engine_vs_diffusers import EngineMethod, Pixels, Timing, max_difference, timed
from benchmarks.omni_pipeline import load_omni_pipeline
from benchmarks.report import device_name, write_result
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import DTYPES, EngineConfig
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture
from zimage_models.requests import ImageRequest, build_request

DEFAULT_EDIT_MODEL = "tiny-zimage-edit"
NUM_EDITS = 16
TARGET = 1.2
TOLERANCE = 2
"""Largest allowed difference between two images of one edit, out of 255, in float32."""

INSTRUCTIONS = (
    "make the background red",
    "把背景换成红色",
    "turn it into a greyscale picture",
    "变成灰度图",
    "flip it from left to right",
    "左右翻转",
    "make it larger, so that it fills the picture",
    "放大，让它充满整个画面",
)


def edits(spec: ModelSpec, num_references: int, num_steps: int) -> list[ImageRequest]:
    """Build the requests: the same in every call, no two with the same picture."""
    draw = np.random.default_rng(0)
    side = max(64, spec.default_width)
    requests = []
    for number in range(NUM_EDITS):
        values = {
            "prompt": INSTRUCTIONS[number % len(INSTRUCTIONS)],
            "seed": 1000 + number,
            "num_inference_steps": num_steps,
            "reference_images": [_picture(draw, side) for _ in range(num_references)],
        }
        requests.append(build_request(spec, values))
    return requests


def _picture(draw: np.random.Generator, side: int) -> Picture:
    """Draw soft blobs of colour."""
    small = draw.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Picture(pixels=np.asarray(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC)))


class OneByOne:
    """The pipeline, called once per edit."""

    def __init__(self, pipeline: Any, max_sequence_length: int) -> None:
        self._pipeline = pipeline
        self._max_sequence_length = max_sequence_length

    def __call__(self, requests: Sequence[ImageRequest]) -> list[Pixels]:
        """Make the images of all requests."""
        return [self._call(request) for request in requests]

    def _call(self, request: ImageRequest) -> Pixels:
        [image] = self._pipeline(
            image=[Image.fromarray(picture.pixels) for picture in request.reference_images],
            prompt=[request.prompt],
            negative_prompt=[request.negative_prompt] if request.guidance_scale > 0 else None,
            height=request.height,
            width=request.width,
            num_inference_steps=request.num_inference_steps,
            guidance_scale=request.guidance_scale,
            generator=torch.Generator("cpu").manual_seed(request.seed),
            max_sequence_length=self._max_sequence_length,
        ).images
        return np.asarray(image)


def measure(config: EngineConfig, num_references: int, num_steps: int | None, repeats: int) -> dict[str, Any]:
    """Run both in turn and return their figures; the best of several runs counts."""
    spec = resolve_model(config)
    pipeline = load_omni_pipeline(spec.directory, dtype=getattr(torch, config.dtype))
    pipeline.to(config.device)
    pipeline.vae.to(getattr(torch, config.vae_dtype))
    requests = edits(spec, num_references, num_steps or spec.default_num_inference_steps)
    # Different pictures of the same shapes, so that nothing measured is cached.
    inverted = [
        replace(r, reference_images=tuple(Picture(pixels=255 - p.pixels) for p in r.reference_images))
        for r in requests[:4]
    ]
    runs: dict[str, list[Timing]] = {"engine": [], "one_by_one": []}
    pictures: dict[str, list[Pixels]] = {}
    for _ in range(repeats):
        for name in runs:
            method = EngineMethod(config) if name == "engine" else OneByOne(pipeline, spec.max_prompt_tokens)
            method(inverted)
            timing, pictures[name] = timed(method, requests)
            runs[name].append(timing)
    best = {
        name: Timing(wall_s=min(run.wall_s for run in of_one), cpu_s=min(run.cpu_s for run in of_one))
        for name, of_one in runs.items()
    }
    return {
        "model": config.model,
        "device": device_name(torch.device(config.device)),
        "dtype": config.dtype,
        "vae_dtype": config.vae_dtype,
        "num_edits": NUM_EDITS,
        "num_references": num_references,
        "num_inference_steps": requests[0].num_inference_steps,
        "guidance_scale": requests[0].guidance_scale,
        "size": f"{requests[0].width}x{requests[0].height}",
        "repeats": repeats,
        "edits_per_s": {name: NUM_EDITS / timing.wall_s for name, timing in best.items()},
        "runs": {name: [asdict(run) for run in of_one] for name, of_one in runs.items()},
        "speedup": best["one_by_one"].wall_s / best["engine"].wall_s,
        "speedup_cpu_s": best["one_by_one"].cpu_s / best["engine"].cpu_s,
        "max_difference_of_255": max_difference(pictures["engine"], pictures["one_by_one"]),
    }


def main() -> None:
    """Measure, print the ratio, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", default=DEFAULT_EDIT_MODEL)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32", choices=DTYPES)
    parser.add_argument("--vae-dtype", default="float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--num-references", type=int, default=1)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--repeats", type=int, default=1)
    arguments = parser.parse_args()
    config = EngineConfig(
        model=arguments.model,
        device=arguments.device,
        dtype=arguments.dtype,
        vae_dtype=arguments.vae_dtype,
        num_threads=arguments.threads,
    )
    result = measure(config, arguments.num_references, arguments.steps, arguments.repeats)
    speedup, largest = result["speedup"], result["max_difference_of_255"]
    for name, speed in result["edits_per_s"].items():
        print(f"{name:<12}{speed:>8.2f} edits/s")
    result |= {"target": TARGET, "reached": speedup >= TARGET}
    verdict = "reached" if speedup >= TARGET else "missed"
    by_cpu = result["speedup_cpu_s"]
    print(f"engine over one by one: {speedup:.2f}x (target {TARGET}x: {verdict}), by CPU time {by_cpu:.2f}x")
    print(f"images differ by at most {largest}/255")
    write_result(f"edit_batching_{result['device'].lower().replace(' ', '-')}", result)
    if result["dtype"] == result["vae_dtype"] == "float32" and largest > TOLERANCE:
        raise SystemExit(f"images differ by {largest}/255; the limit in float32 is {TOLERANCE}")


if __name__ == "__main__":
    main()
