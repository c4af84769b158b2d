import datetime
from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pipelines.plan.keys import key_text
from zimage_models.errors import InvalidRequest


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call()
    assert caught.value.field == "key"
    return str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "7",
        "007",
        "42.0",
        "shoes/123",
        "gid://shop/Product/1",
        '3/4" PIPE',
        "AB*12",
        "X:1",
        "..",
        "../../etc/passwd",
        "/",
        " lead",
        "trail ",
        "CON",
        "a.",
        "a\\b",
        "100%",
        "红苹果",
        "👟",
        "a\u2028b",
        "x" * 400,
        "é" * 200,
    ],
)
def test_any_short_text_is_a_key_as_it_is(text: str) -> None:
    assert key_text(text) == text


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (0, "0"),
        (-7, "-7"),
        (2**63, "9223372036854775808"),
        (42.0, "42"),
        (-0.0, "0"),
        (float(2**53), "9007199254740992"),
        (Decimal("42.00"), "42"),
        (Decimal("1E+3"), "1000"),
        (Decimal("1.50"), "1.50"),
        (Decimal("1E-7"), "0.0000001"),
        (UUID("6AF613B6-569C-5C22-9C37-2ED93F31D3AF"), "6af613b6-569c-5c22-9c37-2ed93f31d3af"),
    ],
)
def test_numbers_and_uuids_become_text(value: Any, key: str) -> None:
    assert key_text(value) == key


@pytest.mark.parametrize(
    ("value", "named"),
    [
        (None, "id: missing"),
        ("", "id: '' is empty"),
        (" \u3000", "id: ' \\u3000' is empty"),
        ("a\nb", r"id: 'a\nb' contains '\n'"),
        ("a\x00b", r"contains '\x00'"),
        ("a\tb", r"contains '\t'"),
        ("a\x7fb", r"contains '\x7f'"),
        ("a\x85b", r"contains '\x85'"),
        ("a\ud800", r"contains '\ud800'"),
        ("x" * 401, "is 401 bytes long; the limit is 400"),
        ("é" * 201, "is 402 bytes long; the limit is 400"),
        (4.5, "id: 4.5 is not a whole number"),
        (float("nan"), "id: nan is not a whole number"),
        (float("inf"), "id: inf is not a whole number"),
        (Decimal("NaN"), "is not a whole number"),
        (2.0**53 + 2, "too large to be exact"),
        (True, "id: True is true or false; a key is text, a whole number, a decimal number or a UUID"),
        (b"ab", "id: b'ab' is binary data; a key is"),
        (["a"], "id: ['a'] is a list; a key is"),
        ({"a": 1}, "is a structure of several values; a key is"),
        (datetime.datetime(2026, 1, 2), "is a point in time; a key is"),
        (datetime.date(2026, 1, 2), "is a date; a key is"),
        (datetime.time(1), "is a time of day; a key is"),
        (datetime.timedelta(1), "is a duration; a key is"),
    ],
)
def test_what_is_no_key_is_refused_in_words(value: Any, named: str) -> None:
    message = refusal(lambda: key_text(value, "id"))
    assert message.startswith("id: ")
    assert named in message
    assert "\n" not in message
