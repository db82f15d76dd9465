"""A real browser that runs the panels of a notebook by mouse and by keys, control by control."""

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import jupytext
import nbformat
import pytest
from widget_cells import needed

ROOT = Path(__file__).resolve().parents[1]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET = ["no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"]
QUIET += ["disable-background-networking", "disable-component-update", "disable-dev-shm-usage"]
WAIT_MS = 120_000
RUN_MS = 300_000
NAMES = sorted(source.stem for source in (ROOT / "notebooks" / "src").glob("[0-9]*.py"))
WIDE, NARROW = {"width": 1400, "height": 1000}, {"width": 900, "height": 1000}
SOON_S, SHARP_S = 0.3, 1.1  # longer than a panel waits before it draws, and draws sharply
TOGGLES = ".widget-toggle-buttons"
HEARD_S = 4.0  # half a second on an idle machine, which a test's machine is not
SEEN_S = 1.0  # a quarter of a second on an idle machine
FINITE = re.compile(r"[-−+]?\d[\d.,e+-]*$")
PRESSED = re.compile("^(Run|Put in)$")  # choices of these boards wait for a button
CONTROLS = "[role=slider], select, input, textarea, button:enabled"
HARMLESS = re.compile("^(Reset|Example)")
SHOWN = (".attnlab-status", ".attnlab-picture", ".attnlab-text")
RUN = ", ".join(f"{place} {one}" for place in SHOWN for one in ("i", "mjx-container"))
BROKEN = ".jupyter-widgets-error-widget, [data-mime-type='application/vnd.jupyter.stderr']"


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
        shutil.copy(notebook, room / f"stored_{notebook.name}")
    for source in (ROOT / "notebooks" / "src").glob("[0-9]*.py"):
        notebook = jupytext.read(source, fmt="py:percent")
        notebook.cells = list(needed(notebook.cells))
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        nbformat.write(notebook, room / f"{source.stem}.ipynb")
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
    extensions = str(ROOT / "attnlab" / "show" / "labextensions")  # installed or not
    command.append(f"--LabApp.extra_labextensions_path={extensions}")
    return [*command, "--allow-root"] if hasattr(os, "geteuid") and os.geteuid() == 0 else command


def lab_environment(home: Path, token: str) -> dict[str, str]:
    folders = {f"JUPYTER_{name}_DIR": str(home / name.lower()) for name in ("CONFIG", "RUNTIME")}
    mode = {"ATTNLAB_MODE": "fast", "ATTNLAB_WIDGETS": "on", "OMP_NUM_THREADS": "1"}
    own = {"JUPYTER_TOKEN": token, "JUPYTER_DATA_DIR": str(home / "share"), "HOME": str(home)}
    here = os.pathsep.join([str(ROOT / "tests" / "offline"), str(ROOT)])  # this very checkout
    return os.environ | folders | mode | own | {"PYTHONPATH": here}


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
    """One browser for all pages, which reads the programs of JupyterLab once."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        running = play.chromium.launch(
            executable_path=chromium, args=[f"--{word}" for word in QUIET]
        )
        yield running.new_context(viewport=WIDE)
        running.close()


@pytest.fixture
def run_notebook(server, browser):
    """Return a function that opens a notebook, runs all its cells, and gives the page."""
    address, token, room = server
    own = (address, "data:", "blob:", address.replace("http", "ws"))
    pages, foreign, complaints = [], [], []

    def listen(page) -> None:
        page.on("request", lambda request: foreign.append(request.url))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)

    def run(name: str, *, runs: bool = True):
        if not (room / name).exists():
            pytest.skip(f"no notebook: {name} is not written yet")
        page = browser.new_page()
        pages.append(page)
        page.set_default_timeout(WAIT_MS)
        listen(page)
        page.goto(f"{address}/lab/tree/{name}?token={token}&reset")
        page.wait_for_function(READY, polling=100)
        if runs:
            page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
            wait_until_run(page)
        return page

    yield run
    for page in pages:
        page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
        page.close()
    asked = [url for url in foreign if not url.startswith(own)]
    assert not asked, "the page asked other machines for something"
    assert not complaints, "the browser's console has errors"


# The state of the open notebook, told by JupyterLab itself rather than by a fixed time.
NOTEBOOK = """
const panel = window.jupyterapp?.shell.currentWidget;
const cells = Array.from(panel?.content?.model?.cells ?? []);
const code = cells.filter((c) => c.type === 'code' && c.sharedModel.getSource().trim());
const outputs = (c) => c.sharedModel.getOutputs();
const errors = code.flatMap(outputs).filter((o) => o.output_type === 'error');
"""
READY = f"""() => {{ {NOTEBOOK}
    const session = panel?.sessionContext;
    return code.length && session?.isReady && session.session?.kernel?.status === 'idle';
}}"""
# Of the marked cell: every slider with the places of its parts, and those of its panel.
PLACES = """() => Array.from(document.querySelectorAll('[data-target] .attnlab-panel'), (panel) => {
    const box = (element) => element?.getBoundingClientRect().toJSON();
    const part = (selector) => box(panel.querySelector(selector));
    return {
        left: part('.attnlab-left'), shown: part('.attnlab-picture, .attnlab-text'),
        status: part('.attnlab-status'), height: box(panel).height,
        sliders: Array.from(panel.querySelectorAll('.widget-slider')).map((slider) => ({
            label: box(slider.querySelector('.widget-label')),
            track: box(slider.querySelector('.noUi-target')),
            readout: box(slider.querySelector('.widget-readout')),
            name: slider.querySelector('[role=slider]').getAttribute('aria-label'),
            words: slider.querySelector('.widget-label').textContent,
        })),
        selects: Array.from(panel.querySelectorAll('select')).map((one) => box(one).width),
    };
})"""
# What tells one picture from another: the end of a PNG depends on all that is before it.
SOURCE = "((image) => `${image.src.length} ${image.src.slice(-200)}`)"
# Of one panel: what it says, what it shows, whether it is at work.
LOOK = f"""(panel) => {{
    const text = (selector) => Array.from(panel.querySelectorAll(selector), (e) => e.textContent);
    const images = panel.querySelectorAll('.attnlab-picture img');
    return {{
        words: [...text('.attnlab-status'), ...text('.attnlab-text pre')].join(' / '),
        alt: Array.from(images, (image) => image.alt).join(' / '),
        source: Array.from(images, {SOURCE}).join(' '),
        busy: panel.querySelectorAll('.attnlab-busy').length,
        alerts: text('[role=alert]'),
        readouts: text('.widget-readout'),
        height: panel.getBoundingClientRect().height,
    }};
}}"""
WIDGET_CELLS = f"""() => {{ {NOTEBOOK}
    const view = 'application/vnd.jupyter.widget-view+json';
    const shows = (c) => c.type === 'code' && outputs(c).some((o) => o.data?.[view]);
    return cells.flatMap((c, index) => shows(c) ? [index] : []);
}}"""
TARGET = f"""async (index) => {{ {NOTEBOOK}
    panel.content.activeCellIndex = index;
    await panel.content.scrollToItem(index, 'start');
    document.querySelectorAll('[data-target]').forEach((old) => old.removeAttribute('data-target'));
    panel.content.widgets[index].node.setAttribute('data-target', 'yes');
}}"""


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


def target_cells(page) -> Iterator[int]:
    """Scroll to each cell that shows a widget, and mark it."""
    indexes = page.evaluate(WIDGET_CELLS)
    assert indexes, "no cell of the notebook shows a widget"
    for index in indexes:
        page.evaluate(TARGET, index)
        page.locator("[data-target] .jupyter-widgets").first.wait_for()
        yield index


def look(panel) -> dict:
    return panel.evaluate(LOOK)


def settle(panel, *, quiet_s: float, said: Collection[str] | None = None) -> dict:
    """Return what a panel shows once it has not been at work, nor changed, for so long.

    Args:
        said: Words it had before: at rest with others it need not be waited for.
    """
    before, quiet_since, deadline = look(panel), time.monotonic(), time.monotonic() + 60
    while time.monotonic() - quiet_since < quiet_s:
        if said is not None and before["words"] not in said and not before["busy"]:
            return before
        assert time.monotonic() < deadline, "the panel does not come to rest"
        time.sleep(0.05)
        seen = look(panel)
        if seen != before or seen["busy"]:
            before, quiet_since = seen, time.monotonic()
    return before


def sees_changes(panel, changes: Iterator[None]) -> bool:
    """Make the changes; say whether the words, or else the sharp pictures, become others."""
    words, sources = {look(panel)["words"]}, set()
    for _ in changes:
        words.add(settle(panel, quiet_s=SOON_S, said=words)["words"])
        if len(words) == 1:
            sources.add(settle(panel, quiet_s=SHARP_S)["source"])
    return len(words) > 1 or len(sources) > 1


def drag(page, handle, *, share: float) -> None:
    """Drag the handle of a slider by mouse to a share of its track."""
    handle.scroll_into_view_if_needed()
    track = handle.locator("xpath=ancestor::*[contains(@class, 'noUi-target')]").bounding_box()
    box = handle.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.down()
    goal = track["x"] + share * track["width"]
    page.mouse.move(goal, box["y"] + box["height"] / 2, steps=6)
    page.mouse.up()


def check_places(page, *, beside: bool) -> None:
    """Check that labels stand above tracks that can be dragged, and words below the picture."""
    for panel in page.evaluate(PLACES):
        for slider in panel["sliders"]:
            said = slider["words"]
            assert slider["name"] == said, f"the handle of {said!r} has the name {slider['name']!r}"
            assert slider["track"]["width"] >= 150, (
                f"{said}: {slider['track']['width']} px of track"
            )
            assert slider["label"]["bottom"] <= slider["track"]["top"] + 1, said
            assert slider["readout"]["left"] >= slider["track"]["right"], said
        for width in panel["selects"]:
            assert width >= 0.9 * panel["left"]["width"] - 10
        if beside:
            assert panel["shown"]["left"] >= panel["left"]["right"], "it dropped below its controls"
        assert panel["status"]["top"] >= panel["shown"]["bottom"] - 1


def drag_far(page, handle, values: set[str]) -> Iterator[None]:
    """Move a slider far by mouse, then back by keys."""
    for move in (lambda: drag(page, handle, share=0.9), lambda: handle.press("Home")):
        move()
        values.add(handle.get_attribute("aria-valuenow"))
        yield


def choose_all(chooser) -> Iterator[None]:
    for key in ("End", "Home"):
        chooser.press(key)
        yield


def type_in(box) -> Iterator[None]:
    for text in ("zebra <i>$x$</i>", ""):
        box.fill(text)
        box.press("Tab")
        yield


def press_all(buttons) -> Iterator[None]:
    for button in buttons.locator("button").all():
        button.press("Enter")
        yield


def tab_through(page, panel, problems: list[str]) -> None:
    """Note what of a panel cannot be reached by Tab from its first control."""
    controls = panel.locator(CONTROLS)
    n_controls, reached = controls.count(), set()
    controls.first.focus()
    for _ in range(2 * n_controls + 2):  # a slider's read-out is a stop of its own
        reached.add(panel.evaluate(f"(one) => [...one.querySelectorAll({CONTROLS!r})]"
                                   ".indexOf(document.activeElement)"))  # fmt: skip
        page.keyboard.press("Tab")
    if lost := sorted(set(range(n_controls)) - reached):
        problems.append(f"Tab does not reach its controls {lost} of {n_controls}")


def drive_controls(page, panel, problems: list[str], *, height: float) -> dict:
    """Drag each slider, choose each option, type; note what changes nothing.

    Args:
        height: Of the panel at rest before.
    """
    waits_for_a_button = panel.locator("button", has_text=PRESSED).count() > 0
    for handle in panel.locator("[role=slider]").all():
        name, values = handle.get_attribute("aria-label"), set()
        for _ in range(2):  # a page that still moves may take the handle from under the mouse
            changed = sees_changes(panel, drag_far(page, handle, values)) or waits_for_a_button
            if changed and len(values) > 1:
                break
        else:
            problems.append(f"dragging {name!r} changes nothing; it went to {values}")
    choosers = {choose_all: panel.locator("select"), press_all: panel.locator(TOGGLES)}
    for choose, found in choosers.items():
        for one in found.all():
            changed = sees_changes(panel, choose(one))
            if not changed and not waits_for_a_button:
                problems.append(f"choosing among {one.inner_text().split()} changes nothing")
    for box in panel.locator("input[type=text], textarea").all():
        if not sees_changes(panel, type_in(box)):
            problems.append("typing changes nothing")
        if panel.locator(RUN).count():
            problems.append("what was typed is not shown as it stands")
    for button in panel.locator(".attnlab-buttons button", has_text=HARMLESS).all():
        button.press("Enter")
    seen = settle(panel, quiet_s=SOON_S)
    if abs(seen["height"] - height) > 1:
        problems.append(f"its height jumped from {height} to {seen['height']}")
    return seen


def press_run_and_stop(page, panel, problems: list[str]) -> dict:
    """Start the work of a board and stop it; Stop must be heard soon."""
    run, stop = (panel.get_by_role("button", name=name, exact=True) for name in ("Run", "Stop"))
    run.click()
    page.wait_for_function("(b) => !b.disabled", arg=stop.element_handle(), polling=20)
    page.wait_for_timeout(500)
    asked = time.monotonic()
    if stop.is_enabled():
        stop.click()
    page.wait_for_function("(b) => !b.disabled", arg=run.element_handle(), polling=20)
    if (waited := time.monotonic() - asked) > HEARD_S:
        problems.append(f"Stop was heard after {waited:.1f} s")
    seen = settle(panel, quiet_s=SOON_S)
    if not seen["words"].startswith(("Stopped after", "Done after")):
        problems.append(f"after Stop it says {seen['words']!r}")
    return seen


def put_in_and_undo(panel, problems: list[str]) -> dict:
    """Swap what stands somewhere, and take it back."""
    put_in, undo = (panel.get_by_role("button", name=name) for name in ("Put in", "Undo"))
    whole = settle(panel, quiet_s=SOON_S)["words"]
    panel.locator("select").last.select_option("zero")
    put_in.click()
    panel.page.wait_for_function("(b) => !b.disabled", arg=undo.element_handle(), polling=50)
    if settle(panel, quiet_s=SOON_S)["words"] == whole:
        problems.append("putting zeros in changes nothing")
    undo.click()
    panel.page.wait_for_function("(b) => b.disabled", arg=undo.element_handle(), polling=50)
    seen = settle(panel, quiet_s=SOON_S)
    if seen["words"] != whole:
        problems.append("Undo does not take a swap back")
    return seen


def check_looks(seen: dict, problems: list[str]) -> None:
    """Check that what a panel shows at rest is finite, without an error, and told by its words."""
    problems += [f"it says {text!r}" for text in seen["alerts"]]
    problems += [f"a read-out says {n!r}" for n in seen["readouts"] if not FINITE.match(n)]
    if "nan" in seen["words"].lower().split():
        problems.append(f"its words are {seen['words']!r}")
    heads = [head.rstrip(".") for head in re.split(r"(?<=[.!?])\s+", seen["alt"])]
    if not all(head in seen["words"] for head in heads):  # a caption leaves numbers out
        problems.append(f"the picture's words are {seen['alt']!r}, below stands {seen['words']!r}")


def drive_cell(page) -> list[str]:
    """Drive every panel, quiz and guess of the marked cell; return what went wrong."""
    problems: list[str] = []
    check_places(page, beside=True)
    page.set_viewport_size(NARROW)
    check_places(page, beside=False)
    page.set_viewport_size(WIDE)
    for panel in page.locator("[data-target] .attnlab-panel").all():
        seen = settle(panel, quiet_s=SOON_S)
        check_looks(seen, problems)
        tab_through(page, panel, problems)
        seen = drive_controls(page, panel, problems, height=seen["height"])
        if panel.get_by_role("button", name="Stop", exact=True).count():
            seen = press_run_and_stop(page, panel, problems)
        if panel.get_by_role("button", name="Put in").count():
            seen = put_in_and_undo(panel, problems)
        check_looks(seen, problems)
    for option in page.locator("[data-target] .attnlab-option").all():
        option.click()
    for reason in page.locator(
        "[data-target] .attnlab-quiz .widget-htmlmath:has([role=status])"
    ).all():
        reason.get_by_text("Right.").or_(reason.get_by_text("Not so.")).first.wait_for()
    for choice in page.locator("[data-target] .widget-radio input").all():
        choice.click()
        page.locator("[data-target] [role=status]", has_text="You guessed").first.wait_for()
    return problems


def drive_notebook(run_notebook, name: str) -> None:
    """Drive every control of a notebook; fail with what went wrong."""
    page = run_notebook(f"{name}.ipynb")
    problems = [
        f"cell {index}: {problem}" for index in target_cells(page) for problem in drive_cell(page)
    ]
    assert page.locator(BROKEN).count() == 0
    assert not problems, "\n".join(problems)


def run_cell(page, index: int) -> None:
    page.evaluate(TARGET, index)
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-cell')")
    page.wait_for_function(READY, polling=50)
