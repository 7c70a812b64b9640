"""A command whose options are data and whose body is imported when it runs, and commands that take several jobs, one
after another."""

from __future__ import annotations

import contextlib
import gc
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import click

from batchgen.cli.error_report import EXIT_BROKEN_PIPE, report_failure
from batchgen.cli.invocation import Invocation
from batchgen.errors import SettingsError, UsageError
from batchgen.settings import LEDGER_VARIABLE, Settings, environment, set_ledger_url

# If there are several jobs, the command's exit code is the first of these: what needs a person soonest. A signal ends
# them all.
SIGNAL_CODES = (129, 130, 143, EXIT_BROKEN_PIPE)
WORST_FIRST = (*SIGNAL_CODES, 1, 2, 5, 4, 3, 11, 8, 7, 6, 9, 0)
ONE_JOB_OPTIONS = ("output", "source", "target", "metrics_file", "watch")
# As `init` writes it; other YAML files are not manifests.
_MANIFEST_START = re.compile(r"^(?:version\s*:\s*1\s*(?:#.*)?$|items\s*:)", re.MULTILINE)
_HEAD_BYTES = 65_536
# Options that people look for in the wrong place, and what to do instead.
INSTEAD = {
    "--emulate": "Leave it out: without a real run of this manifest, its emulated one is meant; else name the folder NAME.emulated.",
    "--model": "The manifest names the model: `model:` at an item, or in `defaults`.",
    "--force": "Did you mean '--fresh'?",
    **dict.fromkeys(("--budget", "--budget-usd", "--max-usd", "--limit-usd"), "Did you mean '--max-cost'?"),
}
Body = Callable[..., int | None]


@dataclass(frozen=True, slots=True)
class EachJob:
    """How a command takes jobs. heading: the stream that names each of several jobs, the one that the answers go to.

    checked: each job is called with check_only=True first, and no body runs unless all pass. Questions have been asked
    by then, so the bodies get yes=True.
    """

    heading: Literal["out", "err"] = "err"
    checked: bool = False


class Command(click.Command):
    """A command. Its options are declared at once; its body is imported when it runs, so that `--help`, completion and
    a mistyped option do not wait for heavy imports.

    summary: its line in `batchgen --help`. module: the one in this folder with the function NAME_command; by default
    NAME. each: its first argument names jobs, and NAME_command gets one at a time; without one, the only manifest in
    this folder.
    """

    def __init__(
        self,
        name: str,
        summary: str,
        params: Sequence[click.Parameter],
        text: str,
        *,
        module: str = "",
        each: EachJob | None = None,
        **settings: Any,
    ) -> None:
        # A copy of its own, as `schedule` looks at `run`'s options outside the group, and click keeps the first it
        # makes.
        context = {"help_option_names": ["-h", "--help"], **settings.pop("context_settings", {})}
        super().__init__(name, params=list(params), help=text, context_settings=context, **settings)
        self.summary = summary
        self.each = each
        self.body = (f"batchgen.cli.{module or name}", f"{name}_command")

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as unknown:
            if instead := INSTEAD.get(unknown.option_name):
                raise click.UsageError(f"No such option '{unknown.option_name}'. {instead}", unknown.ctx) from None
            raise

    def invoke(self, ctx: click.Context) -> Any:
        module, function = self.body
        invocation = ctx.ensure_object(Invocation)
        body: Body = partial(ctx.invoke, getattr(import_module(module), function), invocation)
        if not gc.isenabled():  # as `__main__` leaves it
            gc.freeze()  # what is imported stays: collections can skip it
            gc.enable()
        if self.each is None:
            return body(**ctx.params)
        argument = self.params[0].name or ""
        given = ctx.params.pop(argument) or default_manifest(invocation)
        jobs = (given,) if isinstance(given, str) else given

        def run_one(job: str, **more: Any) -> int | None:
            if argument == "job":
                load_job_settings(invocation, job)
            return body(**{argument: job}, **{**ctx.params, **more})

        if len(jobs) == 1:
            return run_one(jobs[0])
        self._check_named(jobs)
        for param in self.params:
            if param.name in ONE_JOB_OPTIONS and ctx.params[param.name]:
                raise UsageError(f"{param.opts[-1]} goes with one job, and {len(jobs)} are named: run them one by one")
        return run_each(invocation, self.each, jobs, run_one, ctx.params)

    def _check_named(self, jobs: Sequence[str]) -> None:
        """Check that all of several jobs exist before anything is done for one: one of them may be meant as something
        else."""
        names = {param.name for param in self.params}
        for job in jobs:
            if not Path(job).exists():
                is_file = bool(Path(job).suffix)
                meant = [f"an item is chosen with --only {job}"] if "only" in names and not is_file else []
                meant += [f"a file to write is named with --to {job}"] if "target" in names and is_file else []
                raise UsageError("; ".join([f"{job}: there is no such manifest or folder", *meant]))


def run_each(invocation: Invocation, each: EachJob, jobs: Sequence[str], body: Body, options: Mapping[str, Any]) -> int:
    """Run a command for one job after another, as if each had been called by itself. Returns the worst exit code."""
    ledger = environment().get(LEDGER_VARIABLE)

    def codes(**more: Any) -> list[int]:
        found = list[int]()
        for number, job in enumerate(jobs, 1):
            set_ledger_url(ledger)  # one manifest's `.env` does not count for the next
            if not more.get("check_only") and not invocation.json and not options.get("quiet"):
                console = invocation.out if each.heading == "out" else invocation.err
                console.line(f"{job} ({number} of {len(jobs)}):", "bold")
            try:
                found.append(body(job, **more) or 0)
            except click.Abort:
                raise
            except Exception as error:
                found.append(report_failure(error, invocation))
            if found[-1] in SIGNAL_CODES:
                break
        return found

    with invocation.answering_as_list():
        checked = each.checked and not options.get("dry_run")
        if checked and any(wrong := codes(check_only=True)):
            return worst(wrong)
        return worst(codes(yes=True) if checked else codes())


def worst(codes: Sequence[int]) -> int:
    """The worst of exit codes; one that is not in the list is worse than all."""
    return min(codes, key=lambda code: WORST_FIRST.index(code) if code in WORST_FIRST else -1)


def default_manifest(invocation: Invocation) -> str:
    """The only manifest in this folder, named on stderr. Raises UsageError if there is none or more than one."""
    here = manifests_in(Path())
    if len(here) == 1:
        if invocation.log_format != "json" or invocation.log_file is not None:
            invocation.err.line(f"using {here[0]}, the only manifest here", "dim")
        return here[0]
    found = here or manifests_in(Path("jobs"))
    if not found:
        raise UsageError("which manifest? There is none here: `batchgen init` writes one to start from")
    place = "here are" if here else "there is none here, and in jobs/" if len(found) > 1 else "there is none here, but"
    shown = ", ".join(found[:10]) + (f" and {len(found) - 10} more" if len(found) > 10 else "")
    raise UsageError(f"which manifest? {place[:1].upper()}{place[1:]} {shown}: name one, or several")


def manifests_in(folder: Path) -> list[str]:
    """YAML files that begin as `batchgen init` writes them, by name."""
    found = []
    for path in sorted(folder.glob("*.y*ml")):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            head = file.read(_HEAD_BYTES).decode("utf-8", errors="replace").replace("\r\n", "\n")
            if _MANIFEST_START.search(head):
                found.append(str(path))
    return found


def load_job_settings(invocation: Invocation, job: str) -> None:
    """Load the ledger's address from a job's `.env`. If that cannot be read, the command itself complains."""
    from batchgen.ledger.location import ledger_url  # a quarter of the time of `--help`, which needs no ledger

    with contextlib.suppress(SettingsError):
        settings = Settings.load(Path(job).absolute().parent)
        invocation.hide_passwords(settings)
        set_ledger_url(ledger_url(settings))
