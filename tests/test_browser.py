"""A real browser opens JupyterLab, runs a notebook, moves a slider and sees the picture change."""

import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
QUIET += ["disable-background-networking", "disable-component-update", "disable-dev-shm-usage"]
WAIT_MS = 120_000
RUN_MS = 300_000

pytestmark = pytest.mark.timeout(480)


@pytest.fixture(scope="module")
def chromium() -> str:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no Chromium: none of {', '.join(BROWSERS)} is installed")
    return found


@pytest.fixture(scope="module")
def server(chromium, tmp_path_factory) -> Iterator[tuple[str, str, Path]]:
    """JupyterLab over copies of the notebooks: its address, its token, its folder."""
    home = tmp_path_factory.mktemp("lab")
    room = home / "room"
    shutil.copytree(ROOT / "tests" / "fixtures", room)
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        shutil.copy(notebook, room)
    for name in ("data", "figures"):  # notebooks find their records beside their folder
        if (ROOT / name).is_dir():
            (home / name).symlink_to(ROOT / name)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(8)
    with (home / "log.txt").open("w") as log:
        process = subprocess.Popen(
            lab_command(port, room), cwd=room, env=lab_environment(home, token), stderr=log
        )
        try:
            wait_for(port, process, home / "log.txt")
            yield f"http://127.0.0.1:{port}", token, room
        finally:
            process.terminate()
            process.wait(timeout=30)


def lab_command(port: int, room: Path) -> list[str]:
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--ip=127.0.0.1"]
    command += [f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={room}"]
    command.append("--expose-app-in-browser")
    return [*command, "--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else command


def lab_environment(home: Path, token: str) -> dict[str, str]:
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "RUNTIME")}
    mode = {"ATTNLAB_MODE": "fast", "ATTNLAB_WIDGETS": "on", "OMP_NUM_THREADS": "1"}
    own = {"JUPYTER_TOKEN": token, "JUPYTER_DATA_DIR": str(home / "share"), "HOME": str(home)}
    return os.environ | folders | mode | own | {"PYTHONPATH": str(ROOT / "tests" / "offline")}


def wait_for(port: int, process: subprocess.Popen, log: Path) -> None:
    for _ in range(600):
        assert process.poll() is None, log.read_text()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not answer within a minute:\n{log.read_text()}")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(
            executable_path=chromium, args=[f"--{word}" for word in QUIET]
        )
        yield running
        running.close()


@pytest.fixture
def run_notebook(server, browser):
    """Return a function that opens a notebook, runs all its cells, and gives the page."""
    address, token, room = server
    own = (address, "data:", "blob:", address.replace("http", "ws"))
    pages, foreign = [], []

    def run(name: str):
        if not (room / name).exists():
            pytest.skip(f"no notebook: {name} is not written yet")
        page = browser.new_page(viewport={"width": 1400, "height": 1000})
        pages.append(page)
        page.set_default_timeout(WAIT_MS)
        page.on("request", lambda request: foreign.append(request.url))
        page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        forget_stored_outputs(page)
        page.get_by_role("button", name="Restart the kernel and run all cells").click()
        page.locator(".jp-Dialog button.jp-mod-accept").click()
        wait_until_run(page)
        return page

    yield run
    for page in pages:
        page.close()
    asked = [url for url in foreign if not url.startswith(own)]
    assert not asked, "the page asked other machines for something"


# The state of the open notebook, told by JupyterLab itself rather than by a fixed time.
NOTEBOOK = """
const panel = window.jupyterapp?.shell.currentWidget;
const cells = Array.from(panel?.content?.model?.cells ?? []);
const code = cells.filter((c) => c.type === 'code' && c.sharedModel.getSource().trim());
const outputs = (c) => c.sharedModel.getOutputs();
const errors = code.flatMap(outputs).filter((o) => o.output_type === 'error');
"""
# Pixels, not addresses: a redrawn picture that looks the same has not changed.
PICTURES = """() => Array.from(document.querySelectorAll('[data-target] img')).map((img) => {
    const canvas = document.createElement('canvas');
    [canvas.width, canvas.height] = [img.naturalWidth, img.naturalHeight];
    canvas.getContext('2d').drawImage(img, 0, 0);
    return canvas.toDataURL();
}).join(' ')"""


def forget_stored_outputs(page) -> None:
    """Wait until the kernel answers, then clear every output and count, so that none is old."""
    page.wait_for_function(
        f"""() => {{ {NOTEBOOK}
            const session = panel?.sessionContext;
            return code.length && session?.isReady && session.session?.kernel?.status === 'idle';
        }}""",
        polling=100,
    )
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:clear-all-cell-outputs')")
    page.wait_for_function(f"() => {{ {NOTEBOOK} return !code.some((c) => c.executionCount); }}")


def wait_until_run(page) -> None:
    """Wait until every code cell has run, and fail with the error of the first that did not."""
    page.wait_for_function(
        f"""() => {{ {NOTEBOOK}
            const idle = panel?.sessionContext?.session?.kernel?.status === 'idle';
            const done = code.length && code.every((c) => c.executionCount);
            return idle && (errors.length || done);
        }}""",
        timeout=RUN_MS,
        polling=250,
    )
    errors = page.evaluate(f"() => {{ {NOTEBOOK} return errors.map((o) => o.evalue); }}")
    assert not errors


def show_control(page, selector: str):
    """Scroll to the first cell whose widget has such a control, mark it, return the control."""
    indexes = page.evaluate(
        f"""() => {{ {NOTEBOOK}
            const view = 'application/vnd.jupyter.widget-view+json';
            const shows = (c) => c.type === 'code' && outputs(c).some((o) => o.data?.[view]);
            return cells.flatMap((c, index) => shows(c) ? [index] : []);
        }}"""
    )
    assert indexes, "no cell of the notebook shows a widget"
    for index in indexes:
        page.evaluate(
            f"""async () => {{ {NOTEBOOK}
                panel.content.activeCellIndex = {index};
                await panel.content.scrollToItem({index}, 'start');
                document.querySelectorAll('[data-target]')
                    .forEach((old) => old.removeAttribute('data-target'));
                panel.content.widgets[{index}].node.setAttribute('data-target', 'yes');
            }}"""
        )
        page.locator("[data-target] .jupyter-widgets").first.wait_for()
        control = page.locator(f"[data-target] {selector}:visible").first
        if control.count():
            return control
    pytest.fail(f"no widget of the notebook has a control {selector}")


def wait_for_change(page, before: str, comparison: str = "!==") -> None:
    """Wait until the pixels of the marked cell are others, or those again."""
    code = f"(before) => ({PICTURES})() {comparison} before"
    page.wait_for_function(code, arg=before, polling=250)


def pixels(page) -> str:
    page.wait_for_function(f"() => ({PICTURES})().length > 1000")
    return page.evaluate(PICTURES)


@pytest.mark.parametrize(
    "name", ["90_fixture", "01_markov_framing", "03_extractor", "06_fast_extractors"]
)
def test_a_slider_moved_by_the_keyboard_changes_the_picture(run_notebook, name):
    page = run_notebook(f"{name}.ipynb")
    slider = show_control(page, "[role=slider]")
    before, value = pixels(page), slider.get_attribute("aria-valuenow")
    slider.focus()
    is_last = value == slider.get_attribute("aria-valuemax")
    for _ in range(3):
        slider.press("ArrowLeft" if is_last else "ArrowRight")
    wait_for_change(page, before)
    assert slider.get_attribute("aria-valuenow") != value


def test_the_substitution_board_swaps_and_takes_back(run_notebook):
    page = run_notebook("09_replacing_attention.ipynb")
    put_in = show_control(page, "button[title^='Swap']")
    undo = page.locator("[data-target] button", has_text="Undo")
    whole = pixels(page)
    assert undo.is_disabled()
    page.locator("[data-target] select").nth(1).select_option("zero")
    put_in.click()
    wait_for_change(page, whole)
    undo.click()
    wait_for_change(page, whole, "===")
    assert undo.is_disabled()
