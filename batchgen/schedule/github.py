"""A workflow for GitHub Actions that keeps the job's folder from night to night. Source: GitHub's workflow syntax."""

from __future__ import annotations

from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import yaml

from batchgen.errors import UsageError
from batchgen.schedule.timer_spec import TimerSpec, shell_line

HOSTED_MAX_S = 6 * 3600  # the limit of a hosted runner
SETUP_AND_SAVE_S = 1800  # for setting up, finishing what is in flight and saving it
NO_PACKAGE = "batchgen is not installed: put a wheel of this repository or git+https://… into the step that says so"
CACHE_LOST = "the images of earlier runs are gone from the cache: all would be bought again. To do that, run it by hand with `anew`."


class _Dumper(yaml.SafeDumper):
    """Writes a script as a block, as people do."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style="|" if "\n" in value else None)


_Dumper.add_representer(str, _represent_text)


def workflow(spec: TimerSpec, repository: Path, package: str | None, zone: tzinfo, now: datetime) -> str:
    """The workflow as YAML. package: what pip installs, None if unknown. Raises UsageError if the job is not in the
    repository."""
    found = {
        "name": spec.name,
        "on": {
            "schedule": [{"cron": spec.crontab_in_utc(zone, now)}],
            "workflow_dispatch": {
                "inputs": {"anew": {"type": "boolean", "description": "Begin with an empty folder", "default": False}}
            },
        },
        "concurrency": {"group": spec.name, "cancel-in-progress": False},
        "permissions": {"contents": "read"},
        "jobs": {
            "images": {
                "runs-on": "ubuntu-latest",
                "timeout-minutes": (_duration_s(spec) + SETUP_AND_SAVE_S) // 60,
                "steps": _steps(spec, repository, package),
            }
        },
    }
    return yaml.dump(found, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _duration_s(spec: TimerSpec) -> int:
    return min(spec.duration_s, HOSTED_MAX_S - SETUP_AND_SAVE_S)


def _steps(spec: TimerSpec, repository: Path, package: str | None) -> list[dict[str, Any]]:
    manifest, folder = _relative_to(spec.manifest, repository), _relative_to(spec.job_folder, repository)
    limit = ["--max-duration", f"{_duration_s(spec) // 60}m"]
    run = (
        shell_line(["batchgen", "run", manifest, *limit, *spec.options, "--later-ok"])
        + ' --summary "$GITHUB_STEP_SUMMARY"'
    )
    cache = {
        "path": f"{folder}\n.state\n",
        "key": f"{spec.name}-${{{{ github.run_id }}}}-${{{{ github.run_attempt }}}}",
    }
    cache_lost = "github.run_number > 1 && !inputs.anew && steps.kept.outputs.cache-matched-key == ''"
    return [
        {"uses": "actions/checkout@v4"},
        {"uses": "actions/setup-python@v5", "with": {"python-version": "3.12"}},
        {"run": _install_script(package)},
        {
            "id": "kept",
            "if": "${{ !inputs.anew }}",
            "uses": "actions/cache/restore@v4",
            "with": {**cache, "restore-keys": f"{spec.name}-"},
        },
        {"if": f"${{{{ {cache_lost} }}}}", "run": f"echo '::error::{CACHE_LOST}'\nexit 5\n"},
        {
            "id": "made",
            "run": run,
            "env": {
                **{key.variable: f"${{{{ secrets.{key.variable} }}}}" for key in spec.keys},
                "XDG_STATE_HOME": "${{ github.workspace }}/.state",
            },
        },
        # Not after a cache was lost: an empty one would be the newest from then on.
        {"if": "${{ always() && steps.made.outcome != 'skipped' }}", "uses": "actions/cache/save@v4", "with": cache},
        {
            "if": "${{ always() }}",
            "uses": "actions/upload-artifact@v4",
            "with": {"name": spec.name, "path": folder, "include-hidden-files": False},
        },
    ]


def _install_script(package: str | None) -> str:
    """The installation. An unknown package is never installed by its name alone, which on the public index is somebody
    else's."""
    if package is not None:
        return f"pip install {shell_line([package])}"
    examples = "# pip install ./wheels/batchgen-VERSION-py3-none-any.whl\n# pip install git+https://HOST/YOURS/batchgen"
    return f"# Put one of these here, then take the last two lines away:\n{examples}\necho '::error::{NO_PACKAGE}'\nexit 5\n"


def _relative_to(path: Path, repository: Path) -> str:
    if not path.is_relative_to(repository):
        raise UsageError(f"{path} lies outside of the repository {repository}, where a workflow cannot reach it")
    text = path.relative_to(repository).as_posix()
    if "${{" in text:
        raise UsageError(f"{text!r} would be read as an expression of GitHub's: rename it")
    return text
