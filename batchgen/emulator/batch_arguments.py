"""The command line's part on batches."""

from __future__ import annotations

import argparse

from batchgen.emulator.batch_faults import KNOWN
from batchgen.emulator.batch_options import PLACES, BatchOptions


def add_to(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("Batch API").add_argument
    default = BatchOptions()
    add("--batch-pending", type=float, default=default.pending_s, metavar="S", help="seconds until a batch runs (0.5)")
    add("--batch-running", type=float, default=default.running_s, metavar="S", help="seconds it runs at least (1)")
    add("--batch-life", type=float, default=default.life_s, metavar="S", help="seconds until it expires (48 hours)")
    add("--batch-list-lag", type=float, default=0.0, metavar="S", help="seconds until a new batch is listed (0)")
    add("--batch-states", choices=["batch", "job"], default="batch", help="BATCH_STATE_... (default) or JOB_STATE_...")
    add(
        "--batch-results",
        default=",".join(default.places),
        metavar="PLACES",
        help=f"where results are named, of {','.join(PLACES)} (default metadata,response)",
    )
    add("--batch-tokens", type=int, default=0, metavar="N", help="enqueued tokens per AI model; 0 = no limit (default)")
    add("--batch-most", type=int, default=default.most_at_once, metavar="N", help="batches at once (100)")
    add(
        "--batch-inline",
        type=int,
        default=0,
        metavar="N",
        help="batches of up to N requests answer in their operation, not in a file (0)",
    )
    add("--batch-no-ranges", action="store_true", help="downloads begin anew instead of going on")
    add("--batch-drop-cancelled", action="store_true", help="a cancelled batch has no results")
    add(
        "--batch-fault",
        action="append",
        default=[],
        metavar="NAME[*TIMES]",
        help=f"befalls all, or the first TIMES: {', '.join(sorted(KNOWN))}",
    )


def options_from(arguments: argparse.Namespace) -> BatchOptions:
    """Raises ValueError with a sentence for the user."""
    return BatchOptions(
        pending_s=arguments.batch_pending,
        running_s=arguments.batch_running,
        life_s=arguments.batch_life,
        list_lag_s=arguments.batch_list_lag,
        states=arguments.batch_states,
        places=tuple(arguments.batch_results.split(",")),
        enqueued_tokens=arguments.batch_tokens,
        most_at_once=arguments.batch_most,
        keeps_cancelled=not arguments.batch_drop_cancelled,
        ranges=not arguments.batch_no_ranges,
        inline_most=arguments.batch_inline,
        faults=tuple(arguments.batch_fault),
    )
