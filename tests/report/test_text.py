"""Text made fit to be shown, figures for people, and the closing summary."""

from __future__ import annotations

import io
import json
import socket
from dataclasses import replace

import pytest

from batchgen.ledger.requests import Money
from batchgen.ledger.runs import RunRow
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.report import formatting
from batchgen.report.billing import billing_check
from batchgen.report.console import Console
from batchgen.report.run_state import is_process_alive
from batchgen.report.summary import headline, next_steps
from batchgen.report.view import (
    BatchTotals,
    DerivativeView,
    DiscrepancyView,
    ImageCounts,
    LimitView,
    MoneyView,
    ReasonView,
    RunSummary,
    TotalsView,
    UtcTime,
)
from batchgen.sanitize import ascii_only, display_width, printable_json, sanitize, short_message, truncate
from batchgen.scheduling.stop_reason import budget_text


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[2J",
        "\x07",
        "\x9b31m",
        "\x7f",
        "\x85",
        "\u202e",
        "\u2066",
        "\u200f",
        "\u2028",
        "\ufeff",
        "\ud800",
        "\U000e0041",
    ],
)
def test_what_a_terminal_would_act_upon_becomes_an_escape(text):
    cleaned = sanitize(f"a{text}b")
    assert (cleaned[0], cleaned[1], cleaned.isascii()) == ("a", "\\", True)


@pytest.mark.parametrize("text", ["plain", "Größe", "模型", "👩‍🚀", "naïve", "a\u0301"])
def test_ordinary_text_stays_as_it_is(text):
    assert sanitize(text) == text


def test_a_newline_cannot_forge_a_line():
    assert sanitize("a\nok: all done") == "a\\nok: all done"


@pytest.mark.parametrize("text", ["\x1b\x7f\x9b", "\u202e\u2028", "\U000e0041", "a\nb\t", "模"])
def test_json_is_safe_to_print_and_parses_to_the_same(text):
    printed = printable_json({text: [text]}, indent=2)
    assert json.loads(printed) == {text: [text]}
    assert sanitize(printed.replace("\n", "")) == printed.replace("\n", "")


def test_wide_characters_take_two_columns_and_joiners_none():
    assert (display_width("模a"), display_width("a\u0301"), display_width("a\u200db")) == (3, 1, 2)


@pytest.mark.parametrize("columns", [0, 1, 2, 3, 10])
def test_a_shortened_text_fits(columns):
    assert display_width(truncate("模型abc模型", columns)) <= columns


def test_a_long_message_is_cut_to_its_beginning():
    assert (short_message("a  b\n c"), display_width(short_message("word " * 100))) == ("a b c", 160)


def test_our_own_signs_have_plain_letters():
    assert ascii_only("2 × x → y … ·") == "2 x x -> y ... -"


@pytest.mark.parametrize(
    ("amount", "text"),
    [
        *[(None, "unknown"), (0, "$0.00"), (0.7, "$0.70"), (1234.5, "$1,234.50"), (-0.5, "-$0.50"), (1.5523, "$1.55")],
        *[(0.0039, "$0.0039"), (0.039, "$0.039"), (0.0336, "$0.0336"), (0.0672, "$0.067"), (0.00003, "$0.00003")],
    ],
)
def test_money_is_never_rounded_to_nothing_and_never_guessed(amount, text):
    assert formatting.usd(amount) == text


@pytest.mark.parametrize(
    ("amount", "unpriced", "known", "text"),
    [
        (0, 0, 0, "$0.00"),
        (0.7, 0, 0.7, "$0.70"),
        (0.7, 3, 0.7, "$0.70 + 3 requests of unknown price"),
        (0, 1, None, "unknown (1 request of unknown price)"),
    ],
)
def test_a_sum_of_which_nothing_is_known_is_unknown(amount, unpriced, known, text):
    assert (formatting.known_amount(amount, unpriced), formatting.total_usd(amount, unpriced)) == (known, text)


@pytest.mark.parametrize(("seconds", "text"), [
    (0.44, "0.4 s"), (35, "35 s"), (59.9, "1 min"), (80, "1 min 20 s"), (7500, "2 h 05 min"), (360000, "4 d 4 h"), (-1, "0.0 s"),
])  # fmt: skip
def test_durations_read_well(seconds, text):
    assert formatting.duration(seconds) == text


def test_a_screen_takes_secrets_out_of_every_line():
    stream = io.StringIO()
    screen = Console(stream, {}, secrets=["SECRET-1"])
    screen.line("a SECRET-1 b")
    screen.json({"a": "SECRET-1"})
    screen.table(("head",), [("SECRET-1",)])
    assert "SECRET-1" not in stream.getvalue()


def test_a_stream_that_is_no_terminal_is_never_coloured_or_wrapped():
    stream = io.StringIO()
    Console(stream, {}).line("word " * 100, "bold red")
    assert stream.getvalue() == "word " * 100 + "\n"


def test_a_table_aligns_figures_to_the_right():
    stream = io.StringIO()
    Console(stream, {}).table(("id", "USD"), [("模型", "1"), ("a", "10")], right=(1,))
    assert stream.getvalue() == "id    USD\n模型    1\na      10\n"


BEHIND = [ReasonView("download_failed", 1, "", "")]
SUMMARY = RunSummary(
    job="shop", manifest="", folder="shop", own_folder=False, emulated=False, stopped_by="", exit_code=0, message="", remedy="",
    bucket="", waiting=0, cluster=None, discrepancies=DiscrepancyView(), reasons=[], uncertain=[], outages=[], requests={},
    account=billing_check(0, 0, []), usd=MoneyView.of(Money()), images=ImageCounts(0, 0, 0, 0, 0), samples={}, parked={},
    batches=BatchTotals(0, 0, 0.0, []), derivatives=DerivativeView(), run_id=1, seconds=1.0, exposed_ms=None, engine="online",
    results="", limit=LimitView("nothing", "", 0.0, None), stopped_models={}, flagged=[], flagged_total=0, newest=[],
    account_of_run=billing_check(0, 0, []), blocked=[],
    totals=TotalsView(images=0, made=0, not_made={}, not_tried=0, not_in_manifest=0, read_by_run=1),
)  # fmt: skip


def totals(made: int, images: int, **facts) -> TotalsView:
    return TotalsView(
        **{"not_made": {}, "not_tried": 0, "not_in_manifest": 0, "read_by_run": 1, **facts}, made=made, images=images
    )


SENT = {"succeeded": 3}


@pytest.mark.parametrize(("told", "text"), [
    ({"totals": totals(4, 4)}, "shop: nothing to do: 4 of 4 images made"),
    ({"totals": totals(4, 4), "images": ImageCounts(4, 0, 0, 0, 0), "requests": SENT}, "shop: all done: 4 of 4 images made"),
    ({"totals": totals(4, 4), "images": ImageCounts(3, 1, 0, 0, 0), "requests": SENT},
     "shop: all done: 4 of 4 images made (3 in this run)"),
    ({"totals": totals(3, 37, left_out={"limit": 34}, limit=3), "images": ImageCounts(3, 0, 0, 0, 34), "requests": SENT},
     "shop: 3 of 37 images made; 34 left out by --limit 3"),
    ({"totals": totals(3, 37, left_out={"only": 34})}, "shop: nothing to ask for: 3 of 37 images made; 34 left out by --only"),
    ({"totals": totals(4, 6, not_made={"refused": 2}), "images": ImageCounts(4, 0, 0, 0, 0), "requests": SENT, "exit_code": 3},
     "shop: 4 of 6 images made; 2 refused"),
    ({"totals": totals(4, 6, not_made={"refused": 2}), "requests": {"refused": 2}, "exit_code": 4},
     "shop: 4 of 6 images made (none in this run); 2 refused"),
    ({"totals": totals(3, 6, not_made={"blocked": 1, "running": 1}, not_tried=1), "requests": SENT, "exit_code": 3},
     "shop: 3 of 6 images made (none in this run); 1 blocked, 1 sent and not answered yet, 1 not tried"),
    ({"totals": totals(5, 6, outdated=1, limit=2), "images": ImageCounts(2, 3, 0, 0, 1), "requests": SENT},
     "shop: 5 of 6 images made (2 in this run); 1 to be made again"),
    ({"totals": totals(0, 6, not_made={"submitted": 6}), "exit_code": 9}, "shop: 0 of 6 images made; 6 with the vendor"),
    ({"totals": totals(0, 6, not_made={"with_workers": 6}), "exit_code": 9},
     "shop: 0 of 6 images made; 6 with the cluster's workers"),
    ({"totals": totals(4, 4), "retried": ["failed"]}, "shop: nothing to retry, no image failed: 4 of 4 images made"),
    ({"totals": totals(3, 37, left_out={"not_asked": 34}), "retried": ["refused", "uncertain"]},
     "shop: nothing to retry, no image was refused or is uncertain: 3 of 37 images made; 34 not asked for"),
    ({"totals": totals(4, 4), "derivatives": DerivativeView(made=12)},
     "shop: all done: 4 of 4 images made, 12 files made of them"),
    ({"totals": totals(2, 2), "images": ImageCounts(2, 0, 0, 0, 0), "derivatives": DerivativeView(made=1, failed=1),
      "requests": SENT, "exit_code": 3}, "shop: 2 of 2 images made, 1 file made of them, 1 file could not be made"),
    ({"totals": totals(1, 1), "derivatives": DerivativeView(finished=False), "exit_code": 3},
     "shop: nothing to ask for: 1 of 1 image made, files of them are missing"),
    ({"totals": totals(1, 10, not_tried=9), "images": ImageCounts(1, 0, 0, 9, 0), "stopped_by": "budget", "requests": SENT},
     "shop: stopped, the budget is used up; 1 of 10 images made; 9 not tried"),
    ({"totals": totals(4, 4), "images": ImageCounts(4, 0, 0, 0, 0), "waiting": 3, "requests": SENT, "exit_code": 5},
     "shop: 4 of 4 images made, 3 not in the bucket yet"),
    ({"totals": totals(4, 4), "discrepancies": DiscrepancyView(changed_total=2), "exit_code": 5},
     "shop: nothing to ask for: 4 of 4 images made, 2 files changed"),
    ({"totals": totals(4, 4), "images": ImageCounts(4, 0, 0, 0, 0), "discrepancies": DiscrepancyView(missing_total=1),
      "requests": SENT, "exit_code": 3}, "shop: 4 of 4 images made, 1 file missing"),
])  # fmt: skip
def test_the_headline_says_what_is_made_of_the_manifest(told, text):
    assert headline(replace(SUMMARY, **told)) == text


@pytest.mark.parametrize(("told", "words"), [
    ({"exit_code": 3, "samples": {"refused": 1}}, "batchgen retry MANIFEST --refused"),
    ({"exit_code": 3, "samples": {"failed": 1}}, "tries again"),
    ({"exit_code": 3, "samples": {"failed": 2}, "reasons": BEHIND}, "still behind its link batchgen run MANIFEST tries again"),
    ({"exit_code": 3, "derivatives": DerivativeView(failed=1)}, "batchgen post MANIFEST tries the failed derivatives again"),
    ({"exit_code": 5}, "batchgen doctor"),
    ({"exit_code": 5, "waiting": 2}, "batchgen run MANIFEST uploads what waits"),
    ({"exit_code": 5, "discrepancies": DiscrepancyView(changed_total=1)}, "batchgen verify MANIFEST"),
    ({"exit_code": 3, "discrepancies": DiscrepancyView(missing_total=1)}, "makes what is missing again"),
    ({"exit_code": 6}, "--max-cost"),
    ({"exit_code": 6, "stopped_by": "budget", "message": "shop: the day's budget was set"}, "--max-cost"),
    ({"exit_code": 6, "stopped_by": "budget", "message": budget_text("day")}, "goes on from here once there is budget"),
    ({"exit_code": 7}, "goes on"),
    ({"exit_code": 8, "parked": {"pro": UtcTime(1_795_248_000)}}, "after 2026-11-21T08:00:00Z"),
    ({"exit_code": 143, "own_folder": True, "emulated": True}, "batchgen run MANIFEST --output shop --emulate goes on"),
])  # fmt: skip
def test_the_next_step_follows_from_the_exit_code(told, words):
    assert words in " ".join(next_steps(replace(SUMMARY, **told)))


def test_after_success_there_is_nothing_to_do():
    assert next_steps(SUMMARY) == []


def test_a_run_of_another_host_cannot_be_seen_from_here(tmp_path):
    (tmp_path / STATE_FOLDER).mkdir()
    (tmp_path / STATE_FOLDER / "holder.json").write_text('{"pid": 1}')
    run = RunRow(1, 0.0, None, 1, "elsewhere", None, "", 1, 0)
    assert is_process_alive(run, tmp_path) is None
    assert is_process_alive(replace(run, host=socket.gethostname()), tmp_path) is True
