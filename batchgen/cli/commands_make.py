"""The commands of `batchgen --help` that make images: their options and their help."""

from __future__ import annotations

from click import Choice

from batchgen.cli.command import Command, EachJob
from batchgen.cli.options import (
    CAPS,
    DRY_RUN,
    EACH_JOB,
    EACH_MANIFEST,
    ENGINE,
    EXECUTION,
    FOLDER,
    LIMIT,
    ONLY,
    OUTPUT,
    SELECTION,
    json_option,
    option,
)

PLAN_ROWS = 40

RUN = Command(
    "run",
    "Make what is missing; run again to continue.",
    (EACH_MANIFEST, *OUTPUT, DRY_RUN, *SELECTION, *CAPS, *EXECUTION),
    """Make the images of each MANIFEST that do not exist yet; without one, of the only manifest here.

    Running again goes on where the last run stopped; only what is new, has changed or failed is asked for. The first
    Ctrl-C lets what is in flight finish, the second gives it up, the third leaves at once.

    \b
    Examples:
      batchgen run catalog.yaml
      batchgen run catalog.yaml --emulate            no key needed, nothing billed
      batchgen run catalog.yaml --only 'mug-*' --limit 3
      batchgen run catalog.yaml --until 06:00 --max-cost 20 --json
      batchgen run catalog.yaml posters.yaml         all checked, then run in turn

    Options hold for each MANIFEST by itself; the exit code is the worst of theirs.
    """,
    each=EachJob(checked=True),
)
PLAN = Command(
    "plan",
    "Show what a run would do, why and for how much.",
    (
        *(EACH_MANIFEST, *OUTPUT, *SELECTION, *CAPS, ENGINE, json_option()),
        option("--all", f"Every row, not only the first {PLAN_ROWS}.", "show_all"),
    ),
    """Show what a run of each MANIFEST would do, and why: new, changed, again, or nothing.

    \b
    Examples:
      batchgen plan catalog.yaml
      batchgen plan catalog.yaml --fresh --only 'mug-*'
      batchgen plan catalog.yaml --json | jq .usd
    """,
    each=EachJob("out"),
)
VALIDATE = Command(
    "validate",
    "Check manifests, nothing sent.",
    (EACH_MANIFEST, json_option()),
    """Check each MANIFEST to its end. Every problem is one line, file:line:column first.

    \b
    Examples:
      batchgen validate catalog.yaml
      batchgen validate jobs/*.yaml
      batchgen validate catalog.jsonl --json
    """,
    module="plan",
    each=EachJob("out"),
)
POST = Command(
    "post",
    "Make missing derivatives, nothing sent.",
    (
        *(*EACH_JOB, FOLDER, ONLY, DRY_RUN),
        option(
            "--engine",
            "Who makes them: this machine, or the workers of the job's PostgreSQL ledger.",
            type=Choice(["here", "cluster"]),
            default="here",
        ),
        json_option(),
    ),
    """Make what `post:` asks for and is not there, of the images that each JOB, a manifest or a job folder, has.

    Every run does so by itself. Nothing is sent and no key is needed; what the manifest no longer asks for is removed.

    \b
    Examples:
      batchgen post catalog.yaml
      batchgen post catalog.yaml --only 'mug-*'
      batchgen post catalog.yaml --engine cluster
    """,
    each=EachJob(),
)
RETRY = Command(
    "retry",
    "Ask again for what failed, was refused, is uncertain or was rejected.",
    (
        *EACH_JOB,
        option("--failed", "What failed, including what `run` does not retry."),
        option("--refused", "What the vendor refused; the same request is often refused again."),
        option("--uncertain", "What was sent and never answered; it may be billed twice."),
        option("--rejected", "What a person, a check or the judge rejected; the old image goes to superseded/."),
        option("--with-comments", "Append what people and the judge said of a rejected image to its prompt."),
        option("--reason R", "Only samples with this reason; repeatable.", "reasons", multiple=True),
        *(FOLDER, DRY_RUN, ONLY, LIMIT, *CAPS, *EXECUTION),
    ),
    """Ask again for samples of each JOB that have no image, or one that was rejected. JOB is a manifest or a job folder.

    Without --failed, --refused, --uncertain or --rejected, --reason alone picks from all four.

    \b
    Examples:
      batchgen retry catalog.yaml --refused
      batchgen retry catalog.yaml --failed --reason link_gone
      batchgen retry catalog/ --uncertain --max-cost 2
      batchgen retry catalog.yaml --rejected --with-comments
    """,
    module="run",
    each=EachJob(checked=True),
)
CANCEL = Command(
    "cancel",
    "Cancel jobs at their vendors, and what a cluster has not started.",
    (*EACH_JOB, FOLDER, DRY_RUN, json_option()),
    """Cancel what is with a vendor that answers later, where that vendor can, which may charge for what was done by then; and
    withdraw what `run --engine cluster` has submitted and no worker has begun. What else is in flight is finished.

    JOB is a manifest or a job folder. A run that is going on starts more, so stop it first. Running the job again asks for
    what is still missing.

    \b
    Examples:
      batchgen cancel catalog.yaml
    """,
    each=EachJob("out"),
)
COMMANDS = (RUN, PLAN, VALIDATE, POST, RETRY, CANCEL)
