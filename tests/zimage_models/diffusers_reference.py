"""What diffusers' own pipelines make of a request: the reference that the engine is held to."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from diffusers import (
    ZImageControlNetInpaintPipeline,
    ZImageControlNetPipeline,
    ZImageImg2ImgPipeline,
    ZImageInpaintPipeline,
    ZImagePipeline,
)
from PIL import Image

from benchmarks.omni_pipeline import load_omni_pipeline
from zimage_models.component_config import read_json
from zimage_models.pictures import painted
from zimage_models.requests import ImageRequest, ImageResult


def load_pipeline(directory: Path) -> Any:
    if read_json(directory / "model_index.json")["_class_name"] == "ZImageOmniPipeline":
        return load_omni_pipeline(directory, dtype=torch.float32)
    pipeline = ZImagePipeline.from_pretrained(str(directory), dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def reference_pixels(
    pipeline: ZImagePipeline, request: ImageRequest, controlnet: Any = None
) -> npt.NDArray[np.uint8]:
    pictures: dict[str, Any] = {}
    pipeline_class = ZImagePipeline
    if request.condition_images:
        pictures["image"] = [Image.fromarray(image.pixels) for image in request.condition_images]
    if request.start_image:
        pipeline_class = ZImageImg2ImgPipeline
        pictures = {
            "image": Image.fromarray(request.start_image.pixels),
            "strength": request.strength,
        }
    if request.mask:
        pipeline_class = ZImageInpaintPipeline
        pictures["mask_image"] = Image.fromarray(request.mask.pixels)
    components = pipeline.components
    if request.control_image:
        pipeline_class = ZImageControlNetPipeline
        components = {**components, "controlnet": controlnet}
        if request.mask:
            pipeline_class = ZImageControlNetInpaintPipeline
            pictures["image"] = Image.fromarray(request.reference_images[0].pixels)
        pictures |= {
            "control_image": Image.fromarray(request.control_image.pixels),
            "controlnet_conditioning_scale": request.controlnet_conditioning_scale,
        }
    if pipeline_class is not ZImagePipeline:
        pipeline = pipeline_class(**components)
        pipeline.set_progress_bar_config(disable=True)
    image = pipeline(
        # Lists of our own: the pipeline edits them in place.
        prompt=[request.prompt],
        negative_prompt=[request.negative_prompt] if request.guidance_scale > 0 else None,
        height=request.height,
        width=request.width,
        num_inference_steps=request.num_inference_steps,
        guidance_scale=request.guidance_scale,
        cfg_normalization=request.cfg_normalization,
        cfg_truncation=request.cfg_truncation,
        generator=torch.Generator("cpu").manual_seed(request.seed),
        **pictures,
    ).images[0]
    pixels = np.asarray(image)
    if request.mask:
        # Beside diffusers: what is not painted stays as it was, to the pixel.
        pixels = np.where(painted(request.mask)[:, :, None], pixels, request.reference_images[0].pixels)
    return pixels


def max_difference(one: npt.NDArray[np.uint8], other: npt.NDArray[np.uint8]) -> int:
    assert one.shape == other.shape
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def assert_as_diffusers(
    pipeline: ZImagePipeline, result: ImageResult, tolerance: int = 2, *, controlnet: Any = None
) -> None:
    """Compare one result with a pipeline call of its own; a wrong prompt or seed is off by over 20."""
    difference = max_difference(result.pixels_HWC, reference_pixels(pipeline, result.request, controlnet))
    assert difference <= tolerance, f"{difference}/255 on {result.request}"
