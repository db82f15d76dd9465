"""Set up the workbook and open it, or test it: ``python3 lab.py lab`` and ``python3 lab.py test``.

Needs Python 3.11 or newer and nothing else. The first run makes ``.venv`` and installs the exact
set of packages named in constraints.txt; later runs find them there and start in seconds.
"""

import sys

OLDEST = (3, 11)

# Exit codes. 1 means that a check failed, 2 that the command was mistyped.
PYTHON_TOO_OLD = 3
NO_VENV = 4
INSTALL_FAILED = 5
NO_PORT = 6


def newer_python():
    """Return the first Python on the path that is new enough, or None."""
    import shutil
    import subprocess

    check = f"import sys; sys.exit(sys.version_info < {OLDEST})"
    for minor in (14, 13, 12, 11):
        python = shutil.which(f"python3.{minor}")
        if python and not subprocess.call([python, "-c", check], stderr=subprocess.DEVNULL):
            return python
    return None


def require_python(version=sys.version_info, find=newer_python):
    """Go on under a newer Python if this one is too old; stop with one line if there is none."""
    if tuple(version[:2]) >= OLDEST:
        return
    newer = find()
    if newer:
        import os

        os.execv(newer, [newer, *sys.argv])
    sys.stderr.write(
        f"[attnlab] Python 3.11 or newer is needed, and this is {version[0]}.{version[1]}. "
        "Install one from https://www.python.org/downloads/ and run the same command again.\n"
    )
    sys.exit(PYTHON_TOO_OLD)


require_python()

# Below this line Python is new enough. Nothing above may use syntax newer than Python 3.6, and
# nothing below may keep an older Python from reading the file: no match statement, no :=.
import argparse  # noqa: E402
import contextlib  # noqa: E402
import hashlib  # noqa: E402
import http.client  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import platform  # noqa: E402
import secrets  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402
import webbrowser  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

ROOT = Path(__file__).resolve().parent
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
LINTED = ["attnlab", "tests", "notebooks", "tools", "lab.py", "setup.py"]
WORKERS = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
PIP_NEWS = ("Downloading", "Using cached", "Processing", "Building wheels", "Installing collected")
TOOLS = {"notebooks": "notebooks.py", "book": "book/build.py", "slides": "book/slides.py"}
HEARTBEAT_S = 10  # after so long a silence a line says what pip is doing
CLEANED = [".venv", "build", "dist", "attnlab.egg-info", ".pytest_cache", ".ruff_cache"]


class Failure(Exception):
    """Something the reader has to act on: one line and an exit code."""

    def __init__(self, code: int, line: str) -> None:
        super().__init__(line)
        self.code = code


def say(line: str) -> None:
    """Tell the reader what happens, at once."""
    print(f"[attnlab] {line}", flush=True)


def in_venv(name: str) -> Path:
    """Return the path of a program of the environment."""
    if os.name == "nt":
        return ROOT / ".venv" / "Scripts" / f"{name}.exe"
    return ROOT / ".venv" / "bin" / name


def stamp_file() -> Path:
    """Return the file that says which set is installed; it exists only after a whole install."""
    return ROOT / ".venv" / "attnlab-installed.json"


def wanted_stamp(*, tools: bool) -> dict[str, Any]:
    """Return what a finished install of the present files would be stamped with."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {"files": digest.hexdigest(), "folder": str(ROOT), "tools": tools}


def is_installed(*, tools: bool = False) -> bool:
    """Say whether the environment holds what the present files ask for."""
    try:
        stamp = json.loads(stamp_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    enough = [wanted_stamp(tools=True), wanted_stamp(tools=tools)]
    return stamp in enough and in_venv("python").exists()


def set_up(*, tools: bool = False) -> None:
    """Make the environment, unless it is there already and up to date.

    Args:
        tools: Whether what only tests need is wanted too, as pytest and pyright.
    """
    if is_installed(tools=tools):
        say("Everything is installed already (.venv is up to date).")
        return
    started = time.monotonic()
    refuse_hopeless()
    stamp_file().unlink(missing_ok=True)
    make_venv()
    install(tools=tools)
    name_checkout_in_ascii()
    silence_news()
    name_sliders()
    stamp_file().write_text(json.dumps(wanted_stamp(tools=tools)), encoding="utf-8")
    say(f"Installed in {time.monotonic() - started:.0f} s. The next start takes seconds.")


def refuse_hopeless() -> None:
    """Say at once what minutes of installing would end in."""
    if sys.platform == "darwin" and platform.machine() == "x86_64":
        raise Failure(
            INSTALL_FAILED,
            "PyTorch is no longer published for Intel Macs, and this Python is an Intel one. On an "
            "Apple-silicon Mac install its own Python from https://www.python.org/downloads/; on "
            "an Intel one read the notebooks on GitHub, or try conda and environment.yml.",
        )
    if not os.access(ROOT, os.W_OK):
        raise Failure(
            NO_VENV,
            f"You cannot write to {ROOT}, where .venv is to be made. Copy the folder to a place "
            "of yours and run this command there.",
        )


def make_venv() -> None:
    """Make ``.venv``, or keep the one that is there if its Python and its pip still work."""
    if venv_works():
        return
    say(f"Making .venv with Python {sys.version.split()[0]} ...")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(ROOT / ".venv")],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode or not venv_works():
        words = f"{done.stdout} {done.stderr}".strip().splitlines()
        raise Failure(
            NO_VENV,
            "Python cannot make a virtual environment here. On Debian and Ubuntu: "
            "'sudo apt install python3-venv', then run this command again. "
            f"(It said: {words[-1].strip() if words else 'nothing'})",
        )


def venv_works() -> bool:
    """Say whether ``.venv`` has a Python that is new enough and a pip."""
    code = f"import pip, sys; sys.exit(sys.version_info < {OLDEST})"
    try:
        return subprocess.run([in_venv("python"), "-c", code], capture_output=True).returncode == 0
    except OSError:
        return False


def install(*, tools: bool) -> None:
    """Install the locked set and the package itself, editable."""
    what = "The test tools and what" if tools else "What"
    say(f"{what} the notebooks need: about 1.5 GB, once; minutes, on a slow line more ...")
    install_small_torch()
    # torch first and pinned: with a bound only, pip may take a build for graphics cards
    package = ".[test]" if tools else "."
    code, output = pip("install", "-c", "constraints.txt", "torch", "-e", package)
    if code:
        raise Failure(INSTALL_FAILED, explain_pip(output))


def name_checkout_in_ascii() -> None:
    """Point to the checkout by dots: older Pythons do not start where a locale cannot spell it."""
    for file in (ROOT / ".venv").rglob("__editable__.attnlab-*.pth"):
        file.write_text(os.path.relpath(ROOT, file.parent) + "\n", encoding="ascii")


def silence_news() -> None:
    """Keep JupyterLab from asking whether it may fetch news: the workbook needs no network."""
    page_config = ROOT / ".venv" / "etc" / "jupyter" / "labconfig" / "page_config.json"
    page_config.parent.mkdir(parents=True, exist_ok=True)
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    page_config.write_text(json.dumps(disabled), encoding="utf-8")


def name_sliders() -> None:
    """Put the extension that names the handles of sliders where JupyterLab looks for such.

    A wheel brings it along; pip leaves it out where the package is installed in place.
    """
    name = Path("labextensions", "attnlab")
    source, target = ROOT / "attnlab" / "show" / name, ROOT / ".venv" / "share" / "jupyter" / name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)


def install_small_torch() -> None:
    """On Linux without an NVIDIA card, take PyTorch's build for processors: gigabytes smaller."""
    if sys.platform != "linux" or shutil.which("nvidia-smi") or not is_reachable(CPU_TORCH):
        return
    say("No NVIDIA card here: taking PyTorch's smaller build for processors.")
    pip("install", "-c", "constraints.txt", "--index-url", CPU_TORCH, "torch")


def is_reachable(url: str) -> bool:
    """Say whether a web address answers within three seconds."""
    from urllib.request import urlopen

    try:
        with urlopen(url, timeout=3):
            return True
    except (OSError, ValueError):
        return False


def pip(*arguments: str) -> tuple[int, str]:
    """Run the environment's pip, show what it does, and return its exit code and output."""
    command = [str(in_venv("python")), "-m", "pip", *arguments, "--disable-pip-version-check"]
    lines, ended = [], threading.Event()
    threading.Thread(target=keep_saying, args=(lines, ended), daemon=True).start()
    with subprocess.Popen(
        [*command, "--progress-bar", "off"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                lines.append(line)
                if line.strip().startswith(PIP_NEWS):
                    print(f"  {line.strip()[:100]}", flush=True)
        except BaseException:
            process.terminate()
            raise
        finally:
            ended.set()
    return process.returncode, "".join(lines)


def keep_saying(lines: list[str], ended: threading.Event) -> None:
    """Say every ten seconds what pip is doing, which may be silent for minutes."""
    started, began = time.monotonic(), time.time()
    while not ended.wait(HEARTBEAT_S):
        doing = pip_step(lines, since=began)
        n_mb = n_bytes_below(ROOT / ".venv") / 1e6
        print(f"  {time.monotonic() - started:4.0f} s: {doing}; {n_mb:.0f} MB in .venv", flush=True)


def pip_step(lines: list[str], *, since: float) -> str:
    """Return in words what pip does after these lines of output."""
    said = [line.strip() for line in lines if line.strip()]
    wanted = [line for line in said if line.startswith("Installing collected packages:")]
    if not wanted:
        return f"still at it ({said[-1][:60] if said else 'starting'})"
    names = wanted[-1].partition(":")[2].replace(" ", "").split(",")
    done = [path for path in (ROOT / ".venv").rglob("*.dist-info") if path.stat().st_mtime > since]
    number = min(len(done), len(names) - 1)
    return f"installing package {number + 1} of {len(names)} ({names[number]})"


def n_bytes_below(folder: Path) -> int:
    """Return the bytes of all files below a folder in which another program works."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def explain_pip(output: str) -> str:
    """Return one line that says why an install failed and what to do."""
    offline = ("NewConnectionError", "Temporary failure", "Network is unreachable", "getaddrinfo")
    if any(sign in output for sign in (*offline, "ConnectTimeout", "No route to host")):
        return "No network: the packages could not be fetched. Connect and run this command again."
    if "No space left" in output:
        return "The disk is full: about 3 GB are needed while installing."
    errors = [line.strip() for line in output.splitlines() if line.startswith("ERROR")]
    detail = errors[-1] if errors else "no error line"
    return f"pip could not install the packages ({detail}). Is there a network? Then try again."


def environment() -> dict[str, str]:
    """Return the environment for checks: one thread each, small sizes."""
    return os.environ | {"OMP_NUM_THREADS": "1", "ATTNLAB_MODE": "fast"}


def run_checks(checks: dict[str, list[str]]) -> int:
    """Run each command to its end and say which failed; returns 0 if none did."""
    failed = []
    for name, command in checks.items():
        say(f"{name} ...")
        started = time.monotonic()
        code = subprocess.run(command, cwd=ROOT, env=environment()).returncode
        say(f"{name}: {'ok' if not code else 'FAILED'} ({time.monotonic() - started:.0f} s)")
        if code:
            failed.append(name)
    say(f"Failed: {', '.join(failed)}." if failed else "All checks passed.")
    return 1 if failed else 0


def test(extra: list[str], *, types: bool) -> int:
    """Lint, run every test and every notebook; with ``types``, check types as well."""
    set_up(tools=True)
    python, ruff = str(in_venv("python")), str(in_venv("ruff"))
    checks = {
        "Lint": [ruff, "check", *LINTED],
        "Format": [ruff, "format", "--check", *LINTED],
        "Types": [str(in_venv("pyright")), "--level", "error"],
        "Tests and notebooks": [python, "-m", "pytest", *WORKERS, *extra],
    }
    if not types:
        del checks["Types"]
    return run_checks(checks)


def run_tool(name: str, extra: list[str]) -> int:
    """Run the program behind a command: notebooks, the book or slides."""
    set_up(tools=name != "notebooks")
    command = [str(in_venv("python")), str(ROOT / "tools" / TOOLS[name]), *extra]
    return subprocess.run(command, cwd=ROOT, env=environment()).returncode


def lab(*, port: int | None, browser: bool) -> int:
    """Open JupyterLab at the first notebook and stay until it ends."""
    if port is not None and not is_free(port):
        raise Failure(
            NO_PORT,
            f"Port {port} cannot be had: another program listens there, or the system keeps it. "
            "Leave --port out, and a free one is taken.",
        )
    set_up()
    use_a_home_that_is_there()
    trust_notebooks()
    port = port or free_port()
    token = secrets.token_hex(16)
    opened = f"lab/tree/{FIRST_NOTEBOOK}" if (ROOT / FIRST_NOTEBOOK).exists() else "lab"
    url = f"http://127.0.0.1:{port}/{opened}?token={token}"
    server = subprocess.Popen(
        lab_command(port), cwd=ROOT, env=os.environ | {"JUPYTER_TOKEN": token}
    )
    # asked to end by another program, it ends its server too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        wait_for_server(port, server, token=token)
        say(f"JupyterLab is at {url}")
        say("Stop it with Ctrl-C.")
        if browser:
            webbrowser.open(url)
        return server.wait()
    except KeyboardInterrupt:
        say("Stopping JupyterLab.")
        return 0
    finally:
        server.terminate()
        server.wait()


def trust_notebooks() -> None:
    """Let JupyterLab show the stored pictures and widgets of the workbook's own notebooks."""
    notebooks = sorted((ROOT / "notebooks").glob("*.ipynb"))
    if notebooks:
        command = [in_venv("jupyter"), "trust", *notebooks]
        subprocess.run(command, cwd=ROOT, capture_output=True)


def lab_command(port: int) -> list[str]:
    """Return the command line of the JupyterLab server."""
    command = [str(in_venv("jupyter")), "lab", "--no-browser", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0", "--ServerApp.base_url=/"]
    command += ["--log-level=ERROR", "--LabApp.log_level=ERROR"]
    # what kernels say of ports that are not encrypted would fill the terminal
    command.append("--KernelManager.transport_encryption=auto")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        command.append("--allow-root")
    return command


def free_port() -> int:
    """Return 8888, or the next port that nobody listens on."""
    for port in range(8888, 8988):
        if is_free(port):
            return port
    raise Failure(NO_PORT, "No free port between 8888 and 8987; name one with --port.")


def is_free(port: int) -> bool:
    """Say whether a server of ours could listen on a port."""
    with socket.socket() as probe:
        if os.name != "nt":  # there it would share the port with who listens already
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            return False
        return True


def wait_for_server(port: int, server: subprocess.Popen, *, token: str) -> None:
    """Wait until our own server answers, at most a minute: another one may have taken the port."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Failure(NO_PORT, f"JupyterLab did not start; is port {port} in use? Try --port.")
        if lets_in(port, token) and not lets_in(port, token[::-1]):
            return
        time.sleep(0.1)
    raise Failure(
        NO_PORT,
        f"No JupyterLab with our token answered at port {port} within a minute. Try another "
        "--port; is there a Jupyter configuration of yours that sets a password or a token?",
    )


def lets_in(port: int, token: str) -> bool:
    """Say whether a Jupyter server at a port takes this token; only ours knows ours."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/api/status", headers={"Authorization": f"token {token}"})
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def use_a_home_that_is_there() -> None:
    """Give Jupyter folders of its own where the home folder is missing or cannot be written."""
    if os.access(os.path.expanduser("~"), os.W_OK):
        return
    folder = Path(tempfile.mkdtemp(prefix="attnlab-home-"))
    say(f"Your home folder cannot be written; Jupyter's settings go to {folder} for this time.")
    names = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR")
    for name in (*names, "MPLCONFIGDIR"):
        os.environ.setdefault(name, str(folder / name.lower()))


def lock() -> int:
    """Write constraints.txt again: the newest versions in the ranges, torch as it was."""
    set_up()
    constraints = ROOT / "constraints.txt"
    lines = constraints.read_text(encoding="utf-8").splitlines()
    torch = next(line for line in lines if line.startswith("torch=="))
    with tempfile.TemporaryDirectory() as folder:
        pins, tools = Path(folder) / "pins.txt", Path(folder) / "tools"
        pins.write_text(torch.split(";")[0], encoding="utf-8")
        install_uv = [in_venv("python"), "-m", "pip", "install", "-q", "--target", tools, "uv"]
        if subprocess.run(install_uv, cwd=ROOT).returncode:
            raise Failure(INSTALL_FAILED, "uv, which computes the set, could not be installed.")
        compile_set = [tools / "bin" / "uv", "pip", "compile", "pyproject.toml", "-q"]
        compile_set += ["--universal", "--extra", "test", "--python-version", "3.11"]
        compile_set += ["--no-header", "--no-annotate", "-c", pins]
        done = subprocess.run(compile_set, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failure(INSTALL_FAILED, "The ranges of pyproject.toml have no common solution.")
    constraints.write_text(f"{lines[0]}\n{done.stdout}", encoding="utf-8")
    say(f"constraints.txt has {len(done.stdout.splitlines())} packages; make setup installs them.")
    return 0


def clean() -> int:
    """Remove the environment and all caches. Notebooks, data and records stay."""
    folders = [ROOT / name for name in CLEANED]
    for top in (ROOT / "attnlab", ROOT / "tests", ROOT / "notebooks"):
        folders += [*top.rglob("__pycache__"), *top.rglob(".ipynb_checkpoints")]
    for folder in folders:
        if folder.is_dir():
            say(f"Removing {folder.relative_to(ROOT)}")
            shutil.rmtree(folder)
    return 0


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; what a command does not know is passed on to pytest or the runner."""
    parser = argparse.ArgumentParser(prog="lab.py", description=(__doc__ or "").split("\n\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    opening = commands.add_parser("lab", help="set up, then open JupyterLab at the first notebook")
    opening.add_argument("--port", type=int, help="the port to listen on; a free one by itself")
    opening.add_argument("--no-browser", action="store_true", help="print the address only")
    commands.add_parser("test", help="set up, then lint, test and run every notebook")
    commands.add_parser("check", help="as test, and check types first")
    commands.add_parser("notebooks", help="run stale notebooks again, or those named, as in 03")
    commands.add_parser("book", help="build the book, which needs no kernel, into build/book")
    commands.add_parser("slides", help="make slides of a notebook, as in 03, into build/slides")
    commands.add_parser("setup", help="make .venv and install what the notebooks need")
    commands.add_parser("lock", help="compute the locked set again after a change of the ranges")
    commands.add_parser("clean", help="remove .venv and all caches")
    options, extra = parser.parse_known_args(arguments)
    if extra and options.command not in ("test", "check", *TOOLS):
        parser.error(f"unknown arguments: {' '.join(extra)}")
    return options, [argument for argument in extra if argument != "--"]


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    for stream in (sys.stdout, sys.stderr):  # a terminal may know fewer letters than a path has
        with contextlib.suppress(AttributeError):
            stream.reconfigure(errors="backslashreplace")
    options, extra = parse(arguments)
    try:
        if options.command == "lab":
            return lab(port=options.port, browser=not options.no_browser)
        if options.command in ("test", "check"):
            return test(extra, types=options.command == "check")
        if options.command in TOOLS:
            return run_tool(options.command, extra)
        if options.command in ("clean", "lock"):
            return clean() if options.command == "clean" else lock()
        set_up()
        return 0
    except Failure as failure:
        sys.stderr.write(f"[attnlab] {failure}\n")
        return failure.code
    except KeyboardInterrupt:
        sys.stderr.write("[attnlab] Stopped. Run the same command to go on.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
