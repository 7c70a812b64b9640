"""Explains what the machine refused (files, threads, memory, folders that go away) and what to do about it."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from batchgen.errors import SettingsError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

NO_HOME = "there is no home folder: set HOME to an absolute path"
NO_THREADS = (
    "no more threads or processes may be started: raise `ulimit -u`, or the pids limit of the container or unit"
)
NO_MEMORY = "there is not enough memory: lower --concurrency, or give the process more"
_GONE = "the file system has gone away: mount it again, then run the same command again"
REMEDIES: Mapping[int, str] = {
    errno.ENOSPC: "the disk is full: make room, then run the same command again",
    errno.EDQUOT: "your disk quota is used up: make room, then run the same command again",
    errno.EROFS: "the file system is read-only: choose another --output",
    errno.EACCES: "permission denied: check the folder's owner and mode",
    errno.EPERM: "not permitted: check the folder's owner and mode",
    errno.EMFILE: "too many open files: raise `ulimit -n`, or lower --concurrency",
    errno.ENFILE: "too many open files on this system",
    errno.ENOENT: "the folder has gone: it was there when the run began",
    errno.ENOTDIR: "a file stands where a folder should be",
    errno.EISDIR: "a folder stands where a file should be",
    errno.ELOOP: "a symbolic link stands where a file should be: remove it",
    errno.ENAMETOOLONG: "the path is too long: choose a shorter --output",
    errno.EIO: "the disk reports an error: check its health, then run the same command again",
    errno.ESTALE: _GONE,
    errno.ENOTCONN: _GONE,
    errno.ENODEV: _GONE,
    errno.ENXIO: _GONE,
    errno.EAGAIN: NO_THREADS,
    errno.ENOMEM: NO_MEMORY,
}
MIN_OPEN_FILES = 48  # with nothing in flight: 18 were measured, and there are pipes to processes that make derivatives
OPEN_FILES_PER_REQUEST = 3  # 2 were measured: connection, spool, a reference or the emulator's side


def machine_refusal(error: BaseException) -> str:
    """What the machine refused and what helps; empty for any other error, which is a bug in batchgen."""
    if isinstance(error, MemoryError):
        return NO_MEMORY
    if isinstance(error, RuntimeError):
        return next((words for said, words in _RUNTIME_ERROR_REMEDIES if said in str(error)), "")
    if isinstance(error, UnicodeEncodeError):
        return _not_encoded(error)
    if not isinstance(error, OSError) or (words := REMEDIES.get(error.errno or 0)) is None:
        return ""
    if error.filename is not None:
        return f"{error.filename}: {words}"
    return _no_folder(error) if error.errno == errno.ENOENT else words


# The standard library's own messages: it has no exception classes for these.
_RUNTIME_ERROR_REMEDIES = (("can't start new thread", NO_THREADS), ("Could not determine home directory", NO_HOME))


def _not_encoded(error: UnicodeEncodeError) -> str:
    character = error.object[error.start]
    # PEP 383: how Python represents a byte of a path that is not valid in its encoding.
    if "\udc80" <= character <= "\udcff":
        return "a path is not UTF-8: rename it, and have LC_ALL=C.UTF-8 set"
    if error.encoding != "utf-8" and error.encoding == sys.getfilesystemencoding():
        return f"the locale's encoding ({error.encoding}) has no {character!r}: set LC_ALL=C.UTF-8"
    return ""


def _no_folder(error: OSError) -> str:
    try:
        os.getcwd()
    except OSError:
        return "the working folder has gone: change to one that exists, then run the same command again"
    return f"{error.strerror}: set TMPDIR to a folder that can be written to" if "temporary" in str(error) else ""


def start_threads(count: int, name: str) -> ThreadPoolExecutor:
    """A pool whose threads are already running: work that is paid for must not wait for a thread that cannot be started.

    Raises RuntimeError if the machine allows no more threads.
    """
    pool = ThreadPoolExecutor(count, thread_name_prefix=name)
    all_run = threading.Barrier(count + 1)
    try:
        for _ in range(count):
            pool.submit(all_run.wait)
        all_run.wait()
    except RuntimeError:
        all_run.abort()
        pool.shutdown(cancel_futures=True)
        raise
    return pool


def raise_open_file_limit(concurrency: int) -> None:
    """Raise this process's limit on open files to what `concurrency` requests in flight need. Raises SettingsError if that is
    not allowed."""
    if resource is None:
        return
    needed = MIN_OPEN_FILES + OPEN_FILES_PER_REQUEST * concurrency
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise SettingsError(
            f"{concurrency} requests in flight need {needed} open files, and this process may have {hard}:"
            " raise `ulimit -n`, or lower --concurrency"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
