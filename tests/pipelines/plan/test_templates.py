from collections.abc import Callable
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from pipelines.plan.templates import KeyTemplate, PromptTemplate, RowFilter
from zimage_models.errors import InvalidRequest

COLUMNS = ("brand", "title", "colour", "price", "tags", "attrs", "Variant SKU", "Body (HTML)", "颜色")
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
        "text",
        [
            "{{ colour }}",
            "{{ colour|upper }}",
            "{{ colour.upper() }}",
            "{{ title ~ colour }}",
            "{{ colour == 'x' }}",
            "{{ row.colour }}",
            "{% for part in colour %}{% endfor %}",
        ],
    )
    @pytest.mark.parametrize("row", [ROW, {"title": "red apple"}], ids=["null", "absent"])
    def test_an_empty_column_is_an_error_that_says_what_to_do(self, text: str, row: dict[str, Any]) -> None:
        assert refusal(lambda: rendered(text, row)) == (
            'template: the column "colour" is empty in this row; fill it, or write '
            '{{ colour|default("something") }}'
        )

    def test_an_empty_column_that_is_no_identifier_is_written_as_an_item(self) -> None:
        row = {**ROW, "Variant SKU": None}
        advice = 'fill it, or write {{ row["Variant SKU"]|default("something") }}'
        assert refusal(lambda: rendered("{{ row['Variant SKU'] }}", row)).endswith(advice)
        assert rendered('{{ row["Variant SKU"]|default("something") }}', row) == "something"

    def test_all_empty_columns_of_the_template_are_named_at_once(self) -> None:
        row = dict.fromkeys(ROW)
        assert refusal(lambda: rendered("{{ title }} by {{ brand }}", row)) == (
            'template: the columns "title" and "brand" are empty in this row; fill them, or write '
            '{{ title|default("something") }}'
        )

    def test_another_error_says_which_columns_were_empty(self) -> None:
        assert refusal(lambda: rendered("{{ colour or price.nope }}")) == (
            "template: 'float object' has no attribute 'nope' (empty in this row: \"colour\")"
        )

    @pytest.mark.parametrize(
        "text", ["{{ title.upper }}", "{{ row.copy }}", "{% macro f() %}{% endmacro %}{{ f }}"]
    )
    def test_a_function_is_no_text(self, text: str) -> None:
        assert "a function is no text: add ()" in refusal(lambda: rendered(text))

    def test_a_column_named_row_is_that_column(self) -> None:
        template = PromptTemplate("{{ row }}", columns=["row", "title"])
        assert template.render({"row": 7, "title": "x"}) == "7"
        assert 'the column "row" is empty' in refusal(lambda: template.render({"row": None, "title": "x"}))

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("{{ titel }}", 'no column "titel" (did you mean title?); columns are "brand", "title", '),
            ("{{ TITLE }}", "(did you mean title?)"),
            ("{{ row['Variant'] }}", 'no column "Variant" (did you mean row["Variant SKU"]?)'),
            ("{{ row.Title }}", "(did you mean title?)"),
            ("{{ title|default(nope) }}", 'no column "nope"; columns are'),
            ("{% for i in range(9) %}{% endfor %}", 'no column "range"'),
            (
                "{{ Variant SKU }}",
                'got \'SKU\' (the column "Variant SKU" is written {{ row["Variant SKU"] }})',
            ),
            ("{% if Body (HTML) %}x{% endif %}", 'is written {{ row["Body (HTML)"] }})'),
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
        message = refusal(lambda: PromptTemplate(text, columns=COLUMNS))
        assert named in message
        assert "\n" not in message

    def test_the_hint_is_not_given_for_a_name_outside_the_braces_or_in_quotes(self) -> None:
        for text in ("Variant SKU: {{ Variant", "{{ row['Variant SKU'] }} {{ Variant"):
            assert "is written" not in refusal(lambda text=text: PromptTemplate(text, columns=COLUMNS))

    def test_of_many_columns_thirty_are_listed(self) -> None:
        message = refusal(lambda: PromptTemplate("{{ x }}", columns=[f"column{n}" for n in range(33)]))
        assert message.endswith('"column29" and 3 more')

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
            ("pirce > 3", 'no column "pirce" (did you mean price?)'),
            ("row['x'] > 3", 'no column "x"'),
            ("Variant SKU == 'x'", '(the column "Variant SKU" is written row["Variant SKU"])'),
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

    @pytest.mark.parametrize("expression", ["colour > 3", "colour.startswith('r')", "colour ~ 1 > price"])
    def test_an_empty_column_is_named_with_what_to_do(self, expression: str) -> None:
        message = refusal(lambda: RowFilter(expression, columns=COLUMNS).keep({**ROW, "colour": None}))
        assert message.startswith(
            'where: the column "colour" is empty in this row; check first: colour and ...'
        )

    def test_a_column_may_have_any_name(self) -> None:
        row = {"result": "x", "row": None, "self": "y"}
        assert RowFilter("result == 'x' and row is none and row is not mapping", columns=row).keep(row)


class TestKeyTemplate:
    @pytest.mark.parametrize(
        ("text", "key"),
        [
            ("{{ brand }}-{{ title }}", "Acme-red apple"),
            ("{{ row['Variant SKU'] }}/{{ id }}", "A-7/42"),
            ("{{ price|string }}-{{ uuid }}", "1.50-6af613b6-569c-5c22-9c37-2ed93f31d3af"),
            ("{{ colour|default('plain') }}", "plain"),
        ],
    )
    def test_renders_columns_as_keys_are_written(self, text: str, key: str) -> None:
        uuid = UUID("6af613b6-569c-5c22-9c37-2ed93f31d3af")
        row = {**ROW, "id": 42.0, "price": Decimal("1.50"), "uuid": uuid}
        assert KeyTemplate(text, columns=row).render(row) == key

    @pytest.mark.parametrize(
        ("text", "named"),
        [
            ("{{ brand }}-{{ colour }}", 'key: the column "colour" is empty in this row; fill it'),
            (
                "{{ brand }}-{{ price }}",
                "key: 3.5 is not a whole number; store it as text, or make it text with |string",
            ),
            ("{{ tags }}", "key: ['a', 'b'] is a list; a key is"),
            ("{{ title * 2 }}", "key: '*' takes two numbers"),
            ("{% if colour %}x{% endif %}", "key: '' is empty"),
            ("{{ title }}\n{{ brand }}", "key: 'red apple\\nAcme' contains '\\n'"),
        ],
    )
    def test_what_makes_no_key_is_the_rows_error(self, text: str, named: str) -> None:
        assert refusal(lambda: KeyTemplate(text, columns=COLUMNS).render(ROW)).startswith(named)

    def test_an_unknown_column_is_refused_at_once(self) -> None:
        message = refusal(lambda: KeyTemplate("{{ brnd }}", columns=COLUMNS))
        assert message.startswith('key: no column "brnd" (did you mean brand?)')


@pytest.mark.parametrize("kind", [PromptTemplate, KeyTemplate])
def test_a_column_in_single_braces_is_refused_instead_of_read_as_text(kind: type[PromptTemplate]) -> None:
    assert refusal(lambda: kind("a {brand}", columns=COLUMNS)).endswith(
        "{brand} is plain text; the column is written {{ brand }}"
    )
    assert refusal(lambda: kind("{{ brand }} { Variant SKU }", columns=COLUMNS)).endswith(
        '{{ row["Variant SKU"] }}'
    )
    assert kind('{cat} {{brand}} {{ "{title}" }} {}', columns=COLUMNS).render(ROW) == "{cat} Acme {title} {}"


class TestColumnsUsed:
    @pytest.mark.parametrize(
        ("text", "used"),
        [
            ("a cat", set()),
            ("{{ title }} {{ row['Variant SKU'] }} {{ row.brand }}", {"title", "Variant SKU", "brand"}),
            (
                "{% for tag in tags %}{{ tag ~ loop.index }}{% else %}{{ title }}{% endfor %}",
                {"tags", "title"},
            ),
            ("{% set x = title %}{{ x }}{% with y = brand %}{{ y }}{% endwith %}", {"title", "brand"}),
            ("{% macro f(title) %}{{ title ~ brand }}{% endmacro %}{{ f(price) }}", {"brand", "price"}),
            ("{% block a %}{{ title }}{% endblock %}{{ self.a() }}", {"title"}),
            ("{% filter upper %}{{ title }}{% endfilter %}", {"title"}),
            ("{% set x %}{{ title }}{% endset %}{{ x }}", {"title"}),
            ("{{ tags|map('upper')|join(colour or brand) }}", {"tags", "colour", "brand"}),
            ("{% if tags is defined and colour %}{{ title }}{% endif %}", {"tags", "colour", "title"}),
            ("{{ row|tojson }}", None),
            ("{% for name in row %}{{ row[name] }}{% endfor %}", None),
            ("{{ row[title]|default('') }}", None),
            ("{{ row.get('title') }}{{ row['brand'] }}", None),
            ("{{ row.values()|join }}", None),
            ("{% set all = row %}{{ all['title'] }}", None),
            ("{% for row in tags %}{{ row }}{% endfor %}{{ row['title'] }}", None),
            ("{{ [row]|map(attribute='title')|join }}", None),
        ],
    )
    def test_a_template_renders_the_same_from_these_columns_alone(
        self, text: str, used: set[str] | None
    ) -> None:
        for template in (PromptTemplate(text, columns=COLUMNS), KeyTemplate(text, columns=COLUMNS)):
            assert template.columns_used == used
        alone = {name: ROW[name] for name in (ROW if used is None else used)}
        assert rendered(text, alone) == rendered(text)

    def test_a_filter_knows_its_columns_too(self) -> None:
        expression = "brand == 'x' or row['Variant SKU'] and (price if colour else title)"
        used = {"brand", "Variant SKU", "price", "colour", "title"}
        assert RowFilter(expression, columns=COLUMNS).columns_used == used
        assert RowFilter("'x' in row.values()", columns=COLUMNS).columns_used is None

    def test_columns_named_like_methods_of_the_row_are_columns(self) -> None:
        row = {"items": "7", "title": "x"}
        template = PromptTemplate("{{ row['items'] }}{{ items }}", columns=row)
        assert (template.columns_used, template.render(row)) == ({"items"}, "77")
        assert PromptTemplate("{{ row['items'] }}", columns=["title"]).columns_used is None
        assert PromptTemplate("{{ row.items }}", columns=row).columns_used is None
