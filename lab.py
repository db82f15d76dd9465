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
    for minor in (13, 12, 11):
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
import hashlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import secrets  # noqa: E402
import shutil  # noqa: E402
import signal  # noqa: E402
import socket  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
import webbrowser  # noqa: E402
from pathlib import Path  # noqa: E402

ROOT = Path(__file__).resolve().parent
FIRST_NOTEBOOK = "notebooks/00_start_here.ipynb"
LINTED = ["attnlab", "tests", "notebooks", "tools", "lab.py"]
WORKERS = ["-n", "2", "--dist", "loadfile"]
CPU_TORCH = "https://download.pytorch.org/whl/cpu"
PIP_NEWS = ("Downloading", "Using cached", "Processing", "Building wheels", "Installing collected")
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


def wanted_stamp() -> dict[str, str]:
    """Return what a finished install of the present files would be stamped with."""
    digest = hashlib.sha256()
    for name in ("pyproject.toml", "constraints.txt"):
        digest.update((ROOT / name).read_bytes())
    return {"files": digest.hexdigest(), "folder": str(ROOT)}


def is_installed() -> bool:
    """Say whether the environment holds exactly what the present files ask for."""
    try:
        stamp = json.loads(stamp_file().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return stamp == wanted_stamp() and in_venv("python").exists()


def set_up() -> None:
    """Make the environment, unless it is there already and up to date."""
    if is_installed():
        say("Everything is installed already (.venv is up to date).")
        return
    started = time.monotonic()
    stamp_file().unlink(missing_ok=True)
    make_venv()
    install()
    silence_news()
    name_sliders()
    stamp_file().write_text(json.dumps(wanted_stamp()), encoding="utf-8")
    say(f"Installed in {time.monotonic() - started:.0f} s. The next start takes seconds.")


def make_venv() -> None:
    """Make ``.venv``, or keep the one that is there if its Python and its pip still work."""
    if venv_works():
        return
    say(f"Making .venv with Python {sys.version.split()[0]} ...")
    done = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", str(ROOT / ".venv")],
        capture_output=True,
        text=True,
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


def install() -> None:
    """Install the locked set and the package itself, editable."""
    say("Installing the locked set of packages (once; about 1.4 GB, minutes on a slow line) ...")
    install_small_torch()
    # torch first and pinned: with a bound only, pip may take a build for graphics cards
    code, output = pip("install", "-c", "constraints.txt", "torch", "-e", ".[test]")
    if code:
        raise Failure(INSTALL_FAILED, explain_pip(output))


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
    """Run the environment's pip, show what it fetches, and return its exit code and output."""
    command = [str(in_venv("python")), "-m", "pip", *arguments, "--disable-pip-version-check"]
    lines = []
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
    return process.returncode, "".join(lines)


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
    set_up()
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


def run_notebooks(extra: list[str]) -> int:
    """Execute notebook sources and store them; without numbers, those that are stale."""
    set_up()
    command = [str(in_venv("python")), str(ROOT / "tools" / "notebooks.py"), *extra]
    return subprocess.run(command, cwd=ROOT, env=environment()).returncode


def lab(*, port: int | None, browser: bool) -> int:
    """Open JupyterLab at the first notebook and stay until it ends."""
    set_up()
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
        wait_for_port(port, server)
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
    command += ["--ServerApp.port_retries=0", "--log-level=WARN"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # in a container
        command.append("--allow-root")
    return command


def free_port() -> int:
    """Return 8888, or the next port that nobody listens on."""
    for port in range(8888, 8988):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Failure(NO_PORT, "No free port between 8888 and 8987; name one with --port.")


def wait_for_port(port: int, server: subprocess.Popen) -> None:
    """Wait until the server answers, at most a minute."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise Failure(NO_PORT, f"JupyterLab did not start; is port {port} in use? Try --port.")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise Failure(NO_PORT, "JupyterLab did not answer within a minute.")


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
    commands.add_parser("setup", help="make .venv and install the locked set")
    commands.add_parser("lock", help="compute the locked set again after a change of the ranges")
    commands.add_parser("clean", help="remove .venv and all caches")
    options, extra = parser.parse_known_args(arguments)
    if extra and options.command not in ("test", "check", "notebooks"):
        parser.error(f"unknown arguments: {' '.join(extra)}")
    return options, [argument for argument in extra if argument != "--"]


def main(arguments: list[str]) -> int:
    """Run one command and return its exit code."""
    options, extra = parse(arguments)
    try:
        if options.command == "lab":
            return lab(port=options.port, browser=not options.no_browser)
        if options.command in ("test", "check"):
            return test(extra, types=options.command == "check")
        if options.command == "notebooks":
            return run_notebooks(extra)
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
