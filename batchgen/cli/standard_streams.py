"""stdin, stdout and stderr as shells, timers and containers provide them: closed, full, or with nobody at the other
end.

A write to stderr never fails. A write to stdout fails for commands that are run for what they print; for others, and
after the first failure, what cannot be written is lost.
"""

from __future__ import annotations

import errno
import io
import os
import select
import sys
from typing import TYPE_CHECKING, TextIO

from batchgen.errors import SettingsError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class OutputLost(SettingsError):
    """stdout did not take the answer of a command that is run for it. reader_gone: its reader has stopped reading."""

    def __init__(self, error: OSError) -> None:
        super().__init__(f"the output could not be written to stdout completely: {error.strerror or error}")
        self.reader_gone = error.errno == errno.EPIPE


class StandardOutput(io.RawIOBase):
    """The lowest layer of stdout or stderr, which click, logging and the interpreter's last flush all use.

    fail_on_loss: the first write that fails raises OutputLost. error: that of the write.
    """

    def __init__(self, fd: int, raw: io.RawIOBase | None, *, fail_on_loss: bool) -> None:
        """raw: None if the stream was closed."""
        self.name = ("<stdin>", "<stdout>", "<stderr>")[fd]
        self.fail_on_loss = fail_on_loss
        self.error: OSError | None = None
        self._fd = fd
        self._raw = raw

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._fd

    def isatty(self) -> bool:
        return self._raw is not None and self._raw.isatty()

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return self._written(data)
        except OSError as error:
            first, self.error = self.error is None, self.error or error
            if self.fail_on_loss and first:
                raise OutputLost(error) from None
            return memoryview(data).nbytes

    def _written(self, data: ReadableBuffer) -> int:
        if self._raw is None:
            raise OSError(errno.EBADF, "it is closed")
        while (written := self._raw.write(data)) is None:  # non-blocking, and its reader is slow
            select.select((), (self._fd,), ())
        return written


def open_standard_streams() -> None:
    """Open the standard streams. This is the first thing a process does: the next file to be opened would get the
    number of a closed stream, and a ledger would get messages."""
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # gets the lowest free number, which is fd
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - stays open
    sys.stdout = _wrap_standard(1, sys.stdout, fail_on_loss=True)
    sys.stderr = _wrap_standard(2, sys.stderr, fail_on_loss=False)


def ignore_failures(stream: TextIO) -> None:
    """Ignore further failures of a stream: what it does not take is lost."""
    if (raw := _raw(stream)) is not None:
        raw.fail_on_loss = False


def lost_output(stream: TextIO) -> str:
    """Why a stream did not take everything, in words; empty if it did, was closed, or nobody read it any more."""
    raw = _raw(stream)
    if raw is None or raw.error is None or raw.error.errno in (errno.EPIPE, errno.EBADF):
        return ""
    return raw.error.strerror or str(raw.error)


def _raw(stream: TextIO) -> StandardOutput | None:
    """The lowest layer of a stream; None if it is not the process's own, in a notebook or a test."""
    raw = getattr(getattr(stream, "buffer", None), "raw", None)
    return raw if isinstance(raw, StandardOutput) else None


def _wrap_standard(fd: int, stream: TextIO | None, *, fail_on_loss: bool) -> TextIO:
    if stream is None:
        return _text_stream(
            StandardOutput(fd, None, fail_on_loss=fail_on_loss), "utf-8", "backslashreplace", lines=True
        )
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    raw = getattr(stream.buffer, "raw", stream.buffer)  # python -u has no buffer in between
    errors = "backslashreplace" if stream.errors == "strict" else stream.errors
    lines = stream.line_buffering or stream.write_through
    return _text_stream(
        StandardOutput(fd, raw, fail_on_loss=fail_on_loss), stream.encoding, errors or "backslashreplace", lines=lines
    )


def _text_stream(raw: StandardOutput, encoding: str, errors: str, *, lines: bool) -> TextIO:
    return io.TextIOWrapper(io.BufferedWriter(raw), encoding, errors, line_buffering=lines)
