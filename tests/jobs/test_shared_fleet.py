"""Batch jobs on the engines of a running endpoint: same results, same resume, online requests first."""

import base64
import io
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2 as httpx
import numpy as np
import numpy.typing as npt
import openai
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image, ImageChops
from ray import serve

from deployments.app import build_app
from deployments.app_args import AppArgs, IngressArgs, ModelArgs
from tests.controlnets import build_embedded_controlnet
from tests.jobs.conftest import Zimage, published
from tests.picture_files import file_of, noise, plain, png_of
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.image_files.image_codec import read_parameters
from zimage_models.pictures import Picture
from zimage_models.requests import build_request

NAMES = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")
PORT = 8399

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def controlnet(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a ControlNet for the embedded models, and return its folder."""
    return str(build_embedded_controlnet(tmp_path_factory.mktemp("controlnets") / "random"))


@pytest.fixture(scope="module", autouse=True)
def online(ray_session: None, controlnet: str) -> Iterator[openai.OpenAI]:
    fake = {"fake": True}
    models = (
        ModelArgs(id="z-image-turbo", num_cpus=1),
        ModelArgs(id="instant", num_cpus=0.1, engine=fake),
        ModelArgs(id="controlled", num_cpus=1, engine={"controlnet": controlnet}),
    )
    app = build_app(AppArgs(models=models, ingress=IngressArgs(num_cpus=0.1)))
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(app, name="images", route_prefix="/")
    yield openai.OpenAI(base_url=f"http://127.0.0.1:{PORT}/v1", api_key="none", max_retries=0)
    serve.shutdown()


def write_table(path: Path, num_rows: int, **columns: Any) -> Path:
    rows = {
        "id": [f"row-{i}" for i in range(num_rows)],
        "prompt": [NAMES[i % len(NAMES)] for i in range(num_rows)],
        "seed": list(range(num_rows)),
    }
    pq.write_table(pa.table({**rows, **{name: [value] * num_rows for name, value in columns.items()}}), path)
    return path


def pixels(data: bytes) -> npt.NDArray[np.int16]:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(np.int16)


SERVED = ("--engine", "serve", "--serve-app", "images", "--progress", "json")


def test_results_and_resume_are_those_of_own_engines(zimage: Zimage, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.parquet", 48)
    assert zimage("generate", table, tmp_path / "own", "--progress", "json").code == 0
    done = zimage("generate", table, tmp_path / "served", *SERVED)
    assert done.code == 0, done.err
    own, served = published(tmp_path / "own").by_key, published(tmp_path / "served").by_key
    assert own.keys() == served.keys()
    for key, row in own.items():
        assert row["unit_id"] == served[key]["unit_id"]
        difference = pixels(row["image"]["bytes"]) - pixels(served[key]["image"]["bytes"])
        assert abs(difference).max() <= 1
    # What own engines made needs no other ones.
    again = zimage("generate", table, tmp_path / "own", *SERVED)
    assert (again.code, again.event("planned")["new"]) == (0, 0)
    assert zimage("verify", tmp_path / "served").code == 0


def test_pictures_go_to_the_endpoint_as_to_own_engines(
    zimage: Zimage, tmp_path: Path, online: openai.OpenAI
) -> None:
    picture, half = noise(), plain("L", 0, size=(64, 64))
    half.paste(255, (32, 0, 64, 64))
    mask = Image.new("RGBA", half.size)
    mask.putalpha(ImageChops.invert(half))
    files = {"image": file_of(picture, "png"), "mask": file_of(mask, "png")}
    tables = {
        "edited": write_table(tmp_path / "edited.parquet", 3, image=files["image"], strength=0.5),
        "painted": write_table(tmp_path / "painted.parquet", 2, strength=1.0, **files),
    }
    made: dict[str, dict[str, Any]] = {}
    for name, table in tables.items():
        for where, options in {"own": ("--progress", "json"), "served": SERVED}.items():
            done = zimage("generate", table, tmp_path / name / where, *options)
            assert done.code == 0, done.err
            made[f"{name} {where}"] = published(tmp_path / name / where).by_key
    for name in tables:
        for key, row in made[f"{name} own"].items():
            served = made[f"{name} served"][key]
            assert row["unit_id"] == served["unit_id"]
            answer = online.images.edit(
                image=files["image"],
                mask=files["mask"] if name == "painted" else openai.omit,
                prompt=row["prompt"],
                extra_body={"seed": row["seed"], "strength": row["strength"]},
            )
            assert answer.data
            for other in (served["image"]["bytes"], base64.b64decode(answer.data[0].b64_json or "")):
                assert abs(pixels(row["image"]["bytes"]) - pixels(other)).max() <= 1
    difference = abs(pixels(made["painted own"]["row-0"]["image"]["bytes"]) - np.asarray(picture))
    assert difference[:, :32].max() <= 1
    assert difference[:, 32:].mean() > 10


def made_alone(engine: Engine, **values: Any) -> npt.NDArray[np.uint8]:
    handle = engine.submit(build_request(engine.spec, values))
    while engine.step():
        pass
    return handle.result(0).pixels_HWC


def test_control_images_are_followed_alike_in_jobs_and_online(
    zimage: Zimage, tmp_path: Path, online: openai.OpenAI, controlnet: str
) -> None:
    pose, photo, half = noise(), plain(size=(64, 64)), plain("L", 0, size=(64, 64))
    half.paste(255, (32, 0, 64, 64))
    pose_file, photo_file, half_file = (file_of(picture, "png") for picture in (pose, photo, half))
    # Its head is fine: only the decoding finds it out.
    damaged_file = png_of((64, 64), (b"IDAT", b"not zlib"))
    table = {
        "id": ["guided", "painted", "plain", "damaged"],
        "prompt": ["red apple"] * 4,
        "seed": [3] * 4,
        "control_image": [pose_file, pose_file, None, damaged_file],
        "image": [None, photo_file, None, None],
        "mask": [None, half_file, None, None],
        "controlnet_conditioning_scale": [0.4, None, None, None],
    }
    pq.write_table(pa.table(table), tmp_path / "table.parquet")
    made = {}
    for where, options in {"own": ("--progress", "json"), "served": SERVED}.items():
        command = ("generate", tmp_path / "table.parquet", tmp_path / where, "--controlnet", controlnet)
        done = zimage(*command, *options)
        assert done.code == 3, done.err
        out = published(tmp_path / where)
        assert [(row["key"], row["error_class"]) for row in out.errors] == [("damaged", "bad_input")]
        made[where] = out.by_key
    engine = load_engine(EngineConfig(controlnet=controlnet, num_threads=1))
    control, start, mask = (Picture(pixels=np.asarray(picture)) for picture in (pose, photo, half))
    common = {"prompt": "red apple", "seed": 3}
    alone = {
        "guided": made_alone(engine, **common, control_image=control, controlnet_conditioning_scale=0.4),
        "painted": made_alone(engine, **common, control_image=control, reference_images=[start], mask=mask),
        "plain": made_alone(engine, **common),
    }
    assert abs(alone["guided"].astype(int) - alone["plain"]).mean() > 5
    for key, expected in alone.items():
        assert made["own"][key]["unit_id"] == made["served"][key]["unit_id"]
        for rows in made.values():
            assert abs(pixels(rows[key]["image"]["bytes"]) - expected).max() <= 1
    files = {"control_image": pose_file}
    forms: dict[str, tuple[dict[str, Any], dict[str, bytes], float]] = {
        "guided": ({"controlnet_conditioning_scale": 0.4}, files, 0.4),
        "painted": ({}, {**files, "image": photo_file, "mask": half_file}, 0.75),
    }
    for key, (fields, sent, scale) in forms.items():
        data = {"model": "controlled", **common, **fields}
        answer = httpx.post(f"{online.base_url}images/edits", data=data, files=sent, timeout=60).json()
        row = made["own"][key]["image"]["bytes"]
        file = base64.b64decode(answer["data"][0]["b64_json"])
        assert abs(pixels(row) - pixels(file)).max() <= 1
        assert [read_parameters(each)["controlnet_conditioning_scale"] for each in (row, file)] == [scale] * 2


def test_a_row_and_a_request_give_the_same_picture(
    zimage: Zimage, tmp_path: Path, online: openai.OpenAI
) -> None:
    table = write_table(tmp_path / "table.parquet", 8, size="96x64")
    assert zimage("generate", table, tmp_path / "out", *SERVED).code == 0
    for row in published(tmp_path / "out").rows:
        answer = online.images.generate(
            prompt=row["prompt"],
            size="96x64",  # type: ignore[arg-type]
            extra_body={"seed": row["seed"]},
        )
        assert answer.data
        difference = pixels(row["image"]["bytes"]) - pixels(base64.b64decode(answer.data[0].b64_json or ""))
        assert abs(difference).max() <= 1


def test_online_requests_pass_a_batch_job(zimage: Zimage, tmp_path: Path, online: openai.OpenAI) -> None:
    table = write_table(tmp_path / "table.parquet", 24, steps=50)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(zimage, "generate", table, tmp_path / "out", *SERVED)
        stats = serve.get_deployment_handle("z-image-turbo", "images").stats
        while (busy := stats.remote().result()).num_open < 8:
            assert not job.done(), job.result().err
            time.sleep(0.05)
        online.images.generate(prompt="owl")
        after = stats.remote().result()
        assert job.result().code == 0
    # The online image was made in the time of its own 8 steps; of the batch images before it few were.
    assert after.num_item_steps - busy.num_item_steps < 50 * 10
    assert after.num_preemptions > busy.num_preemptions
    assert len(published(tmp_path / "out").by_key) == 24


def test_a_killed_replica_costs_the_job_nothing(zimage: Zimage, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.parquet", 64)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(zimage, "generate", table, tmp_path / "out", *SERVED)
        stats = serve.get_deployment_handle("z-image-turbo", "images").stats
        made = stats.remote().result().num_images
        while stats.remote().result().num_images < made + 20:
            assert not job.done(), job.result().err
            time.sleep(0.05)
        [name] = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if "#z-image-turbo#" in actor["name"]
        ]
        ray.kill(ray.get_actor(name, namespace="serve"))
        done = job.result()
    assert done.code == 0, done.err
    assert len(published(tmp_path / "out").by_key) == 64


def test_failures_become_error_rows(zimage: Zimage, tmp_path: Path) -> None:
    prompts = ["one", "two [fake: blank]", "three [fake: out of memory]", "four"]
    pq.write_table(pa.table({"id": list("abcd"), "prompt": prompts}), tmp_path / "table.parquet")
    done = zimage("generate", tmp_path / "table.parquet", tmp_path / "out", *SERVED, "--fake")
    assert done.code == 3, done.err
    result = published(tmp_path / "out")
    assert result.by_key.keys() == {"a", "d"}
    assert {row["key"]: row["error_class"] for row in result.errors} == {
        "b": "blank_image",
        "c": "out_of_memory",
    }


def test_a_row_that_kills_replicas_becomes_an_error_row(zimage: Zimage, tmp_path: Path) -> None:
    prompts = ["one", "two [fake: die]", "three"]
    pq.write_table(pa.table({"id": list("abc"), "prompt": prompts}), tmp_path / "table.parquet")
    done = zimage("generate", tmp_path / "table.parquet", tmp_path / "out", *SERVED, "--fake")
    assert done.code == 3, done.err
    result = published(tmp_path / "out")
    assert result.by_key.keys() == {"a", "c"}
    [error] = result.errors
    assert (error["key"], error["error_class"]) == ("b", "engine_error")


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--engine", "serve", "--serve-app", "nope"), "serve_app: no Serve application 'nope'"),
        ((*SERVED, "--model", "tiny-zimage-base"), "does not serve 'tiny-zimage-base'"),
        ((*SERVED, "--dtype", "float32"), "dtype: float32 has no effect"),
        ((*SERVED, "--engine-gpus", "1"), "engine_gpus: 1.0 has no effect"),
    ],
)
def test_what_the_endpoint_cannot_do_is_told(
    zimage: Zimage, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    table = write_table(tmp_path / "table.parquet", 2)
    done = zimage("generate", table, tmp_path / "out", *flags)
    assert (done.code, told in done.err) == (2, True), done.err
