"""lab.py: one line and its own exit code for each thing that can be missing; no half installs."""

import ast
import importlib.util
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[1]

# a first line for the shell and for Python: the path of Python may have blanks
EXEC = '#!/bin/sh\n"exec" "{python}" "$0" "$@"\n'
FAKE_PIP = """
import sys, time
from pathlib import Path
arguments = sys.argv[1:]
if arguments[:1] == ["-c"]:
    sys.exit(0)
with (Path(__file__).parents[2] / "calls.txt").open("a") as file:
    file.write(" ".join(arguments) + "\\n")
print("Downloading torch", flush=True)
print({message!r}, flush=True)
time.sleep({seconds})
sys.exit({code})
"""
FAKE_JUPYTER = """
import os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
signal.signal(signal.SIGTERM, signal.default_int_handler)
if "trust" in sys.argv:
    sys.exit(0)
port = next(int(word.split("=")[1]) for word in sys.argv if word.startswith("--port="))

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        is_known = self.headers["Authorization"] == "token " + os.environ["JUPYTER_TOKEN"]
        self.send_response(200 if is_known else 403)
        self.end_headers()

    def log_message(self, *words):
        pass

with HTTPServer(("127.0.0.1", port), Answer) as server:
    try:
        server.serve_forever()
    finally:
        open("ended.txt", "w").close()
"""


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """The module, for a checkout of its own."""
    spec = importlib.util.spec_from_file_location("lab", ROOT / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("pyproject.toml", "constraints.txt", "lab.py", "Makefile"):
        shutil.copy(ROOT / name, checkout)
    monkeypatch.setattr(module, "ROOT", checkout)
    monkeypatch.setattr(module, "is_reachable", lambda url: False)
    return module


def fake(lab, name="python", text=FAKE_PIP, *, code=0, message="Done", seconds=0):
    """Put a program in place that does as told; a pip writes down that it was called."""
    if os.name == "nt":
        pytest.skip("not on Windows: the fake is a script with a first line for Unix")
    program = lab.in_venv(name)
    program.parent.mkdir(parents=True, exist_ok=True)
    options = {"code": code, "message": message, "seconds": seconds}
    text = text if text.startswith("#!") else EXEC + text
    program.write_text(text.format(python=sys.executable, **options))
    program.chmod(0o755)


def calls(lab):
    return (lab.ROOT / "calls.txt").read_text().splitlines()


def failed(lab, capsys, code, *words):
    """Assert that a set-up stops with this code and one line that holds the words."""
    assert lab.main(["setup"]) == code
    printed = capsys.readouterr().err
    assert printed.count("\n") == 1
    assert all(word in printed for word in words)
    assert not lab.stamp_file().exists()


def test_the_first_set_up_installs_by_the_lock_and_the_second_calls_no_pip(lab, capsys):
    fake(lab)
    assert lab.main(["setup"]) == 0
    wanted = "-m pip install -c constraints.txt torch -e ."
    assert [line.split(" --")[0] for line in calls(lab)] == [wanted]
    assert "What the notebooks need: about 1.5 GB" in capsys.readouterr().out
    assert lab.main(["setup"]) == 0
    assert len(calls(lab)) == 1
    assert "installed already" in capsys.readouterr().out


def test_readers_get_no_test_tools_and_who_tests_gets_them_once(lab, monkeypatch):
    fake(lab)
    monkeypatch.setattr(lab, "run_checks", lambda checks: 0)
    for command in ("setup", "test", "setup", "check", "test"):
        assert lab.main([command]) == 0
    assert [line.split(" --")[0].split()[-1] for line in calls(lab)] == [".", ".[test]"]
    assert lab.is_installed(tools=True)
    (lab.ROOT / "constraints.txt").write_text("numpy==2.4.6")
    assert not lab.is_installed()


def test_a_silent_install_says_every_few_seconds_what_it_does(lab, capsys, monkeypatch):
    monkeypatch.setattr(lab, "HEARTBEAT_S", 0.2)
    fake(lab, message="Installing collected packages: six, numpy, torch", seconds=2)
    done = lab.ROOT / ".venv" / "lib" / "six-1.17.dist-info"
    done.mkdir(parents=True)
    (done / "METADATA").write_bytes(b"x" * 3_000_000)
    os.utime(done, (time.time() + 60,) * 2)
    assert lab.main(["setup"]) == 0
    line = r"(?m)^ +\d+ s: installing package 2 of 3 \(numpy\); 3 MB in \.venv$"
    assert len(re.findall(line, capsys.readouterr().out)) >= 3


def test_the_environment_names_the_checkout_without_its_letters(lab):
    fake(lab)
    site = lab.ROOT / ".venv" / "lib" / "python3" / "site-packages"
    site.mkdir(parents=True)
    (site / "__editable__.attnlab-0.1.0.pth").write_text("/süße/Äpfel/attnlab\n", encoding="utf-8")
    assert lab.main(["setup"]) == 0
    line = (site / "__editable__.attnlab-0.1.0.pth").read_text(encoding="ascii").strip()
    assert (site / line).resolve() == lab.ROOT
    assert not Path(line).is_absolute()


def test_an_intel_mac_and_a_folder_of_others_are_told_at_once(lab, capsys, monkeypatch):
    fake(lab)
    monkeypatch.setattr(lab.sys, "platform", "darwin")
    monkeypatch.setattr(lab.platform, "machine", lambda: "x86_64")
    failed(lab, capsys, lab.INSTALL_FAILED, "Intel Mac", "environment.yml")
    monkeypatch.setattr(lab.platform, "machine", lambda: "arm64")
    monkeypatch.setattr(lab.os, "access", lambda path, mode: path != lab.ROOT)
    failed(lab, capsys, lab.NO_VENV, f"cannot write to {lab.ROOT}")
    assert not (lab.ROOT / "calls.txt").exists()


def test_set_up_lets_jupyterlab_name_the_handles_of_sliders(lab):
    fake(lab)
    folder = Path("labextensions", "attnlab")
    shutil.copytree(ROOT / "attnlab" / "show" / folder, lab.ROOT / "attnlab" / "show" / folder)
    assert lab.main(["setup"]) == 0
    installed = lab.ROOT / ".venv" / "share" / "jupyter" / folder
    assert (installed / "package.json").is_file()
    assert (installed / "static" / "names.js").is_file()


@pytest.mark.parametrize("name", ["pyproject.toml", "constraints.txt"])
def test_a_changed_lock_or_range_installs_again_and_a_failure_takes_the_stamp_away(
    lab, capsys, name
):
    fake(lab)
    for text in ("", "\n# changed\n", "\n# changed again\n"):
        (lab.ROOT / name).write_text((lab.ROOT / name).read_text() + text)
        fake(lab, code=5 if "again" in text else 0)
        if text:
            assert lab.stamp_file().exists()
            assert not lab.is_installed()
        assert lab.main(["setup"]) == (5 if "again" in text else 0)
    assert len(calls(lab)) == 3
    assert not lab.stamp_file().exists()


def test_a_moved_checkout_installs_again(lab, monkeypatch, tmp_path):
    fake(lab)
    lab.main(["setup"])
    assert lab.is_installed()
    monkeypatch.setattr(lab, "ROOT", lab.ROOT.rename(tmp_path / "moved"))
    assert not lab.is_installed()


@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("NewConnectionError: Temporary failure in name resolution", "No network"),
        ("OSError: No space left on device", "disk is full"),
        ("ERROR: No matching distribution found for torch", "No matching distribution"),
    ],
)
def test_a_failed_install_says_why_in_one_line_and_leaves_no_stamp(lab, capsys, message, words):
    fake(lab, code=1, message=message)
    assert lab.INSTALL_FAILED == 5
    failed(lab, capsys, 5, words)


def interrupt(lab, *words, after: str, by: int) -> tuple[subprocess.Popen, str]:
    """Send a signal to lab.py once it has said some words; return the process and its errors."""
    process = subprocess.Popen(
        [sys.executable, "lab.py", *words],
        # what a shell does to programs in the background, which inherit it, is to ignore SIGINT
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        cwd=lab.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while after not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(by)
    return process, process.communicate(timeout=30)[1]


@pytest.mark.skipif(os.name == "nt", reason="not on Windows: sends an interrupt")
def test_an_interrupted_install_leaves_no_stamp(lab):
    fake(lab, seconds=60)
    process, errors = interrupt(lab, "setup", after="Downloading", by=signal.SIGINT)
    assert process.returncode == 130
    assert "Run the same command to go on" in errors
    assert not lab.stamp_file().exists()


def test_a_missing_venv_module_says_what_to_install(lab, monkeypatch, capsys):
    words = "The virtual environment was not created successfully because ensurepip is missing"
    done = subprocess.CompletedProcess([], 1, words, "")
    monkeypatch.setattr(lab.subprocess, "run", lambda command, **options: done)
    assert lab.NO_VENV == 4
    failed(lab, capsys, 4, "apt install python3-venv", "ensurepip")


def test_a_damaged_environment_is_made_again(lab, monkeypatch):
    fake(lab, text="#!/bin/false\n")
    made, real = [], subprocess.run

    def run(command, **options):
        if "venv" not in command:
            return real(command, **options)
        made.append(command)
        fake(lab)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(lab.subprocess, "run", run)
    assert lab.main(["setup"]) == 0
    assert "--clear" in made[0]


def test_an_old_python_hands_over_to_a_newer_one_or_says_so_in_one_line(lab, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stopped:
        lab.require_python(version=(3, 9, 18), find=lambda: None)
    assert stopped.value.code == lab.PYTHON_TOO_OLD == 3
    printed = capsys.readouterr().err
    assert "this is 3.9" in printed
    assert printed.count("\n") == 1
    monkeypatch.setattr(os, "execv", lambda program, arguments: sys.exit(f"now under {program}"))
    with pytest.raises(SystemExit, match="now under newer"):
        lab.require_python(version=(3, 9, 18), find=lambda: "newer")


def test_an_old_python_can_read_the_file_which_needs_the_standard_library_only():
    tree = ast.parse((ROOT / "lab.py").read_text(encoding="utf-8"), feature_version=(3, 6))
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {getattr(node, "module", None) or node.names[0].name for node in imports}
    assert {name.split(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_make_without_python_says_so_in_one_line(lab):
    if shutil.which("make") is None:
        pytest.skip("no make: it is not on this machine")
    done = subprocess.run(
        ["make", "lab", "PYTHON=no-such-python"], cwd=lab.ROOT, capture_output=True, text=True
    )
    assert done.returncode
    assert "There is no no-such-python here. Install Python 3.11" in done.stderr
    assert "Error 3" in done.stderr


def test_checks_all_run_and_the_failed_ones_are_named(lab, capsys, monkeypatch):
    ran = []

    def run(command, **options):
        assert options["env"]["OMP_NUM_THREADS"] == "1"
        ran.append(command[0])
        return subprocess.CompletedProcess(command, command[0] == "bad")

    monkeypatch.setattr(lab.subprocess, "run", run)
    assert lab.run_checks({"Lint": ["bad"], "Tests": ["good"]}) == 1
    assert ran == ["bad", "good"]
    assert "Failed: Lint." in capsys.readouterr().out
    assert lab.run_checks({"Tests": ["good"]}) == 0


def test_arguments_are_passed_on_to_pytest_and_to_the_runner(lab, monkeypatch):
    monkeypatch.setattr(lab, "set_up", lambda **options: None)
    monkeypatch.setattr(lab, "run_checks", lambda checks: checks)
    checks = lab.main(["test", "tests/test_lab.py", "-k", "port", "--nbval-lax"])
    assert "Types" not in checks
    command = checks["Tests and notebooks"]
    assert command[-4:] == ["tests/test_lab.py", "-k", "port", "--nbval-lax"]
    assert command[3:8] == ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    assert "Types" in lab.main(["check"])
    monkeypatch.setattr(lab, "environment", dict)
    monkeypatch.setattr(
        lab.subprocess, "run", lambda command, **_: SimpleNamespace(returncode=command[1:])
    )
    for name, program in lab.TOOLS.items():
        path, *arguments = lab.main([name, "03"])
        assert (path, arguments) == (str(lab.ROOT / "tools" / program), ["03"])
        assert (ROOT / "tools" / program).exists()


def test_a_mistyped_argument_is_refused(lab):
    with pytest.raises(SystemExit, match="2"):
        lab.main(["lab", "--prot", "8888"])


def test_a_port_in_use_is_passed_over(lab):
    first = lab.free_port()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", first))
        taken.listen()
        assert lab.free_port() != first


@pytest.fixture
def opened(lab, monkeypatch):
    """Leave set-up and trust out; collect the addresses that a browser is asked to open."""
    addresses = []
    for name in ("set_up", "trust_notebooks", "use_a_home_that_is_there"):
        monkeypatch.setattr(lab, name, lambda: None)
    monkeypatch.setattr(lab.webbrowser, "open", addresses.append)
    return addresses


def test_the_address_has_the_first_notebook_and_the_token(lab, opened, monkeypatch, capsys):
    (lab.ROOT / "notebooks").mkdir()
    (lab.ROOT / lab.FIRST_NOTEBOOK).write_text("{}")
    started = []

    def start(command, *, cwd, env):
        started.append((command, env["JUPYTER_TOKEN"]))
        return SimpleNamespace(wait=lambda: 0, terminate=lambda: None)

    monkeypatch.setattr(lab.subprocess, "Popen", start)
    monkeypatch.setattr(lab, "wait_for_server", lambda port, server, *, token: None)
    assert lab.main(["lab", "--port", "8123"]) == 0
    ((command, token),) = started
    url = f"http://127.0.0.1:8123/lab/tree/notebooks/00_start_here.ipynb?token={token}"
    assert opened == [url]
    assert url in capsys.readouterr().out
    assert "--port=8123" in command
    assert lab.main(["lab", "--no-browser"]) == 0
    assert opened == [url]


def test_a_server_that_ends_at_once_is_reported(lab, opened, monkeypatch, capsys):
    ends = [sys.executable, "-c", "raise SystemExit(1)"]
    monkeypatch.setattr(lab, "lab_command", lambda port: ends)
    assert lab.main(["lab"]) == lab.NO_PORT == 6
    assert "did not start" in capsys.readouterr().err
    assert not opened


def test_a_port_that_another_program_has_is_refused_before_anything_is_installed(lab, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert lab.main(["lab", "--port", str(port)]) == lab.NO_PORT
    assert f"Port {port} cannot be had" in capsys.readouterr().err
    assert not (lab.ROOT / ".venv").exists()
    assert lab.main(["lab", "--port", "65536"]) == lab.NO_PORT


def serve(answer):
    """Start a web server that answers each request with what ``answer(token)`` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(answer(self.headers["Authorization"]))
            self.end_headers()

        def log_message(self, *words):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.mark.parametrize("answer", [lambda token: 200, lambda token: 403, lambda token: 404])
def test_another_server_at_the_port_is_never_announced_as_ours(lab, opened, monkeypatch, answer):
    fake(lab, text="import time\ntime.sleep(1)\n", name="jupyter")
    monkeypatch.setattr(lab, "is_free", lambda port: True)  # it came between look and start
    with serve(answer) as other:
        assert lab.main(["lab", "--port", str(other.server_port)]) == lab.NO_PORT
        other.shutdown()
    assert not opened


def test_our_own_server_is_known_by_its_token(lab):
    with serve(lambda token: 200 if token == "token abc" else 403) as server:
        assert lab.lets_in(server.server_port, "abc")
        assert not lab.lets_in(server.server_port, "cba")
        lab.wait_for_server(server.server_port, SimpleNamespace(poll=lambda: None), token="abc")
        server.shutdown()


def test_a_missing_home_gets_folders_that_can_be_written(lab, monkeypatch, capsys, tmp_path):
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    for name in (*names, "MPLCONFIGDIR"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(lab.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(lab.ROOT))
    lab.use_a_home_that_is_there()
    assert "JUPYTER_DATA_DIR" not in os.environ
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(lab.ROOT / "nowhere"))
    lab.use_a_home_that_is_there()
    assert os.environ["JUPYTER_DATA_DIR"].startswith(str(tmp_path))
    assert "cannot be written" in capsys.readouterr().out


@pytest.mark.skipif(os.name == "nt", reason="not on Windows: sends signals")
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_the_server_ends_with_the_command(lab, name):
    fake(lab)
    lab.main(["setup"])
    fake(lab, "jupyter", FAKE_JUPYTER)
    words = ("lab", "--no-browser")
    process, _ = interrupt(lab, *words, after="JupyterLab is at", by=getattr(signal, name))
    assert process.returncode == 0
    assert (lab.ROOT / "ended.txt").exists()


def test_clean_keeps_what_was_written_and_removes_what_can_be_made_again(lab):
    fake(lab)
    cache, kept = lab.ROOT / "tests" / "__pycache__", lab.ROOT / "data" / "runs"
    for folder in (cache, kept):
        folder.mkdir(parents=True)
    assert lab.main(["clean"]) == 0
    assert not cache.exists()
    assert not (lab.ROOT / ".venv").exists()
    assert kept.exists()
