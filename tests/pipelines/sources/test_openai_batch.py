from pathlib import Path
from typing import Any

import pytest

from pipelines.sources.open_source import open_source
from pipelines.sources.source_rows import RowError
from tests.pipelines.sources.source_tables import errors, json_lines, records, written


def request(custom_id: Any = "a", **body: Any) -> dict[str, Any]:
    return {
        "custom_id": custom_id,
        "method": "POST",
        "url": "/v1/images/generations",
        "body": {"prompt": "red apple", **body},
    }


def test_is_told_from_the_first_object(tmp_path: Path) -> None:
    uri = written(tmp_path, "t.jsonl", json_lines(request("a", n=2, size="auto", model="turbo", seed=3)))
    source = open_source([uri])
    assert source.format == "openai-batch"
    (record,) = records(source).values()
    assert {name: value for name, value in record.items() if value is not None} == {
        "key": "a",
        "prompt": "red apple",
        "variants": 2,
        "model": "turbo",
        "seed": 3,
    }
    assert open_source([uri], format="jsonl").format == "jsonl"


def test_harmless_fields_are_left_out(tmp_path: Path) -> None:
    harmless = {
        "user": "u1",
        "response_format": "b64_json",
        "output_format": "webp",
        "background": "auto",
        "quality": "auto",
        "moderation": None,
        "size": "64x32",
    }
    source = open_source([written(tmp_path, "t.jsonl", json_lines(request(**harmless)))])
    (record,) = records(source).values()
    assert (record["prompt"], record["size"]) == ("red apple", "64x32")


@pytest.mark.parametrize(
    ("line", "key", "named"),
    [
        (request(quality="high"), "a", "body.quality: 'high' is not supported; accepted: auto"),
        (request(response_format="url"), "a", "body.response_format: 'url'"),
        (request(output_format="gif"), "a", "body.output_format: 'gif'"),
        (request(background="transparent"), "a", "body.background: 'transparent'"),
        (request(output_compression=50), "a", "body.output_compression: unknown field; known fields are"),
        (request(style="vivid"), "a", "body.style: unknown field"),
        (request(n="2"), "a", "body.n: '2' is not a whole number"),
        (request(n=True), "a", "body.n: True is not a whole number"),
        (request(prompt=7), "a", "column 'prompt': 7 does not fit"),
        (request(size=[64, 64]), "a", "column 'size': [64, 64] does not fit"),
        (request(None), None, "custom_id: None is not a non-empty string"),
        (request(""), None, "custom_id: '' is not a non-empty string"),
        (request(7), None, "custom_id: 7 is not a non-empty string"),
        ({**request(), "method": "GET"}, "a", "method: 'GET' is not 'POST'"),
        ({**request(), "url": "/v1/chat/completions"}, "a", "url: '/v1/chat/completions' is not"),
        ({**request(), "body": "cat"}, "a", "body: 'cat' is not an object"),
        ({**request(), "priority": 1}, "a", "priority: unknown field"),
        ({"prompt": "cat"}, None, "custom_id: None is not a non-empty string"),
    ],
)
def test_bad_request_is_an_error_with_its_key(
    tmp_path: Path, line: dict[str, Any], key: str | None, named: str
) -> None:
    source = open_source([written(tmp_path, "t.jsonl", json_lines(request("good"), line))])
    (batch,) = source.batches()
    assert batch.table["key"].to_pylist() == ["good"]
    (error,) = batch.errors
    assert error == RowError(row=1, key=key, message=error.message)
    assert error.message.startswith(f"line 2: {named}")


def test_first_request_of_several_files_decides_for_all(tmp_path: Path) -> None:
    edit = {**request("b", image="https://a/b.png"), "url": "/v1/images/edits"}
    written(tmp_path, "0.jsonl", "")
    written(tmp_path, "1.jsonl", json_lines(request("a")))
    written(tmp_path, "2.jsonl", json_lines(edit, {"prompt": "cat"}))
    source = open_source([str(tmp_path)])
    assert (source.format, source.num_rows) == ("openai-batch", 3)
    assert [(row, record["key"], record["image"]) for row, record in records(source).items()] == [
        (0, "a", None),
        (1, "b", ["https://a/b.png"]),
    ]
    assert errors(source)[2].startswith("2.jsonl line 2: custom_id: None")
