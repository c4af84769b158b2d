"""Batch jobs on the engines of a running endpoint: same results, same resume, online requests first."""

import base64
import io
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
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

from tests.conditions import eventually
from tests.jobs.conftest import Finished, Zimage, published
from tests.jobs.shared_fleet.conftest import APP
from tests.picture_files import file_of, noise, plain, png_of
from zimage_models.config import EngineConfig
from zimage_models.engine.engine import Engine
from zimage_models.engine.load_engine import load_engine
from zimage_models.image_files.image_codec import read_parameters
from zimage_models.pictures import Picture
from zimage_models.requests import build_request

NAMES = ("red apple", "红苹果", "penguin", "企鹅", "a picture of pizza", "owl", "郁金香", "watermelon")
SERVED = ("--engine", "serve", "--serve-app", APP, "--progress", "json")

# Without the time that Ray and the endpoint take to start.
pytestmark = pytest.mark.usefixtures("online")


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


@dataclass(frozen=True, kw_only=True)
class Made:
    """What own engines and those of the endpoint made of one table, by key."""

    table: Path
    folder: Path
    files: dict[str, bytes]
    own: dict[str, dict[str, Any]]
    served: dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def made(zimage: Zimage, tmp_path_factory: pytest.TempPathFactory, online: openai.OpenAI) -> Made:
    """Make a table of plain, wide and fast rows, edits of a picture, and pictures painted in half of one."""
    half = plain("L", 0, size=(64, 64))
    half.paste(255, (32, 0, 64, 64))
    mask = Image.new("RGBA", half.size)
    mask.putalpha(ImageChops.invert(half))
    files = {"image": file_of(noise(), "png"), "mask": file_of(mask, "png")}
    kinds: dict[str, tuple[int, dict[str, Any]]] = {
        "plain": (16, {}),
        "wide": (4, {"size": "96x64"}),
        "fast": (2, {"quality_mode": "fast"}),
        "edited": (3, {"image": files["image"], "strength": 0.5}),
        "painted": (2, {**files, "strength": 1.0}),
    }
    columns = ("id", "prompt", "seed", "size", "quality_mode", "image", "mask", "strength")
    rows = [
        {
            **dict.fromkeys(columns),
            "id": f"{kind}-{number}",
            "prompt": NAMES[number % len(NAMES)],
            "seed": number,
            **values,
        }
        for kind, (num_rows, values) in kinds.items()
        for number in range(num_rows)
    ]
    folder = tmp_path_factory.mktemp("made")
    table = folder / "table.parquet"
    pq.write_table(pa.table({name: [row[name] for row in rows] for name in columns}), table)
    for where, options in {"own": ("--progress", "json"), "served": SERVED}.items():
        done = zimage("generate", table, folder / where, *options)
        assert done.code == 0, done.err
    by_key = {where: published(folder / where).by_key for where in ("own", "served")}
    assert by_key["own"].keys() == by_key["served"].keys() == {row["id"] for row in rows}
    return Made(table=table, folder=folder, files=files, **by_key)


def test_results_are_those_of_own_engines(made: Made) -> None:
    for key, row in made.own.items():
        assert row["unit_id"] == made.served[key]["unit_id"]
        difference = pixels(row["image"]["bytes"]) - pixels(made.served[key]["image"]["bytes"])
        assert abs(difference).max() <= 1


def test_what_own_engines_made_is_not_made_again(made: Made, zimage: Zimage) -> None:
    again = zimage("generate", made.table, made.folder / "own", *SERVED)
    assert (again.code, again.event("planned")["new"]) == (0, 0)
    assert zimage("verify", made.folder / "served").code == 0


def test_a_row_and_a_request_give_the_same_picture(made: Made, online: openai.OpenAI) -> None:
    for key in (f"wide-{number}" for number in range(4)):
        row = made.served[key]
        answer = online.images.generate(
            prompt=row["prompt"],
            size="96x64",  # type: ignore[arg-type]
            extra_body={"seed": row["seed"]},
        )
        assert_answers(answer, row)


def test_a_fast_row_and_a_fast_request_give_the_same_picture(made: Made, online: openai.OpenAI) -> None:
    for row in (made.served["fast-0"], made.own["fast-1"]):
        fields = {"seed": row["seed"], "quality_mode": "fast"}
        answer = online.images.generate(prompt=row["prompt"], extra_body=fields)
        assert_answers(answer, row)
        told = answer.model_extra or {}
        assert {name: told[name] for name in ("quality_mode", "num_computed_steps")} == {
            name: row[name] for name in ("quality_mode", "num_computed_steps")
        }
        assert row["num_computed_steps"] == 4
        assert read_parameters(row["image"]["bytes"])["quality_mode"] == "fast"


def test_a_row_with_pictures_and_a_request_give_the_same_picture(made: Made, online: openai.OpenAI) -> None:
    edits = [key for key in made.own if key.startswith(("edited", "painted"))]
    assert len(edits) == 5
    for key in edits:
        row = made.own[key]
        answer = online.images.edit(
            image=made.files["image"],
            mask=made.files["mask"] if key.startswith("painted") else openai.omit,
            prompt=row["prompt"],
            extra_body={"seed": row["seed"], "strength": row["strength"]},
        )
        assert_answers(answer, row)
    difference = abs(pixels(made.own["painted-0"]["image"]["bytes"]) - np.asarray(noise()))
    assert difference[:, :32].max() <= 1
    assert difference[:, 32:].mean() > 10


def assert_answers(answer: Any, row: dict[str, Any]) -> None:
    difference = pixels(row["image"]["bytes"]) - pixels(base64.b64decode(answer.data[0].b64_json))
    assert abs(difference).max() <= 1


@contextmanager
def running(zimage: Zimage, *arguments: object) -> Iterator[Future[Finished]]:
    """Run a command beside what the block does; the block waits for its end."""
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(zimage, *arguments)


def while_running(job: Future[Finished], get: Any, what: str) -> Any:
    """Wait for something that holds before a job ends."""

    def get_or_fail() -> Any:
        assert not job.done(), job.result().err
        return get()

    return eventually(get_or_fail, what)


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


def test_online_requests_pass_a_batch_job(zimage: Zimage, tmp_path: Path, online: openai.OpenAI) -> None:
    table = write_table(tmp_path / "table.parquet", 16, steps=30)
    with running(zimage, "generate", table, tmp_path / "out", *SERVED) as job:
        stats = serve.get_deployment_handle("z-image-turbo", APP).stats
        while_running(job, lambda: stats.remote().result().num_open >= 8, "batch images are open")
        busy = stats.remote().result()
        online.images.generate(prompt="owl")
        after = stats.remote().result()
        assert job.result().code == 0
    # It was made before the batch images that were there before it: of its step they were left out.
    assert after.num_images - busy.num_images < 8
    assert after.num_preemptions > busy.num_preemptions
    assert len(published(tmp_path / "out").by_key) == 16


def test_a_killed_replica_costs_the_job_nothing(zimage: Zimage, tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.parquet", 24)
    with running(zimage, "generate", table, tmp_path / "out", *SERVED) as job:
        stats = serve.get_deployment_handle("z-image-turbo", APP).stats
        made = stats.remote().result().num_images
        while_running(job, lambda: stats.remote().result().num_images > made, "an image is made")
        [name] = [
            actor["name"]
            for actor in ray.util.list_named_actors(all_namespaces=True)
            if "#z-image-turbo#" in actor["name"]
        ]
        ray.kill(ray.get_actor(name, namespace="serve"))
        done = job.result()
    assert done.code == 0, done.err
    assert len(published(tmp_path / "out").by_key) == 24


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
        ((*SERVED, "--memory", "8gb"), "memory: 8gb has no effect"),
        ((*SERVED, "--precision", "fp8"), "with precision auto, not fp8"),
        ((*SERVED, "--engine-gpus", "1"), "engine_gpus: 1.0 has no effect"),
    ],
)
def test_what_the_endpoint_cannot_do_is_told(
    zimage: Zimage, tmp_path: Path, flags: tuple[str, ...], told: str
) -> None:
    table = write_table(tmp_path / "table.parquet", 2)
    done = zimage("generate", table, tmp_path / "out", *flags)
    assert (done.code, told in done.err) == (2, True), done.err
