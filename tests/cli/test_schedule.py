"""Units for a timer: what they say, what their own tools say about them, and what happens when they run."""

from __future__ import annotations

import json
import os
import plistlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import yaml

from batchgen.errors import UsageError
from batchgen.schedule import cron
from batchgen.schedule.timer_spec import TimeOfDay, TimerSpec, interval_s, parse_weekdays, unit_name
from tests.support.paths import ROOT

ODD = """mug's "100%" $HOME été;#.yaml"""
ODD_OPTION = 'a "b" $x ${y} %h $(z)*'
EXPECTED_LATER = {6, 7, 8, 9, 11}


def sections(unit: str) -> dict[str, str]:
    """The settings of a unit; of one that comes twice the last."""
    return dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))


def words(exec_start: str) -> list[str]:
    """As systemd splits a command line: quotes and backslashes as a shell has them, then `%%` and `$$`."""
    assert not re.search(r"[%$]", exec_start.replace("%%", "").replace("$$", "")), "a specifier or variable"
    return [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(exec_start)]


@pytest.fixture
def manifest(tmp_path):
    path = tmp_path / ODD
    path.write_text("version: 1\nname: shop\nitems:\n  - {id: mug, prompt: A mug}\n")
    return path


@pytest.fixture
def units(batchgen, manifest):
    def text(form: str, *argv: str) -> str:
        answer = batchgen("schedule", str(manifest), "--at", "01:30", "--as", form, *argv)
        assert answer.code == 0, answer.err
        return answer.out

    return text


# --- the times


@pytest.mark.parametrize(("text", "days"), [
    ("mon", ("mon",)), ("Friday,mon", ("mon", "fri")), ("mon-fri", ("mon", "tue", "wed", "thu", "fri")),
    ("sat-mon", ("mon", "sat", "sun")), ("", None), ("mon-wed-fri", None), ("moon day", None), ("m", None),
])  # fmt: skip
def test_days_are_read(text, days):
    assert parse_weekdays(text) == days


@pytest.mark.parametrize(("at", "until", "hours"), [((1, 30), (6, 0), 4.5), ((22, 0), (4, 0), 6), ((1, 0), (1, 0), 24)])
def test_a_night_may_pass_midnight(at, until, hours):
    assert interval_s(TimeOfDay(*at), TimeOfDay(*until)) == hours * 3600


def table(**more) -> TimerSpec:
    where = {"manifest": Path("/m.yaml"), "job_folder": Path("/m")}
    return TimerSpec(**{"name": "batchgen-m", "at": TimeOfDay(1, 30), **where, **more})


@pytest.mark.parametrize(("month", "fields"), [(1, "30 0 * * 1"), (7, "30 23 * * 0")])
def test_in_utc_a_summer_night_begins_on_the_day_before(month, fields):
    at = datetime(2026, month, 8, 12, tzinfo=UTC)
    assert table(days=("mon",)).crontab_in_utc(ZoneInfo("Europe/Berlin"), at) == fields


@pytest.mark.parametrize("job", ["Été 2026!", "x" * 200, "---", "日本"])
def test_any_job_has_a_name_that_kubernetes_takes(job):
    name = unit_name(job)
    assert name == name.lower() and name.replace("-", "").isalnum() and name.isascii() and len(name) <= 52


# --- systemd


@pytest.fixture
def written(units, tmp_path):
    """The two units in a folder of their own."""

    def write(*argv: str) -> list[Path]:
        _, service, timer = units("systemd", *argv).split("# batchgen schedule ")
        folder = tmp_path / "units"
        folder.mkdir()
        paths = [folder / "batchgen-shop.service", folder / "batchgen-shop.timer"]
        for path, text in zip(paths, (service, timer), strict=True):
            path.write_text("# " + text)
        return paths

    return write


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="NOT TESTED: there is no systemd-analyze here")
@pytest.mark.parametrize("more", [[], ["--until", "06:00", "--days", "mon-fri", "--timezone", "Europe/Berlin"]])
def test_systemd_has_nothing_to_say_against_the_units(written, more):
    paths = written(*more, "--", "--only", ODD_OPTION)
    # The system's own units name sockets in the runtime folder, and the path of a socket must be short.
    with tempfile.TemporaryDirectory(dir="/tmp") as short:
        environ = {**os.environ, "XDG_RUNTIME_DIR": short, "SYSTEMD_UNIT_PATH": f"{paths[0].parent}:"}
        answer = subprocess.run(
            ["systemd-analyze", "verify", "--user", "--man=no", *paths], capture_output=True, text=True, env=environ
        )
    assert (answer.returncode, answer.stderr) == (0, "")


def test_the_service_runs_exactly_what_was_meant_whatever_the_path_holds(written, manifest):
    service = sections(written("--", "--only", ODD_OPTION)[0].read_text())
    line = words(service["ExecStart"])
    assert line[line.index("run") :] == ["run", str(manifest), "--max-duration", "1320m", "--only", ODD_OPTION]
    assert Path(line[0]).is_absolute()


def test_the_service_calls_no_later_a_failure_and_ends_one_that_hangs_after_its_deadline(written):
    service, timer = (sections(path.read_text()) for path in written("--until", "06:00"))
    assert set(map(int, service["SuccessExitStatus"].split())) == EXPECTED_LATER | {143}
    assert (service["Type"], int(service["RuntimeMaxSec"])) == ("exec", int(4.5 * 3600) + 3600)
    assert int(service["TimeoutStopSec"]) > 600
    assert (timer["OnCalendar"], timer["Persistent"]) == ("*-*-* 01:30:00", "true")


def test_the_key_comes_from_a_credential(written, tmp_path):
    service = written("--key-file", str(tmp_path / "my key"))[0].read_text()
    assert f"LoadCredential=gemini_api_key:{tmp_path}/my key\n" in service
    assert 'Environment="GEMINI_API_KEY_FILE=%d/gemini_api_key"\n' in service


def test_the_line_of_the_service_makes_the_images_with_nothing_but_what_the_unit_gives(written, tmp_path, emulator):
    url, key = emulator(), tmp_path / "credentials" / "gemini_api_key"
    key.parent.mkdir()
    key.write_text("a-key-from-a-file")
    (tmp_path / "yaml.py").write_text("raise ImportError('a file beside the manifest was taken for a module')")
    service = sections(written()[0].read_text())
    given = service["Environment"].strip('"').replace("%d", str(key.parent))
    settings = [given, f"PYTHONPATH={ROOT}", f"BATCHGEN_GEMINI_BASE_URL={url}", f"HOME={tmp_path}"]
    answer = subprocess.run(
        ["env", "-i", *settings, *words(service["ExecStart"])],
        cwd=service["WorkingDirectory"], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (answer.returncode, len(list((tmp_path / "shop").glob("mug.*")))) == (0, 1), answer.stderr


# --- cron


def test_the_crontabs_line_means_the_same_to_a_shell(units, manifest, tmp_path):
    key = tmp_path / "key of 100%"
    line = units("cron", "--days", "mon,sun", "--key-file", str(key), "--", "--only", ODD_OPTION).splitlines()[1]
    assert line.startswith("30 1 * * 0,1 cd ")
    assert "%" not in line.replace(r"\%", "")
    command = line.split(" ", 5)[5].replace(r"\%", "%").partition("&& ")[2]
    show = (
        f"{sys.executable} -c 'import os, sys; print(os.environ[\"GEMINI_API_KEY_FILE\"], *sys.argv[1:], sep=chr(10))'"
    )
    start, _, rest = command.partition("nice -n 10 ")
    told = subprocess.run(
        ["sh", "-c", f"{start}{show} {rest}"], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert told[0] == str(key)
    assert told[told.index("run") + 1 :] == [
        str(manifest), "--max-duration", "1320m", "--only", ODD_OPTION, "--later-ok", "--quiet"]  # fmt: skip


@pytest.mark.skipif(not shutil.which("crontab"), reason="NOT TESTED: there is no crontab here")
def test_cron_takes_the_line(units, tmp_path):
    path = tmp_path / "crontab"
    path.write_text(units("cron", "--days", "mon-fri"))
    # cronie and Debian have each a flag of their own for it.
    answers = [subprocess.run(["crontab", flag, path], capture_output=True) for flag in ("-T", "-n")]
    assert any(answer.returncode == 0 for answer in answers), answers


@pytest.mark.parametrize("option", ["a\\b", "x" * 1000])
def test_what_no_cron_can_hold_is_refused(option):
    with pytest.raises(UsageError):
        cron.crontab_block(table(options=("--only", option)))


def test_a_block_without_its_end_is_left_alone():
    with pytest.raises(UsageError):
        cron.remove_block("# begin batchgen-m /m.yaml\n1 1 * * * mine\n", "batchgen-m")


# --- launchd, kubernetes, github


def test_the_launch_agent_is_a_property_list_with_the_words_of_the_command(units, manifest):
    agent = plistlib.loads(units("launchd", "--days", "sun,mon", "--", "--only", ODD_OPTION).encode())
    line = agent["ProgramArguments"]
    assert line[line.index("run") + 1 :] == [
        str(manifest), "--max-duration", "1320m", "--only", ODD_OPTION, "--later-ok"]  # fmt: skip
    assert [when["Weekday"] for when in agent["StartCalendarInterval"]] == [1, 0]
    assert set(agent["EnvironmentVariables"]) == {"GEMINI_API_KEY_FILE"}


def test_the_cron_job_has_the_fields_that_kubernetes_knows(units):
    found = yaml.safe_load(
        units("kubernetes", "--until", "06:00", "--timezone", "Europe/Berlin", "--", "--only", "$(a)")
    )
    spec = found["spec"]
    known = {"schedule", "timeZone", "startingDeadlineSeconds", "concurrencyPolicy", "suspend", "jobTemplate",
             "successfulJobsHistoryLimit", "failedJobsHistoryLimit"}  # fmt: skip
    assert (found["apiVersion"], found["kind"], set(spec) - known) == ("batch/v1", "CronJob", set())
    assert (spec["schedule"], spec["timeZone"], spec["concurrencyPolicy"]) == ("30 1 * * *", "Europe/Berlin", "Forbid")
    job, pod = spec["jobTemplate"]["spec"], spec["jobTemplate"]["spec"]["template"]["spec"]
    assert (job["backoffLimit"], job["activeDeadlineSeconds"], pod["restartPolicy"]) == (0, int(5.5 * 3600), "Never")
    assert pod["containers"][0]["command"][-5:] == ["--max-duration", "270m", "--only", "$$(a)", "--later-ok"]
    assert {mount["name"] for mount in pod["containers"][0]["volumeMounts"]} == {
        volume["name"] for volume in pod["volumes"]
    }


def test_the_workflow_keeps_the_folder_and_never_begins_anew_by_itself(units, tmp_path):
    (tmp_path / ".git").mkdir()
    found = yaml.safe_load(units("github", "--timezone", "UTC", "--", "--max-cost", "5"))
    steps = found["jobs"]["images"]["steps"]
    assert found["on"]["schedule"] == [{"cron": "30 1 * * *"}]
    assert found["concurrency"]["cancel-in-progress"] is False
    assert found["jobs"]["images"]["timeout-minutes"] <= 360
    assert {step["uses"].partition("@")[0] for step in steps if "uses" in step} == {
        "actions/checkout", "actions/setup-python", "actions/cache/restore", "actions/cache/save", "actions/upload-artifact"}  # fmt: skip
    run = next(step for step in steps if step.get("id") == "made")
    line = shlex.split(run["run"])
    assert (line[:3], line[-3:]) == (
        ["batchgen", "run", ODD], ["--later-ok", "--summary", "$GITHUB_STEP_SUMMARY"])  # fmt: skip
    assert run["env"]["GEMINI_API_KEY"] == "${{ secrets.GEMINI_API_KEY }}"
    assert "cache-matched-key == ''" in steps[steps.index(run) - 1]["if"]
    assert next(step for step in steps if "cache/save" in step.get("uses", ""))["if"].endswith("!= 'skipped' }}")


@pytest.fixture
def came_from(tmp_path, monkeypatch):
    """Makes this installation one from an address, as pip notes it."""

    def note(url: str | None, **more) -> None:
        folder = tmp_path / "site" / "batchgen-1.dist-info"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: batchgen\nVersion: 1\n")
        if url:
            (folder / "direct_url.json").write_text(json.dumps({"url": url, **more}))
        monkeypatch.syspath_prepend(folder.parent)

    return note


GIT = {"vcs_info": {"vcs": "git", "commit_id": "abc123"}}


@pytest.mark.parametrize(("url", "more", "wanted"), [
    ("https://git.example.com/us/batchgen", GIT, "batchgen @ git+https://git.example.com/us/batchgen@abc123"),
    ("https://git.example.com/us/mono", {**GIT, "subdirectory": "gen"}, "batchgen @ git+https://git.example.com/us/mono@abc123#subdirectory=gen"),
    ("https://example.com/batchgen-1.whl", {"archive_info": {}}, "batchgen @ https://example.com/batchgen-1.whl"),
    ("file://{repository}/my%20wheels/batchgen-1.whl", {"archive_info": {}}, "./my wheels/batchgen-1.whl"),
])  # fmt: skip
def test_the_workflow_installs_what_this_batchgen_was_installed_from(units, came_from, tmp_path, url, more, wanted):
    (tmp_path / ".git").mkdir()
    came_from(url.format(repository=tmp_path), **more)
    (script,) = install_scripts(units("github", "--timezone", "UTC"))
    assert shlex.split(script) == ["pip", "install", wanted]


@pytest.mark.parametrize(("url", "more"), [(None, {}), ("file:///elsewhere/batchgen", {}), ("file:///elsewhere", GIT)])
def test_a_workflow_that_cannot_know_its_package_stops_before_it_installs_one_by_name(
    batchgen, manifest, came_from, tmp_path, url, more
):
    (tmp_path / ".git").mkdir()
    came_from(url, **more)
    answer = batchgen("schedule", str(manifest), "--at", "01:30", "--as", "github", "--timezone", "UTC")
    (script,) = install_scripts(answer.out)
    done = subprocess.run(["/bin/sh", "-ec", script], capture_output=True, text=True, env={"PATH": "/nowhere"})
    assert (answer.code, done.returncode, "git+https://" in done.stdout, "placeholder" in answer.err) == (
        0,
        5,
        True,
        True,
    )


def install_scripts(workflow: str) -> list[str]:
    steps = yaml.safe_load(workflow)["jobs"]["images"]["steps"]
    return [step["run"] for step in steps if "pip install" in step.get("run", "")]


def test_an_image_without_an_owner_is_never_pulled(batchgen, manifest):
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as", "kubernetes")
    plain, named = batchgen(*schedule), batchgen(*schedule, "--image", "registry.example.com/batchgen:1")
    assert ("imagePullPolicy: Never" in plain.out, "docker build -t batchgen:latest ." in plain.err) == (True, True)
    assert ("imagePullPolicy" in named.out, "docker build" in named.err) == (False, False)


# --- what is checked before anything is written


@pytest.mark.parametrize(("argv", "words"), [
    (["--as", "cron", "--", "--nonsense"], "No such option"),
    (["--as", "cron", "--", "b.yaml"], "b.yaml: a schedule is of one manifest"),
    (["--as", "cron", "--", "--until", "06:00"], "stands before"),
    (["--as", "launchd", "--install"], "put what is printed"), (["--as", "cron", "--timezone", "UTC"], "leave --timezone out"),
    (["--as", "github", "--timezone", "Mars/Base"], "not a time zone"), (["--as", "cron", "--name", "A b"], "small letters"),
    (["--as", "cron", "--days", "moon"], "mon-fri"), (["--as", "cron", "--key-file", "X=1"], "NAME_API_KEY=PATH"),
])  # fmt: skip
def test_a_schedule_that_would_fail_at_night_is_refused_by_day(batchgen, manifest, argv, words):
    answer = batchgen("schedule", str(manifest), "--at", "1:30", *argv)
    assert (answer.code, answer.out, words in answer.err) == (2, "", True), answer.err


def test_the_addresses_of_messages_come_as_the_keys_do(batchgen, manifest):
    manifest.write_text("notify: {to: '${NOTIFY_PASS}'}\n" + manifest.read_text())
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as")
    assert 'Environment="NOTIFY_PASS_FILE=%d/notify_pass"' in batchgen(*schedule, "systemd").out
    assert "NOTIFY_PASS: ${{ secrets.NOTIFY_PASS }}" in batchgen(*schedule, "github").out
    line = batchgen(*schedule, "cron", "--key-file", "NOTIFY_PASS=/pass", "--key-file", "GOOGLE_API_KEY=/key").out
    assert ("NOTIFY_PASS_FILE=/pass " in line, "GOOGLE_API_KEY_FILE=/key " in line, "GEMINI" in line) == (
        True,
        True,
        False,
    )


def test_an_address_that_is_asked_for_by_option_comes_as_the_keys_do_and_its_library_with_it(
    batchgen, manifest, came_from
):
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as")
    asked = ("--", "--notify", "mailto://me:${NOTIFY_PASS}@example.com")
    assert "NOTIFY_PASS_FILE=" in batchgen(*schedule, "cron", *asked).out
    (manifest.parent / ".git").mkdir()
    came_from("https://wheels.example.com/batchgen-1-py3-none-any.whl")
    assert "pip install 'batchgen[notify] @ https://wheels" in batchgen(*schedule, "github", *asked).out
    assert "pip install 'batchgen @ https://wheels" in batchgen(*schedule, "github").out


@pytest.mark.parametrize("address", ["mailto://me:pw@example.com", "slack://Token", "slack://T0KENT0KEN/${NOTIFY_B}"])
def test_an_address_that_may_be_a_secret_is_never_written_into_a_unit(batchgen, manifest, address):
    answer = batchgen("schedule", str(manifest), "--at", "1:30", "--as", "cron", "--", "--notify", address)
    assert (answer.code, answer.out, "${NOTIFY_URL}" in answer.err, address in answer.err) == (2, "", True, False)


def test_a_manifest_with_a_mistake_gets_no_schedule(batchgen, manifest):
    manifest.write_text(manifest.read_text() + "  - {id: mug, prompt: Again}\n")
    assert batchgen("schedule", str(manifest), "--at", "1:30", "--as", "cron").code == 2


def test_an_emulated_job_and_a_key_in_the_env_file_need_no_credential(batchgen, manifest):
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as", "cron")
    assert "KEY_FILE" not in batchgen(*schedule, "--", "--emulate").out
    (manifest.parent / ".env").write_text("GEMINI_API_KEY=a-key-of-the-shop\n")
    assert "KEY_FILE" not in batchgen(*schedule).out


def test_a_file_of_credentials_takes_the_place_of_a_key(batchgen, manifest):
    manifest.write_text("items: [{id: mug, prompt: A mug, model: vertex-pro}]\n")
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as", "cron")
    assert "VERTEX_API_KEY_FILE=" in batchgen(*schedule).out
    line = batchgen(*schedule, "--key-file", "GOOGLE_APPLICATION_CREDENTIALS=/key.json").out
    assert ("GOOGLE_APPLICATION_CREDENTIALS_FILE=/key.json " in line, "VERTEX" in line) == (True, False)


# --- install


@pytest.fixture
def tool(tmp_path, monkeypatch):
    """Puts a shell script of this name in front of the PATH."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


def test_systemd_units_are_installed_enabled_and_taken_away_again(batchgen, manifest, tool, tmp_path):
    tool("systemctl", f'echo "$*" >> "{tmp_path}/calls"')
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as", "systemd")
    folder, calls = tmp_path / "config" / "systemd" / "user", tmp_path / "calls"
    assert batchgen(*schedule, "--install").code == 0
    assert sorted(path.name for path in folder.iterdir()) == ["batchgen-shop.service", "batchgen-shop.timer"]
    assert calls.read_text().splitlines() == ["--user daemon-reload", "--user enable --now batchgen-shop.timer"]
    assert batchgen(*schedule, "--uninstall").code == 0
    assert (list(folder.iterdir()), calls.read_text().splitlines()[2:]) == (
        [], ["--user disable --now batchgen-shop.timer", "--user daemon-reload"])  # fmt: skip


def test_the_units_of_another_manifest_are_not_replaced(batchgen, manifest, tool, tmp_path):
    tool("systemctl", "exit 0")
    other = tmp_path / "elsewhere" / "m.yaml"
    other.parent.mkdir()
    other.write_text(manifest.read_text())
    install = ("--at", "1:30", "--as", "systemd", "--install")
    assert [batchgen("schedule", str(path), *install).code for path in (manifest, other)] == [0, 2]
    assert batchgen("schedule", str(other), *install, "--name", "other").code == 0


def test_a_manager_that_does_not_answer_is_told_with_its_words(batchgen, manifest, tool):
    tool("systemctl", "echo 'Failed to connect to bus' >&2; exit 1")
    answer = batchgen("schedule", str(manifest), "--at", "1:30", "--as", "systemd", "--install")
    assert (answer.code, "Failed to connect to bus" in answer.err) == (5, True)


FAILS = 'echo "$*" >> "{0}/calls"; case "$*" in *"{1}"*) echo "no {1}" >&2; exit 1;; esac'
LINK = 'mkdir -p "{0}/config/systemd/user/timers.target.wants"; touch "{0}/config/systemd/user/timers.target.wants/batchgen-shop.timer"'


@pytest.mark.parametrize("step", ["daemon-reload", "enable --now"])
def test_an_installation_that_fails_leaves_no_unit_link_or_folder(batchgen, manifest, tool, tmp_path, step):
    half_done = f'case "$*" in *enable*) {LINK.format(tmp_path)};; esac\n'
    tool("systemctl", half_done + FAILS.format(tmp_path, step))
    answer = batchgen("schedule", str(manifest), "--at", "1:30", "--as", "systemd", "--install")
    assert (answer.code, f"no {step}" in answer.err, (tmp_path / "config").exists()) == (5, True, False)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-2:] == ["--user disable --now batchgen-shop.timer", "--user daemon-reload"]


def test_a_timer_that_was_there_before_survives_a_failed_change_of_it(batchgen, manifest, tool, tmp_path):
    tool("systemctl", "exit 0")
    schedule = ("schedule", str(manifest), "--as", "systemd", "--install", "--at")
    assert batchgen(*schedule, "1:30").code == 0
    folder = tmp_path / "config" / "systemd" / "user"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    tool("systemctl", FAILS.format(tmp_path, "enable"))
    assert batchgen(*schedule, "2:45").code == 5
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "disable" not in (tmp_path / "calls").read_text()


def test_a_unit_that_cannot_be_written_takes_the_other_one_with_it(batchgen, manifest, tool, tmp_path):
    tool("systemctl", "exit 0")
    folder = tmp_path / "config" / "systemd" / "user"
    (folder / "batchgen-shop.timer").mkdir(parents=True)
    answer = batchgen("schedule", str(manifest), "--at", "1:30", "--as", "systemd", "--install")
    assert (answer.code, "batchgen-shop.timer: Is a directory; nothing was installed" in answer.err) == (5, True)
    assert [path.name for path in folder.iterdir()] == ["batchgen-shop.timer"]


@pytest.mark.parametrize("before", ["", "5 5 * * * mine\n"])
def test_a_crontab_that_was_half_written_is_put_back(batchgen, manifest, tool, tmp_path, before):
    tab = tmp_path / "tab"
    if before:
        tab.write_text(before)
    tool("crontab", f"""case "$1" in
      -l) cat "{tab}" 2>/dev/null || {{ echo "no crontab for me" >&2; exit 1; }};;
      -r) rm "{tab}";;
      *) cat > "{tab}"; [ ! -e "{tab}.failed" ] && touch "{tab}.failed" && echo "disk full" >&2 && exit 1; exit 0;;
    esac""")  # fmt: skip
    answer = batchgen("schedule", str(manifest), "--at", "1:30", "--as", "cron", "--install")
    assert (answer.code, "disk full" in answer.err) == (5, True)
    assert (tab.read_text() if tab.exists() else "") == before


def test_a_dry_run_of_an_installation_prints_what_it_would_write(batchgen, manifest, tool, tmp_path):
    tool("systemctl", f'touch "{tmp_path}/called"')
    schedule = ("schedule", str(manifest), "--at", "1:30", "--as", "systemd")
    assert batchgen(*schedule, "--install", "-n").out == batchgen(*schedule).out != ""
    assert not (tmp_path / "called").exists() and not (tmp_path / "config").exists()
    assert batchgen(*schedule, "--uninstall", "-n").code == 2


def test_the_crontab_keeps_every_line_that_is_not_ours(batchgen, manifest, tool, tmp_path):
    tab = tmp_path / "tab"
    tool(
        "crontab",
        f'if [ "$1" = -l ]; then cat "{tab}" 2>/dev/null || {{ echo "no crontab for me" >&2; exit 1; }}; else cat > "{tab}"; fi',
    )
    schedule = ("schedule", str(manifest), "--as", "cron", "--at")
    assert batchgen(*schedule, "1:30", "--install").code == 0
    tab.write_text("MAILTO=me\n" + tab.read_text() + "5 5 * * * mine")
    assert batchgen(*schedule, "2:45", "--install").code == 0
    text = tab.read_text()
    assert (text.startswith("MAILTO=me\n5 5 * * * mine\n"), text.count("batchgen-shop "), "45 2 * * *" in text) == (
        True,
        1,
        True,
    )
    assert batchgen(*schedule, "2:45", "--uninstall").code == 0
    assert tab.read_text() == "MAILTO=me\n5 5 * * * mine\n"


# --- for timers, "later" is no failure


def test_later_ok_leaves_with_0_where_a_later_run_goes_on_and_says_so(batchgen, write):
    manifest = str(write({"a": "A mug", "b": "A jug", "c": "A cup"}))
    run = ("run", manifest, "--emulate", "--max-cost", "0.04", "--json")
    plain, timer = batchgen(*run), batchgen(*run, "--later-ok")
    assert (plain.code, timer.code, timer.json["exit_code"]) == (6, 0, 6)


def test_later_ok_hides_no_failure(batchgen, write):
    manifest = str(write({"a": "x [[fault:safety]]"}))
    assert batchgen("run", manifest, "--emulate", "--later-ok").code == 4


# --- as the manifest itself says


@pytest.fixture
def scheduled(batchgen, tmp_path):
    def units(schedule: str, *argv: str):
        path = tmp_path / "m.yaml"
        path.write_text(f"name: shop\nschedule: {schedule}\nitems:\n  - {{id: mug, prompt: A mug}}\n")
        return batchgen("schedule", str(path), *argv)

    return units


NIGHTLY = "{at: '01:30', days: mon-fri, timezone: Europe/Berlin, until: '06:00', max_cost: 20}"


def test_without_at_all_is_as_the_manifest_says(scheduled):
    unit = scheduled(NIGHTLY, "--as", "systemd").out
    assert "OnCalendar=Mon,Tue,Wed,Thu,Fri *-*-* 01:30:00 Europe/Berlin\n" in unit
    assert " --until 06:00 --max-duration 270m --max-cost 20\n" in unit
    spec = yaml.safe_load(scheduled(NIGHTLY, "--as", "kubernetes").out)["spec"]
    assert (spec["schedule"], spec["timeZone"]) == ("30 1 * * 1,2,3,4,5", "Europe/Berlin")
    assert "30 1 * * 1 " in scheduled("{cron: '30 1 * * mon'}", "--as", "cron").out


def test_the_time_to_be_done_by_is_an_option_of_the_run(scheduled):
    wanted = "{at: '22:00', by: '06:00'}"
    assert " --by 06:00\n" in scheduled(wanted, "--as", "systemd").out
    unit = scheduled(wanted, "--as", "systemd", "--", "--by", "05:00").out
    assert " --by 05:00\n" in unit and unit.count("--by ") == 1


def test_an_option_wins_over_the_manifest(scheduled):
    unit = scheduled(NIGHTLY, "--as", "systemd", "--days", "sun", "--", "--max-cost=5").out
    assert "OnCalendar=Sun *-*-* 01:30:00 Europe/Berlin\n" in unit
    (command,) = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    assert command.endswith(" --max-cost=5") and command.count("--max-cost") == 1
    assert "OnCalendar=*-*-* 04:00:00\n" in scheduled(NIGHTLY, "--as", "systemd", "--at", "4:00").out


@pytest.mark.parametrize(("schedule", "words"), [
    ("", "Give --at 01:30, or write schedule:"), ("{cron: '*/5 1 * * *'}", "more than one time of day"),
    ("{at: '1:30', timezone: Pacific/Apia}", "goes by the clock of its machine"),
])  # fmt: skip
def test_what_the_form_cannot_say_is_an_error(scheduled, schedule, words):
    answer = scheduled(schedule, "--as", "cron")
    assert (answer.code, answer.out, words in answer.err) == (2, "", True), answer.err
