"""`batchgen verify`: compares every file in the ledger with its size and hash. Only `--repair` changes anything."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from batchgen.cli.invocation import Invocation
from batchgen.cli.job_folder import EMULATED_SUFFIX, find_job, find_manifest, head_fields, manifest_folder
from batchgen.errors import UsageError
from batchgen.ledger.derivatives import DerivativeReader
from batchgen.ledger.location import verify_arguments
from batchgen.ledger.reader import Reader
from batchgen.ledger.results import RESULTS_FILE as RESULTS
from batchgen.manifest.names import SeenTexts
from batchgen.records import SIDECARS
from batchgen.report import formatting
from batchgen.report.console import Console
from batchgen.report.gallery import is_page_name
from batchgen.store.local_folder import FileVerdict
from batchgen.store.store import Store, last_location, open_store_of

EXIT_DAMAGED = 3
CONTACT_SHEET = "contact-sheet"  # the beginning of such files' names
MAX_SHOWN = 20
STEM_MARK = "\0"  # precedes the stem of a known image, which the files beside it share
T = TypeVar("T")


@dataclass(slots=True)
class VerifyResult:
    """The result. checked: files that match the ledger. gone: missing or changed, but their sample has a later image. extra:
    files from elsewhere."""

    checked: int = 0
    bytes: int = 0
    waiting: int = 0  # in the spool, because the bucket refused them
    derived: int = 0  # derivatives that match the ledger
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    derived_amiss: list[str] = field(default_factory=list)

    @property
    def is_intact(self) -> bool:
        return not self.missing and not self.changed and not self.derived_amiss and not self.waiting


def verify_command(invocation: Invocation, job: str, output: str | None, rebuild: bool, as_json: bool) -> int:
    if rebuild:
        from batchgen.cli.repair import repair_ledger  # reads manifests and images, and takes 0.3 s to import

        repair_ledger(invocation, job, output)
    folder = find_job(job, output).folder
    with Reader.open(folder) as reader:
        findings = verify(folder, reader, invocation.err)
    if as_json:
        invocation.answer({"ok": findings.is_intact, "folder": str(folder), **asdict(findings)})
    else:
        print_result(invocation.out, findings, *(("", "") if findings.is_intact else _arguments(job, folder)))
    return 0 if findings.is_intact else EXIT_DAMAGED


def verify(folder: Path, reader: Reader, console: Console) -> VerifyResult:
    """Compare the files with the ledger. console: shows the number of files while a person watches."""
    findings, known, store = VerifyResult(), SeenTexts(), open_store_of(folder, reader)
    if store.url:
        findings.waiting = len(reader.unplaced())
    total = reader.expected_file_count()
    pictures = ((path, sha256, (size, latest)) for path, sha256, size, latest in reader.expected_files())
    for number, (path, (size, latest), verdict) in enumerate(check_files(store, pictures)):
        known.add(path)
        known.add(STEM_MARK + os.path.splitext(path)[0])
        if console.live and number % 50 == 0:
            console.stream.write(f"\r\x1b[Kverifying {number + 1:,} of {total:,}")
            console.stream.flush()
        match verdict:
            case "right":
                findings.checked += 1
                findings.bytes += size
            case _ if not latest:
                findings.gone.append(path)
            case "changed":
                findings.changed.append(path)
            case "missing":
                findings.missing.append(path)
    if console.live and total:
        console.stream.write("\r\x1b[K")
    for path in verify_derivatives(store, reader, findings):
        known.add(path)
    findings.extra = sorted(path for path in foreign_candidates(store) if not _is_ours(path, known))
    return findings


def _is_ours(path: str, known: SeenTexts) -> bool:
    """Whether it is a file in the ledger, or one that belongs beside one."""
    return path in known or any(
        path.endswith(ending) and STEM_MARK + path.removesuffix(ending) in known for ending in SIDECARS
    )


def check_files(store: Store, expected: Iterable[tuple[str, str, T]]) -> Iterator[tuple[str, T, FileVerdict]]:
    """Check files. expected: (path, sha256, more). Yields (path, more, verdict) in order. A few are read at once from a
    bucket."""
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
    """Check the derivatives, and yield their paths. One that was damaged without changing its time gets a new one, so
    that the next run looks at it."""
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
    """The paths of everything that is not hidden, except pages that batchgen wrote."""
    for found in store.all_files():
        if (
            found.path != RESULTS
            and not is_page_name(found.path)
            and not os.path.basename(found.path).startswith(CONTACT_SHEET)
        ):
            yield found.path


def _arguments(job: str, folder: Path) -> tuple[str, str]:
    """The arguments that mean this job after `batchgen post`, and what follows them after `batchgen run`."""
    try:
        manifest, emulated = find_manifest(job, folder)
        usual, emulate = Path(os.path.abspath(manifest_folder(Path(manifest)))), " --emulate" if emulated else ""
        if bucket := last_location(folder):
            said = "" if emulated else head_fields(Path(manifest)).get("output", "")
            return verify_arguments(manifest, bucket, said.rstrip("/")), emulate
    except UsageError:
        return "MANIFEST", ""  # it has gone, or cannot be read
    usual = usual.with_name(usual.name + EMULATED_SUFFIX) if emulated else usual
    return verify_arguments(manifest, folder, usual), emulate


def print_result(out: Console, findings: VerifyResult, arguments: str, emulate: str) -> None:
    run = f"batchgen run {arguments}{emulate}"
    for label, style, paths in (
        ("missing", "red", findings.missing),
        ("changed", "red", findings.changed),
        ("derivative missing or changed", "red", findings.derived_amiss),
        ("gone or changed, made again since", "dim", findings.gone),
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
        out.line(f"{findings.waiting:,} in the spool: `{run}` uploads them, and nothing is bought again")
    if findings.missing or findings.changed:
        out.line(f"a missing image is made again by `{run}`, a changed one is not: put the original back, or")
        out.line(f"`{run} --fresh --only ID` makes it again and keeps the changed file in superseded/")
    if findings.derived_amiss:
        out.line(f"derivatives are made again by `{run}` and `batchgen post {arguments}`, and nothing is sent for them")
