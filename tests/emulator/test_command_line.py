"""The emulator as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import urllib.request

import pytest

from batchgen.emulator import BatchOptions, EmulatorOptions, serve
from batchgen.emulator.__main__ import main, options_from, parser


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_where_it_listens_and_stops_cleanly_on_a_signal(number):
    command = [sys.executable, "-m", "batchgen.emulator", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            base_url = process.stdout.readline().removeprefix("listening on ").strip()
            with urllib.request.urlopen(f"{base_url}/_emulator/stats", timeout=10) as response:  # noqa: S310
                assert response.status == 200
            process.send_signal(number)
            rest, complaints = process.communicate(timeout=10)
        finally:
            process.kill()
    assert (process.returncode, rest, complaints) == (0, "", "")


def test_another_address_than_loopback_needs_permission(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--host", "0.0.0.0"])  # noqa: S104
    assert (caught.value.code, "--allow-remote" in capsys.readouterr().err) == (2, True)


async def test_serve_itself_refuses_another_address_too():
    with pytest.raises(ValueError, match="allow_remote"):
        await serve(EmulatorOptions(), "0.0.0.0")  # noqa: S104


def test_an_unknown_fault_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--fault", "nonsense=0.5"])
    assert (caught.value.code, "unknown fault" in capsys.readouterr().err) == (2, True)


def test_values_are_for_all_models_or_for_one():
    arguments = ["--latency", "0.1-0.9", "--latency", "a=2", "--rpm", "a=9", "--rpd", "7", "--fault", "503=0.05"]
    options = options_from(parser().parse_args(arguments))
    found = [(options.latency_of(model), options.rpm_of(model), options.rpd_of(model)) for model in ("a", "b-pro")]
    assert found == [((2, 2), 9, 7), ((0.1, 0.9), 15, 7)]
    assert options.faults == {"503": 0.05}


def test_a_short_life_of_files_and_a_refused_tier_are_options():
    options = options_from(parser().parse_args(["--file-life", "2", "--tier", "flex=503"]))
    assert (options.file_life_s, options.tiers) == (2.0, {"flex": 503})


def test_batches_have_their_options():
    arguments = ["--batch-pending", "0", "--batch-running", "2", "--batch-states", "job", "--batch-results", "dest"]
    arguments += ["--batch-fault", "create_lost*1", "--batch-fault", "get_503*2", "--batch-tokens", "9"]
    batch = options_from(parser().parse_args(arguments)).batch
    wanted = BatchOptions(
        pending_s=0,
        running_s=2,
        states="job",
        places=("dest",),
        faults=("create_lost*1", "get_503*2"),
        enqueued_tokens=9,
    )
    assert batch == wanted


def test_without_a_word_about_batches_they_are_as_by_default():
    assert options_from(parser().parse_args([])).batch == BatchOptions()


def test_an_unknown_fault_of_batches_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--batch-fault", "nonsense"])
    assert (caught.value.code, "unknown batch fault" in capsys.readouterr().err) == (2, True)


def test_a_tier_that_does_not_exist_is_a_wrong_command_line(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--tier", "fast=503"])
    assert (caught.value.code, "flex or priority" in capsys.readouterr().err) == (2, True)
