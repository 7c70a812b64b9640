"""`plan`, `run` and `run_sync` take the same options; `run_sync` works where a loop runs; results are there to be opened."""

from __future__ import annotations

import inspect
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from PIL import Image

import batchgen
from batchgen.api import _run_options
from tests.support.command_line import environment

REFUSED = "[[fault:safety]] a cup"


def test_plan_and_run_take_the_same_options(make):
    shared = [
        inspect.signature(each).parameters.keys() - {"observers", "on_step"} for each in (batchgen.plan, batchgen.run)
    ]
    assert shared[0] == shared[1] == inspect.signature(batchgen.run_sync).parameters.keys() - {"observers"}
    job, outcome = make(["a", "b", "c", "d"], limit=2)
    left = batchgen.plan(job, options=batchgen.RunOptions(limit=1)).forecast.images
    assert (outcome.made, batchgen.plan(job).forecast.images, left) == (2, 2, 1)


@pytest.mark.parametrize(
    ("keywords", "expected"),
    [
        ({"only": "mug*"}, {"only": ("mug*",)}),
        ({"only": ["a", "tag:b"]}, {"only": ("a", "tag:b")}),
        ({"max_cost": 2.5}, {"max_usd": 2.5}),
        ({"limit": 3, "concurrency": 4}, {"limit": 3, "concurrency": 4}),
        ({"fresh": True}, {"retry_selection": batchgen.RetrySelection(fresh=True)}),
        ({"retry": ["refused"]}, {"retry_selection": batchgen.RetrySelection(states=frozenset({"refused"}))}),
        (
            {"on_uncertain": "hold"},
            {"retry_selection": batchgen.RetrySelection(states=frozenset({"failed"})), "hold_uncertain": True},
        ),
        ({"until": datetime(2030, 1, 1, tzinfo=UTC)}, {"deadline": datetime(2030, 1, 1, tzinfo=UTC).timestamp()}),
        (
            {"until": datetime(2001, 1, 1, tzinfo=UTC), "max_duration": timedelta(hours=1)},
            {"deadline": datetime(2001, 1, 1, tzinfo=UTC).timestamp()},
        ),
    ],
)
def test_a_keyword_is_the_option_of_the_command_line(keywords, expected):
    assert _run_options(None, keywords) == batchgen.RunOptions(**expected)


def test_a_keyword_goes_before_the_same_option_and_leaves_the_others():
    options = batchgen.RunOptions(limit=9, concurrency=2)
    assert _run_options(options, {"limit": 1}) == batchgen.RunOptions(limit=1, concurrency=2)


def test_a_misspelt_keyword_is_answered_with_the_right_one(make):
    job, _ = make(["a"], limit=1)
    for function in (batchgen.plan, batchgen.run_sync):
        with pytest.raises(TypeError, match="no option 'limt' \\(did you mean 'limit'"):
            function(job, limt=1)


@pytest.mark.parametrize(
    ("keywords", "words"),
    [
        ({"limit": 0}, "limit: must be more than 0"),
        ({"max_cost": -1}, "max_usd: must be more than 0"),
        ({"concurrency": 0}, "concurrency: must be more than 0"),
        ({"retry": ["failled"]}, "there is no state failled"),
    ],
)
def test_a_value_that_cannot_be_is_refused(keywords, words):
    with pytest.raises(batchgen.UsageError, match=words):
        _run_options(None, keywords)


def test_one_text_in_place_of_a_tuple_of_patterns_is_refused():
    with pytest.raises(batchgen.UsageError, match="must be a tuple of patterns"):
        batchgen.RunOptions(only="mug*")  # type: ignore[arg-type]


async def test_run_sync_works_inside_a_running_loop(make):
    threads = set[str]()
    job, outcome = make(["a", "b"], observers=[lambda event: threads.add(threading.current_thread().name)])
    assert (outcome.made, outcome.exit_code, threads) == (2, 0, {"batchgen run"})
    assert threading.active_count() == len([each for each in threading.enumerate() if each.name != "batchgen run"])
    assert (await batchgen.run(job)).kept == 2


async def test_what_a_run_raises_inside_a_running_loop_is_raised(make):
    with pytest.raises(batchgen.UsageError, match=r"nobody\*"):
        make(["a"], only="nobody*")


INTERRUPTED = """
import asyncio, signal, threading, time, batchgen
job = batchgen.load([f"mug {n}" for n in range(40)], name="mugs", emulate=True)

def interrupt(event):
    if isinstance(event, batchgen.events.SampleSucceeded) and threading.main_thread().is_alive() and not sent:
        sent.append(event)
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)  # the system may hand it to any thread

async def cell():
    try:
        batchgen.run_sync(job, observers=[interrupt])
    except KeyboardInterrupt:
        latest = time.monotonic() + 10  # the emulator's threads end when they have drawn what they are at
        while threading.active_count() > 1 and time.monotonic() < latest:
            time.sleep(0.01)
        print("interrupted", [each.name for each in threading.enumerate()])
    print(job.results.counts()["succeeded"], batchgen.run_sync(job, limit=1).exit_code)

sent = []
asyncio.new_event_loop().run_until_complete(cell())  # as a notebook's kernel: asyncio.run has a handler of its own
"""


def test_an_interrupt_cancels_a_run_inside_a_running_loop_and_the_next_one_goes_on(tmp_path):
    answer = subprocess.run(
        [sys.executable, "-c", INTERRUPTED],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    first, second = answer.stdout.splitlines()
    assert first == "interrupted ['MainThread']"
    made, exit_code = map(int, second.split())
    assert 1 <= made < 40
    assert exit_code in (0, 3)


def test_results_have_the_image_its_size_its_cost_and_the_reason(make):
    job, outcome = make([{"id": "mug", "prompt": "a mug", "count": 2}, {"id": "cup", "prompt": REFUSED}])
    mug, second, cup = outcome.results
    assert [each.key for each in (mug, second, cup)] == ["mug", "mug#2", "cup"]
    with Image.open(mug.path) as image:
        assert image.size == (mug.width, mug.height)
    assert Path(mug.path).parent == job.folder
    assert (mug.state, mug.reason, mug.usd is not None) == ("succeeded", "", True)
    assert (cup.state, cup.path, cup.width, cup.usd) == ("refused", None, None, None)
    assert cup.reason
    assert cup.message


def test_results_are_counted_indexed_and_chosen_by_state(make):
    _, outcome = make([{"id": "mug", "prompt": "a mug", "count": 2}, {"id": "cup", "prompt": REFUSED}])
    results = outcome.results
    assert (len(results), results[0].key, results[-1].key) == (3, "mug", "cup")
    assert [each.key for each in results.in_states(("refused",))] == ["cup"]
    assert dict(results.counts()) == {"succeeded": 2, "refused": 1}
    with pytest.raises(IndexError):
        results[3]
    with pytest.raises(IndexError):
        results[-4]


def test_results_are_those_of_now_and_of_a_job_that_ran_earlier(make):
    job, first = make(["a", "b"], limit=1)
    assert len(job.results) == len(first.results)
    make(["a", "b"])
    assert [each.state for each in first.results] == ["succeeded", "succeeded"]


def test_a_job_that_never_ran_has_no_results(tmp_path):
    results = batchgen.load(["a"], output=tmp_path / "out", environ={}).results
    assert (list(results), len(results), repr(results)) == ([], 0, "<results of out: none yet>")


def test_what_the_prompt_of_an_interpreter_shows_is_short_and_holds_no_key(make):
    job, outcome = make(["a", "b"], limit=1)
    for each in (job, batchgen.plan(job), outcome, outcome.results):
        assert len(repr(each)) < 300
    assert repr(outcome).startswith("<outcome of mugs: EMULATED")
    assert "1 image made, 0 kept" in repr(outcome)
