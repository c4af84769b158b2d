"""Fields that clients of other servers send, by the bodies alone."""

import json
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from deployments.http.openai_errors import validation_error
from deployments.http.openai_types import EditBody, GenerateBody
from zimage_models.errors import InvalidRequest

NEUTRAL: list[tuple[str, Any]] = [
    ("user", "u-1"),
    ("safety_identifier", "hash"),
    ("metadata", {"order": "7"}),
    *[("quality", word) for word in ("auto", "low", "medium", "high", "xhigh", "max", "standard", "hd")],
    *[("style", word) for word in ("vivid", "natural")],
    *[("background", word) for word in ("auto", "opaque")],
    *[("moderation", word) for word in ("auto", "low")],
    *[("input_fidelity", word) for word in ("low", "high")],
    ("complexity", "high"),
    ("bot_task", "think"),
    ("generator_device", "cpu"),
    ("return_stage_metrics", True),
    ("vae_use_tiling", True),
    ("enable_teacache", False),
]
OF_TODAY = [
    ("user", "u-1"),
    ("quality", "auto"),
    ("background", "auto"),
    ("background", "opaque"),
    ("moderation", "auto"),
    ("moderation", "low"),
]


def body(**fields: Any) -> GenerateBody:
    return GenerateBody.model_validate({"prompt": "a red apple", **fields})


@pytest.mark.parametrize(("name", "value"), NEUTRAL)
def test_what_changes_nothing_is_told(name: str, value: Any) -> None:
    given = body(**{name: value})
    assert given.ignored == [name]
    assert given.request_values() == body().request_values()
    form = EditBody.model_validate(
        {"prompt": "a red apple", name: json.dumps(value) if isinstance(value, dict) else str(value)}
    )
    assert form.ignored == [name]


DEEP: dict[str, Any] = {}
for _ in range(300):
    DEEP = {"a": DEEP}


@pytest.mark.parametrize(
    "metadata",
    [
        {"a": "\ud800"},
        {"\ud800": "a"},
        DEEP,
        {"a": 1},
        {"a": "x" * 513},
        {"a" * 65: "x"},
        dict.fromkeys(map(str, range(17)), "x"),
        ["a"],
        "a",
        "[" * 100_000,
        '{"a": "\\ud800"}',
    ],
    ids=range(11),
)
def test_metadata_are_a_few_short_texts(metadata: Any) -> None:
    for kind in (GenerateBody, EditBody):
        with pytest.raises(ValidationError) as raised:
            kind.model_validate({"prompt": "a red apple", "metadata": metadata})
        assert raised.value.errors()[0]["loc"][0] == "metadata"
    largest = {str(number).zfill(64): "\N{LARGE RED CIRCLE}" * 512 for number in range(16)}
    for given in (largest, json.dumps(largest)):
        assert EditBody.model_validate({"prompt": "x", "metadata": given}).metadata == largest


def test_null_is_not_told() -> None:
    assert body(**dict.fromkeys((name for name, _ in NEUTRAL), None)).ignored == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"background": "transparent"}, "background: Input should be 'auto' or 'opaque'"),
        ({"output_format": "gif"}, "output_format: Input should be"),
        ({"quality": "ultra"}, "quality: Input should be"),
        ({"generator_device": "cuda"}, "generator_device: Input should be 'cpu'"),
        ({"enable_teacache": True}, "enable_teacache: is not available here"),
        ({"frame_count": 4}, "frame_count: unknown field; only still images are made"),
        ({"true_cfg_scale": 4.0}, "true_cfg_scale: unknown field; use guidance_scale"),
        ({"flow_shift": 3.0}, "flow_shift: unknown field; the checkpoint's own scheduler sets it"),
        ({"colour": "red"}, "colour: unknown field"),
        ({"image": "data:"}, 'image: unknown field; edits in JSON have images: [{"image_url": "data:..."}]'),
    ],
)
def test_what_would_change_the_picture_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        body(**fields)
    problems = [{**problem, "loc": ("body", *problem["loc"])} for problem in raised.value.errors()]
    answer = validation_error(RequestValidationError(problems))
    assert answer.detail.message.startswith(message)
    assert answer.detail.param == next(iter(fields))


@pytest.mark.parametrize("name", ["num_images", "num_images_per_prompt", "num_outputs_per_prompt"])
def test_number_of_images_has_several_names(name: str) -> None:
    assert body(**{name: 3}).n == 3
    assert body(**{name: 3, "n": 3}).n == 3
    with pytest.raises(InvalidRequest, match=f"{name}: 3, but n is 1"):
        body(**{name: 3, "n": 1})


def test_two_numbers_of_images_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="num_images: 3, but num_images_per_prompt is 2"):
        body(num_images=3, num_images_per_prompt=2)


def test_a_seed_of_minus_one_is_random() -> None:
    assert body(seed=-1).request_values()["seed"] is None
    assert EditBody.model_validate({"prompt": "x", "seed": "-1"}).request_values()["seed"] is None
    assert body(seed=0).request_values()["seed"] == 0


@pytest.mark.parametrize(("name", "value"), OF_TODAY)
def test_strictly_what_is_done_anyway_is_accepted(name: str, value: Any) -> None:
    body(**{name: value}).check_strictly()


@pytest.mark.parametrize(
    ("name", "value"),
    [*(field for field in NEUTRAL if field not in OF_TODAY), ("num_images", 1), ("seed", -1)],
)
def test_strictly_what_would_be_ignored_is_refused(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"^{name}: ") as raised:
        body(**{name: value}).check_strictly()
    assert raised.value.field == name
