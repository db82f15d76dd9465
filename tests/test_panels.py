"""Panels, boards and guesses: stills first, one redraw a burst, errors on the page."""

import asyncio
import base64
import io
import itertools
import re
import threading
import time
import warnings

import ipywidgets as w
import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show import (
    Explorer,
    RunBoard,
    choice,
    explore,
    new_axes,
    picture,
    play,
    playground_dials,
    predict_first,
    show_board,
    slider,
)
from attnlab.show.panels import LIVE, SHARP_S, WAIT_S, dial, make_dials

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


@pytest.fixture(autouse=True)
def _strict(shown):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@picture
def post(*, height, kind):
    ax = new_axes(size=(2, 1))
    ax.plot([0, height], label=kind)
    return ax, f"Height {height:.2f}, kind {kind}."


DIALS = {"height": ("Height (m)", 0.5, 0.0, 1.0, 0.1), "kind": ["a", "b"]}


def explorer(**options):
    presets = options.pop("presets", [{"height": 0.1}, {"kind": "b"}])
    return explore(post, presets=presets, **DIALS)


def stills(shown):
    return [d["text/plain"] for d, _ in shown if WIDGET_VIEW not in d and "<img" in d["text/html"]]


def live(shown):
    return [d for d, _ in shown if WIDGET_VIEW in d]


def low_middle_high(control):
    if isinstance(control, w.ToggleButtons | w.Dropdown):
        values = [value for _, value in control.options]
        return values[0], values[len(values) // 2], values[-1]
    if isinstance(control, w.Text):
        return "", "Once", "There"
    return control.min, (control.min + control.max) / 2, control.max


def test_one_output_is_a_panel_where_it_lives_and_its_stills_elsewhere(shown):
    panel = explorer()
    ((output, _),) = shown
    assert output in live(shown)
    still = output["text/html"]
    for words in ("Height 0.10, kind a.", "Height 0.50, kind b."):
        assert f"<img alt='{words}' width='200' height='100'" in still
        assert f"<figcaption><em>{words}</em></figcaption>" in still
        assert words in output["text/plain"]
    assert LIVE in still
    assert output["text/plain"].endswith(LIVE)
    assert "<details>" in panel.panel.children[-1].value  # the stills, folded


def test_an_example_sets_the_dials_of_its_still():
    panel = explorer()
    first, second = panel.example_buttons
    first.click()
    assert panel.values == {"height": 0.1, "kind": "a"}
    second.click()
    assert panel.values == {"height": 0.5, "kind": "b"}
    assert second.tooltip in panel.status.value


def test_stills_only_mode_shows_no_panel(shown, monkeypatch):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert explorer() is None
    assert stills(shown) == ["Height 0.10, kind a.", "Height 0.50, kind b."]
    assert not live(shown)


def test_the_panel_carries_marker_classes_and_a_status():
    panel = explorer()
    assert "attnlab-picture" in panel.picture._dom_classes
    assert "attnlab-status" in panel.status._dom_classes
    assert panel.status.value.startswith("<p role='status'")


def test_every_pair_of_extremes_draws_its_own_picture_and_words():
    panel = explorer()
    pictures = set()
    for height, kind in itertools.product(*map(low_middle_high, panel.controls.values())):
        panel.controls["height"].value, panel.controls["kind"].value = height, kind
        assert f"Height {panel.controls['height'].value:.2f}, kind {kind}." in panel.status.value
        pictures.add(panel.picture.value)
    assert len(pictures) == 6  # three heights, two kinds; the words differ, so the pictures do


def test_same_values_give_the_same_picture():
    panel = explorer()
    first = panel.picture.value
    panel.controls["height"].value = 0.9
    assert panel.picture.value != first
    panel.controls["height"].value = 0.5
    assert panel.picture.value == first


def test_a_burst_of_changes_causes_one_redraw():
    async def burst():
        panel = explorer()
        before = panel.n_redraws
        for step in range(49):
            panel.controls["height"].value = step / 49
        await asyncio.sleep(2 * WAIT_S)
        return panel.n_redraws - before, panel.status.value

    n_redraws, words = asyncio.run(burst())
    assert n_redraws == 1
    assert f"Height {48 / 49:.2f}" in words


def test_reset_puts_every_control_back():
    panel = explorer()
    panel.controls["height"].value, panel.controls["kind"].value = 1.0, "b"
    panel.reset_button.click()
    assert panel.values == {"height": 0.5, "kind": "a"}
    assert "Height 0.50, kind a." in panel.status.value


@pytest.mark.parametrize(
    ("error", "said"),
    [(AttnlabError("Choose <2."), "Choose &lt;2."), (KeyError("k"), "KeyError: &#x27;k&#x27;")],
)
def test_an_error_of_the_drawing_is_shown_and_the_old_picture_taken_away(error, said):
    def fragile(*, height):
        if height > 0.9:
            raise error
        return post(height=height, kind="a")

    panel = explore(fragile, presets=[], height=DIALS["height"])
    panel.controls["height"].value = 1.0
    assert "role='alert'" in panel.status.value
    assert said in panel.status.value
    assert "<img" not in panel.picture.value
    assert "aspect-ratio:200/100" in panel.picture.value  # nothing below it moves
    panel.controls["height"].value = 0.2
    assert "role='status'" in panel.status.value


def test_an_error_in_a_preset_is_raised():
    def broken(**values):
        raise AttnlabError("no")

    with pytest.raises(AttnlabError, match="no"):
        explore(broken, **DIALS)


def test_a_preset_for_no_control_is_refused():
    with pytest.raises(UnknownNameError, match="Did you mean 'height'"):
        explorer(presets=[{"heigth": 1.0}])


def test_five_controls_are_too_many():
    many = {name: slider(name, value=0, minimum=0, maximum=1) for name in "abcde"}
    with pytest.raises(AttnlabError, match="Keep 4"):
        Explorer(lambda **values: ("", ""), many)


def test_every_control_has_words_and_says_what_the_keys_do():
    dials = DIALS | playground_dials(prompt="A", mixers=["she"])
    many = [dial(name, spec) for name, spec in dials.items()]
    many.append(choice("Long", options=[f"a long option, number {n}" for n in range(9)]))
    for control in many:
        assert control.description
        keys = ("Arrow keys", "Tab and Space", "Enter or Tab reads it")
        assert any(key in control.tooltip for key in keys)


def test_a_choice_is_buttons_if_short_and_a_dropdown_if_long():
    assert isinstance(choice("Kind", options=["a", "b"]), w.ToggleButtons)
    assert isinstance(choice("Kind", options=list("abcdef")), w.Dropdown)
    assert isinstance(choice("Kind", options={"x" * 41: 1, "b": 2}), w.Dropdown)
    assert choice("Kind", options={"one": 1, "two": 2}, value=2).value == 2
    with pytest.raises(AttnlabError, match="no options"):
        choice("Kind", options=[])


def test_a_slider_is_whole_only_if_all_its_numbers_are():
    assert isinstance(slider("n", value=1, minimum=0, maximum=3), w.IntSlider)
    assert isinstance(slider("x", value=1, minimum=0, maximum=3, step=0.5), w.FloatSlider)


def write(*, prompt, mixer, temperature, seed):
    return {"SHE": f"{prompt} <{mixer}>", "HE": f"{temperature} {seed}"}


def test_a_playground_prints_texts_and_rewrites_them(shown):
    dials = playground_dials(prompt="Once", mixers=["she", "he"])
    panel = play(write, presets=[{"mixer": "he"}], **dials)
    assert "**SHE**\n\n~~~text\nOnce <he>\n~~~" in shown[0][0]["text/markdown"]
    assert "Once &lt;she&gt;" in panel.picture.value
    for name, control in panel.controls.items():
        for value in low_middle_high(control):
            control.value = int(value) if name == "seed" else value
    assert "There &lt;he&gt;" in panel.picture.value
    assert "aria-label='SHE'" in panel.picture.value
    assert "attnlab-text" in panel.picture._dom_classes


def test_a_playground_without_widgets_prints_its_texts(shown, monkeypatch):
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    dials = playground_dials(prompt="Once", mixers=["she"])
    assert play(write, presets=[{}], **dials) is None
    assert len(shown) == 1


def count(*, n):
    yield from range(n)


def board(run=count, **options):
    settings = {"n_ticks": lambda *, n: n, "draw": draw_history}
    return RunBoard(run, STEPS, **{**settings, **options})


STEPS = {"n": ("Steps", 5, 1, 9)}


def draw_history(history):
    return post(height=len(history), kind="a").saying(f"Last value {history[-1]}.")


def test_a_board_runs_to_the_end_without_an_event_loop():
    one = board()
    one.run_button.click()
    assert one.history == [0, 1, 2, 3, 4]
    assert (one.progress.value, one.progress.max) == (5, 5)
    assert "Done after 5 of 5 steps. Last value 4." in one.status.value
    assert "<img" in one.picture.value
    assert not one.is_running
    assert not one.controls["n"].disabled


def test_stop_is_heard_between_ticks_and_closes_the_generator():
    closed = []

    def endless(*, n):
        try:
            yield from itertools.count()
        finally:
            closed.append(True)

    async def run_then_stop():
        one = board(run=endless)
        one.run_button.click()
        await asyncio.sleep(0.05)
        assert one.is_running
        assert one.run_button.disabled
        one.stop_button.click()
        await asyncio.wait_for(one._task, timeout=5)
        return one

    one = asyncio.run(run_then_stop())
    assert one.history
    assert "Stopped after" in one.status.value
    assert closed == [True]
    assert not one.is_running


def test_a_second_run_starts_afresh():
    one = board()
    one.run_button.click()
    one.controls["n"].value = 2
    one.run_button.click()
    assert one.history == [0, 1]


def test_a_board_redraws_while_it_runs(monkeypatch):
    monkeypatch.setattr("attnlab.show.boards.REDRAW_S", -1.0)
    one = board()
    asyncio.run(one.drive())
    assert one.n_redraws == 6  # one for each of five ticks, one at the end


def test_an_error_of_the_run_is_shown_and_raised():
    def failing(*, n):
        yield 1
        raise AttnlabError("The loss is not a number; lower the learning rate.")

    one = board(run=failing)
    with pytest.raises(AttnlabError, match="lower the learning rate"):
        asyncio.run(one.drive())
    assert "role='alert'" in one.status.value
    assert not one.is_running


def test_a_board_names_its_unit_and_counts_no_pause():
    def resting(*, n):
        for k in range(n):
            yield None
            yield k

    one = board(run=resting, unit="laps")
    one.run_button.click()
    assert "Done after 5 of 5 laps." in one.status.value


def test_stop_is_heard_within_half_a_second_of_slow_ticks():
    def slow(*, n):
        for k in itertools.count():
            time.sleep(0.1)
            yield k

    async def time_to_stop():
        one = board(run=slow)
        one.run_button.click()
        await asyncio.sleep(0.25)
        asked = time.monotonic()
        one.stop_button.click()
        await asyncio.wait_for(one._task, timeout=5)
        return time.monotonic() - asked

    assert asyncio.run(time_to_stop()) < 0.5


def test_a_run_that_yields_nothing_says_so():
    one = board(run=lambda *, n: iter(()))
    one.run_button.click()
    assert "Done after 0 of 5 steps." in one.status.value


def test_a_board_shows_an_earlier_run_without_a_click(shown, monkeypatch):
    words = {"n_ticks": 5, "draw": draw_history}
    one = show_board(count, **words, still=[7, 8], **STEPS)
    assert "<figcaption><em>Last value 8.</em>" in live(shown)[0]["text/html"]
    assert "An earlier run. Last value 8." in one.picture.value
    assert not one.history
    monkeypatch.setenv("ATTNLAB_WIDGETS", "off")
    assert show_board(count, **words, still=[7, 8], **STEPS) is None
    assert stills(shown) == ["Last value 8."]


def test_a_guess_is_none_until_an_option_is_chosen(shown):
    guess = predict_first("How low?", options={"1 nat": 1.0, "2 nats": 2.0})
    assert guess.value is None
    assert guess.label is None
    assert "- 1 nat\n- 2 nats" in shown[0][0]["text/markdown"]
    guess.buttons.index = 0
    assert (guess.value, guess.label) == (1.0, "1 nat")
    assert "Recorded: 1 nat." in guess.status.value
    assert "nearest the truth" in guess.verdict(truth=1.2)
    assert "not what happened" in guess.verdict(truth=1.9)


def test_a_guess_made_after_the_result_is_judged_in_its_own_panel():
    guess = predict_first("How low?", options={"1 nat": 1.0, "2 nats": 2.0})
    assert "No guess was recorded" in guess.verdict(truth=1.2)
    assert "The result is known" in guess.status.value
    for label, words in (("1 nat", "nearest the truth"), ("2 nats", "not what happened")):
        guess.buttons.label = label
        assert f"You guessed: {label}. The result: 1.2. Your guess was {words}." in (
            guess.status.value
        )


def test_a_guess_in_words_is_judged():
    guess = predict_first("Which?", options=["SHE", "HE"])
    guess.buttons.index = 1
    assert guess.verdict(truth="SHE") == (
        "You guessed: HE. The result: SHE. Your guess was not what happened."
    )


def test_one_option_is_no_prediction():
    with pytest.raises(AttnlabError, match="two options"):
        predict_first("Which?", options=["SHE"])


def test_dials_are_abbreviations_of_controls():
    controls = make_dials(
        {
            "n_steps": ("Steps", 100, 20, 400, 20, "Batches"),
            "kind": ("Kind", {"one": 1, "two": 2}, "What is drawn"),
            "state_name": ["a", "b"],
        }
    )
    assert (controls["n_steps"].value, controls["n_steps"].step) == (100, 20)
    assert controls["n_steps"].tooltip == "Batches. Arrow keys change it."
    assert controls["kind"].options == (("one", 1), ("two", 2))
    assert controls["kind"].tooltip.startswith("What is drawn.")
    assert controls["state_name"].description == "State name"


ENDLESS = """
import asyncio, itertools
from attnlab.show import new_axes, picture, show_board

@picture
def draw(history):
    return new_axes(size=(2, 1)), f"{len(history)} so far."

def endless():
    try:
        yield from itertools.count()
    finally:
        ended.append(len(boards))

if "boards" not in globals():
    boards, ended = [], []
"""
SHOWN_AGAIN = """
boards.append(show_board(endless, n_ticks=9, draw=draw))
boards[-1].start()
await asyncio.sleep(0.3)
"""
STATE = """
state = [(board.is_running, board.panel.comm is None) for board in boards]
print(state, len(ended), [len(board.history) > 0 for board in boards])
boards[-1].stop()
"""


def test_a_cell_run_again_ends_the_work_of_the_panel_it_showed_before():
    cells = [nbformat.v4.new_code_cell(text) for text in (ENDLESS, SHOWN_AGAIN, SHOWN_AGAIN, STATE)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(notebook, kernel_name="python3", timeout=60).execute()
    said = "".join(output.text for output in notebook.cells[-1].outputs if "text" in output)
    assert said == "[(False, True), (True, False)] 1 [True, True]\n"


def test_a_closed_panel_draws_no_more():
    async def close_while_waiting():
        panel = explorer()
        panel.controls["height"].value = 0.9
        panel.close()
        before = panel.n_redraws
        panel.controls["height"].value = 0.1
        await asyncio.sleep(2 * WAIT_S)
        return panel.n_redraws - before

    assert asyncio.run(close_while_waiting()) == 0


def test_whoever_turns_a_dial_the_drawing_is_done_in_one_thread():
    drawn_in = []

    def watched(*, height):
        drawn_in.append(threading.current_thread())
        return post(height=height, kind="a")

    async def turn_elsewhere():
        panel = explore(watched, presets=[], height=DIALS["height"])
        other = threading.Thread(target=lambda: setattr(panel.controls["height"], "value", 0.9))
        other.start()
        other.join()
        await asyncio.sleep(2 * WAIT_S)

    asyncio.run(turn_elsewhere())
    assert len(drawn_in) == 2
    assert set(drawn_in) == {threading.current_thread()}


def test_a_picture_that_follows_a_slider_has_a_dot_a_pixel_and_is_sharp_when_quiet():
    async def sizes():
        panel = explorer()
        panel.controls["height"].value = 0.9
        await asyncio.sleep(2 * WAIT_S)
        quick = pixel_size(panel.picture.value)
        await asyncio.sleep(SHARP_S)
        return quick, pixel_size(panel.picture.value)

    assert asyncio.run(sizes()) == ((200, 100), (300, 150))


def pixel_size(html):
    data = re.search("base64,([^']*)'", html)[1]
    return Image.open(io.BytesIO(base64.b64decode(data))).size
