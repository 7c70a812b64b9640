"""Reports the exception that ended a command, and decides the exit code."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import tempfile
import traceback
from typing import Any

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.standard_streams import OutputLost, ignore_failures
from batchgen.errors import BatchgenError, LedgerError, ManifestError, SettingsError, UsageError
from batchgen.ledger.schema import unreadable_error
from batchgen.os_errors import machine_refusal
from batchgen.sanitize import redact_secrets

EXIT_BUG = 1
EXIT_BROKEN_PIPE = 141  # what a shell reports if a reader went away


def report_failure(error: Exception, invocation: Invocation) -> int:
    """Report an error on stderr, and as an object on stdout with `--json`. Returns the exit code."""
    ignore_failures(sys.stdout)
    if isinstance(error, click.Abort):
        return 130
    if isinstance(error, OutputLost) and error.reader_gone:
        return EXIT_BROKEN_PIPE
    error = as_known_error(error)
    if isinstance(error, click.ClickException):
        code, lines = error.exit_code, _usage_lines(error)
    elif isinstance(error, BatchgenError):
        code, lines = error.exit_code, str(error).split("\n")
    else:
        code, lines = EXIT_BUG, _bug_lines(error, invocation)
    _log_error(error, code, lines, invocation)
    if not invocation.json_on_stderr:
        _print_error(error, lines, invocation)
    if invocation.json:
        invocation.answer(_as_object(error, code, lines))
    return code


def as_known_error(error: Exception) -> Exception:
    """An error from a database or the machine as one of batchgen's; a bug stays as it is."""
    if isinstance(error, sqlite3.Error):
        return unreadable_error(error)
    if type(error).__module__.partition(".")[0] == "psycopg":  # psycopg is not imported for this
        return LedgerError(f"the ledger's database failed: {' '.join(str(error).split())}")
    if not isinstance(error, BatchgenError) and (refused := machine_refusal(error)):
        return SettingsError(refused)
    return error


def _log_error(error: Exception, code: int, lines: list[str], invocation: Invocation) -> None:
    """Log an error. The log may not be open yet: a wrong option is found before the command begins."""
    with contextlib.suppress(UsageError):  # if the log cannot be written to, that is the error
        invocation.open_log()
    if invocation.log is not None:
        facts = _as_object(error, code, lines)
        invocation.log.write_event("error", "run.failed", **{name: facts[name] for name in facts if name != "ok"})


def _print_error(error: Exception, lines: list[str], invocation: Invocation) -> None:
    for number, line in enumerate(lines):
        invocation.err.line(line, "red" if number == 0 and not isinstance(error, ManifestError) else "")
    if isinstance(error, ManifestError):
        count = f"{error.total} problem{'' if error.total == 1 else 's'}"
        invocation.err.line(f"{count} in the manifest; nothing was sent", "red")


def _usage_lines(error: click.ClickException) -> list[str]:
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        return error.format_message().split("\n")
    lines = [" ".join(error.format_message().split())]  # click puts choices on lines of their own
    context = getattr(error, "ctx", None)
    if context is not None:
        lines.append(f"Try: {context.command_path} --help")
    return lines


def _bug_lines(error: Exception, invocation: Invocation) -> list[str]:
    text = "".join(traceback.format_exception(error))
    lines = [f"this is a bug in batchgen: {type(error).__name__}: {error}"]
    try:
        # mkstemp makes the file private: a traceback may quote prompts.
        handle, path = tempfile.mkstemp(prefix="batchgen-", suffix=".traceback.txt")
        with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
            file.write(redact_secrets(text, invocation.secrets))
        lines.append(f"what we need to fix it is in {path} (keys taken out; look it over before you send it)")
    except OSError:
        lines.append("its traceback could not be written to the temporary folder")
    return [*lines, "what was paid for is safe: run the same command again to go on"]


def _as_object(error: Exception, code: int, lines: list[str]) -> dict[str, Any]:
    found: dict[str, Any] = {"ok": False, "exit_code": code, "error": type(error).__name__, "message": "\n".join(lines)}
    if isinstance(error, ManifestError):
        names = ("file", "line", "column", "field", "message")
        found["problems"] = [{name: getattr(problem, name) for name in names} for problem in error.problems]
        found["total"] = error.total
    return found
