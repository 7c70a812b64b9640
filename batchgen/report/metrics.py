"""A run's metrics in Prometheus' text format, for node_exporter's textfile collector: the ledger's totals and what
happens now."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from importlib.resources import files
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from batchgen.errors import BatchgenError, JobLocked, LedgerError, StoreError, UsageError
from batchgen.events import Event, RunStarted
from batchgen.ledger.acceptance import AcceptanceReader
from batchgen.ledger.reader import Reader
from batchgen.ledger.reviews import reviewed
from batchgen.records import lane_model
from batchgen.report import formatting
from batchgen.report.queries import read_lanes
from batchgen.report.run_progress import RunProgress
from batchgen.report.run_state import process_state

if TYPE_CHECKING:
    from prometheus_client.core import Metric

WRITE_INTERVAL_S = 15.0
MISSING_LIBRARY = "metrics need the library prometheus_client: pip install 'batchgen[metrics]'"
log = logging.getLogger("batchgen")


class MetricDefinition(NamedTuple):
    """A metric. counter: over all runs of the job, from the ledger; it only falls if the ledger itself is created
    again."""

    kind: str
    labels: tuple[str, ...]
    help_text: str


def _counter(help_text: str, *labels: str) -> MetricDefinition:
    """A counter. labels: after the one for the job."""
    return MetricDefinition("counter", ("job", *labels), help_text)


def _gauge(help_text: str, *labels: str) -> MetricDefinition:
    return MetricDefinition("gauge", ("job", *labels), help_text)


# These are an interface: dashboards and alerts are built on them.
METRICS = {
    "batchgen_images_total": _counter("Images received in all runs; state: image, draft or thought.", "model", "state"),
    "batchgen_requests_total": _counter(
        "Requests ended in all runs: succeeded, refused, failed or uncertain.", "model", "outcome"
    ),
    "batchgen_usd_total": _counter(
        "USD in all runs, by the usage or word of the vendor, or an estimate.", "model", "source"
    ),
    "batchgen_maybe_usd": _gauge(
        "USD that may have been charged on top for requests without an image, an estimate.", "model"
    ),
    "batchgen_unpriced_requests_total": _counter(
        "Requests whose price nobody knows; billed: yes, or maybe without an image.", "model", "billed"
    ),
    "batchgen_samples": _gauge(
        "How the job stands: wanted images by state, such as succeeded or failed.", "model", "state"
    ),
    "batchgen_manifest_images": _gauge("Images that the manifest asks for, as the last run read it."),
    "batchgen_left_out_images": _gauge(
        "Images of the manifest that the last run did not try; by: limit, only or not_asked.", "by"
    ),
    "batchgen_accepted_images": _gauge("Images of the job that are there and not rejected."),
    "batchgen_rejected_images": _gauge(
        "Images of the job that are rejected; reason: judge, person or what a check found.", "reason"
    ),
    "batchgen_usd_per_accepted_image": _gauge(
        "USD of all runs for each accepted image, as far as prices are known; absent when none is, or none is accepted."
    ),
    "batchgen_seconds_per_accepted_image": _gauge("Duration of all runs for each accepted image, to the last answer."),
    "batchgen_run_exit_code": _gauge("Exit code of the last run that ended."),
    "batchgen_run_duration_seconds": _gauge("Duration of the run under way, else of the last one that ended."),
    "batchgen_last_success_timestamp_seconds": _gauge("When a run last ended with exit code 0."),
    "batchgen_in_flight": _gauge("Requests on their way now.", "model"),
    "batchgen_lane_cooled": _gauge("1 while a model waits for its quota after a 429.", "model"),
    "batchgen_lane_parked": _gauge("1 while a model's daily quota is used up.", "model"),
    "batchgen_model_down": _gauge(
        "1 while a model, its account or its host is down and only probed now and then.", "model"
    ),
    "batchgen_exposed_seconds": _gauge(
        "Longest time in this run for which an answer was received and not yet durable.", "model"
    ),
    "batchgen_queue_depth": _gauge(
        "Requests in the cluster's queue (model post: images whose files are to be made); state: ready, taken or later.",
        "model",
        "state",
    ),
    "batchgen_workers": MetricDefinition("gauge", (), "Workers of the cluster that are alive."),
    "batchgen_last_heartbeat_timestamp_seconds": MetricDefinition(
        "gauge", (), "When the ledger's server last heard of this worker."
    ),
}
_BY_THIS_WORKER = {
    "batchgen_images_total": "Images that this worker has received since it started; state: image, draft or thought.",
    "batchgen_requests_total": "Requests of this worker ended since it started: succeeded, refused, failed or uncertain.",
    "batchgen_exposed_seconds": "Longest time for which this worker had received an answer and it was not yet durable.",
}
WORKER_METRICS = METRICS | {name: METRICS[name]._replace(help_text=text) for name, text in _BY_THIS_WORKER.items()}
MetricValue = tuple[str, tuple[str, ...], float]  # name, values of the labels after `job`, value


def require_library() -> None:
    """Raises UsageError naming the extra."""
    try:
        import prometheus_client  # noqa: F401 - an extra
    except ImportError:
        raise UsageError(MISSING_LIBRARY) from None


def ledger_values(reader: Reader) -> Iterator[MetricValue]:
    """The totals of all runs of a job."""
    for model, role, images in reader.images_by_model():
        yield "batchgen_images_total", (model, role), images
    for model, outcome, requests in reader.requests_by_model():
        yield "batchgen_requests_total", (model, outcome), requests
    for model, source, usd in reader.usd_by_model():
        yield "batchgen_usd_total", (model, source), usd
    for model, usd, unpriced, maybe_unpriced in reader.maybe_usd_by_model():
        known_usd = formatting.known_amount(usd, maybe_unpriced)
        if known_usd is not None:  # otherwise unknown, which no number expresses
            yield "batchgen_maybe_usd", (model,), known_usd
        yield "batchgen_unpriced_requests_total", (model, "yes"), unpriced
        yield "batchgen_unpriced_requests_total", (model, "maybe"), maybe_unpriced
    for model, states in reader.counts_by_model().items():
        for state, samples in states.items():
            yield "batchgen_samples", (model, state), samples
    if (found := reader.last_read_manifest()) is not None:
        yield "batchgen_manifest_images", (), found.totals.images
        for why, images in found.totals.left_out.items():
            yield "batchgen_left_out_images", (why,), images
    yield from _acceptance_values(AcceptanceReader.from_reader(reader))
    if (success_at := reader.last_success_at()) is not None:
        yield "batchgen_last_success_timestamp_seconds", (), success_at


def _acceptance_values(reader: AcceptanceReader) -> Iterator[MetricValue]:
    found = reader.job_acceptance(0.0)
    yield "batchgen_accepted_images", (), found.accepted
    for reason, images in Counter(each.reason or "unknown" for each in reader.rejections()).items():
        yield "batchgen_rejected_images", (reason,), images
    if (usd := found.usd_per_accepted) is not None:
        yield "batchgen_usd_per_accepted_image", (), usd
    if (minutes := found.minutes_per_accepted) is not None:
        yield "batchgen_seconds_per_accepted_image", (), 60 * minutes


def run_values(run_progress: RunProgress, now: float) -> Iterator[MetricValue]:
    """The values from the events of this run. Pure."""
    for name, model in list(run_progress.models.items()):
        lasts, down = not run_progress.ended, run_progress.outage_for(name) is not None
        yield "batchgen_in_flight", (name,), len(model.open) if lasts else 0
        yield "batchgen_lane_cooled", (name,), float(lasts and model.cooling_until > now)
        yield "batchgen_lane_parked", (name,), float(model.parked_until > now)
        yield "batchgen_model_down", (name,), float(lasts and down)
        yield "batchgen_exposed_seconds", (name,), model.exposed_s


class MetricsFile:
    """The observer that writes FILE when the run begins, every 15 s, and when it has ended, also by an error.

    The file always contains one whole state: it is written beside and renamed.
    """

    def __init__(self, path: str, job: str, folder: Path) -> None:
        """job: the label. Raises UsageError if the file cannot be written or the library is missing."""
        require_library()
        if not path.endswith(".prom"):
            raise UsageError(f"--metrics-file {path}: node_exporter reads only names that end in .prom")
        if not os.access(os.path.dirname(os.path.abspath(path)), os.W_OK | os.X_OK):
            raise UsageError(f"--metrics-file {path}: its folder is not there or not writable")
        self._path, self._job, self._folder = path, job, folder
        self._run_progress = RunProgress()
        self._exit_code: int | None = None
        self._started, self._stopped = threading.Event(), threading.Event()
        self._failed = False
        self._thread = threading.Thread(target=self._write_loop, name="metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stopped.set()
        self._started.set()
        self._thread.join()
        if isinstance(error, JobLocked):
            return  # the file belongs to the run that holds the job
        if error is not None:
            self._run_progress.ended = True
            self._exit_code = error.exit_code if isinstance(error, BatchgenError) else 1
            if isinstance(error, SystemExit) and isinstance(error.code, int):
                self._exit_code = error.code
        self.write()

    def __call__(self, event: Event) -> None:
        self._run_progress(event)
        if isinstance(event, RunStarted):
            self._started.set()  # not earlier: only now is it certain that no other run has the job

    def _write_loop(self) -> None:
        """Write the file repeatedly, in a thread that the run never waits for."""
        self._started.wait()
        while not self._stopped.is_set():
            self.write()
            self._stopped.wait(WRITE_INTERVAL_S)

    def write(self) -> None:
        """Write the file. If that fails it is reported once, and never ends a run."""
        from prometheus_client import write_to_textfile  # an extra

        try:
            write_to_textfile(self._path, self)
        except (OSError, LedgerError) as error:
            why = getattr(error, "strerror", None) or error
            if not self._failed:
                log.warning("the metrics were not written to %s: %s", self._path, why)
            self._failed = True

    def collect(self) -> list[Metric]:
        """The metrics for prometheus_client."""
        return families((self._job, value) for value in self._values())

    def _values(self) -> Iterator[MetricValue]:
        now, code, seconds = time.time(), self._exit_code, None
        try:
            reader = reviewed(Reader.open(self._folder), self._folder)
        except (LedgerError, StoreError):  # none yet, or damaged: only how it ended is known
            pass
        else:
            with closing(reader):
                yield from ledger_values(reader)
                last = reader.last_ended_run()
            if last is not None:
                code, seconds = last.exit_code if code is None else code, (last.ended_at or 0.0) - last.started_at
        if self._run_progress.started_at and not self._run_progress.ended:
            seconds = now - self._run_progress.started_at
        yield from run_values(self._run_progress, now)
        if code is not None:
            yield "batchgen_run_exit_code", (), code
        if seconds is not None:
            yield "batchgen_run_duration_seconds", (), seconds


def families(
    values: Iterable[tuple[str, MetricValue]], definitions: Mapping[str, MetricDefinition] = METRICS
) -> list[Metric]:
    """Metrics from values, each with the label of its job if it has one."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily  # an extra

    makers = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}
    found = {
        name: makers[kind](name, help_text, labels=labels) for name, (kind, labels, help_text) in definitions.items()
    }
    for job, (name, labels, value) in values:
        found[name].add_metric([job, *labels] if "job" in definitions[name].labels else labels, value)
    return [family for family in found.values() if family.samples]


def snapshot_values(reader: Reader, folder: Path, now: float) -> Iterator[MetricValue]:
    """The values of a run seen from outside, where it is unknown how long answers were exposed."""
    yield from ledger_values(reader)
    last, ended = reader.last_run(), reader.last_ended_run()
    running = last is not None and process_state(last, folder) == "running"
    in_flight = Counter(lane_model(each.lane) for each in reader.open_attempts() if not each.is_with_vendor)
    for lane in read_lanes(reader, reader.counts_by_model(), in_flight, running, now):
        yield "batchgen_in_flight", (lane.model,), lane.in_flight if running else 0
        yield "batchgen_lane_cooled", (lane.model,), float(lane.cooling_until > 0)
        yield "batchgen_lane_parked", (lane.model,), float(lane.parked_until > 0)
        yield "batchgen_model_down", (lane.model,), float(lane.retry_at > 0)
    if ended is not None:
        yield "batchgen_run_exit_code", (), ended.exit_code or 0
    if last is not None and running:
        yield "batchgen_run_duration_seconds", (), now - last.started_at
    elif ended is not None:
        yield "batchgen_run_duration_seconds", (), (ended.ended_at or 0.0) - ended.started_at


class _SnapshotCollector:
    """A registry that prometheus_client collects from once."""

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = folders

    def collect(self) -> list[Metric]:
        return families(self._values())

    def _values(self) -> Iterator[tuple[str, MetricValue]]:
        for folder in self._folders:
            try:
                with closing(reviewed(Reader.open(folder), folder)) as reader:
                    emulated = ".emulated" if reader.meta("emulated") == "yes" else ""
                    name = (reader.meta("name") or folder.name) + emulated
                    # All together: a ledger that turns out to be damaged half way gives nothing.
                    found = list(snapshot_values(reader, folder, time.time()))
            except (LedgerError, StoreError):
                continue
            yield from ((name, value) for value in found)


def exposition(folders: Iterable[Path]) -> tuple[bytes, str]:
    """(the metrics of these jobs in Prometheus' text format, its content type). Raises ImportError without the
    library."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest  # an extra

    return generate_latest(_SnapshotCollector(folders)), CONTENT_TYPE_LATEST


def grafana() -> str:
    """A dashboard for these metrics, as JSON for Grafana's import."""
    return files("batchgen.report").joinpath("grafana.json").read_text(encoding="utf-8")
