"""What the image benchmarks of SGLang 0.5.23 and vLLM-Omni 0.30.0 send is answered.

They send it with aiohttp, whose forms give a media type to each part. Sizes are ours: theirs are by default
1024x1024, which takes the tiny models minutes.
"""

import asyncio
import base64
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest

from tests.deployments.conftest import Endpoint
from tests.deployments.open_endpoint.pictures import EDIT, TURBO, pixels, plasma, png

PROMPT = "Random prompt 0 for benchmarking diffusion models"
NEGATIVE_PROMPT = "Negative prompt 0 for benchmarking diffusion models"
PICTURE = png(plasma(64, 64, seed=2))
PICTURE_URL = f"data:image/png;base64,{base64.b64encode(PICTURE).decode()}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A request, and how many images of which size answer it."""

    json: dict[str, Any] | None = None
    form: dict[str, str] = field(default_factory=dict)
    picture: dict[str, str] | None = None
    """The file name and media type of an uploaded picture."""
    headers: dict[str, str] = field(default_factory=dict)
    num_images: int = 1
    size: tuple[int, int] = (96, 64)


# sglang/multimodal_gen/benchmarks/bench_serving.py, async_request_image_sglang
SGLANG = {
    "generation": Shape(
        json={"model": TURBO, "prompt": PROMPT, "n": 1, "response_format": "b64_json", "size": "96x64"}
    ),
    "generation without a size": Shape(
        json={"model": TURBO, "prompt": PROMPT, "n": 2, "response_format": "b64_json"},
        num_images=2,
        size=(64, 64),
    ),
    "generation of a mix": Shape(
        json={
            "model": TURBO,
            "prompt": PROMPT,
            "n": 1,
            "response_format": "b64_json",
            "size": "96x64",
            "num_inference_steps": 4,
            "seed": 42,
            "guidance_scale": 0.0,
        }
    ),
    "generation by its default model": Shape(
        json={"model": "default", "prompt": PROMPT, "n": 1, "response_format": "b64_json", "size": "96x64"}
    ),
    "edit": Shape(
        form={"model": EDIT, "prompt": PROMPT, "response_format": "b64_json", "n": "1", "size": "96x64"},
        picture={"filename": "picture.png", "content_type": "application/octet-stream"},
    ),
}
# vllm-omni/benchmarks/diffusion/backends.py: the image routes of diffusion_benchmark_serving.py
OMNI_DIFFUSION = {
    "generation": Shape(
        json={
            "model": TURBO,
            "prompt": PROMPT,
            "n": 1,
            "size": "96x64",
            "response_format": "b64_json",
            "seed": 42,
            "num_inference_steps": 50,
        },
        headers={"Authorization": "Bearer EMPTY"},
    ),
    "generation with a negative prompt": Shape(
        json={
            "model": EDIT,
            "prompt": PROMPT,
            "n": 1,
            "size": "96x64",
            "response_format": "b64_json",
            "num_inference_steps": 2,
            "negative_prompt": NEGATIVE_PROMPT,
        },
        headers={"Authorization": "Bearer EMPTY"},
    ),
    "edit": Shape(
        form={
            "model": EDIT,
            "prompt": PROMPT,
            "size": "96x64",
            "response_format": "b64_json",
            "num_inference_steps": "2",
            "seed": "42",
            "guidance_scale": "4.0",
            "negative_prompt": NEGATIVE_PROMPT,
            "bot_task": "think",
        },
        picture={"filename": "diffusion_benchmark_random_image_0.png", "content_type": "image/png"},
    ),
}
# vllm-omni/benchmarks/online_serving: benchmark_t2i.py and benchmark_i2i.py
OMNI_ONLINE = {
    "generation": Shape(
        json={
            "model": TURBO,
            "prompt": "一只橘猫在窗台上晒太阳，温暖的午后，写实风格",
            "n": 2,
            "size": "96x64",
            "response_format": "b64_json",
            "num_inference_steps": 4,
        },
        headers={"Authorization": "Bearer EMPTY"},
        num_images=2,
    ),
    "edit": Shape(
        form={
            "prompt": "Convert to oil painting style.",
            "n": "1",
            "size": "96x64",
            "response_format": "b64_json",
            "model": EDIT,
        },
        picture={"filename": "picture.png", "content_type": "image/png"},
        headers={"Authorization": "Bearer EMPTY"},
    ),
}
# `vllm bench serve --omni`: vllm_omni/benchmarks/patch/patch.py; it always asks for the metrics of stages
OMNI_SERVE = {
    "generation": Shape(
        json={
            "model": TURBO,
            "prompt": PROMPT,
            "n": 1,
            "response_format": "b64_json",
            "size": "96x64",
            "num_inference_steps": 4,
            "return_stage_metrics": True,
        },
        headers={"Authorization": "Bearer None", "x-request-id": "bench-0"},
    ),
    "edit": Shape(
        form={
            "model": EDIT,
            "prompt": PROMPT,
            "response_format": "b64_json",
            "output_format": "png",
            "stream": "false",
            "size": "auto",
            "num_inference_steps": "2",
            "return_stage_metrics": "True",
        },
        picture={"filename": "benchmark.png", "content_type": "image/png"},
        headers={"Authorization": "Bearer None"},
        size=(64, 64),
    ),
    "edit of a data URL": Shape(
        form={
            "model": EDIT,
            "prompt": PROMPT,
            "response_format": "b64_json",
            "output_format": "png",
            "stream": "false",
            "size": "96x64",
            "return_stage_metrics": "True",
            "url": PICTURE_URL,
        },
        headers={"Authorization": "Bearer None"},
    ),
}
SHAPES = {
    f"{client}: {name}": shape
    for client, shapes in {
        "sglang bench_serving": SGLANG,
        "vllm-omni diffusion_benchmark_serving": OMNI_DIFFUSION,
        "vllm-omni online_serving": OMNI_ONLINE,
        "vllm bench serve --omni": OMNI_SERVE,
    }.items()
    for name, shape in shapes.items()
}


@pytest.mark.parametrize("name", SHAPES)
def test_request_of_a_benchmark_is_answered(endpoint: Endpoint, name: str) -> None:
    shape = SHAPES[name]
    answer = asyncio.run(send(endpoint, shape))
    made = [pixels(image["b64_json"]) for image in answer["data"]]
    width, height = shape.size
    assert [image.shape for image in made] == [(height, width, 3)] * shape.num_images


async def send(endpoint: Endpoint, shape: Shape) -> Any:
    route = "generations" if shape.json else "edits"
    body: dict[str, Any] = {"json": shape.json}
    if not shape.json:
        body = {"data": (form := aiohttp.FormData())}
        for name, value in shape.form.items():
            form.add_field(name, value)
        if shape.picture:
            form.add_field("image", PICTURE, **shape.picture)
    async with (
        aiohttp.ClientSession(endpoint.url, headers=shape.headers) as session,
        session.post(f"/v1/images/{route}", **body) as response,
    ):
        assert response.status == 200, await response.text()
        return await response.json()


def test_benchmarks_find_the_endpoint_ready(endpoint: Endpoint) -> None:
    with endpoint.http() as http:
        assert http.get("/health").status_code == 200
        # SGLang's would take its model's name from here, and goes on without.
        assert http.get("/v1/model_info").status_code == 404
