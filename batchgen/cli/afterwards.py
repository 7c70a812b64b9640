"""What is done with a run once it has ended, other than showing it: written for a CI job's page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from batchgen.cli.invocation import Invocation
from batchgen.errors import BatchgenError
from batchgen.report.facts import Facts
from batchgen.report.markdown import failure_markdown, summary_markdown


class Afterwards:
    """One for each run. Nothing in here changes the exit code."""

    def __init__(self, invocation: Invocation, manifest: str, summary: str | None) -> None:
        self._invocation = invocation
        self._manifest = manifest
        self._summary = summary

    @contextmanager
    def of_failure(self) -> Iterator[None]:
        """A run that ends before it has begun is told of too."""
        try:
            yield
        except BatchgenError as error:
            self._append(failure_markdown(Path(self._manifest).stem, str(error), self._invocation.err.fit))
            raise

    def ended(self, facts: Facts) -> None:
        self._append(summary_markdown(facts, self._invocation.err.fit))

    def _append(self, text: str) -> None:
        if self._summary is None:
            return
        try:
            with open(self._summary, "a", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            self._invocation.err.line(f"the summary was not written to {self._summary}: {error.strerror}", "yellow")
