from collections.abc import Callable
from datetime import date
from typing import Any

import pytest

from pipelines.plan.templates import DEFAULT_NAME, NameTemplate, PromptTemplate, RowFilter, check_key
from zimage_models.errors import InvalidRequest

COLUMNS = ("brand", "title", "colour", "price", "tags", "attrs", "Variant SKU", "颜色")
ROW = {
    "brand": "Acme",
    "title": "red apple",
    "colour": None,
    "price": 3.5,
    "tags": ["a", "b"],
    "attrs": {"size": "L"},
    "Variant SKU": "A-7",
    "颜色": "红",
}


def rendered(text: str, row: dict[str, Any] = ROW) -> str:
    return PromptTemplate(text, columns=COLUMNS).render(row)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        call()
    return str(caught.value)


class TestPromptTemplate:
    @pytest.mark.parametrize(
        ("text", "prompt"),
        [
            ("Studio photo of {{brand}} {{title}}", "Studio photo of Acme red apple"),
            ("{{ title|upper }}: {{ tags|join('+') }}, {{ attrs.size }}", "RED APPLE: a+b, L"),
            ("{{ row['Variant SKU'] }} {{ 颜色 }}苹果", "A-7 红苹果"),
            ("{% if colour %}{{ colour }} {% endif %}{{ title }}", "red apple"),
            ("{{ colour|default('plain') }} {{ colour or 'plain' }}", "plain plain"),
            ("{{ row['colour']|default('plain') }}", "plain"),
            ("{% for tag in tags %}{{ loop.index }}{{ tag }}{% endfor %}", "1a2b"),
            ("{{ price * 2 }} <b> & 'x'", "7.0 <b> & 'x'"),
        ],
    )
    def test_renders_columns(self, text: str, prompt: str) -> None:
        assert rendered(text) == prompt

    def test_a_value_is_never_read_as_a_template(self) -> None:
        assert rendered("{{ title }}", {**ROW, "title": "{{ brand }} {% raw %}"}) == "{{ brand }} {% raw %}"

    @pytest.mark.parametrize(
        "text", ["{{ colour }}", "{{ colour|upper }}", "{{ title ~ colour }}", "{{ colour == 'x' }}"]
    )
    def test_a_null_column_is_an_error_that_names_it(self, text: str) -> None:
        assert "null in this row: colour" in refusal(lambda: rendered(text))

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("{{ titel }}", "no column 'titel'; columns are 'brand', 'title'"),
            ("{{ row['Variant'] }}", "no column 'Variant'"),
            ("{{ title|default(nope) }}", "no column 'nope'"),
            ("{% for i in range(9) %}{% endfor %}", "no column 'range'"),
            ("{{ title", "unexpected end of template"),
            ("{% for x in tags %}", "Unexpected end of template"),
            ("{{ title|nope }}", "No filter named 'nope'"),
            ("{{ tags|random }}", "No filter named 'random'"),
            ("{% include 'other' %}", "other templates can't be used"),
            ("{% import title as x %}", "other templates can't be used"),
            ("{{ " + "(" * 5000 + " }}", "recursion"),
        ],
    )
    def test_a_bad_template_is_refused_at_once(self, text: str, named: str) -> None:
        assert named in refusal(lambda: PromptTemplate(text, columns=COLUMNS))

    def test_without_known_columns_a_missing_one_is_the_rows_error(self) -> None:
        template = PromptTemplate("{{ nope }}")
        assert template.render({"nope": "cat"}) == "cat"
        assert "'nope' is undefined" in refusal(lambda: template.render(ROW))

    @pytest.mark.parametrize(
        "text",
        [
            "{{ 'x' * 1000000000 }}",
            "{{ 2 ** 1000000000 }}",
            "{{ tags * 1000000000 }}",
            "{{ title.__class__.__mro__ }}",
            "{{ tags.append('x') }}",
            "{{ price / 0 }}",
            "{{ title + 1 }}",
            "{{ price.nope }}",
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        ],
    )
    def test_what_a_row_cannot_do_is_its_error(self, text: str) -> None:
        assert refusal(lambda: rendered(text)).startswith("template: ")

    def test_a_prompt_ends_at_100_kilobytes(self) -> None:
        row = {**ROW, "title": "x" * 1000}
        loops = "{% for a in title %}{% for b in title %}{{ title }}{% endfor %}{% endfor %}"
        assert "longer than 100000 bytes" in refusal(lambda: rendered(loops, row))
        assert len(rendered("{{ title }}", {**ROW, "title": "x" * 100_000})) == 100_000
        assert "longer" in refusal(lambda: rendered("{{ title }}", {**ROW, "title": "x" * 100_001}))


class TestRowFilter:
    @pytest.mark.parametrize(
        ("expression", "keep"),
        [
            ("brand == 'Acme' and price > 3", True),
            ("price|float > 4", False),
            ("colour is none", True),
            ("colour == 'red'", False),
            ("row['Variant SKU'].startswith('A-')", True),
            ("'}}' in title", False),
            ("'b' in tags", True),
            ("title", True),
            ("colour", False),
        ],
    )
    def test_keeps_rows_that_meet_the_condition(self, expression: str, keep: bool) -> None:
        assert RowFilter(expression, columns=COLUMNS).keep(ROW) is keep

    @pytest.mark.parametrize(
        ("expression", "named"),
        [
            ("pirce > 3", "no column 'pirce'"),
            ("row['x'] > 3", "no column 'x'"),
            ("price >", "unexpected 'end of template'"),
            ("price }} {{ title", "chunk after expression"),
            ("", "unexpected 'end of template'"),
        ],
    )
    def test_a_bad_expression_is_refused_at_once(self, expression: str, named: str) -> None:
        assert named in refusal(lambda: RowFilter(expression, columns=COLUMNS))

    @pytest.mark.parametrize(
        "expression", ["title > 3", "colour > 3", "attrs.nope", "title * 10", "2 ** 3 > 7"]
    )
    def test_an_unsuitable_value_is_the_rows_error(self, expression: str) -> None:
        assert refusal(lambda: RowFilter(expression, columns=COLUMNS).keep(ROW)).startswith("where: ")


class TestNameTemplate:
    @pytest.mark.parametrize(
        ("text", "image_format", "name"),
        [
            (DEFAULT_NAME, "png", "shoes/7_03.png"),
            (DEFAULT_NAME, "jpeg", "shoes/7_03.jpg"),
            ("{Variant SKU}/{variant:02d}.webp", "webp", "A-7/03.webp"),
            ("{颜色}{{x}}.JPEG", "jpeg", "红{x}.JPEG"),
            ("{day:%Y}/{price:.1f}.avif", "avif", "2026/3.5.avif"),
        ],
    )
    def test_renders_columns(self, text: str, image_format: str, name: str) -> None:
        row = {**ROW, "key": "shoes/7", "variant": 3, "day": date(2026, 1, 2)}
        assert NameTemplate(text, columns=row, image_format=image_format).render(row) == name

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("{sku}.png", "no column 'sku'; columns are"),
            ("{}.png", "no column ''"),
            ("{title.real}.png", "no column 'title.real'"),
            ("{tags[0]}.png", "no column 'tags[0]'"),
            ("{title!r}.png", "plain format"),
            ("{title:{price}}.png", "plain format"),
            ("{title:>1000}.png", "wider than 999"),
            ("{title.png", "expected '}' before end of string"),
            ("{title}", "does not end in .png"),
            ("{title}.jpg", "does not end in .png"),
            ("{title}.{ext:>5}", "no column 'ext'"),
            ("../{title}.png", "begins or ends with a dot"),
            ("/{title}.png", "empty part"),
            ("{brand}/.png", "begins or ends with a dot"),
            ("{title}:{brand}.png", "contains ':'"),
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
            ({"title": None}, "column 'title' is empty"),
            ({"title": ""}, "column 'title' is empty"),
            ({}, "column 'title' is empty"),
            ({"title": "7", "price": "x"}, "column 'price': 'x' does not fit '03d'"),
            ({"title": ["a"], "price": [1]}, "column 'price': '[1]' does not fit '03d'"),
            ({"title": "../../etc/passwd", "price": 1}, "begins or ends with a dot"),
            ({"title": "x" * 200, "price": 1}, "a part of 208 bytes; the limit is 200"),
            ({"title": "/".join(["x" * 99] * 9), "price": 1}, "is 907 bytes long; the limit is 900"),
        ],
    )
    def test_an_unsuitable_value_is_the_rows_error(self, row: dict[str, Any], named: str) -> None:
        template = NameTemplate("{title}_{price:03d}.png", columns=COLUMNS, image_format="png")
        assert named in refusal(lambda: template.render(row))


class TestCheckKey:
    @pytest.mark.parametrize(
        "key", ["7", "shoes/123", "红苹果", "a b", "a..b", "x" * 200, "/".join(["é" * 99] * 2)]
    )
    def test_accepts_what_can_be_a_path(self, key: str) -> None:
        assert check_key(key) == key

    @pytest.mark.parametrize(
        ("key", "named"),
        [
            ("", "is empty"),
            ("/etc/passwd", "empty part"),
            ("a//b", "empty part"),
            ("a/", "empty part"),
            ("../../etc/passwd", "'..', which begins or ends with a dot"),
            ("a/./b", "dot"),
            ("a/../b", "dot"),
            (".hidden", "dot"),
            ("ends.", "dot"),
            (" a", "space"),
            ("a /b", "space"),
            ("a\u3000", "space"),
            ("a\\b", r"contains '\\'"),
            ("a\x00b", "contains"),
            ("a\nb", "contains"),
            ("a\x7fb", "contains"),
            ("a\u2028b", "contains"),
            ("a\ud800", "contains"),
            ("x" * 201, "a part of 201 bytes; the limit is 200"),
            ("é" * 101, "a part of 202 bytes"),
            ("/".join(["x" * 134] * 3), "is 404 bytes long; the limit is 400"),
            *((f"a{char}b", f"contains '{char}'") for char in '<>:"|?*'),
        ],
    )
    def test_refuses_what_cannot(self, key: str, named: str) -> None:
        message = refusal(lambda: check_key(key))
        assert named in message
        assert message.startswith("key: ")
