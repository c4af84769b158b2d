import re
import unicodedata
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipelines.plan.file_names import DEFAULT_NAME, NameTemplate, escape_path, unescape_path
from pipelines.plan.keys import MAX_KEY_BYTES, check_key
from pipelines.storage import StorageOptions, checked_path
from pipelines.storage_address import open_storage
from zimage_models.errors import InvalidRequest

COLUMNS = ("brand", "title", "price", "tags")
DEVICE = re.compile(r"(con|prn|aux|nul|com[0-9¹²³]|lpt[0-9¹²³]|conin\$|conout\$) *(\..*)?", re.IGNORECASE)
# Characters that mean something to a disk, an address or the escape itself, beside all others.
KEYS = st.text(
    st.sampled_from("%/~. :*2Fa中CONLPT1") | st.characters(exclude_categories=["Cc", "Cs"]),
    min_size=1,
    max_size=MAX_KEY_BYTES,
).filter(lambda text: not text.isspace() and len(text.encode()) <= MAX_KEY_BYTES)
HARD_KEYS = [
    "gid://shop/Product/1",
    '3/4" PIPE',
    "AB*12",
    "X:1",
    "..",
    " lead",
    "trail ",
    "CON",
    "a/nul.txt",
    "com¹ .x",
    "a.",
    ".hidden/.png",
    "//",
    "a//b/",
    "50%",
    "50%25",
    "50%/~b",
    "%2F",
    "a\\b",
    ":" * 130,
    "红" * 133,
    "." * 400,
    ":" * 400,
    " ." * 200,
]


def is_safe(path: str) -> bool:
    """Return whether a path can be a file on every disk, and a key in S3."""
    return all(
        part
        and part.strip() == part
        and not part.startswith(".")
        and not part.endswith(".")
        and len(part.encode()) <= 200
        and not DEVICE.fullmatch(part)
        and not set('<>:"|?*\\').intersection(part)
        and not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in part)
        for part in path.split("/")
    )


def name_of(key: str, template: str = DEFAULT_NAME) -> str | None:
    """Return the name of a key's first image, or None if it would be too long."""
    row = {"key": key, "variant": 0}
    named = NameTemplate(template, columns=row, image_format="png")
    if len(escape_path(key).encode()) <= 880:
        return checked_path(named.render(row))
    try:
        return named.render(row)
    except InvalidRequest:
        return None


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call()
    return str(caught.value)


class TestEscapePath:
    @given(KEYS)
    def test_any_key_becomes_a_safe_path_and_back(self, key: str) -> None:
        path = escape_path(check_key(key))
        assert is_safe(path)
        assert unescape_path(path) == key
        if is_safe(key) and "%" not in key:
            assert path == key

    @given(st.sets(KEYS | st.sampled_from(HARD_KEYS), max_size=20))
    @example(set(HARD_KEYS))
    def test_different_keys_get_different_file_names(self, keys: set[str]) -> None:
        names = [name for name in map(name_of, keys) if name]
        assert len(set(names)) == len(names)
        for name in names:
            assert is_safe(name)
            assert unescape_path(name).removesuffix("_00.png") in keys

    @given(st.text(min_size=1))
    @example("\ud83d\udc5f")
    def test_text_that_is_no_key_can_be_part_of_a_name(self, text: str) -> None:
        path = escape_path(text)
        assert is_safe(path)
        assert unescape_path(path) == text

    @pytest.mark.parametrize("key", HARD_KEYS)
    def test_what_disks_refuse_is_escaped(self, key: str) -> None:
        path = escape_path(key)
        assert is_safe(path)
        assert unescape_path(path) == key

    @pytest.mark.parametrize(
        ("text", "path"),
        [
            ("shoes/123", "shoes/123"),
            ("100% cotton", "100% cotton"),
            ("a..b c/红苹果/{x}~_-+=,;!@#$&'()[]", "a..b c/红苹果/{x}~_-+=,;!@#$&'()[]"),
            ("gid://shop/Product/1", "gid%3A%2F/shop/Product/1"),
            ('3/4" PIPE', "3/4%22 PIPE"),
            ("../../etc", "%2E%2E/%2E%2E/etc"),
            ("/", "%2F"),
            ("Con/aux.txt/contour", "%43on/%61ux.txt/contour"),
            ("20%25/%/", "20%2525/%25%2F"),
            ("\u3000a", "%E3%80%80a"),
            ("x" * 200, "x" * 200),
            ("ab" + "x" * 199 + "/y", "abx%/~" + "x" * 198 + "/y"),
        ],
    )
    def test_the_form_that_published_data_sets_have(self, text: str, path: str) -> None:
        assert escape_path(text) == path

    def test_a_break_is_never_inside_a_character(self) -> None:
        for part in escape_path("é\u2028" * 60).split("/"):
            assert re.fullmatch(r"~?(é|%E2%80%A8)*%?", part)
        for part in escape_path("\u2028" * 60 + "ab").split("/"):
            assert re.fullmatch(r"~?(%E2%80%A8)*(ab)?%?", part)


class TestNameTemplate:
    @pytest.mark.parametrize(
        ("text", "image_format", "name"),
        [
            (DEFAULT_NAME, "png", "shoes/7_03.png"),
            (DEFAULT_NAME, "jpeg", "shoes/7_03.jpg"),
            ("{Variant SKU}/{variant:02d}.webp", "webp", "A-7/03.webp"),
            ("{颜色}{{x}}.JPEG", "jpeg", "红{x}.JPEG"),
            ("{day:%Y}/{price:.1f}.avif", "avif", "2026/3.5.avif"),
            ("100% {title}.png", "png", "100% red apple.png"),
        ],
    )
    def test_renders_columns(self, text: str, image_format: str, name: str) -> None:
        row = {"key": "shoes/7", "variant": 3, "day": date(2026, 1, 2), "price": 3.5}
        row |= {"Variant SKU": "A-7", "颜色": "红", "title": "red apple"}
        template = NameTemplate(text, columns=row, image_format=image_format)
        assert template.render(row) == name
        assert template.columns_used <= row.keys()

    def test_knows_its_columns(self) -> None:
        template = NameTemplate("{brand}/{title:>9}-{brand}.{ext}", columns=COLUMNS, image_format="png")
        assert template.columns_used == {"brand", "title"}

    @pytest.mark.parametrize(
        ("title", "name"),
        [
            ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd.png"),
            ("/etc/", "%2Fetc%2F.png"),
            ("3/4: a?", "3/4%3A a%3F.png"),
            ("ends.", "ends..png"),
            ("con", "%63on.png"),
            (".", "%2E.png"),
            ("x" * 200, "xxxxxx%/~" + "x" * 194 + ".png"),
        ],
    )
    def test_values_are_escaped_and_the_suffix_is_not(self, title: str, name: str) -> None:
        template = NameTemplate("{title}.png", columns=COLUMNS, image_format="png")
        assert template.render({"title": title}) == name
        assert is_safe(name)

    @given(KEYS)
    def test_the_suffix_stays_whole(self, key: str) -> None:
        name = name_of(key, "{key}.png")
        assert name is None or (name.endswith(".png") and is_safe(name))

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("{sku}.png", 'no column "sku"; columns are "ext", "brand", '),
            ("{titel}.png", 'no column "titel" (did you mean {title}?)'),
            ("{}.png", 'no column ""'),
            ("{title.real}.png", 'no column "title.real"'),
            ("{tags[0]}.png", 'no column "tags[0]"'),
            ("{title!r}.png", "plain format"),
            ("{title:{price}}.png", "plain format"),
            ("{title:>1000}.png", "wider than 999"),
            ("{title.png", "expected '}' before end of string"),
            ("{title}", "does not end in .png"),
            ("{title}.jpg", "does not end in .png"),
            ("{title}.{ext:>5}", 'no column "ext"'),
            ("../{title}.png", "begins or ends with a dot"),
            ("/{title}.png", "empty part"),
            ("{brand}/.png", "empty part"),
            ("{brand} /{title}.png", "begins or ends with a space"),
            ("{title}:{brand}.png", "contains ':'"),
            ("{title}%20{brand}.png", "contains '%', which reads as an escape"),
            ("con/{title}.png", "Windows device"),
            ("{brand}/" + "x" * 201 + "/{title}.png", "part of more than 200 bytes"),
        ],
    )
    def test_a_bad_template_is_refused_at_once(self, text: str, named: str) -> None:
        assert named in refusal(lambda: NameTemplate(text, columns=COLUMNS, image_format="png"))

    def test_a_jpeg_may_be_called_jpg_or_jpeg(self) -> None:
        message = refusal(lambda: NameTemplate("{title}.png", columns=COLUMNS, image_format="jpeg"))
        assert "does not end in .jpg or .jpeg" in message

    @pytest.mark.parametrize(
        ("row", "named"),
        [
            ({"title": None}, 'the column "title" is empty'),
            ({"title": ""}, 'the column "title" is empty'),
            ({}, 'the column "title" is empty'),
            ({"title": "7", "price": "x"}, "column 'price': 'x' does not fit '03d'"),
            ({"title": ["a"], "price": [1]}, "column 'price': '[1]' does not fit '03d'"),
            ({"title": "/".join(["x" * 99] * 9), "price": 1}, "is 907 bytes long; the limit is 900"),
            ({"title": ":" * 400, "price": 1}, "(a character that not every disk allows takes 3)"),
        ],
    )
    def test_an_unsuitable_value_is_the_rows_error(self, row: dict[str, Any], named: str) -> None:
        template = NameTemplate("{title}_{price:03d}.png", columns=COLUMNS, image_format="png")
        assert named in refusal(lambda: template.render(row))


@pytest.mark.parametrize("place", ["disk", "s3"])
def test_names_can_be_written_read_and_listed(
    place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if place == "disk":
        storage = open_storage(str(tmp_path))
    else:
        endpoint = StorageOptions(s3_endpoint_url=request.getfixturevalue("s3").endpoint_url)
        storage = open_storage(request.getfixturevalue("bucket"), endpoint)
    paths = sorted(f"images/{name}" for name in map(name_of, HARD_KEYS) if name)
    assert len(paths) == len(HARD_KEYS) - 1  # 400 bytes that become 1,200 are too long
    for path in paths:
        storage.write(path, path.encode())
    assert [file.path for file in storage.list("images")] == paths
    assert [storage.read(path).decode() for path in paths] == paths
