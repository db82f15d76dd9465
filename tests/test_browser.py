"""Half of the notebooks in a real browser, and what single panels do there."""

import time

import nbformat
import pytest
from browser import (
    BROKEN,
    NAMES,
    NOTEBOOK,
    SEEN_S,
    SHARP_S,
    SOURCE,
    browser,
    chromium,
    drive_notebook,
    run_cell,
    run_notebook,
    server,
    settle,
    target_cells,
)
from eyes import FAINT
from widget_cells import needed

__all__ = ["browser", "chromium", "run_notebook", "server"]  # fixtures
pytestmark = pytest.mark.timeout(480)


def test_a_panel_keeps_the_cells_that_it_stands_on():
    texts = ("from x import train, explore, draw", "model = 1", "train(model)", "other = 2")
    texts += ("draw(other)", "other = 3", "seen = {}", "seen['a'] = other")
    cells = [nbformat.v4.new_code_cell(text) for text in (*texts, "explore(draw, model, seen)")]
    cells[-1].metadata["tags"] = ["widget"]
    cells.append(nbformat.v4.new_code_cell("print(model)"))
    kept = [cells.index(cell) for cell in needed(cells)]
    assert kept == [0, 1, 2, 5, 6, 7, 8]


@pytest.mark.parametrize("name", NAMES[::2])
def test_every_control_of_a_notebook_works_under_mouse_and_keyboard(run_notebook, name):
    drive_notebook(run_notebook, name)


SMALL = """
from attnlab.show import new_axes, picture, show_board

@picture
def draw(history):
    return new_axes(size=(4, 2)), f"{len(history)} so far."

def endless(*, n):
    while True:
        yield n

if "boards" not in globals():
    boards = []
"""


def test_a_panel_whose_cell_runs_again_is_replaced_and_ends_its_work(run_notebook, server):
    show = "boards.append(show_board(endless, n_ticks=9, draw=draw, n=('Steps', 1, 0, 9)))"
    ask = "print([board.is_running for board in boards])"
    cells = [nbformat.v4.new_code_cell(text) for text in (SMALL, show, ask)]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
    nbformat.write(
        nbformat.v4.new_notebook(cells=cells, metadata=kernel), server[2] / "small.ipynb"
    )
    page = run_notebook("small.ipynb")
    said = f"() => {{ {NOTEBOOK} return outputs(code[2])[0]?.text?.toString().trim(); }}"
    for number in (1, 2):  # press Run; the second time in the panel that replaced the first
        (index,) = target_cells(page)
        panels = page.locator("[data-target] .attnlab-panel")
        assert panels.count() == 1
        panels.get_by_role("button", name="Run", exact=True).click()
        panels.get_by_text("so far").last.wait_for()
        run_cell(page, 2)
        page.wait_for_function(
            f"(wanted) => ({said})() === wanted", arg=str([False] * (number - 1) + [True])
        )
        run_cell(page, index)
    run_cell(page, 2)
    page.wait_for_function(f"(wanted) => ({said})() === wanted", arg="[False, False, False]")


def test_a_key_press_is_soon_followed_by_a_new_picture(run_notebook):
    page = run_notebook("00_start_here.ipynb")
    for _ in target_cells(page):
        handle = page.locator("[data-target] .attnlab-panel [role=slider]")
        if handle.count():
            break
    panel, waits = page.locator("[data-target] .attnlab-panel").first, []
    handle.first.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "ArrowRight", "ArrowLeft"):
        before, pressed = settle(panel, quiet_s=SHARP_S), time.monotonic()
        page.keyboard.press(key)
        page.wait_for_function(
            "([panel, source]) =>"
            f" {SOURCE}(panel.querySelector('.attnlab-picture img')) !== source",
            arg=[panel.element_handle(), before["source"]],
            polling=10,
        )
        waits.append(time.monotonic() - pressed)
    assert sorted(waits)[2] < SEEN_S, f"{waits} s from key to picture"


def test_a_stored_notebook_shows_its_pictures_with_their_words_and_no_dead_panel(run_notebook):
    page = run_notebook("stored_03_extractor.ipynb", runs=False)
    seen = page.evaluate(
        f"""async () => {{ {NOTEBOOK}
            const found = [];
            for (const index of cells.keys()) {{
                await panel.content.scrollToItem(index, 'start');
                for (const image of panel.content.widgets[index].node.querySelectorAll('img')) {{
                    const words = image.closest('figure')?.querySelector('em').textContent;
                    found.push([image.alt, words, image.naturalWidth]);
                }}
            }}
            return found;
        }}"""
    )
    assert len(seen) >= 10
    assert not [one for one in seen if not (one[0] and one[0] == one[1] and one[2] > 0)]
    assert page.locator(".jupyter-widgets").count() == 0
    assert page.locator(BROKEN).count() == 0


@pytest.mark.parametrize("theme", ["JupyterLab Light", "JupyterLab Dark"])
def test_panels_and_checks_can_be_read_in_both_themes_of_jupyterlab(run_notebook, theme):
    page = run_notebook("00_start_here.ipynb")
    change = "(theme) => window.jupyterapp.commands.execute('apputils:change-theme', { theme })"
    page.evaluate(change, theme)
    page.wait_for_function("(name) => document.body.dataset.jpThemeName === name", arg=theme)
    assert page.locator(".attnlab-panel").count() > 0
    assert page.evaluate(FAINT, ".jp-OutputArea-output *") == {}
