"""What reaches a terminal or a pipe, and what never does."""

from __future__ import annotations

import json

import pytest

from batchgen.cli.main import cli
from tests.support.marked_key import KEY

ESCAPES = "\x1b]0;owned\x07\x1b[31m\u202eevil\u2066\x9b31m"
LEDGER = "batchgen.records"  # the start of all that a ledger brings
HEAVY = ("aiohttp", "pydantic", "yaml", "jinja2", "PIL", "rich")


def test_help_and_what_is_mistyped_import_nothing_heavy_and_nothing_that_a_command_does(python):
    names = [name for name in cli.commands if name != "emulate"]  # its help is the emulator's own
    argvs = [["--help"], ["--version"], ["nonsense"], *([name, "--help"] for name in names), ["run", "--no-such"]]
    bodies = sorted({command.body[0] for command in cli.commands.values()})
    source = (
        "import sys\nfrom batchgen.cli.main import run_command_line\n"
        f"for argv in {argvs!r}: run_command_line(argv)\n"
        f"print('LOADED', [name for name in {(*HEAVY, 'batchgen.records', *bodies)!r} if name in sys.modules])"
    )
    assert python(source).out.splitlines()[-1] == "LOADED []"


def test_a_plain_run_loads_nothing_of_the_cluster_the_gallery_and_the_dashboard(python, write):
    source = (
        "import sys\nfrom batchgen.cli.main import run_command_line\n"
        f"run_command_line(['run', {str(write({'mug': 'A mug'}))!r}, '--emulate', '--quiet'])\n"
        "others = ('cluster', 'gallery', 'contact_sheet', 'dashboard', 'thumbnails', 'worker', 'daemon')\n"
        "names = [name for name in sys.modules if name.startswith('batchgen.') and set(name.split('.')) & set(others)]\n"
        "print('LOADED', names)"
    )
    assert python(source).out.splitlines()[-1] == "LOADED []"


@pytest.mark.parametrize("command", ["status", "export", "verify"])
def test_reading_a_ledger_imports_nothing_heavy(batchgen, python, write, command):
    manifest = str(write({"mug": "A mug"}))
    batchgen("run", manifest, "--emulate")
    source = (
        "import sys\nfrom batchgen.cli.main import run_command_line\n"
        f"code = run_command_line([{command!r}, {manifest!r}])\n"
        f"print('LOADED', code, [name for name in {HEAVY!r} if name in sys.modules])"
    )
    assert python(source).out.splitlines()[-1] == "LOADED 0 []"


def test_every_command_has_help_with_an_example(batchgen):
    without = [name for name in cli.commands if name != "emulate" and "Example" not in batchgen(name, "--help").out]
    assert without == []


@pytest.mark.parametrize("argv", [["plan"], ["run", "--emulate"], ["status"], ["verify"], ["models"], ["doctor"]])
def test_a_pipe_gets_no_escape_sequences(batchgen, write, argv):
    manifest = str(write({"mug": "A mug", "bad": "x [[fault:safety]]"}))
    batchgen("run", manifest, "--emulate")
    answer = batchgen(argv[0], *([] if argv[0] == "models" else [manifest]), *argv[1:])
    assert "\x1b" not in answer.out + answer.err


@pytest.mark.parametrize(
    "argv", [["plan", "--emulate"], ["status"], ["export"], ["export", "--format", "csv"], ["plan", "--json"]]
)
def test_control_characters_of_prompts_never_reach_the_output(batchgen, write, argv):
    manifest = str(write({"mug": "A mug", "bad": f"{ESCAPES} [[fault:safety]]"}))
    first = batchgen("run", manifest, "--emulate", "--log-format", "text")
    answer = batchgen(argv[0], manifest, *argv[1:])
    text = first.out + first.err + answer.out + answer.err
    assert [character for character in ESCAPES if not character.isprintable() and character in text] == []


def test_what_the_server_says_is_cleaned_before_it_is_shown(batchgen, write, monkeypatch, spawn, tmp_path):
    """A server that answers 400 with escapes and a forged line in its message."""
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    body = json.dumps({"error": {"code": 400, "message": f"{ESCAPES}\nok: all done {KEY}", "status": "X"}}).encode()

    class Hostile(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(400)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    with HTTPServer(("127.0.0.1", 0), Hostile) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("BATCHGEN_GEMINI_BASE_URL", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("GEMINI_API_KEY", KEY)
        manifest = str(write({"mug": "A mug"}))
        ran = batchgen("run", manifest, "--json", "--log-file", "run.log")
        seen = [ran, batchgen("status", manifest), batchgen("status", manifest, "--json"), batchgen("export", manifest)]
        server.shutdown()
    text = "".join(answer.out + answer.err for answer in seen) + (tmp_path / "run.log").read_text()
    bad = [character for character in ESCAPES if not character.isprintable() and character in text]
    assert (bad, KEY in text, "\nok: all done" in text) == ([], False, False)


def test_an_error_is_one_object_on_stdout_when_json_was_asked_for(batchgen):
    answer = batchgen("run", "absent.yaml", "--json")
    assert (answer.json["ok"], answer.json["exit_code"], answer.json["error"]) == (False, 2, "ManifestError")


def test_json_is_answered_even_to_a_wrong_option(batchgen):
    assert batchgen("run", "--json", "absent.yaml", "--limit", "none").json["exit_code"] == 2


def test_another_encoding_than_utf8_gets_plain_letters(spawn, write):
    manifest = str(write({"mug": "Größe 模", "bad": "模 [[fault:safety]]"}))
    process = spawn("run", manifest, "--emulate", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    _, err = process.communicate(timeout=20)
    assert (process.returncode, err.isascii(), "1 x safety" in err) == (3, True, True)


def test_a_question_is_never_asked_without_a_terminal(batchgen, write, emulator):
    emulator("--latency", "0")
    manifest = str(write({f"mug-{number}": "A mug" for number in range(3)}, head="defaults: {count: 100}\n"))
    assert "Go ahead?" not in batchgen("run", manifest, "--limit", "1").err
