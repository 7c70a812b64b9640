"""Templates: what they can do, and that a stranger's can neither get out, nor fill the memory, nor run for ever."""

from __future__ import annotations

import pytest

from batchgen.manifest.expand import ExpandError, has_template, render_field
from batchgen.manifest.templates import TemplateError, render


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{ city }}, {{ style.name }}", "Oslo, ink"),
        ("{{ city | upper }}{{ city[0] }}", "OSLOO"),
        ("{% if year > 2000 %}new{% else %}old{% endif %}", "new"),
        ("{{ 'new' if year > 2000 else 'old' }}", "new"),
        ("{{ colours | join(', ') }} {{ colours | length }} {{ colours[1] }}", "red, blue 2 blue"),
        ("{{ city ~ '-' ~ year }}{{ '#' + city }}", "Oslo-2024#Oslo"),
        ("{{ year + 1 }} {{ year * 2 }} {{ 2 ** 8 }}", "2025 4048 256"),
        ("{{ missing | default('none') }}", "none"),
        ("{{ 'Røros by' | slug }} {{ city | replace('s', 'z') }}", "røros-by Ozlo"),
        ("{{ '7' | int + 1 }} {{ 2.567 | round(1) }}", "8 2.6"),
        ("a{# never said #}b\n", "ab\n"),
        ("{% raw %}{{ city }}{% endraw %}", "{{ city }}"),
        ("<b>{{ city }}</b> & co", "<b>Oslo</b> & co"),
    ],
)
def test_a_template_gives_text(template, text):
    variables = {"city": "Oslo", "year": 2024, "style": {"name": "ink"}, "colours": ["red", "blue"]}
    assert render(template, variables) == text


def test_text_without_template_marks_never_reaches_jinja():
    assert render_field("prompt", "{ 'a': 1 } {x} }} ", {}) == "{ 'a': 1 } {x} }} "


def test_marks_are_found_inside_lists_and_mappings():
    assert has_template({"a": ["x", {"b": "{{ y }}"}]})


def test_an_unknown_variable_is_an_error_that_suggests_a_known_one():
    with pytest.raises(TemplateError, match=r"the variable 'citty' is not defined \(did you mean 'city'"):
        render("{{ citty }}", {"city": "Oslo"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ x.__init__.__globals__ }}",
        "{{ x|attr('__class__') }}",
        "{{ cycler.__init__.__globals__.os }}",
        "{{ self }}",
        "{{ lipsum() }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}{{ os }}",
        "{% set a = 1 %}{{ a }}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ x.upper() }}",
        "{{ x.upper }}",
    ],
)
def test_a_template_cannot_leave_its_sandbox(template):
    with pytest.raises(TemplateError):
        render(template, {"x": "text"})


@pytest.mark.parametrize(
    "template",
    [
        "{{ 'x' * 10**9 }}",
        "{{ 10**9 * 'x' }}",
        "{{ [1] * 10**9 }}",
        "{{ 9**9**9 }}",
        "{{ 1e300 ** 64 }}",
        "{{ " + " * ".join(["(9**60)"] * 200) + " }}",
        "{{ '%1000000000d' % 1 }}",
        "{{ 'x'.ljust(10**9) }}",
        "{{ 'x'|center(10**9) }}",
        "{{ '{:>1000000000}'.format(1) }}",
        "{{ range(10**9)|list }}",
        "{% for a in big %}{% for b in big %}{% endfor %}{% endfor %}",
        "{{ big" + " ~ big" * 1000 + " }}",
        "{{ big" + " + big" * 1000 + " }}",
        "{{ big }}" * 1000,
        "{{ [" + "big, " * 1000 + "] | join }}",
        "{{ [" + "big, " * 1000 + "] }}",
        "{{ big | replace('x', big) }}",
        "{{ 'x'" + " | replace('x', 'xx')" * 40 + " }}",
        "{{ " + "(" * 10_000 + "1" + ")" * 10_000 + " }}",
        "{{ " + "-" * 10_000 + "1 }}",
        "{% if 1 %}" * 5_000 + "{% endif %}" * 5_000,
        "{{ 1 }}" + "x" * 100_000,
    ],
)
def test_a_template_bomb_is_refused_before_it_takes_memory(template):
    with pytest.raises(TemplateError) as caught:
        render(template, {"big": "x" * 90_000})
    assert "MemoryError" not in str(caught.value)


@pytest.mark.parametrize(
    ("template", "instead"),
    [("{{ x.upper() }}", "use a filter"), ("{% for a in x %}{{ a }}{% endfor %}", "use matrix")],
)
def test_what_a_template_cannot_do_is_said_with_what_can(template, instead):
    with pytest.raises(TemplateError, match=instead):
        render(template, {"x": "text"})


def test_a_template_that_is_not_closed_is_said_so():
    with pytest.raises(TemplateError, match=r"the template is broken: a \{\{ has no \}\} after it; for braces"):
        render("a {{ x, {{ y }}", {"x": 1, "y": 2})


@pytest.mark.parametrize(
    "template", ["{{ x", "{% if %}", "{{ }}", "{% endif %}", "{{ x | nosuch }}", "{{ 1/0 }}", "{{ y.z }}"]
)
def test_a_broken_template_is_an_error(template):
    with pytest.raises(TemplateError):
        render(template, {"x": 1, "y": {}})


def test_a_list_is_not_written_as_python_would_write_it():
    with pytest.raises(TemplateError, match="cannot be written as text"):
        render("{{ colours }}", {"colours": ["red"]})


def test_a_number_field_may_be_a_template():
    assert render_field("count", "{{ n }}", {"n": 3}) == 3


def test_an_error_names_its_field():
    with pytest.raises(ExpandError) as caught:
        render_field("system", "{{ nothing }}", {})
    assert caught.value.field == "system"


def test_an_element_that_comes_out_empty_is_left_out():
    assert render_field("references", ["a.png", "{{ more }}"], {"more": ""}) == ["a.png"]


def test_templates_inside_extra_are_filled():
    assert render_field("extra", {"a": {"{{ k }}": ["{{ v }}", 1, None]}}, {"k": "b", "v": "c"}) == {
        "a": {"b": ["c", 1, None]}
    }
