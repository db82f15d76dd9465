"""Panels: a picture with dials, or a text with dials; every widget in the book is made of these."""

from __future__ import annotations

import asyncio
import html
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ipywidgets as w
from IPython.core.getipython import get_ipython
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show.pictures import Picture, show
from attnlab.show.words import fenced, plain

Values = Mapping[str, Any]
Texts = str | Mapping[str, str]
Dial = w.ValueWidget | tuple | Sequence | Mapping

MOST_CONTROLS = 4
WAIT_S = 0.1  # of quiet, before a burst of changes is drawn
SHARP_S = 0.8  # of quiet, before a picture drawn in haste is drawn in full
LIVE = "Run this cell (Shift+Enter), and a live panel stands here."
KEYS = "Arrow keys change it."
STYLE = Path(__file__).with_name("panels.css").read_text(encoding="utf-8")
_SHOWN: dict[str | None, list[Live]] = {}  # by the cell that showed them
FEWEST_LINES, MOST_LINES, LINE_LENGTH = 3, 8, 75  # of the words below a picture


def widgets_on() -> bool:
    """Say whether live panels are wanted: yes, unless ``ATTNLAB_WIDGETS=off``."""
    return os.environ.get("ATTNLAB_WIDGETS", "on").strip().lower() not in {"off", "0", "no"}


def slider(
    description: str,
    *,
    value: float,
    minimum: float,
    maximum: float,
    step: float = 1,
    tooltip: str = "",
) -> w.IntSlider | w.FloatSlider:
    """Return a slider over whole numbers if all four are whole, over fractions otherwise.

    Args:
        description: Full words and the unit: ``"Context (tokens)"``.
        value: Where it starts and where Reset puts it.
        step: What one press of an arrow key adds.
        tooltip: What the quantity means.
    """
    sizes = {"value": value, "min": minimum, "max": maximum, "step": step}
    kind = w.IntSlider if all(isinstance(n, int) for n in sizes.values()) else w.FloatSlider
    note = f"{tooltip or description}. {KEYS}"
    return kind(**sizes, description=description, tooltip=note)


def choice(
    description: str,
    *,
    options: Sequence[Any] | Mapping[str, Any],
    value: Any = None,
    tooltip: str = "",
) -> w.ToggleButtons | w.Dropdown:
    """Return toggle buttons for up to five options, a dropdown for more or for long ones.

    Args:
        options: Values, or values by the label to show.
        value: Where it starts; the first option by default.
        tooltip: What is chosen.
    """
    is_named = isinstance(options, Mapping)
    pairs = list(options.items()) if is_named else [(str(o), o) for o in options]
    if not pairs:
        raise AttnlabError(f"The control {description!r} has no options. Give at least one.")
    start = pairs[0][1] if value is None else value
    is_short = len(pairs) <= 5 and sum(len(label) for label, _ in pairs) <= 40
    note = f"{tooltip or description}. {'Tab and Space choose.' if is_short else KEYS}"
    common = {"options": pairs, "value": start, "description": description, "tooltip": note}
    if is_short:
        looks = {"button_width": "auto"}
        return w.ToggleButtons(**common, tooltips=[f"{note} ({n})" for n, _ in pairs], style=looks)
    return w.Dropdown(**common)


def text_box(description: str, *, value: str, tooltip: str = "") -> w.Text | w.Textarea:
    """Return a box to type in: one line, or several where the first text has several.

    Args:
        value: What stands there at first.
        tooltip: What is read from it.
    """
    kind, keys = (w.Textarea, "Tab") if "\n" in value else (w.Text, "Enter or Tab")
    note = f"{tooltip or description}. {keys} reads it."
    return kind(value, description=description, tooltip=note, continuous_update=False)


def dial(name: str, spec: Dial) -> w.ValueWidget:
    """Return the control of one argument, from an abbreviation.

    ``("Steps", 100, 20, 400, 20, "tooltip")`` is a slider: label, start, ends, then step and
    tooltip if you like; ``("Kind", ["a", "b"], "b", "tooltip")`` a choice from a list or from
    values by label: label, options, then start and tooltip; ``("Prompt", "Once", "tooltip")`` a
    box to type in; a bare list or mapping a choice labelled with the argument's name; a widget
    itself.
    """
    if isinstance(spec, w.ValueWidget):
        return spec
    if not isinstance(spec, tuple):
        return choice(name.replace("_", " ").capitalize(), options=spec)
    label, first, *rest = spec
    note = {"tooltip": rest.pop()} if rest and isinstance(rest[-1], str) else {}
    if isinstance(first, str):
        return text_box(label, value=first, **note)
    if isinstance(first, Sequence | Mapping):
        return choice(label, options=first, value=rest[0] if rest else None, **note)
    sizes = dict(zip(("minimum", "maximum", "step"), rest, strict=False))
    return slider(label, value=first, **sizes, **note)


def make_dials(dials: Mapping[str, Dial]) -> dict[str, w.ValueWidget]:
    """Return the controls of a panel, at most four; see ``dial``."""
    if len(dials) > MOST_CONTROLS:
        raise AttnlabError(
            f"{len(dials)} controls ({', '.join(dials)}) are more than a learner can "
            f"hold in mind. Keep {MOST_CONTROLS}, or make two panels."
        )
    return {name: dial(name, spec) for name, spec in dials.items()}


def control_values(controls: Mapping[str, w.ValueWidget]) -> dict[str, Any]:
    """Return the value of each control, by argument name."""
    return {name: control.value for name, control in controls.items()}


class Live:
    """What every panel is: widgets in ``panel``, shown once, closed when their cell runs again."""

    panel: w.Box

    def close(self) -> None:
        """End whatever the panel does; its widgets hear nothing any more."""
        _close(self.panel)

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""


class Explorer(Live):
    """A live panel: controls left, picture right, words below both.

    It holds no model: ``render`` is a pure function of the control values. An error in it is
    written into the status line, and the picture it could not draw is taken away.
    """

    def __init__(
        self,
        render: Callable[..., tuple[Picture | str, str]],
        dials: Mapping[str, Dial],
        *,
        output_class: str = "attnlab-picture",
        examples: Mapping[str, Values] | None = None,
    ) -> None:
        """Build the panel and fill it once.

        Args:
            render: From the values to what stands on the right, a picture or HTML, and the words
                of the status line.
            dials: At most four, by argument of ``render``, top to bottom; see ``dial``.
            output_class: CSS class of the right side.
            examples: By what a tooltip says of it, values that a button sets.
        """
        self.controls = make_dials(dials)
        self.n_redraws = 0
        self._render, self._drawn, self._room = render, "", (0, 0)
        self._start = self.values
        self.picture, self.status = w.HTML(), w.HTML()
        self.picture.add_class(output_class)
        self.reset_button = w.Button(
            description="Reset", tooltip="Put every control back where it was at first"
        )
        self.reset_button.on_click(lambda _: self.reset())
        self.example_buttons = [
            self._example(number, words, values)
            for number, (words, values) in enumerate((examples or {}).items(), start=1)
        ]
        self._redraw_soon = Later(self.redraw, wait_s=WAIT_S)
        self._sharpen_later = Later(self._sharpen, wait_s=SHARP_S)
        for control in self.controls.values():
            control.observe(self._changed, names="value")
        buttons = button_row([self.reset_button, *self.example_buttons])
        self.panel = frame([*self.controls.values(), buttons], self.picture, self.status)
        self.status.layout.height = reserved(self._fill(is_quick=True))
        self._sharpen_later()

    @property
    def values(self) -> dict[str, Any]:
        """The value of each control, by argument name."""
        return control_values(self.controls)

    def redraw(self) -> None:
        """Draw the present values, quickly at first; an error becomes the status line."""
        try:
            self._fill(is_quick=True)
        except Exception as error:  # any error of a drawing belongs on the page, not in a log
            self._put("", is_quick=True)
            self.status.value = error_html(error)
        self.picture.remove_class("attnlab-busy")
        self._sharpen_later()

    def reset(self) -> None:
        """Put every control back to the value it was built with."""
        self.set(self._start)

    def set(self, values: Values) -> None:
        """Put controls to these values, by argument name."""
        for name, value in values.items():
            self.controls[name].value = value

    def close(self) -> None:
        """End it: what waits to be drawn is not, and no control is heard."""
        for later in (self._redraw_soon, self._sharpen_later):
            later.cancel()
        for control in self.controls.values():
            control.unobserve(self._changed, names="value")
        super().close()

    def _changed(self, _: Any) -> None:
        self.picture.add_class("attnlab-busy")
        self._redraw_soon()

    def _fill(self, *, is_quick: bool) -> str:
        self.n_redraws += 1
        drawn, words = self._render(**self.values)
        self._put(drawn, is_quick=is_quick)
        self.status.value = status_html(words)
        return words

    def _put(self, drawn: Picture | str, *, is_quick: bool) -> None:
        self._drawn, shown = drawn, drawn
        if isinstance(drawn, Picture):
            self._room = tuple(map(max, self._room, drawn.size))
            shown = drawn.html(is_quick=is_quick)
        self.picture.value = in_room(shown, self._room)

    def _sharpen(self) -> None:
        if isinstance(self._drawn, Picture):
            self._put(self._drawn, is_quick=False)

    def _example(self, number: int, words: str, values: Values) -> w.Button:
        button = w.Button(description=f"Example {number}", tooltip=words)
        button.on_click(lambda _: self.set(values))
        return button


def explore(
    draw: Callable[..., Picture],
    *,
    presets: Sequence[Values] = ({},),
    still: Callable[..., Picture] | None = None,
    **dials: Dial,
) -> Explorer | None:
    """Show a live panel with one control for each dial; where nothing is live, a still a preset.

    Args:
        draw: A picture: a pure function of the control values.
        presets: Settings to show as stills: what GitHub, a printed page and CI show. In the live
            panel a button sets each, and a fold holds the stills. An argument that a preset
            leaves out has its control's starting value.
        still: Draws the stills, if they are not to say all that the panel says.
        dials: By argument of ``draw``; see ``dial``.

    Returns:
        The panel, or None if ``ATTNLAB_WIDGETS=off``.

    Raises:
        UnknownNameError: If a preset sets something that has no dial.
    """
    controls = make_dials(dials)
    settings = _settings(presets, controls)
    stills = [(still or draw)(**values) for values in settings]
    if not widgets_on():
        for one in stills:
            show(one)
        return None

    def render(**values: Any) -> tuple[Picture, str]:
        one = draw(**values)
        return one, one.words

    examples = {one.words: values for one, values in zip(stills, settings, strict=True)}
    explorer = Explorer(render, controls, examples=examples)
    shown = "".join(one.figure() for one in stills)
    if len(stills) > 1:
        explorer.panel.children += (w.HTML(fold("The examples side by side", shown)),)
    show_live(explorer, html=shown, plain=[one.words for one in stills])
    return explorer


def play(
    write: Callable[..., Texts],
    *,
    presets: Sequence[Values],
    words: Callable[..., str] | None = None,
    **dials: Dial,
) -> Explorer | None:
    """Show a panel that writes texts anew at each change; where nothing is live, given settings.

    Args:
        write: Pure function of the control values; returns a text, or texts by title to be
            read side by side.
        presets: Settings whose texts are printed where nothing is live; in the live panel a
            button sets each.
        words: The same values in words; by default the values themselves.
        dials: By argument of ``write``; see ``dial`` and ``playground_dials``.
    """
    controls, say = make_dials(dials), words or _say_values
    settings = _settings(presets, controls)
    texts = [write(**values) for values in settings]
    said = [say(**values) for values in settings]
    printed = "\n\n".join(map(_texts_markdown, texts, said))
    if not widgets_on():
        display(Markdown(printed))
        return None

    n_lines = max((_n_lines(text) for text in texts), default=MOST_LINES)

    def render(**values: Any) -> tuple[str, str]:
        return _texts_html(write(**values), n_lines=n_lines), say(**values)

    examples = dict(zip(said, settings, strict=True))
    playground = Explorer(render, controls, output_class="attnlab-text", examples=examples)
    show_live(playground, markdown=printed)
    return playground


def playground_dials(
    *, prompt: str, mixers: Sequence[str] | Mapping[str, str], most_seeds: int = 20
) -> dict[str, Dial]:
    """Return the dials of a generation playground: prompt, mixer, temperature, seed."""
    cool = "Low: the likeliest token, nearly always; 1: the model's own chances"
    return {
        "prompt": ("Prompt", prompt, "How the text begins, in your words"),
        "mixer": ("Mixer", mixers, "Which trained model goes on"),
        "temperature": ("Temperature", 0.8, 0.1, 1.5, 0.1, cool),
        "seed": ("Seed", 0, 0, most_seeds, "Another draw"),
    }


class Later:
    """A trigger that runs ``call`` once, ``wait_s`` after the last of a burst of triggers.

    JupyterLab lets a control be heard in another thread than a button, and matplotlib bears one
    thread only: whoever triggers, the call is made by the event loop in which this was made.
    """

    def __init__(self, call: Callable[[], None], *, wait_s: float) -> None:
        """Wait for the first trigger."""
        self._call, self._wait_s, self._loop = call, wait_s, running_loop()
        self._pending: asyncio.TimerHandle | None = None
        self._is_over = False

    def __call__(self) -> None:
        """Start to wait anew; without an event loop (a script, a test) call at once."""
        if self._loop is None or self._loop.is_closed():
            self._call()
        else:
            self._loop.call_soon_threadsafe(self._wait, self._loop)

    def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._pending is not None:
            self._pending.cancel()
        if not self._is_over:
            self._pending = loop.call_later(self._wait_s, self._call)

    def cancel(self) -> None:
        """Forget the triggers so far, and hear no other."""
        self._is_over = True
        if self._pending is not None:
            self._pending.cancel()


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs here; None in a script."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def show_live(live: Live, *, html: str = "", markdown: str = "", plain: Sequence[str] = ()) -> None:
    """Show a panel; where there is no kernel, a still and a line on how to wake it stand there.

    All are forms of one output: a live page takes the widget, and a stored notebook keeps the
    rest. When the cell runs again, the panel is closed.

    Args:
        html: What a page without a kernel shows, or
        markdown: the same as Markdown.
        plain: The same in plain lines.
    """
    _close_with_cell(live)
    view = live.panel._repr_mimebundle_() or {}
    still = (
        {"text/markdown": f"{markdown}\n\n*{LIVE}*"}
        if markdown
        else {"text/html": f"{html}<p><em>{LIVE}</em></p>"}
    )
    display({**view, **still, "text/plain": "\n".join([*plain, LIVE])}, raw=True)


def frame(left: Sequence[w.Widget], picture: w.Widget, status: w.Widget) -> w.VBox:
    """Return controls left, the picture right, and below both a place of fixed height for words."""
    look, column = w.HTML(f"<style>{STYLE}</style>"), w.VBox(list(left))
    row = w.HBox([column, picture])
    panel = w.VBox([look, row, status])
    status.layout.height = reserved("")
    named = {"style": look, "left": column, "row": row, "panel": panel, "status": status}
    for name, widget in named.items():
        widget.add_class(f"attnlab-{name}")
    return panel


def button_row(buttons: Sequence[w.Button]) -> w.HBox:
    """Return buttons side by side, as many in a line as fit."""
    row = w.HBox(list(buttons))
    row.add_class("attnlab-buttons")
    return row


def reserved(words: str) -> str:
    """Return the height to keep free for words like these and for half as many again."""
    n_lines = math.ceil(1.5 * len(words) / LINE_LENGTH)
    return f"{1.4 * min(max(n_lines, FEWEST_LINES), MOST_LINES):.1f}em"


def in_room(shown: str, size: tuple[int, int]) -> str:
    """Return HTML in a room of a size in pixels, full or not, so that nothing below it moves."""
    width, height = size
    room = f"width:{width}px;max-width:100%;aspect-ratio:{width}/{height}"
    return f"<div style='{room}'>{shown}</div>" if width else str(shown)


def fold(title: str, content: str) -> str:
    """Return HTML that shows its title, and its content when asked."""
    return f"<details><summary>{html.escape(title)}</summary>{content}</details>"


def status_html(words: str) -> str:
    """Return words marked as a status, which a screen reader speaks when they change."""
    return f"<p role='status' style='line-height:1.35'>{html.escape(words)}</p>"


def error_html(error: Exception) -> str:
    """Return an error marked as an alert; one of ours needs no type name."""
    said = str(error) if isinstance(error, AttnlabError) else f"{type(error).__name__}: {error}"
    return f"<p role='alert' style='line-height:1.35'><b>{html.escape(said)}</b></p>"


def _cell() -> str | None:
    """Return the id, or else the text, of the cell that runs; None outside a notebook."""
    shell = get_ipython()
    if shell is None or not hasattr(shell, "get_parent"):
        return None
    request = shell.get_parent() or {}
    text = request.get("content", {}).get("code")
    return request.get("metadata", {}).get("cellId") or text


def _close_with_cell(live: Live) -> None:
    cell, shell = _cell(), get_ipython()
    if cell is not None and shell is not None:
        shell.events.register("pre_run_cell", _close_earlier)  # a second time it changes nothing
        _SHOWN.setdefault(cell, []).append(live)


def _close_earlier(_: Any = None) -> None:
    for live in _SHOWN.pop(_cell(), []):
        live.close()


def _close(widget: w.Widget) -> None:
    for child in getattr(widget, "children", ()):
        _close(child)
    widget.close()


def _settings(presets: Sequence[Values], controls: Mapping[str, Any]) -> list[dict[str, Any]]:
    start = control_values(controls)
    for name in (name for preset in presets for name in preset):
        if name not in start:
            step = "A preset sets controls by their name."
            raise UnknownNameError("control", name, start, next_step=step)
    return [{**start, **preset} for preset in presets]


def _say_values(**values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) + "."


def _by_title(texts: Texts) -> dict[str, str]:
    return {"": texts} if isinstance(texts, str) else dict(texts)


def _texts_markdown(texts: Texts, words: str) -> str:
    parts = [f"*{plain(words)}*"]
    for title, text in _by_title(texts).items():
        heading = f"**{plain(title)}**\n\n" if title else ""
        parts.append(f"{heading}{fenced(text)}")
    return "\n\n".join(parts)


def _n_lines(texts: Texts) -> int:
    """Return how many lines to keep free for texts like these."""
    lines = [text.splitlines() for text in _by_title(texts).values()]
    longest = max(sum(1 + len(line) // LINE_LENGTH for line in text) for text in lines)
    return min(max(math.ceil(1.5 * longest), FEWEST_LINES), 2 * MOST_LINES)


def _texts_html(texts: Texts, *, n_lines: int) -> str:
    boxes = []
    for title, text in _by_title(texts).items():
        name = html.escape(title or "Text", quote=True)
        heading = f"<b>{name}</b>" if title else ""
        boxes.append(
            f"<div style='flex:1 1 16em;min-width:16em;max-width:44em'>{heading}"
            f"<pre tabindex='0' role='region' aria-label='{name}' style='white-space:pre-wrap;"
            f"height:{1.4 * n_lines:.1f}em;overflow:auto'>{html.escape(text)}</pre></div>"
        )
    return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{''.join(boxes)}</div>"
