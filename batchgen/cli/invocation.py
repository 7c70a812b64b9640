"""What the commands of one invocation have in common: two streams, what must never be shown, and how they answer."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from batchgen.errors import SettingsError
from batchgen.http.proxies import proxy_passwords
from batchgen.ledger.server_connection import passwords_in_url
from batchgen.report.console import Console
from batchgen.settings import LEDGER_VARIABLE, Settings, environment, hideable

if TYPE_CHECKING:
    from batchgen.report.log import Log, LogFormat


@dataclass
class Invocation:
    """The state of one invocation. json: the answer is one object on stdout, errors included. secrets: values that no
    output may contain.

    later_ok: exit with 0 if the result only means "run again later". log: set once it is open.
    """

    json: bool = False
    later_ok: bool = False
    log_file: str | None = None
    log_format: LogFormat | None = None
    log: Log | None = None
    secrets: set[str] = field(default_factory=set)
    _answers: list[Any] | None = None

    @cached_property
    def out(self) -> Console:
        """stdout: data."""
        return Console(sys.stdout, secrets=self.secrets)

    @cached_property
    def err(self) -> Console:
        """stderr: everything else."""
        return Console(sys.stderr, secrets=self.secrets)

    @property
    def json_on_stderr(self) -> bool:
        """Whether the log goes to stderr as JSON: then every line there is JSON."""
        return self.log is not None and self.log_format == "json" and self.log_file is None

    def open_log(self, *, quiet: bool = False) -> None:
        """Open the log if one was requested and is not open. Raises UsageError if its file cannot be written to."""
        if self.log is not None or (self.log_file is None and self.log_format is None):
            return
        from batchgen.report.log import Log, LogFile, Stream  # they import structlog, and most runs keep no log

        stream = Stream(self.err.stream, plain=not self.err.unicode)
        sink = stream if self.log_file is None else LogFile(self.log_file)
        log = Log(sink, self.log_format or "text", lambda: self.secrets, quiet=quiet and sink is stream)
        self.log = log.__enter__()

    def answer(self, value: Any) -> None:
        """Print the `--json` answer on stdout, or add it to the list of answers."""
        if self._answers is None:
            self.out.json(value)
        else:
            self._answers.append(value)

    @contextlib.contextmanager
    def answering_as_list(self) -> Iterator[None]:
        """Collect the answers of several jobs into one JSON list."""
        self._answers = []
        try:
            yield
        finally:
            answers, self._answers = self._answers, None
            if self.json:
                self.answer(answers)

    def close_log(self) -> None:
        """Close the log, and report lines that it could not write."""
        log, self.log = self.log, None
        if log is not None:
            log.__exit__()
            if log.loss_message:
                self.err.line(log.loss_message, "yellow")

    def warn(self, text: str) -> None:
        """Show a line to the person, and write it to the log."""
        if self.log is not None:
            self.log.write_event("warning", "run.notice", message=text)
        if not self.json_on_stderr:
            self.err.line(text, "yellow")

    def hide_keys(self, settings: Settings, providers: Iterable[str] | None = None) -> None:
        """Hide every key in these settings from all output from now on, whoever quotes it, including the keys of these
        providers (or of all installed ones) whose variables are not named like keys. Raises SettingsError."""
        from batchgen.providers.registry import BUILT_IN, endpoints, provider_names  # `--help` needs no provider

        # Built-in providers name their variables like keys, so they need not be imported.
        declared = endpoints({*(provider_names() if providers is None else providers)} - BUILT_IN.keys())
        self.hide(settings.all_keys({name for endpoint in declared for name in endpoint.key_names}))
        self.hide_passwords(settings)

    def hide_passwords(self, settings: Settings) -> None:
        """Hide the credentials for the ledger's database from all output from now on. Raises SettingsError on a bad
        file."""
        url = settings.find(LEDGER_VARIABLE)
        self.hide({settings.get("PGPASSWORD") or "", *passwords_in_url(url.text if url else "")})

    def hide(self, values: Iterable[str]) -> None:
        """Hide these values from all output from now on, apart from those that are too short to be told from ordinary
        words."""
        found = hideable(values)
        if found <= self.secrets:
            return
        self.secrets |= found
        self.out.secrets = self.err.secrets = tuple(sorted(self.secrets, key=len, reverse=True))


def create_invocation() -> Invocation:
    """A new invocation, which hides the keys in the process's environment from the first line on."""
    settings = Settings.load()
    secrets = hideable(settings.all_keys() | proxy_passwords(environment()))
    invocation = Invocation(secrets=secrets)
    with contextlib.suppress(SettingsError):  # reported by the command that needs it
        invocation.hide_passwords(settings)
    return invocation
