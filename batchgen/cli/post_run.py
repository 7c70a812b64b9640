"""Tells people about a run. Who is told, and where, is known before it begins, so that they also hear about one that
cannot begin."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

import batchgen
from batchgen.cli.error_report import as_known_error
from batchgen.cli.invocation import Invocation
from batchgen.errors import BatchgenError, JobLocked, ManifestError, SettingsError, UsageError
from batchgen.manifest.addresses import VARIABLE, heartbeat_problem, parameters_problem, secrets_in
from batchgen.report import notify
from batchgen.sanitize import escape_markdown
from batchgen.settings import Settings


class PostRun:
    """The messages and the heartbeat of one run. Nothing in here changes the exit code once the run has begun.

    events: the endings that messages report. addresses: where they go. heartbeat: called after a run that took place.
    """

    def __init__(self, invocation: Invocation, manifest: str, summary: str | None, addresses: tuple[str, ...]) -> None:
        """Raises UsageError if messages are requested and cannot be sent at all."""
        self.invocation = invocation
        self._manifest = manifest
        self._summary = summary
        self.heartbeat: str | None = None
        self.events = notify.DEFAULT_ON
        self.addresses: list[str] = []
        if addresses:
            notify.check_library()
            self._add_addresses(addresses, Settings.load(Path(manifest).absolute().parent))

    def configure(self, job: batchgen.Job) -> None:
        """Add what the manifest wants to be reported."""
        wanted = job.manifest.notify
        if wanted is None:
            return
        self.add_recipients([wanted.to] if isinstance(wanted.to, str) else wanted.to or [], wanted.on, job.settings)
        if wanted.heartbeat and not job.emulated:  # emulated runs do not count
            self.heartbeat = self._resolve_address(wanted.heartbeat, job.settings, message=False)

    def add_recipients(self, to: Sequence[str], on: Sequence[str] | None, settings: Settings) -> None:
        """Add the recipients of a manifest's `notify:`."""
        self.events = notify.DEFAULT_ON if on is None else frozenset(on)
        self._add_addresses(list(to), settings)

    def _add_addresses(self, addresses: tuple[str, ...] | list[str], settings: Settings) -> None:
        self.addresses += [
            found for address in addresses if (found := self._resolve_address(address, settings, message=True))
        ]

    def _resolve_address(self, address: str, settings: Settings, *, message: bool) -> str | None:
        """The address with the values of its variables, which are hidden in all output from now on; None if one is
        missing."""
        for name in VARIABLE.findall(address):
            try:
                found = settings.find(name)
            except SettingsError as error:
                self.warn(str(error))
                return None
            if found is None:
                self.warn(f"{name} is not set: no message is sent to the address that uses it")
                return None
            self.invocation.hide([found.text])
            check_address = parameters_problem if message else heartbeat_problem
            if found.env_file is not None and (problem := check_address(found.text)):
                self.warn(f"{found.source}: {problem}")
                return None
            address = address.replace(f"${{{name}}}", found.text)
        self.invocation.hide([address, *secrets_in(address)])
        return address

    @contextmanager
    def reporting_failure(self) -> Iterator[None]:
        """Report a run that ends by an error too, unless a person sits at the terminal and mistyped."""
        try:
            yield
        except (click.ClickException, click.Abort):
            raise
        except Exception as error:
            why = as_known_error(error)
            bug = f"a bug in batchgen: {type(error).__name__}: {error}"
            text = str(why) if isinstance(why, BatchgenError) else bug
            name = Path(self._manifest).stem
            self.append(failure_markdown(name, text, self.invocation.err.fit))
            mistyped = isinstance(error, UsageError) and not isinstance(error, ManifestError) and sys.stdin.isatty()
            if "failure" in self.events and not mistyped and not isinstance(error, JobLocked):
                self.send(*notify.failure_message(name, text))
            raise

    def send(self, subject: str, body: str) -> bool:
        """Send a message. Returns whether it reached all recipients."""
        if not self.addresses:
            return False
        fit = self.invocation.err.fit
        problems = notify.send(self.addresses, fit(subject), "\n".join(map(fit, body.splitlines())))
        for problem in problems:
            self.warn(f"a message was not sent: {problem}")
        return not problems

    def append(self, text: str) -> None:
        """Append to the file of `--summary`."""
        if self._summary is None:
            return
        try:
            with open(self._summary, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self.warn(f"the summary was not written to {self._summary}: {error.strerror}")

    def warn(self, text: str) -> None:
        self.invocation.warn(text)


def failure_markdown(job: str, message: str, sanitize_line: Callable[[str], str]) -> str:
    """Markdown for a run that ended before there was a summary."""
    lines = [f"- {escape_markdown(sanitize_line(line))}" for line in message.splitlines()]
    return "\n".join([f"### {escape_markdown(sanitize_line(job))}: ended by an error", "", *lines]) + "\n\n"
