"""`batchgen verify`: every file of the ledger against its size and hash. Nothing is changed but what `--repair` builds anew."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import find_job, head_fields, manifest_folder, used_folders
from batchgen.cli.options import folder_option, job_argument, json_option, pass_invocation
from batchgen.errors import UsageError
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.location import LedgerServer, configured_url, job_identity, read_pointer, validated_url
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import RESULTS_FILE as RESULTS
from batchgen.ledger.schema import ledger_path
from batchgen.manifest.addresses import has_url_scheme
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.gallery import FILE_NAME as GALLERY
from batchgen.store.local_folder import FileVerdict
from batchgen.store.store import Store, last_location, open_store_of
from batchgen.store.stored_files import with_sidecars

if TYPE_CHECKING:
    from batchgen.engine.recovery.repair import Repair

EXIT_DAMAGED = 3
CONTACT_SHEET = "contact-sheet"  # what the names of those begin with
MAX_SHOWN = 20
T = TypeVar("T")


@dataclass(slots=True)
class VerifyResult:
    """checked: files that are as the ledger says. gone: missing, but their sample has a later image. extra: not ours."""

    checked: int = 0
    bytes: int = 0
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    waiting: int = 0  # in the spool, because the bucket did not take them
    derived: int = 0  # derivatives that are as the ledger says
    derived_amiss: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        return not self.missing and not self.changed and not self.derived_amiss and not self.waiting


@click.command("verify")
@job_argument
@folder_option
@click.option(
    "--repair",
    "rebuild",
    is_flag=True,
    help="Rebuild a damaged or lost ledger from the files that are left, or complete an older one.",
)
@json_option()
@pass_invocation
def command(invocation: Invocation, job: str, output: str | None, rebuild: bool, as_json: bool) -> int:
    """Read every image of JOB again and compare it with the ledger.

    Exit code 3 when a file is missing or changed. Files that the ledger does not know are listed and left alone.

    \b
    Examples:
      batchgen verify catalog.yaml
      batchgen verify catalog/ --json
      batchgen verify catalog.yaml --repair
    """
    if rebuild:
        repair_ledger(invocation, job, output)
    folder = find_job(job, output).folder
    with Reader.open(folder) as reader:
        findings = verify(folder, reader, invocation.err)
    if as_json:
        lists = {name: getattr(findings, name) for name in ("missing", "changed", "gone", "extra", "derived_amiss")}
        invocation.out.json({"ok": findings.is_intact, "folder": str(folder), "checked": findings.checked,
                             "bytes": findings.bytes, "waiting": findings.waiting, "derived": findings.derived, **lists})  # fmt: skip
    else:
        print_result(invocation.out, findings)
    return 0 if findings.is_intact else EXIT_DAMAGED


def repair_ledger(invocation: Invocation, job: str, output: str | None) -> None:
    """With the manifest at hand its fingerprints are kept too, so that the next run buys nothing of it again."""
    import batchgen
    from batchgen.engine.recovery.repair import repair

    folder, print_line = find_repair_folder(job, output), invocation.err.line
    if (there := read_pointer(folder)) is not None:
        raise UsageError(
            f"the ledger of {folder} is on a server, {there.server}, schema {there.schema}: --repair is for a ledger in the"
            " folder. Restore that one from the server's backups"
        )
    loaded = None
    if Path(job).is_file():
        loaded = batchgen.load(job, output=output if output and has_url_scheme(output) else folder, emulate=True)
    manifest, bucket = (None, last_location(folder)) if loaded is None else (loaded.manifest, loaded.bucket)
    if manifest is not None and not bucket and output is None and folder == Path(os.path.abspath(manifest.output)):
        bucket = manifest.bucket  # nothing in the folder says so any more
    url = None if ledger_path(folder).is_file() else configured_url(folder)  # a damaged file is replaced by a file
    name = folder.name if manifest is None else manifest.name
    server = None if url is None else LedgerServer(validated_url(url), name, job_identity(bucket or str(folder)))
    done = repair(folder, manifest, bucket, server)
    if done is None:
        print_line("the ledger is whole: there is nothing to repair")
        return
    print_repair(done, print_line, with_manifest=manifest is not None)


def print_repair(done: Repair, print_line: Callable[..., None], *, with_manifest: bool) -> None:
    if done.kept_as:
        print_line(f"the damaged ledger is kept as {done.kept_as}")
    print_line(f"{formatting.count(done.restored, 'image')} back in the ledger")
    if done.unmarked:
        then = (
            "the manifest asks for something else now): the next run would make them again"
            if with_manifest
            else "no manifest was given): the next run keeps those whose prompt and model it still asks for"
        )
        print_line(f"{len(done.unmarked):,} of them without a fingerprint ({then}", "yellow")
    for path in done.by_name:
        print_line(f"matched by its file name only (nothing records its prompt): {path}", "yellow")
    for old, new in done.moved:
        print_line(f"{old} is {new} by its bytes, and has that name again")
    for label, paths in (
        ("missing or changed", done.gone),
        ("not a whole picture, move it away", done.broken),
        ("belongs to no known request, kept as", done.unassigned),
    ):
        for path in paths:
            print_line(f"{label}: {path}", "yellow")


def find_repair_folder(job: str, output: str | None) -> Path:
    """The job's folder, with or without a ledger: of the job and its emulated job the one whose ledger is not whole. Raises
    UsageError."""
    from batchgen.engine.recovery.repair import is_ledger_intact

    if Path(job).is_dir() or (output is not None and not has_url_scheme(output)):
        return Path(output or job).absolute()
    if not Path(job).is_file():
        raise UsageError(f"{job}: there is no such manifest or folder")
    real, folders = manifest_folder(Path(job)), used_folders(Path(job))
    if real not in folders and (
        real.is_dir() or not folders or has_url_scheme(head_fields(Path(job)).get("output", ""))
    ):
        folders.append(real)
    return next((folder for folder in folders if not is_ledger_intact(folder)), folders[0]).absolute()


def verify(folder: Path, reader: Reader, console: Console) -> VerifyResult:
    """console: where a line counts the files while a person watches."""
    findings, known, store = VerifyResult(), set[str](), open_store_of(folder, reader)
    if store.url:
        findings.waiting = len(reader.unplaced())
    total = reader.expected_file_count()
    pictures = ((path, sha256, (size, latest)) for path, sha256, size, latest in reader.expected_files())
    for path, (size, latest), verdict in check_files(store, pictures):
        known.add(path)
        if console.live and len(known) % 50 == 1:
            console.stream.write(f"\r\x1b[Kverifying {len(known):,} of {total:,}")
            console.stream.flush()
        match verdict:
            case "right":
                findings.checked += 1
                findings.bytes += size
            case "changed":
                findings.changed.append(path)
            case "missing":
                (findings.missing if latest else findings.gone).append(path)
    if console.live and known:
        console.stream.write("\r\x1b[K")
    known.update([name for path in known for name in with_sidecars(path)])
    known.update(verify_derivatives(store, reader, findings))
    findings.extra = sorted(path for path in foreign_candidates(store) if path not in known)
    return findings


def check_files(store: Store, expected: Iterable[tuple[str, str, T]]) -> Iterator[tuple[str, T, FileVerdict]]:
    """expected: (path, sha256, more). Answers (path, more, verdict) in order. Of a bucket a few are read at once."""
    waiting: deque[tuple[str, T, Future[FileVerdict]]] = deque()
    with ThreadPoolExecutor(store.properties.parallel_reads, "verify") as pool:
        for path, sha256, more in expected:
            waiting.append((path, more, pool.submit(store.verify, path, sha256)))
            if len(waiting) > 2 * store.properties.parallel_reads:
                path, more, verdict = waiting.popleft()
                yield path, more, verdict.result()
        for path, more, verdict in waiting:
            yield path, more, verdict.result()


def verify_derivatives(store: Store, reader: Reader, findings: VerifyResult) -> Iterator[str]:
    """Their paths. One that was damaged in place gets another time, by which the next run sees that it must look at it."""
    expected = ((path, sha, None) for path, sha, _ in DerivativeReader.from_reader(reader).expected_derivatives())
    for path, _, verdict in check_files(store, expected):
        yield path
        if verdict == "right":
            findings.derived += 1
            continue
        findings.derived_amiss.append(path)
        if verdict == "changed" and not store.properties.remote:
            with contextlib.suppress(OSError):
                os.utime(os.path.join(store.root, path), follow_symlinks=False)


def foreign_candidates(store: Store) -> Iterator[str]:
    """Paths of all that is not hidden, but for pages of ours."""
    for found in store.all_files():
        if found.path not in (RESULTS, GALLERY) and not os.path.basename(found.path).startswith(CONTACT_SHEET):
            yield found.path


def print_result(out: Console, findings: VerifyResult) -> None:
    for label, style, paths in (
        ("missing", "red", findings.missing),
        ("changed", "red", findings.changed),
        ("derivative missing or changed", "red", findings.derived_amiss),
        ("gone, made anew since", "dim", findings.gone),
        ("not in the ledger", "dim", findings.extra),
    ):
        for path in paths[:MAX_SHOWN]:
            out.line(f"{label}: {path}", style)
        if len(paths) > MAX_SHOWN:
            out.line(f"{label}: … and {len(paths) - MAX_SHOWN:,} more (--json lists all)", style)
    good = f"{formatting.count(findings.checked, 'file')} verified, {formatting.size(findings.bytes)}"
    good += f", and {formatting.count(findings.derived, 'derivative')}" if findings.derived else ""
    if findings.is_intact:
        out.line(f"ok: {good}", "green")
        return
    out.line(f"{good}; {len(findings.missing):,} missing, {len(findings.changed):,} changed", "bold yellow")
    if findings.waiting:
        out.line(f"{findings.waiting:,} in the spool: `batchgen run` uploads them, and nothing is bought again")
    if findings.missing or findings.changed:
        out.line("a missing image is made again by `batchgen run`, a changed one is not: put the original back, or")
        out.line("`batchgen run --fresh --only ID` makes it again and keeps the changed file in superseded/")
    if findings.derived_amiss:
        out.line("derivatives are made again by `batchgen run` and `batchgen post`, and nothing is sent for them")
