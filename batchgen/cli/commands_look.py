"""The commands of `batchgen --help` that look at what was made: their options and their help."""

from __future__ import annotations

import click
from click import Choice, IntRange

from batchgen.cli.command import Command, EachJob
from batchgen.cli.options import EACH_JOB, FOLDER, LEDGER, ONLY, json_option, option, read_duration, read_size

FORMS = ["jsonl", "csv", "parquet", "webdataset", "imagefolder"]
JOBS = click.Argument(["jobs"], nargs=-1, type=click.Path(), metavar="[JOB]...")

STATUS = Command(
    "status",
    "The state of a job, while it runs and after.",
    (
        *(*EACH_JOB, FOLDER, json_option()),
        option("--collect", "First collect what batches have brought; nothing is asked for."),
        option(
            "--billing", "What was billed: by model, by run, uncertain, and for what reason; earlier runs included."
        ),
        option(
            "--compare WHAT",
            "Accepted images, their share and cost side by side: by model, by tag, or by NAME of tags NAME=VALUE.",
        ),
        option("--watch", "Refresh while a run lasts; Ctrl-C leaves, the run goes on."),
    ),
    """Show counts, money, what is in flight, uncertain or parked, and how the last run went.

    JOB is a manifest or a job folder.

    \b
    Examples:
      batchgen status catalog.yaml
      batchgen status catalog/ --json
      batchgen status catalog.yaml --watch
      batchgen status catalog.yaml --billing
      batchgen status catalog.yaml --compare tag
    """,
    each=EachJob("out"),
)
HISTORY = Command(
    "history",
    "The runs of one or many jobs, one line each.",
    (
        *(JOBS, LEDGER),
        option("--last N", "Runs to show.", type=IntRange(min=1), default=20),
        json_option("Answer with one JSON list on stdout."),
    ),
    """Show the runs of each JOB, the newest first: when, how long, images, money and how it ended.

    JOB is a manifest, a job folder or a folder of jobs; without one, all of those in jobs/ and here.

    \b
    Examples:
      batchgen history
      batchgen history catalog.yaml posters/ --last 50
    """,
)
REPORT = Command(
    "report",
    "Write a gallery of the images, for the browser.",
    (
        *(*EACH_JOB, FOLDER),
        option(
            "--to FILE",
            "File to write.  [default: report.html or contact-sheet.jpg in the job's folder]",
            "target",
            type=click.Path(dir_okay=False),
        ),
        option(
            "--contact-sheet",
            "Instead of the page, write one image with all of them: .jpg, .png or .webp, as --to says.",
            "sheet",
        ),
        option("--columns N", "Columns of the contact sheet.", type=IntRange(1, 60), default=6),
        option("--cell PX", "Side of an image on the contact sheet.", type=IntRange(48, 1024), default=240),
        *(ONLY, json_option()),
    ),
    """Write a gallery of each JOB, a manifest or a job folder: report.html, which works from disk and from any static host.

    It shows every image, prompt, setting, cost and attempt, and what the vendor said where an image is missing;
    filter, search, compare, pick (space) and reject (x), and save a manifest that makes the rejected again.
    Thumbnails are inside the page; full images are linked, so leave it beside them. It loads nothing from the network.
    More than 10,000 images go onto several pages (report-2.html and so on), each with a list of all.

    \b
    Examples:
      batchgen report catalog.yaml
      batchgen report catalog/ --to public/index.html
      batchgen report catalog.yaml --contact-sheet
      batchgen report catalog.yaml --contact-sheet --to mugs.png --only 'mug-*'
    """,
    each=EachJob(),
)
REVIEW = Command(
    "review",
    "What people say of the images; verdicts from a file or into one.",
    (
        *(*EACH_JOB, FOLDER),
        option(
            "--import FILE|-",
            "Take in what a gallery saved as JSON; - is stdin.",
            "source",
            type=click.Path(),
        ),
        option(
            "--name NAME", "Whose verdicts --import brings, where the file does not say.  [default: your login name]"
        ),
        option(
            "--export FILE|-",
            "Write everybody's verdicts in the same format; - is stdout.",
            "target",
            type=click.Path(),
        ),
        option("--clients", "List the links of clients and when each expires."),
        option("--revoke NAME", "Close the link of this client at once."),
        json_option(),
    ),
    """Show how many images of each JOB people have accepted and rejected, who, and on which they differ.

    A rejected image no longer counts and stays where it is; `batchgen retry JOB --rejected` makes it again. Of two people the
    later word counts, and people outrank checks and the judge. It may be called while a run goes on.

    \b
    Examples:
      batchgen review catalog.yaml
      batchgen review catalog.yaml --import catalog-picks.json --name Ann
      batchgen review catalog.yaml --export - | jq '.rejected[].comment'
      batchgen review catalog.yaml --revoke Acme
    """,
    each=EachJob("out"),
)
SERVE = Command(
    "serve",
    "A live dashboard of one or many jobs.",
    (
        *(JOBS, LEDGER),
        option("--port N", "Port; 0 picks a free one.", type=IntRange(0, 65535), default=8765),
        option("--host HOST", "Anything but localhost requires --token.", default="127.0.0.1"),
        option(
            "--token",
            "Make up a token that visitors need; BATCHGEN_SERVE_TOKEN sets one, which is not printed.",
            "with_token",
        ),
        option("--name HOST[:PORT]", "Host name that browsers use; repeatable.", "names", multiple=True),
        option("--read-only", "Without the buttons to retry and to stop, and without reviews."),
        option("--client NAME", "Also make a link for a client of the one JOB: to look and to vote; implies --token."),
        option("--expires 7d", "How long that link lasts.", default="7d", callback=read_duration),
    ),
    """Serve a live dashboard of each JOB, a manifest, a job folder or a folder of jobs; without one, of all in jobs/ and here.

    It reads their ledgers and nothing else, so it shows a run of any process, and of one that died. On it several people pick,
    reject, give stars and comment at the same time. It does two things more, each after a question: ask again for what was not
    made, and stop the run. What it prints is its address. Ctrl-C ends it; runs that it began go on.

    \b
    Examples:
      batchgen serve
      batchgen serve catalog.yaml posters/ --port 0
      batchgen serve --host 0.0.0.0 --token --read-only
      batchgen serve catalog.yaml --host 0.0.0.0 --client Acme --expires 14d
    """,
)
VERIFY = Command(
    "verify",
    "Compare every image with the ledger.",
    (
        *(*EACH_JOB, FOLDER),
        option(
            "--repair",
            "Rebuild a damaged or lost ledger from the files that are left, or complete an older one.",
            "rebuild",
        ),
        json_option(),
    ),
    """Read every image of each JOB again and compare it with the ledger.

    Exit code 3 when a file is missing or changed. Files that the ledger does not know are listed and left alone.

    \b
    Examples:
      batchgen verify catalog.yaml
      batchgen verify catalog/ --json
      batchgen verify catalog.yaml --repair
    """,
    each=EachJob("out"),
)
EXPORT = Command(
    "export",
    "One row for each sample, as JSON lines or CSV, or a data set.",
    (
        *(click.Argument(["job"], required=False, type=click.Path()), FOLDER, LEDGER),
        option("--format", "What to write.", "form", type=Choice(FORMS), default="jsonl"),
        option(
            "--to FILE|FOLDER|-",
            "File or new folder to write; - is stdout, the default for lines.",
            "target",
            default="-",
            show_default=False,
            type=click.Path(),
        ),
        option(
            "--shard-size SIZE",
            "Largest size of a tar file of webdataset; default 1GB.",
            "shard_bytes",
            callback=read_size,
        ),
    ),
    """Write one row for each sample of JOB, a manifest or a job folder.

    \b
    jsonl, csv    lines
    parquet       a file with the same rows (pip install 'batchgen[parquet]')
    webdataset    a folder of tar files: KEY.png, KEY.json, KEY.txt (the prompt)
    imagefolder   images and metadata.jsonl, as Hugging Face reads them

    The last two hold only the samples that have an image.

    \b
    Examples:
      batchgen export catalog.yaml | jq -r 'select(.state == "refused") | .prompt'
      batchgen export catalog.yaml --format csv --to catalog.csv
      batchgen export catalog.yaml --format webdataset --to catalog-shards
    """,
    each=EachJob(),
)
COMMANDS = (STATUS, HISTORY, REPORT, REVIEW, SERVE, VERIFY, EXPORT)
