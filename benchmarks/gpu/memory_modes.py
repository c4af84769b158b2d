"""Measure the engine's peak memory and speed in each memory mode, on a model of the released size.

Beside the peak stands what the plan says (`zimage_models.memory.plan`), by which engines that do not fit are
refused. Each mode makes an image of 1024 x 1024 in 8 steps a few times, always of a new prompt, and then four
that share their steps. It needs 24 GB of GPU memory, 40 GB of host memory, no Ray and no download:

    python -m benchmarks.gpu.memory_modes
    python -m benchmarks.gpu.memory_modes --tiny      (a small model on the CPU: shows that the program works)
"""

import argparse
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import nn

from benchmarks.gpu.device_timing import peak_memory, seconds
from benchmarks.gpu.released_shape import RELEASED, TINY, Shape, build_models
from benchmarks.report import RESULTS, device_name, write_result
from zimage_models.checkpoints.components import Components, without_unread_layers
from zimage_models.checkpoints.tiny import build_tiny_checkpoint
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import ACCELERATOR_STEP_TOKENS
from zimage_models.memory.modes import MEMORY_MODES, MemoryMode
from zimage_models.memory.plan import MemoryPlan, gb, memory_plan
from zimage_models.model_spec import read_model_spec
from zimage_models.models.device_memory import release_cached
from zimage_models.models.model_runner import ModelRunner
from zimage_models.models.offload.model_sizes import model_sizes
from zimage_models.models.offload.placement import host_parts, place
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.requests import build_request

NUM_STEPS = 8


def measure_mode(
    mode: MemoryMode, shape: Shape, checkpoint: Path, *, device: torch.device, side: int, repeats: int
) -> dict[str, Any]:
    """Build the model in a memory mode, and make images one by one and together."""
    models = build_models(shape, device=device, dtype=torch.bfloat16, vae_dtype=torch.bfloat16)
    plan = memory_plan(
        model_sizes(**models),
        mode,
        itemsize=2,
        vae_itemsize=2,
        num_tokens=(side // 16) ** 2 + 64,
        num_pixels=side * side,
        cache_bytes=2**28,
        device_is_host=device.type == "cpu",
    )
    without_unread_layers(models["text_encoder"])
    for part in host_parts(mode):
        if part in models:
            nn.Module.to(models[part], "cpu")
    components = Components(scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0), **models)
    residency = place(components, mode, device)
    runner = ModelRunner(components, caption_cache_bytes=2**28, residency=residency)
    del models, components
    release_cached(device)
    # Only the limits and the tokenizer come from this checkpoint; they match the release.
    spec = read_model_spec(checkpoint, model_id="random", variant="turbo")
    engine = Engine(
        spec=spec,
        tokenizer=PromptTokenizer(checkpoint, max_tokens=spec.max_prompt_tokens),
        runner=runner,
        max_step_tokens=mode.max_step_tokens or ACCELERATOR_STEP_TOKENS,
        max_queued=1000,
        ageing_s=10.0,
    )

    def make(num_images: int, first_seed: int) -> None:
        values = {"width": side, "height": side, "num_inference_steps": NUM_STEPS}
        handles = [
            engine.submit(build_request(spec, {"prompt": f"a fox, {seed}", "seed": seed, **values}))
            for seed in range(first_seed, first_seed + num_images)
        ]
        while engine.step():
            pass
        for handle in handles:
            handle.result(0)

    make(1, 0)
    memory = peak_memory(partial(make, 1, 1), device)
    times = [seconds(partial(make, 1, seed), device) for seed in range(2, 2 + repeats)]
    together_s = seconds(partial(make, 4, 100), device)
    return {
        "image_s": statistics.median(times),
        "four_images_s": together_s,
        "memory": memory,
        "memory_four_images": peak_memory(partial(make, 4, 200), device),
        "planned": planned(plan),
    }


def planned(plan: MemoryPlan) -> dict[str, int]:
    """Return the sums of a plan."""
    return {
        "device_bytes": plan.device_bytes,
        "host_bytes": plan.host_bytes,
        "copied_per_step": plan.copied_per_step,
        "copied_per_prompts": plan.copied_per_prompts,
    }


def main() -> None:
    """Measure every mode, print a table, write the result after each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="measure a small model on the CPU")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    tiny = arguments.tiny or not torch.cuda.is_available()
    if tiny:
        torch.set_num_threads(1)
    device = torch.device("cpu" if tiny else arguments.device)
    result: dict[str, Any] = {"device": device_name(device), "modes": {}}
    name = "tiny" if tiny else result["device"].lower().replace(" ", "-")
    print(f"{'mode':10}{'planned':>10}{'peak':>10}{'of four':>10}{'image s':>10}{'four s':>10}")
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = build_tiny_checkpoint(Path(folder) / "tiny")
        for mode_name, mode in MEMORY_MODES.items():
            row = measure_mode(
                mode,
                TINY if tiny else RELEASED,
                checkpoint,
                device=device,
                side=128 if tiny else 1024,
                repeats=arguments.repeats,
            )
            result["modes"][mode_name] = row
            memory = row["memory"], row["memory_four_images"]
            peaks = [gb(one["peak_bytes"]) if one else "-" for one in memory]
            print(
                f"{mode_name:10}{gb(row['planned']['device_bytes']):>10}{peaks[0]:>10}{peaks[1]:>10}"
                f"{row['image_s']:>10.3f}{row['four_images_s']:>10.3f}",
                flush=True,
            )
            write_result(f"memory_modes_{name}", result, folder=Path("out") if tiny else RESULTS)


if __name__ == "__main__":
    main()
