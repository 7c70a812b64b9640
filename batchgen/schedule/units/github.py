"""A workflow for GitHub Actions that keeps the job's folder from night to night. Source: GitHub's workflow syntax."""

from __future__ import annotations

from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import yaml

from batchgen.errors import UsageError
from batchgen.schedule.timetable import Timetable, shell_line

HOSTED_MOST_S = 6 * 3600  # what a hosted runner is given
SAVING_S = 1800  # for setting up, finishing what is in flight and saving it
GONE = "the pictures of earlier nights are gone from the cache: all would be bought again. Run it by hand with `anew` if so."


class _Dumper(yaml.SafeDumper):
    """Writes a script as a block, as people do."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _text)


def workflow(table: Timetable, repository: Path, package: str, zone: tzinfo, now: datetime) -> str:
    """YAML. Raises UsageError when the job does not lie in the repository."""
    found = {
        "name": table.name,
        "on": {
            "schedule": [{"cron": table.crontab_in_utc(zone, now)}],
            "workflow_dispatch": {
                "inputs": {"anew": {"type": "boolean", "description": "Begin with an empty folder", "default": False}}
            },
        },
        "concurrency": {"group": table.name, "cancel-in-progress": False},
        "permissions": {"contents": "read"},
        "jobs": {
            "images": {
                "runs-on": "ubuntu-latest",
                "timeout-minutes": (_duration_s(table) + SAVING_S) // 60,
                "steps": _steps(table, repository, package),
            }
        },
    }
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _duration_s(table: Timetable) -> int:
    return min(table.duration_s, HOSTED_MOST_S - SAVING_S)


def _steps(table: Timetable, repository: Path, package: str) -> list[dict[str, Any]]:
    manifest, folder = _inside(table.manifest, repository), _inside(table.job_folder, repository)
    limit = ["--max-duration", f"{_duration_s(table) // 60}m"]
    run = (
        shell_line(["batchgen", "run", manifest, *limit, *table.options, "--later-ok"])
        + ' --summary "$GITHUB_STEP_SUMMARY"'
    )
    kept = {
        "path": f"{folder}\n.state\n",
        "key": f"{table.name}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}",
    }
    gone = "github.run_number > 1 && !inputs.anew && steps.kept.outputs.cache-matched-key == ''"
    return [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.12"}},
        {"run": f"pip install {shell_line([package])}"},
        {
            "id": "kept",
            "if": "${{ !inputs.anew }}",
            "uses": "actions/cache/restore@v4",
            "with": {**kept, "restore-keys": f"{table.name}-"},
        },
        {"if": f"${{{{ {gone} }}}}", "run": f"echo '::error::{GONE}'\nexit 5\n"},
        {
            "id": "made",
            "run": run,
            "env": {
                **{key.variable: f"${{{{ secrets.{key.variable} }}}}" for key in table.keys},
                "XDG_STATE_HOME": "${{ github.workspace }}/.state",
            },
        },
        # Not after a cache that was lost: an empty one would be the newest from then on.
        {
            "if": "${{ always() && steps.made.outcome != 'skipped' }}",
            "uses": "actions/cache/save@v4",
            "with": kept,
        },
        {
            "if": "${{ always() }}",
            "uses": "actions/upload-artifact@v4",
            "with": {"name": table.name, "path": folder, "include-hidden-files": False},
        },
    ]


def _inside(path: Path, repository: Path) -> str:
    if not path.is_relative_to(repository):
        raise UsageError(f"{path} lies outside of the repository {repository}, where a workflow cannot reach it")
    text = path.relative_to(repository).as_posix()
    if "${{" in text:
        raise UsageError(f"{text!r} would be read as an expression of GitHub's: rename it")
    return text
