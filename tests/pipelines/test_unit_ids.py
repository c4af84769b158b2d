import random
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipelines import unit_ids
from pipelines.unit_ids import (
    SeenHashes,
    UnitIndex,
    as_fixed,
    derive_seed,
    digest,
    engine_settings,
    unit_id,
)
from zimage_models.checkpoints.resolve_model import resolve_model
from zimage_models.config import EngineConfig
from zimage_models.image_files.image_codec import Encoding
from zimage_models.model_spec import ModelSpec
from zimage_models.models.prompt_tokenizer import PromptTokenizer
from zimage_models.pictures import Picture
from zimage_models.request_fields import GENERATION_FIELDS, MAX_SEED
from zimage_models.requests import ImageRequest, Priority

REQUEST = ImageRequest(
    prompt="a red apple 苹果",
    height=64,
    width=96,
    num_inference_steps=8,
    guidance_scale=0.0,
    seed=7,
)
OTHER_VALUES: dict[str, Any] = {
    "prompt": "a red apple 苹果 ",
    "negative_prompt": "blurry",
    "height": 96,
    "width": 64,
    "num_inference_steps": 9,
    "guidance_scale": 0.5,
    "seed": 8,
    "cfg_normalization": 1.0,
    "cfg_truncation": 0.5,
    "truncate_prompt": True,
    "quality_mode": "fast",
}


def id_of(request: ImageRequest = REQUEST, **changes: Any) -> str:
    given = {"variant": 0, "weights_sha256": "ab" * 32, "shift": 3.0, "encoding": Encoding()}
    return unit_id(request, **(given | changes))


def hex_ids(*numbers: int) -> list[str]:
    return [f"{number:032x}" for number in numbers]


PICTURE = Picture(pixels=np.zeros((64, 64, 3), np.uint8))
MASK = Picture(pixels=np.full((64, 64), 255, np.uint8))
ASCII_REQUEST = replace(REQUEST, prompt="a red apple")
GUIDED_REQUEST = replace(
    REQUEST,
    prompt="一只猫头鹰",
    negative_prompt="blurry",
    guidance_scale=3.5,
    cfg_normalization=1.5,
    cfg_truncation=0.75,
    truncate_prompt=True,
    seed=2**63 - 1,
)
# Computed by release 0.1. An id that changes makes every image of its kind again, in every data set there is.
STORED_IDS = {
    "bbcae945cac1e5748ff9ae1a9431575f": (ASCII_REQUEST, {}),
    "5ee72b2bb1c89d04326138278e8fbe15": (
        GUIDED_REQUEST,
        {
            "variant": 3,
            "shift": 6.0,
            "encoding": Encoding(format="webp", quality=80, embed_prompt=False),
        },
    ),
    "803e49debab2fb304f3627400eb431e2": (
        replace(ASCII_REQUEST, reference_images=(PICTURE,), strength=0.6),
        {"files": [None, "cd" * 32]},
    ),
    "6512daf5e811b848492e43c44f749f52": (
        replace(ASCII_REQUEST, reference_images=(PICTURE,), mask=MASK, strength=1.0),
        {"files": ["ef" * 32, "cd" * 32]},
    ),
    "2e4c0732139a08ec706a20d03d28695a": (
        replace(ASCII_REQUEST, reference_images=(PICTURE, PICTURE)),
        {"files": [None, "cd" * 32, "12" * 32]},
    ),
    "0249f69dbc48156cc353ae2197b53fe6": (
        replace(ASCII_REQUEST, control_image=PICTURE, controlnet_conditioning_scale=0.75),
        {"control": "34" * 32},
    ),
    "87455340769f625d612fbdf222382c5e": (
        replace(
            ASCII_REQUEST,
            reference_images=(PICTURE,),
            mask=MASK,
            control_image=PICTURE,
            controlnet_conditioning_scale=1.25,
        ),
        {"files": ["ef" * 32, "cd" * 32], "control": "34" * 32, "salt": "another key"},
    ),
}


@pytest.mark.parametrize("stored", STORED_IDS)
def test_ids_of_release_0_1_stay_what_they_are(stored: str) -> None:
    request, identity = STORED_IDS[stored]
    assert id_of(request, **identity) == stored


@pytest.mark.parametrize("field", GENERATION_FIELDS)
def test_every_generation_field_is_part_of_the_id(field: str) -> None:
    # A mode and its schedule come together.
    schedule = {"step_schedule": (0, 3, 7)} if field == "quality_mode" else {}
    assert id_of(replace(REQUEST, **{field: OTHER_VALUES[field]}, **schedule)) != id_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"variant": 1},
        {"weights_sha256": "cd" * 32},
        {"shift": 6.0},
        {"encoding": Encoding(format="webp")},
        {"encoding": Encoding(embed_prompt=False)},
        {"salt": "sku-1"},
    ],
    ids=str,
)
def test_variant_weights_shift_file_and_salt_are_part_of_the_id(changes: dict[str, Any]) -> None:
    assert id_of(**changes) != id_of()


def test_pictures_and_strength_are_part_of_the_id() -> None:
    def edit(*files: str | None, strength: float | None = 0.5) -> str:
        return id_of(replace(REQUEST, strength=strength), files=files)

    ids = [
        id_of(),
        edit(None, "a"),
        edit(None, "b"),
        edit(None, "a", "b"),
        edit(None, "b", "a"),
        edit("m", "a"),
        edit("n", "a"),
        edit(None, "a", strength=0.6),
        edit(None, "a", strength=None),
    ]
    assert len(set(ids)) == len(ids)
    assert edit(None, "a") == edit(None, "a")


def test_control_image_and_scale_are_part_of_the_id() -> None:
    def controlled(control: str, *files: str | None, scale: float = 0.75) -> str:
        return id_of(replace(REQUEST, controlnet_conditioning_scale=scale), control=control, files=files)

    ids = [
        id_of(),
        id_of(files=(None, "a")),
        controlled("a"),
        controlled("b"),
        controlled("a", scale=0.5),
        controlled("a", None, "a"),
        controlled("a", "m", "a"),
    ]
    assert len(set(ids)) == len(ids)


def test_the_quality_of_a_file_is_part_of_the_id() -> None:
    assert id_of(encoding=Encoding(format="jpeg", quality=80)) != id_of(encoding=Encoding(format="jpeg"))


def test_a_quality_mode_and_its_schedule_are_part_of_the_id() -> None:
    def made(mode: str, *steps: int) -> str:
        return id_of(replace(REQUEST, quality_mode=mode, step_schedule=steps))

    ids = [id_of(), made("fast", 0, 2, 5, 7), made("fast", 0, 3, 5, 7), made("high", 0, 2, 5, 7)]
    assert len(set(ids)) == len(ids)
    assert made("fast", 0, 2, 5, 7) == "469f94869e7ec6b6ec64e788e629560e"


def test_how_a_request_is_hosted_is_no_part_of_the_id() -> None:
    hosted = replace(REQUEST, priority=Priority.ONLINE, deadline_s=1.0, preview_every=2)
    assert id_of(hosted) == id_of()


def test_texts_do_not_run_into_each_other() -> None:
    first = replace(REQUEST, prompt='a","b', negative_prompt="c")
    second = replace(REQUEST, prompt="a", negative_prompt='b","c')
    assert id_of(first) != id_of(second)


def test_ids_and_seeds_are_those_of_earlier_releases() -> None:
    # If one of these changes, every data set in the world is made again.
    assert id_of() == "5c8b24a5ff96d47597f8507d1d69505f"
    assert id_of(replace(REQUEST, strength=0.5), files=("m", "a")) == "559e54b00fb7641dbf58a105711256d1"
    controlled = replace(REQUEST, controlnet_conditioning_scale=0.75)
    assert id_of(controlled, control="a") == "7476c59dac3656778bcfad23e531f1c0"
    assert digest(["ä", 1, 0.5, None, {"b": 1, "a": 2}]) == "7abaa6c9ca87d9abf37515cafb4eb18b"
    assert derive_seed(0, "sku-1", 0).identity == 1497752136000950


def test_a_digest_takes_what_tables_hold() -> None:
    values = [b"\x00\xff", np.float64(1.5), float("nan"), "\ud800", {"a": [1, None]}]
    assert len({digest(value) for value in values}) == len(values)
    assert digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})


def test_derived_seeds_differ_by_job_seed_key_and_variant() -> None:
    derived = {
        derive_seed(job, key, variant)
        for job in range(5)
        for key in ("a", "b", "a|1")
        for variant in range(20)
    }
    assert len({one.identity for one in derived}) == len({one.seed for one in derived}) == 5 * 3 * 20
    assert all(0 <= one.identity < 2**53 and 0 <= one.seed <= MAX_SEED for one in derived)
    assert derive_seed(3, "a", 1) == derive_seed(3, "a", 1)


@given(job=st.integers(0, 2**63 - 1), key=st.text(), variant=st.integers(0, 999))
def test_a_derived_seed_draws_the_noise_of_earlier_releases(job: int, key: str, variant: int) -> None:
    derived = derive_seed(job, key, variant)
    earlier, now = (
        torch.randn(4, generator=torch.Generator("cpu").manual_seed(seed))
        for seed in (derived.identity, derived.seed)
    )
    assert torch.equal(earlier, now)


def test_an_id_hashes_the_number_that_earlier_releases_took_for_the_seed() -> None:
    derived = derive_seed(0, "sku-1", 0)
    assert derived.identity > MAX_SEED
    earlier = id_of(replace(REQUEST, seed=derived.identity))
    assert id_of(replace(REQUEST, seed=derived.seed), seed_identity=derived.identity) == earlier
    assert id_of(replace(REQUEST, seed=derived.seed)) != earlier


SPEC = resolve_model(EngineConfig())


def engine_id(config: EngineConfig | None = None, spec: ModelSpec = SPEC, tokenizer_rules: str = "") -> str:
    return id_of(engine=engine_settings(config or EngineConfig(), spec, tokenizer_rules=tokenizer_rules))


@pytest.mark.parametrize("model", ["tiny-zimage-turbo", "tiny-zimage-base", "tiny-zimage-edit"])
def test_embedded_models_have_the_ids_of_earlier_releases(model: str) -> None:
    config = EngineConfig(
        model=model, device="cpu", compile=True, memory="4gb", max_step_tokens=100, vae_dtype="auto"
    )
    spec = resolve_model(config)
    rules = PromptTokenizer(spec.directory, max_tokens=spec.max_prompt_tokens).rules
    assert engine_id(config, spec, rules) == id_of()


def test_all_of_an_engine_that_decides_pixels_is_part_of_the_id() -> None:
    ids = [
        engine_id(),
        engine_id(EngineConfig(dtype="bfloat16")),
        engine_id(EngineConfig(dtype="float32")),
        engine_id(EngineConfig(vae_dtype="bfloat16")),
        engine_id(EngineConfig(precision="fp8")),
        engine_id(EngineConfig(precision="fp8", dtype="bfloat16")),
        engine_id(spec=replace(SPEC, scheduler="a")),
        engine_id(spec=replace(SPEC, scheduler="b")),
        engine_id(spec=replace(SPEC, pixel_settings="a")),
        engine_id(tokenizer_rules="a"),
    ]
    assert len({*ids}) == len(ids)


def test_the_precision_bf16_has_the_ids_of_the_dtype() -> None:
    named = engine_id(EngineConfig(dtype="bfloat16"))
    assert engine_id(EngineConfig(precision="bf16")) == named
    assert engine_id(EngineConfig(precision="bf16", dtype="bfloat16")) == named
    assert engine_id(EngineConfig(precision="auto")) == engine_id()


def test_a_raised_version_of_the_pixels_changes_every_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_ids, "PIXELS_VERSION", 2)
    second = engine_id()
    monkeypatch.setattr(unit_ids, "PIXELS_VERSION", 3)
    assert len({second, engine_id(), id_of()}) == 3


def test_tokens_read_are_part_of_the_id() -> None:
    ids = [
        id_of(),
        id_of(tokens_read={"prompt": 100}),
        id_of(tokens_read={"prompt": 101}),
        id_of(tokens_read={"negative_prompt": 100}),
        id_of(tokens_read={"prompt": 100, "negative_prompt": 100}),
    ]
    assert len({*ids}) == len(ids)
    assert ids[-1] == id_of(tokens_read={"negative_prompt": 100, "prompt": 100})


def test_seen_hashes_agree_with_a_set() -> None:
    rng = random.Random(0)
    seen, expected = SeenHashes(), set()
    for _ in range(300_000):
        text = f"sku-{rng.randrange(200_000)}"
        assert seen.add(text) == (text not in expected)
        expected.add(text)


def test_seen_hashes_take_any_text() -> None:
    seen = SeenHashes()
    texts = ["", "\ud800", "苹果", "\0"]
    assert [seen.add(text) for text in texts] == [True] * 4
    assert [seen.add(text) for text in texts] == [False] * 4


def test_positions_are_those_of_construction() -> None:
    rng = random.Random(0)
    ids = hex_ids(*(rng.getrandbits(64) for _ in range(5000)))
    index = UnitIndex([pa.array(ids[:2000]), pa.chunked_array([ids[2000:2001], [], ids[2001:]])])
    assert len(index) == 5000
    order = list(range(5000))
    rng.shuffle(order)
    assert index.positions(pa.array([ids[place] for place in order])).tolist() == order


def test_unknown_ids_have_no_position() -> None:
    index = UnitIndex([pa.array(hex_ids(5, 3))])
    looked_up = pa.array(hex_ids(0, 3, 4, 5, 6, 5))
    assert index.positions(looked_up).tolist() == [-1, 1, -1, 0, -1, 0]
    assert index.contains(looked_up).tolist() == [False, True, False, True, False, True]


def test_an_id_given_twice_stands_at_its_first_place() -> None:
    index = UnitIndex([pa.array(hex_ids(9, 2)), pa.array(hex_ids(2, 9, 2))])
    assert index.positions(pa.array(hex_ids(2, 9))).tolist() == [1, 0]


def test_an_empty_index_knows_nothing() -> None:
    nothing = pa.chunked_array([], pa.string())
    for index in (UnitIndex([]), UnitIndex([nothing])):
        assert len(index) == 0
        assert index.positions(pa.array(hex_ids(1))).tolist() == [-1]
        assert index.positions(nothing).tolist() == []


def test_what_is_no_id_is_unknown() -> None:
    index = UnitIndex([pa.array(hex_ids(1, 2))])
    [known] = hex_ids(1)
    others = pa.array(["head", known, None, "", known[:-1], known + "0", "é" * 16], pa.string())
    assert index.positions(others).tolist() == [-1, 0, -1, -1, -1, -1, -1]
    assert index.positions(others.slice(1, 2)).tolist() == [0, -1]


def test_ids_become_32_bytes_each() -> None:
    assert as_fixed(pa.array(hex_ids(1))).tolist() == [hex_ids(1)[0].encode()]
    assert as_fixed(pa.array([None], pa.string())).tolist() == [b" " * 32]
