"""batchgen: a manifest of prompts in, a folder of verified images and a ledger of what happened to each out.

    import batchgen

    job = batchgen.load("jobs/catalog.yaml", emulate=True)    # or data: load(["a red mug", "a blue mug"], name="mugs")
    print(batchgen.plan(job).forecast.limit.advice)
    outcome = batchgen.run_sync(job)                          # or: await batchgen.run(job)
    for result in outcome.results:
        print(result.key, result.state, result.path, result.reason)

What `load`, `plan` and `run` raise is a `BatchgenError`; all errors are in `batchgen.errors`, and all events that an observer
hears in `batchgen.events`. `batchgen help python` shows the page of the manual.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batchgen import errors, events
    from batchgen.api import RunKeywords, load, plan, run, run_sync
    from batchgen.engine.job import Job, Results
    from batchgen.engine.outcome import RunOptions
    from batchgen.engine.plan import Plan
    from batchgen.errors import (
        BatchgenError,
        JobLocked,
        LedgerError,
        ManifestError,
        Problem,
        ProviderError,
        SettingsError,
        StoreError,
        UsageError,
    )
    from batchgen.events import Event, Observer
    from batchgen.ledger.ledger import Ledger
    from batchgen.planning.batchable import BatchOptions, ChunkLimits
    from batchgen.planning.plan import Forecast, RetrySelection, Step
    from batchgen.records import ImageFile, Item, Result
    from batchgen.report.outcome import Outcome

__version__ = "0.1.0"
__all__ = [
    "BatchOptions",
    "BatchgenError",
    "ChunkLimits",
    "Event",
    "Forecast",
    "ImageFile",
    "Item",
    "Job",
    "JobLocked",
    "Ledger",
    "LedgerError",
    "ManifestError",
    "Observer",
    "Outcome",
    "Plan",
    "Problem",
    "ProviderError",
    "Result",
    "Results",
    "RetrySelection",
    "RunKeywords",
    "RunOptions",
    "SettingsError",
    "Step",
    "StoreError",
    "UsageError",
    "__version__",
    "errors",
    "events",
    "load",
    "plan",
    "run",
    "run_sync",
]

if not TYPE_CHECKING:  # a type checker that saw `__getattr__` would believe in every name
    _NAMES = {
        "api": "RunKeywords load plan run run_sync",
        "engine.job": "Job Results",
        "engine.outcome": "RunOptions",
        "engine.plan": "Plan",
        "errors": "BatchgenError JobLocked LedgerError ManifestError Problem ProviderError SettingsError StoreError UsageError",
        "events": "Event Observer",
        "ledger.ledger": "Ledger",
        "planning.batchable": "BatchOptions ChunkLimits",
        "planning.plan": "Forecast RetrySelection Step",
        "records": "ImageFile Item Result",
        "report.outcome": "Outcome",
    }
    _MODULES = {name: f"batchgen.{module}" for module, names in _NAMES.items() for name in names.split()}

    def __getattr__(name):
        """The API loads on first use, so that importing batchgen costs nothing."""
        from importlib import import_module  # at the top it would look like a name of ours

        if name in _MODULES:
            return getattr(import_module(_MODULES[name]), name)
        if name in __all__:
            return import_module(f"batchgen.{name}")
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")

    def __dir__():
        return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
