"""The Dockerfile's shape: what it copies is there and not ignored, and what it promises to a container holds."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from fnmatch import fnmatch

from click.testing import CliRunner

from batchgen.cli.commands_set_up import DAEMON
from batchgen.schedule import kubernetes
from tests.support.paths import ROOT


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line.strip()]


def last(name: str) -> str:
    return [rest for instruction, rest in instructions() if instruction == name][-1]


def test_what_is_copied_is_there_and_reaches_the_build_and_nothing_else_does():
    copied = {
        source.removeprefix("./")
        for name, rest in instructions()
        if name == "COPY" and "--from" not in rest
        for source in shlex.split(rest)[:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert ignored[0] == "*" and all((ROOT / source).exists() for source in copied)
    assert any(fnmatch("batchgen/cli/__pycache__", line) for line in ignored[1:])


def test_it_installs_exactly_what_is_tested_and_extras_that_there_are():
    install = next(rest for name, rest in instructions() if name == "RUN" and "pip install" in rest)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert "--constraint requirements.lock" in install
    assert set(re.findall(r"\.\[(.*?)\]", install)[0].split(",")) <= set(extras)
    locked = (ROOT / "requirements.lock").read_text().lower()
    assert "\napscheduler==" in locked and "\ntzlocal==" in locked


def test_it_runs_as_the_user_and_in_the_place_that_schedules_kubernetes_form_gives():
    assert last("USER") == "1000:1000"
    assert json.loads(last("VOLUME")) == [kubernetes.MOUNT_PATH] == [last("WORKDIR")]
    assert f"XDG_STATE_HOME={kubernetes.MOUNT_PATH}/.state" in last("ENV")


def test_its_command_is_one_that_the_daemon_takes_and_its_health_check_looks_at_the_same_file():
    assert (json.loads(last("ENTRYPOINT")), last("STOPSIGNAL")) == (["batchgen"], "SIGTERM")
    name, *options = json.loads(last("CMD"))
    assert name == "daemon" and f"-e {options[1]} " in last("HEALTHCHECK")
    assert CliRunner().invoke(DAEMON, [*options, "--help"]).exit_code == 0
    DAEMON.make_context("daemon", options)
