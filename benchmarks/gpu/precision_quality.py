"""Measure how far images of the precisions bf16 and fp8 are from those of float32, with the same weights.

The prompts are those of examples/objects.csv or, for an Edit model, examples/edits.csv with their pictures;
steps and guidance are the model's own. By default it compares the three embedded models.

    python -m benchmarks.gpu.precision_quality
    python -m benchmarks.gpu.precision_quality --model Tongyi-MAI/Z-Image-Turbo
"""

import argparse
import csv
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.report import device_name, write_result
from zimage_models.config import EngineConfig
from zimage_models.engine.build_engine import build_engine
from zimage_models.model_spec import ModelSpec
from zimage_models.pictures import Picture
from zimage_models.requests import build_request

EXAMPLES = Path(__file__).parents[2] / "examples"
EMBEDDED = ("tiny-zimage-turbo", "tiny-zimage-base", "tiny-zimage-edit")
MOST_DB = 100.0
"""Stands for the same image."""

Pixels = npt.NDArray[np.uint8]


def fields(spec: ModelSpec) -> list[dict[str, Any]]:
    """Read what is asked of a model, with a seed each."""
    reads = spec.variant.max_reference_images > 0
    with (EXAMPLES / ("edits.csv" if reads else "objects.csv")).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not reads:
        return [{"prompt": row["prompt"], "seed": seed} for seed, row in enumerate(rows)]
    return [
        {"prompt": row["instruction"], "reference_images": [_picture(EXAMPLES / row["image"])], "seed": seed}
        for seed, row in enumerate(rows)
    ]


def _picture(path: Path) -> Picture:
    return Picture(pixels=np.asarray(Image.open(path).convert("RGB")))


def make(config: EngineConfig) -> list[Pixels]:
    """Make all images in one engine."""
    engine = build_engine(config)
    try:
        requests = [build_request(engine.spec, values) for values in fields(engine.spec)]
        return [handle.result().pixels_HWC for handle in [engine.submit(request) for request in requests]]
    finally:
        engine.close()


def ratio_db(found: Pixels, exact: Pixels) -> float:
    """Return the peak signal-to-noise ratio of an image in decibels."""
    error = np.square(found.astype(np.float64) - exact).mean()
    return min(MOST_DB, float(10 * np.log10(255**2 / error))) if error else MOST_DB


def compare(model: str, variant: str | None, device: str) -> dict[str, Any]:
    """Compare the precisions of one model, and print a line for each."""
    common: dict[str, Any] = {"model": model, "variant": variant, "device": device}
    exact = make(EngineConfig(**common, dtype="float32"))
    row: dict[str, Any] = {"model": model, "num_images": len(exact)}
    for precision in ("bf16", "fp8"):
        made = make(EngineConfig(**common, precision=precision))
        ratios = [ratio_db(one, other) for one, other in zip(made, exact, strict=True)]
        row[precision] = {"mean_psnr_db": statistics.fmean(ratios), "least_psnr_db": min(ratios)}
        print(f"{model:>24}{precision:>6}{statistics.fmean(ratios):>8.1f} dB, at least {min(ratios):.1f}")
    return row


def main() -> None:
    """Compare, print a table, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", help="instead of the embedded ones")
    parser.add_argument("--variant")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    models = [arguments.model] if arguments.model else EMBEDDED
    rows = [compare(model, arguments.variant, arguments.device) for model in models]
    name = device_name(torch.device(arguments.device)).lower().replace(" ", "-")
    suffix = f"_{Path(arguments.model).name.lower()}" if arguments.model else ""
    write_result(f"precision_quality_{name}{suffix}", {"reference": "float32", "models": rows})


if __name__ == "__main__":
    main()
