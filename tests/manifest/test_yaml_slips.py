"""The commonest slips of YAML: one message each, with the place, what it is and what to write instead."""

from __future__ import annotations

import pytest

QUOTES = "must be in quotes, or be written as a block"
SLIPS = {
    "items:\n\t- prompt: p\n": (2, 1, "a tab in the indentation"),
    "items:\n  - id: a\n\tprompt: p\n": (3, 1, "a tab in the indentation"),
    "items:\n  - prompt: A mug: red\n": (2, 18, "`: ` in a text that is not in quotes: put the text in quotes, or write"),
    "items:\n  - {prompt: A mug: red}\n": (2, 19, "`: ` in a text that is not in quotes"),
    **{f"items:\n  - prompt: {c}mug on oak\n": (2, 13, f"begins with {c} {QUOTES}") for c in "@%*`"},
    "items:\n  - prompt: &mug on oak\n": (2, 13, f"nothing uses the anchor &mug; a text that begins with & {QUOTES}"),
    "items:\n  - prompt: & mug\n": (2, 13, f"begins with & {QUOTES}"),
    "items:\n  - prompt: !wow a mug\n": (2, 13, f"begins with ! {QUOTES}"),
    "items:\n  - prompt: ! a mug\n": (2, 13, f"begins with ! {QUOTES}"),
    "items:\n  - prompt: | a mug\n": (2, 13, "behind | the text begins on the next line"),
    "items:\n  - prompt: > a mug\n": (2, 13, "behind > the text begins on the next line"),
    "items:\n  - prompt: [vivid] mug\n": (2, 13, f"begins with [ {QUOTES}"),
    "items:\n  - prompt: {vivid} mug\n": (2, 13, f"begins with {{ {QUOTES}"),
    "items:\n  - prompt: - a mug\n": (2, 13, f"begins with - {QUOTES}"),
    "items:\n  - prompt: {{ x }} mug\n": (2, 13, "begins with {{ must be in quotes as a whole"),
    "vars: {x: b}\nitems:\n  - id: {{ x }}\n    prompt: p\n": (3, 9, "begins with {{ must be in quotes as a whole"),
    "vars: {x: b}\nitems:\n  - {id: {{x}}, prompt: p}\n": (3, 10, "begins with {{ must be in quotes as a whole"),
    "items:\n  - prompt: {% if a %}b{% endif %}\n": (2, 13, "begins with {% must be in quotes as a whole"),
    "items:\n  -prompt: p\n": (2, 4, "write a space behind the dash: `- prompt: …`"),
    "items:\n  - prompt: p\n  -prompt: q\n": (3, 4, "write a space behind the dash: `- prompt: …`"),
    "items:\n  - prompt:a mug\n": (2, 5, "write a space behind the colon: `prompt: …`"),
    "items:\n  - id:a\n    prompt: p\n": (2, 8, "write a space behind the colon: `id: …`"),
    "items:\n  - id: a\n    prompt:p\n    seed: 1\n": (3, 12, "write a space behind the colon: `prompt: …`"),
    "items:\n  - id: a\n   prompt: p\n": (3, 4, "indented by 3, the field above by 4"),
    "items:\n  - id: a\n     prompt: p\n": (3, 6, "indented by 5, the field above by 4"),
    "items:\n  - id: a\n  prompt: p\n": (3, 3, "indented by 2, the field above by 4"),
    "items:\n  - prompt: p\n - prompt: q\n": (3, 2, "this `-` is indented by 1, the one above by 2"),
    "items:\n  - prompt: p\n    references:\n  - a.png\n": (4, 5, "indent it further than `references:`"),
    "items:\n  - prompt: p\n    tags:\n   - a\n    seed: 1\n": (4, 4, "indent it further than `tags:`"),
    'items:\n  - prompt: "a mug\n    id: x\n': (2, 13, 'the quote opened here is never closed: put "'),
    "items:\n  - prompt: 'a mug\n    id: x\n": (2, 13, "the quote opened here is never closed: put '"),
    'items:\n  - prompt: "a mug\n    id: x\n  - prompt: "b"\n': (2, 13, "the quote opened here ends only in line 4"),
    "items:\n  - prompt: 'grandma's mug'\n": (2, 22, "a ' in it as ''"),
    'items:\n  - prompt: "Red" mug\n': (2, 18, 'a " in it as \\"'),
    "items:\n  - id: a\n    id: b\n    prompt: p\n": (3, 5, "given twice in the same mapping, first in line 2"),
    "items:\n  - prompt: “a mug: red”\n": (2, 13, '“ is not one of YAML\'s quotes: write "'),
    "items:\n  - prompt: “a mug”\n": (2, 13, "“ and ” are not YAML's quotes"),
    "items:\n  - prompt:\u00a0a mug\n": (2, 5, "odd space (U+00A0): type it again with the space bar"),
    "items:\n\u00a0\u00a0- prompt: p\n": (2, 1, "odd space (U+00A0)"),
    "items:\n  -\u00a0prompt: p\n": (2, 4, "odd space (U+00A0)"),
    "items:\n  prompt: p\n  id: a\n": (1, 1, "must be a list, not a mapping; write `items:` and below it, for each item"),
    "items: A mug\n": (1, 1, "must be a list, not 'A mug'; write `items:`"),
    "prompt: p\n": (1, 1, "write `items:` above it and `- ` before it"),
    'items:\n  - prompt: p\n    tags: ["C:\\Users\\me"]\n': (3, 15, "in double quotes \\U begins an escape: write / in a path"),
    "items:\n  - {prompt: A mug, red, id: a}\n": (2, 21, "'red' has no value: in { } a comma ends the text"),
    "items: [": (2, 1, "the [ opened in line 1, column 8, is not closed"),
    "items: [{id: a, prompt:\n": (2, 1, "the { opened in line 1, column 9, is not closed"),
    "items:\n  - {id: a, prompt: 'x {',\n  - {id: b}\n": (3, 3, "the { opened in line 2, column 5, is not closed"),
    "items:\n  - prompt: p\n    tags: [a, b,\n  - prompt: q\n": (4, 3, "the [ opened in line 3, column 11, is not closed"),
    "items:\n  - prompt: p\n    tags: [a, , b]\n": (3, 15, "the [ opened in line 3, column 11, is not understood"),
    "items:\n  - prompt: p\n    tags: [a, b\n    id: x\n": (4, 7, "the [ opened in line 3, column 11, is not closed"),
    "items:\n  - prompt: A mug\n  on oak\n": (3, 1, "neither `name: value` nor the rest of a text"),
    "items:\n  - prompt: A mug\n    on oak: red\n": (3, 5, "if it is part of a text, put the whole text in quotes"),
    "items:\n  - prompt: p\n    keep_thoughts: yes\n": (3, 5, "must be true or false, not 'yes'; write true"),
    "items:\n  - prompt: 2026\n": (2, 5, "must be text, not the number 2026; put it in quotes"),
    "items:\n  - prompt: true\n": (2, 5, "must be text, not true; put it in quotes"),
    "items:\n  - prompt: a\x0bb\n": (2, 14, "control characters"),
}  # fmt: skip


@pytest.mark.parametrize("text", SLIPS, ids=range(len(SLIPS)))
def test_a_slip_is_said_once_with_its_place_and_the_remedy(folder, text):
    line, column, words = SLIPS[text]
    complaint = folder.complaint(text)
    assert (complaint.split(": ")[0], words in complaint) == (f"job.yaml:{line}:{column}", True), complaint


GOOD = """
shared: &prompt A mug
items:
  - &one {prompt: "{{ x }}", tags: [a, ], seed: }
  - <<: *one
    prompt: 'it''s {"a": 1} # not a comment'
  - prompt: |
      @home: a "mug" # red
      \tindented
  - {prompt: A mug on oak https://example.com/a.png 16:9, id: a-b}
"""


def test_good_yaml_is_not_taken_for_a_slip(folder):
    manifest = GOOD.replace("shared: &prompt A mug", "vars: {x: &x y, z: *x}")
    prompts = [item.prompt for item in folder.items(manifest)]
    assert prompts[1:] == [
        'it\'s {"a": 1} # not a comment',
        '@home: a "mug" # red\n\tindented\n',
        "A mug on oak https://example.com/a.png 16:9",
    ]


CUT = "'#1 of 3' is a comment and not part of the text; if it is meant, put the text in quotes"


@pytest.mark.parametrize(
    ("text", "position"),
    [
        ("items: \n  - prompt: a mug #1 of 3\n", "2:19: prompt"),
        ("items: \n  - id: a\n    turns:\n      - a mug\n      - red #1 of 3\n", "5:13: turns"),
        ("vars: \n  a: mug  #1 of 3\nitems: [{prompt: p}]\n", "2:11: vars"),
        ("items: \n  - prompt: a mug # of 3\n", "2:19: prompt"),
    ],
)
def test_a_text_that_yaml_cuts_at_a_hash_is_warned_about_with_what_was_cut(folder, text, position):
    words = CUT.replace("#1", "#") if "# of" in text else CUT
    assert [each.rpartition("job.yaml:")[2] for each in folder.warnings(text)] == [f"{position}: {words}"]


@pytest.mark.parametrize(
    "line", ["prompt: a mug   # the hero", "prompt: 'a #1'  #x", "prompt: a\n    tags: [x] #y", "prompt: a#1"]
)
def test_a_comment_that_is_meant_as_one_is_not_warned_about(folder, line):
    assert folder.warnings(f"items:\n  - {line}\n") == []
