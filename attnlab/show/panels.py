"""Panels: a picture with dials, or a text with dials; every widget in the book is made of these."""

from __future__ import annotations

import asyncio
import html
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as w
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show.pictures import Picture, show
from attnlab.show.words import fenced, plain

Values = Mapping[str, Any]
Texts = str | Mapping[str, str]
Dial = w.ValueWidget | tuple | Sequence | Mapping

MOST_CONTROLS = 4
WAIT_S = 0.2  # of quiet, before a burst of changes is drawn
LIVE = "A live panel stands here when the notebook runs."
KEYS = "Arrow keys change it."
WIDE = {"style": {"description_width": "initial"}, "layout": {"width": "98%"}}


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
    return kind(**sizes, description=description, tooltip=note, **WIDE)


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
        looks = {"description_width": "initial", "button_width": "auto"}
        return w.ToggleButtons(**common, tooltips=[f"{note} ({n})" for n, _ in pairs], style=looks)
    return w.Dropdown(**common, **WIDE)


def text_box(description: str, *, value: str, tooltip: str = "") -> w.Text | w.Textarea:
    """Return a box to type in: one line, or several where the first text has several.

    Args:
        value: What stands there at first.
        tooltip: What is read from it.
    """
    kind, keys = (w.Textarea, "Tab") if "\n" in value else (w.Text, "Enter or Tab")
    note = f"{tooltip or description}. {keys} reads it."
    return kind(value, description=description, tooltip=note, continuous_update=False, **WIDE)


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


class Explorer:
    """A live panel: controls left, picture right, words under the controls.

    It holds no model: ``render`` is a pure function of the control values. An error in it is
    written into the status line, and the picture it could not draw is taken away.
    """

    def __init__(
        self,
        render: Callable[..., tuple[str, str]],
        dials: Mapping[str, Dial],
        *,
        output_class: str = "attnlab-picture",
    ) -> None:
        """Build the panel and fill it once.

        Args:
            render: From the values to the HTML on the right and the words of the status line.
            dials: At most four, by argument of ``render``, top to bottom; see ``dial``.
            output_class: CSS class of the right side.
        """
        self.controls = make_dials(dials)
        self.n_redraws = 0
        self._render = render
        self._start = self.values
        self.picture, self.status = w.HTML(), w.HTML()
        self.picture.add_class(output_class)
        self.status.add_class("attnlab-status")
        self.reset_button = w.Button(
            description="Reset", tooltip="Put every control back where it was at first"
        )
        self.reset_button.on_click(lambda _: self.reset())
        self._redraw_soon = debounce(self.redraw, wait_s=WAIT_S)
        for control in self.controls.values():
            control.observe(lambda _: self._redraw_soon(), names="value")
        left = [*self.controls.values(), self.reset_button, self.status]
        self.panel = beside(left, self.picture)
        self._fill()

    @property
    def values(self) -> dict[str, Any]:
        """The value of each control, by argument name."""
        return control_values(self.controls)

    def redraw(self) -> None:
        """Draw the present values; an error becomes the status line."""
        try:
            self._fill()
        except Exception as error:  # any error of a drawing belongs on the page, not in a log
            self.picture.value = ""
            self.status.value = error_html(error)

    def reset(self) -> None:
        """Put every control back to the value it was built with."""
        for name, control in self.controls.items():
            control.value = self._start[name]

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""

    def _fill(self) -> None:
        self.n_redraws += 1
        self.picture.value, words = self._render(**self.values)
        self.status.value = status_html(words)


def explore(
    draw: Callable[..., Picture], *, presets: Sequence[Values] = ({},), **dials: Dial
) -> Explorer | None:
    """Show a still for each preset, then a live panel with one control for each dial.

    Args:
        draw: A picture: a pure function of the control values.
        presets: Settings to show as stills: what GitHub, a PDF and CI show. An argument that a
            preset leaves out has its control's starting value.
        dials: By argument of ``draw``; see ``dial``.

    Returns:
        The panel, or None if ``ATTNLAB_WIDGETS=off``.

    Raises:
        UnknownNameError: If a preset sets something that has no dial.
    """
    controls = make_dials(dials)
    for values in _settings(presets, controls):
        show(draw(**values))
    if not widgets_on():
        return None

    def render(**values: Any) -> tuple[str, str]:
        one = draw(**values)
        return one.html(), one.words

    explorer = Explorer(render, controls)
    show_live(explorer.panel)
    return explorer


def play(
    write: Callable[..., Texts],
    *,
    presets: Sequence[Values],
    words: Callable[..., str] | None = None,
    **dials: Dial,
) -> Explorer | None:
    """Show texts for given settings, then a panel that writes another at each change.

    Args:
        write: Pure function of the control values; returns a text, or texts by title to be
            read side by side.
        presets: Settings whose texts are printed.
        words: The same values in words; by default the values themselves.
        dials: By argument of ``write``; see ``dial`` and ``playground_dials``.
    """
    controls, say = make_dials(dials), words or _say_values
    for values in _settings(presets, controls):
        display(Markdown(_texts_markdown(write(**values), say(**values))))
    if not widgets_on():
        return None

    def render(**values: Any) -> tuple[str, str]:
        return _texts_html(write(**values)), say(**values)

    playground = Explorer(render, controls, output_class="attnlab-text")
    show_live(playground.panel)
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


def debounce(call: Callable[[], None], *, wait_s: float) -> Callable[[], None]:
    """Return a trigger that runs ``call`` once, ``wait_s`` after the last of a burst."""
    pending: asyncio.TimerHandle | None = None

    def trigger() -> None:
        nonlocal pending
        if pending is not None:
            pending.cancel()
        try:
            pending = asyncio.get_running_loop().call_later(wait_s, call)
        except RuntimeError:  # no event loop: a script or a test
            call()

    return trigger


def show_live(panel: w.Widget) -> None:
    """Show a panel; where there is no kernel a line stands in its place."""
    view = panel._repr_mimebundle_() or {}
    display({**view, "text/plain": LIVE}, raw=True)


def beside(left: Sequence[w.Widget], right: w.Widget) -> w.HBox:
    """Return controls in a 20 em column with the picture to their right."""
    column = w.VBox(list(left), layout=w.Layout(width="20em", flex="0 0 auto"))
    return w.HBox([column, right], layout=w.Layout(flex_flow="row wrap"))


def status_html(words: str) -> str:
    """Return words marked as a status, which a screen reader speaks when they change."""
    return f"<p role='status' style='line-height:1.35'>{html.escape(words)}</p>"


def error_html(error: Exception) -> str:
    """Return an error marked as an alert; one of ours needs no type name."""
    said = str(error) if isinstance(error, AttnlabError) else f"{type(error).__name__}: {error}"
    return f"<p role='alert' style='line-height:1.35'><b>{html.escape(said)}</b></p>"


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


def _texts_html(texts: Texts) -> str:
    boxes = []
    for title, text in _by_title(texts).items():
        name = html.escape(title or "Text", quote=True)
        heading = f"<b>{name}</b>" if title else ""
        boxes.append(
            f"<div style='flex:1 1 16em;min-width:16em;max-width:44em'>{heading}"
            f"<pre tabindex='0' role='region' aria-label='{name}' style='white-space:pre-wrap;"
            f"max-height:24em;overflow:auto'>{html.escape(text)}</pre></div>"
        )
    return f"<div style='display:flex;flex-wrap:wrap;gap:1em'>{''.join(boxes)}</div>"
