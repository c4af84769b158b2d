"""What the quality modes trade: forwards, seconds, and likeness to exact images.

Each round makes the same images in every mode, in turn, on one engine; and exactly, but in half as many
steps, the plain way to save as much as ``fast`` does. The best of the rounds counts; PSNR compares the images
with the exact ones.

    python -m benchmarks.quality_modes
    python -m benchmarks.quality_modes --model CHECKPOINT --steps 50 --device cuda
"""

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from benchmarks.engine_vs_diffusers import THINGS, Pixels
from benchmarks.report import device_name, write_result
from zimage_models.checkpoints.resolve_model import resolve_model, with_own_schedules
from zimage_models.config import DTYPES, EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.requests import build_request
from zimage_models.step_schedules import EXACT, QUALITY_MODES

EMBEDDED = (("tiny-zimage-turbo", 8), ("tiny-zimage-base", 50))
HALF = "half_the_steps"
WAYS = (*QUALITY_MODES, HALF)
BACKGROUNDS = (("", ""), (" on a red background", "，红色背景"))
PROMPTS = [
    thing[language] + background[language]
    for background in BACKGROUNDS
    for thing in THINGS
    for language in (0, 1)
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """The images of one way in one round."""

    wall_s: float
    cpu_s: float
    """CPU time of the whole process; other processes on the machine disturb it less."""
    num_forwards: int
    pixels: list[Pixels]


def make(engine: Engine, way: str, num_steps: int) -> Run:
    """Make the image of every prompt, all queued at once."""
    values: dict[str, Any] = {"quality_mode": way, "num_inference_steps": num_steps}
    if way == HALF:
        values = {"quality_mode": EXACT, "num_inference_steps": -(-num_steps // 2)}
    requests = [
        build_request(engine.spec, {**values, "prompt": prompt, "seed": 2000 + number})
        for number, prompt in enumerate(PROMPTS)
    ]
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    handles = [engine.submit(request) for request in requests]
    while engine.step():
        pass
    results = [handle.result(0) for handle in handles]
    return Run(
        wall_s=time.perf_counter() - wall_s,
        cpu_s=time.process_time() - cpu_s,
        num_forwards=sum(r.num_computed_steps * (1 + r.request.is_guided) for r in results),
        pixels=[result.pixels_HWC for result in results],
    )


def psnr(one: Pixels, other: Pixels) -> float:
    """Return the peak signal-to-noise ratio of two images in dB; infinite if they are equal."""
    error = float(np.square(one.astype(float) - other).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def measure(config: EngineConfig, num_steps: int, num_rounds: int) -> dict[str, Any]:
    """Run all modes in turn and return their figures."""
    spec = with_own_schedules(config, resolve_model(config))
    engine = load_engine(config, spec=spec)
    for way in WAYS:  # warm, and with every prompt encoded
        make(engine, way, num_steps)
    rounds = [{way: make(engine, way, num_steps) for way in WAYS} for _ in range(num_rounds)]
    engine.close()
    return {
        "model": config.model,
        "num_inference_steps": num_steps,
        "guidance_scale": spec.default_guidance_scale,
        "size": f"{spec.default_width}x{spec.default_height}",
        "num_images": len(PROMPTS),
        "modes": {way: _figures(way, rounds) for way in WAYS},
    }


def _figures(way: str, rounds: Sequence[dict[str, Run]]) -> dict[str, Any]:
    runs, exact = [one[way] for one in rounds], [one[EXACT] for one in rounds]
    likeness = [psnr(*pair) for pair in zip(runs[0].pixels, exact[0].pixels, strict=True)]
    wall_s, cpu_s = min(run.wall_s for run in runs), min(run.cpu_s for run in runs)
    figures = {
        "forwards_per_image": runs[0].num_forwards / len(PROMPTS),
        "wall_s_per_image": wall_s / len(PROMPTS),
        "cpu_s_per_image": cpu_s / len(PROMPTS),
        "speedup": min(run.wall_s for run in exact) / wall_s,
        "speedup_cpu_s": min(run.cpu_s for run in exact) / cpu_s,
        "runs": [{"wall_s": run.wall_s, "cpu_s": run.cpu_s} for run in runs],
    }
    if way != EXACT:
        figures |= {"psnr_db_mean": statistics.mean(likeness), "psnr_db_min": min(likeness)}
    return figures


def main() -> None:
    """Measure, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="instead of the tiny Turbo and Base; needs --steps")
    parser.add_argument("--variant")
    parser.add_argument("--steps", type=int)
    on_gpu = torch.cuda.is_available()
    parser.add_argument("--device", default="cuda" if on_gpu else "cpu")
    parser.add_argument("--dtype", default="bfloat16" if on_gpu else "float32", choices=DTYPES)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if (arguments.model is None) != (arguments.steps is None):
        parser.error("give --model and --steps together")
    results = []
    for model, num_steps in [(arguments.model, arguments.steps)] if arguments.model else EMBEDDED:
        config = EngineConfig(
            model=model,
            variant=arguments.variant,
            device=arguments.device,
            dtype=arguments.dtype,
            num_threads=arguments.threads,
        )
        results.append(measure(config, num_steps, arguments.rounds))
        _show(results[-1])
    device = device_name(torch.device(arguments.device))
    result = {"device": device, "dtype": arguments.dtype, "rounds": arguments.rounds, "models": results}
    write_result(f"quality_modes_{device.lower().replace(' ', '-')}", result)


def _show(result: dict[str, Any]) -> None:
    print(f"{result['model']}, {result['num_inference_steps']} steps, guidance {result['guidance_scale']:g}")
    for way, one in result["modes"].items():
        likeness = f"{one['psnr_db_mean']:.1f} dB, worst {one['psnr_db_min']:.1f}" if way != EXACT else ""
        print(
            f"  {way:<15}{one['forwards_per_image']:>6.1f} forwards{1000 * one['wall_s_per_image']:>8.1f} ms"
            f"{one['speedup']:>7.2f}x  (CPU {one['speedup_cpu_s']:.2f}x)  {likeness}"
        )


if __name__ == "__main__":
    main()
