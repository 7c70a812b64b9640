"""What is the machine's and what is ours."""

from __future__ import annotations

import errno
import os
import tempfile
import threading

import pytest

from batchgen import os_errors
from batchgen.engine.answer import bugs_as_unreadable
from batchgen.errors import Unreadable
from batchgen.os_errors import NO_MEMORY, NO_THREADS, REMEDIES, machine_refusal, start_threads
from batchgen.report import notify
from batchgen.store.spool import disk_error

NO_THREAD = RuntimeError("can't start new thread")


@pytest.mark.parametrize("number", sorted(REMEDIES))
def test_what_the_system_refuses_is_said_with_the_path_and_a_remedy(number):
    error = OSError(number, os.strerror(number), "/data/job")
    assert machine_refusal(error) == f"/data/job: {REMEDIES[number]}" == str(disk_error(error, "/data/job"))


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError(), NO_MEMORY),
    (NO_THREAD, NO_THREADS),
    (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), NO_THREADS),  # fork
])  # fmt: skip
def test_threads_processes_and_memory_are_the_machines(error, words):
    assert machine_refusal(error) == words


@pytest.mark.parametrize("error", [
    KeyError("x"), ZeroDivisionError(), RuntimeError("Event loop is closed"), OSError(errno.EBADF, "Bad file descriptor"),
    OSError("without a number"), UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed"),
])  # fmt: skip
def test_anything_else_is_a_bug_of_ours(error):
    assert machine_refusal(error) == ""


def test_a_folder_for_temporary_files_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/nowhere"])
    with pytest.raises(FileNotFoundError) as caught:
        tempfile.gettempdir()
    assert machine_refusal(caught.value).endswith("['/nowhere']: set TMPDIR to a folder that can be written to")


def test_a_pool_has_all_its_threads_from_the_start():
    with start_threads(5, "store"):
        assert sum(thread.name.startswith("store") for thread in threading.enumerate()) == 5


def test_a_pool_that_cannot_have_all_its_threads_leaves_none(monkeypatch):
    start, left = threading.Thread.start, iter([True, True])

    def refuse(thread: threading.Thread) -> None:
        if not next(left, False):
            raise NO_THREAD
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        start_threads(5, "store")
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("store")]


def test_a_system_without_such_limits_is_left_alone(monkeypatch):
    monkeypatch.setattr(os_errors, "resource", None)
    os_errors.raise_open_file_limit(1_000_000)


def test_a_message_that_no_thread_can_send_is_a_problem_in_words(monkeypatch):
    def refuse(thread: threading.Thread) -> None:
        raise NO_THREAD

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert notify.send(["json://127.0.0.1"], "subject", "body") == [NO_THREADS]


def test_too_little_memory_for_an_answer_is_no_bug_and_the_answer_is_kept():
    with pytest.raises(Unreadable, match=r"not enough memory.*the answer is kept"), bugs_as_unreadable():
        raise MemoryError
