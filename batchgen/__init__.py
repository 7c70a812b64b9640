"""batchgen: a manifest of prompts in, a folder of verified images and a ledger of what happened to each out.

job = batchgen.load("jobs/catalog.yaml", emulate=True)
print(batchgen.plan(job).forecast.limit.advice)
outcome = batchgen.run_sync(job)          # or: await batchgen.run(job, observers=[...])
with batchgen.Ledger.open(job.folder) as ledger:
    for result in ledger.results(("failed", "refused")):
        print(result.id, result.reason)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchgen.api import Job, Plan, load, plan, run, run_sync
    from batchgen.engine.outcome import Outcome, RunOptions
    from batchgen.ledger.ledger import Ledger
    from batchgen.planning.plan import RetrySelection

__version__ = "0.1.0"
__all__ = [
    "Job",
    "Ledger",
    "Outcome",
    "Plan",
    "RetrySelection",
    "RunOptions",
    "__version__",
    "load",
    "plan",
    "run",
    "run_sync",
]

_MODULES = {
    "Outcome": "batchgen.engine.outcome",
    "RunOptions": "batchgen.engine.outcome",
    "Ledger": "batchgen.ledger.ledger",
    "RetrySelection": "batchgen.planning.plan",
}


def __getattr__(name: str) -> Any:
    """The API loads on first use, so that importing batchgen costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'batchgen' has no attribute {name!r}")
    from importlib import import_module  # at the top it would look like a name of ours

    return getattr(import_module(_MODULES.get(name, "batchgen.api")), name)
