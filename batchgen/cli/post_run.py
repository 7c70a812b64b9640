"""What is done with a run once it has ended, other than showing it: a page in Markdown, a message, a sign of life."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

import batchgen
from batchgen.cli.error_report import as_known_error
from batchgen.cli.invocation import Invocation
from batchgen.errors import BatchgenError, JobLocked, ManifestError, SettingsError, UsageError
from batchgen.ledger.reader import Reader
from batchgen.ledger.schema import STATE_FOLDER
from batchgen.manifest.addresses import VARIABLE, heartbeat_problem, parameters_problem, secrets_in
from batchgen.report import notify
from batchgen.report.summary import failure_markdown, summary_markdown
from batchgen.report.view import RunSummary
from batchgen.safe_open import private_opener
from batchgen.settings import Settings

NOTIFIED_FILE = "told.json"  # in the state folder of a job: of which model's end people were told, and at how many days


class PostRun:
    """One for each run. Nothing in here changes the exit code once the run has begun."""

    def __init__(self, invocation: Invocation, manifest: str, summary: str | None, addresses: tuple[str, ...]) -> None:
        """Raises UsageError when messages are asked for and cannot be sent at all."""
        self._invocation = invocation
        self._manifest = manifest
        self._summary = summary
        self._heartbeat: str | None = None
        self._events = notify.DEFAULT_ON
        self._addresses: list[str] = []
        if addresses:
            notify.check_library()
            self._add_addresses(addresses, Settings.load(Path(manifest).absolute().parent))

    def configure(self, job: batchgen.Job) -> None:
        """From now on it is known what the manifest wants to be told."""
        wanted = job.manifest.notify
        if wanted is None:
            return
        self._events = notify.DEFAULT_ON if wanted.on is None else frozenset(wanted.on)
        self._add_addresses([wanted.to] if isinstance(wanted.to, str) else wanted.to or [], job.settings)
        if wanted.heartbeat and not job.emulated:  # an emulated night is none
            self._heartbeat = self._resolve_address(wanted.heartbeat, job.settings, message=False)

    def _add_addresses(self, addresses: tuple[str, ...] | list[str], settings: Settings) -> None:
        self._addresses += [
            found for address in addresses if (found := self._resolve_address(address, settings, message=True))
        ]

    def _resolve_address(self, address: str, settings: Settings, *, message: bool) -> str | None:
        """The address with its variables' values, from here on hidden in all output; None when one is not there."""
        for name in VARIABLE.findall(address):
            try:
                found = settings.find(name)
            except SettingsError as error:
                self._warn(str(error))
                return None
            if found is None:
                self._warn(f"{name} is not set: no message is sent to the address that uses it")
                return None
            self._invocation.hide([found.text])
            check_address = parameters_problem if message else heartbeat_problem
            if found.env_file is not None and (problem := check_address(found.text)):
                self._warn(f"{found.source}: {problem}")
                return None
            address = address.replace(f"${{{name}}}", found.text)
        self._invocation.hide([address, *secrets_in(address)])
        return address

    @contextmanager
    def reporting_failure(self) -> Iterator[None]:
        """A run that ends by an error is told of too, unless a person sits before it and mistyped."""
        try:
            yield
        except (click.ClickException, click.Abort):
            raise
        except Exception as error:
            why = as_known_error(error)
            bug = f"a bug in batchgen: {type(error).__name__}: {error}"
            text = str(why) if isinstance(why, BatchgenError) else bug
            name = Path(self._manifest).stem
            self._append(failure_markdown(name, text, self._invocation.err.fit))
            mistyped = isinstance(error, UsageError) and not isinstance(error, ManifestError) and sys.stdin.isatty()
            if "failure" in self._events and not mistyped and not isinstance(error, JobLocked):
                self._send(*notify.failure_message(name, text))
            raise

    def report_end(self, job: batchgen.Job, summary: RunSummary) -> None:
        self._append(summary_markdown(summary, self._invocation.err.fit))
        if self._addresses:
            self._notify(job, summary)
        if self._heartbeat is None or summary.exit_code not in notify.HEARTBEAT_CODES:
            return
        if problem := notify.send_heartbeat(self._heartbeat):
            self._warn(f"no heartbeat was sent: {problem}")

    def _notify(self, job: batchgen.Job, summary: RunSummary) -> None:
        folder, today = job.folder, datetime.now(UTC).date()
        notified = _read_notified(folder)
        profiles = [job.manifest.catalogue.resolve(model) for model in _models(folder)]
        due_notices = notify.due_shutdown_notices(profiles, notified, today) if "shutdown" in self._events else {}
        told = notify.notify_events(summary.exit_code, parked=bool(summary.parked), shutdown=bool(due_notices))
        if not told & self._events:
            return
        lines = [notify.shutdown_line(profile, today) for profile in profiles if profile.id in due_notices]
        if self._send(*notify.message(summary, lines)) and due_notices:
            path = folder / STATE_FOLDER / NOTIFIED_FILE
            # Where it cannot be written it is told once more.
            with contextlib.suppress(OSError), open(path, "w", encoding="utf-8", opener=private_opener) as file:
                file.write(json.dumps({**notified, **due_notices}))

    def _send(self, subject: str, body: str) -> bool:
        if not self._addresses:
            return False
        fit = self._invocation.err.fit
        problems = notify.send(self._addresses, fit(subject), "\n".join(map(fit, body.splitlines())))
        for problem in problems:
            self._warn(f"a message was not sent: {problem}")
        return not problems

    def _append(self, text: str) -> None:
        if self._summary is None:
            return
        try:
            with open(self._summary, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._warn(f"the summary was not written to {self._summary}: {error.strerror}")

    def _warn(self, text: str) -> None:
        self._invocation.warn(text)


def _models(folder: Path) -> list[str]:
    """AI models of all that the job wants."""
    with Reader.open(folder) as reader:
        return sorted(model for model, states in reader.counts_by_model().items() if set(states) - {"superseded"})


def _read_notified(folder: Path) -> dict[str, int]:
    try:
        found = json.loads((folder / STATE_FOLDER / NOTIFIED_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
