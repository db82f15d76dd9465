"""One way to make an explorer; every widget in the book goes through it."""

from __future__ import annotations

import asyncio
import base64
import html
import io
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ipywidgets as w
import matplotlib.pyplot as plt
from IPython.display import Markdown, display
from matplotlib.figure import Figure
from PIL import Image

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show.style import style

Values = Mapping[str, Any]
Controls = Mapping[str, w.ValueWidget]
Texts = str | Mapping[str, str]

MOST_CONTROLS = 4
WAIT_S = 0.2  # of quiet, before a burst of changes is drawn
DOTS_PER_INCH = 150  # in the file
SHOWN_PER_INCH = 100  # on the page
LIVE = "A live panel stands here when the notebook runs."
KEYS = "Arrow keys change it."


def widgets_on() -> bool:
    """Say whether live panels are wanted: yes, unless ``ATTNLAB_WIDGETS=off``."""
    return os.environ.get("ATTNLAB_WIDGETS", "on").strip().lower() not in {"off", "0", "no"}


def show_still(fig: Figure, words: str) -> None:
    """Show a figure as an ordinary picture with ``words`` as caption and alt text; close it."""
    try:
        png = _png(fig)
    finally:
        plt.close(fig)
    data = {"image/png": base64.b64encode(png.data).decode("ascii"), "text/plain": words}
    metadata = {"image/png": {"alt": words, "width": png.width, "height": png.height}}
    display(data, metadata=metadata, raw=True)
    display(Markdown(f"*{words}*"))  # the alt text alone does not reach every renderer


def picture_html(fig: Figure, *, alt: str) -> str:
    """Return an ``<img>`` element that holds the figure and its alt text; close the figure."""
    try:
        png = _png(fig)
    finally:
        plt.close(fig)
    source = base64.b64encode(png.data).decode("ascii")
    return (
        f"<img alt='{html.escape(alt, quote=True)}' width='{png.width}' height='{png.height}' "
        f"style='max-width:100%;height:auto' src='data:image/png;base64,{source}'>"
    )


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
        minimum: Left end.
        maximum: Right end.
        step: What one press of an arrow key adds.
        tooltip: What the quantity means.
    """
    is_whole = all(isinstance(number, int) for number in (value, minimum, maximum, step))
    return (w.IntSlider if is_whole else w.FloatSlider)(
        value=value,
        min=minimum,
        max=maximum,
        step=step,
        description=description,
        tooltip=f"{tooltip or description}. {KEYS}",
        style={"description_width": "initial"},
        layout=w.Layout(width="98%"),
    )


def choice(
    description: str,
    *,
    options: Sequence[Any] | Mapping[str, Any],
    value: Any = None,
    tooltip: str = "",
) -> w.ToggleButtons | w.Dropdown:
    """Return toggle buttons for up to five options, a dropdown for more or for long ones.

    Args:
        description: Full words.
        options: Values, or values by the label to show.
        value: Where it starts; the first option by default.
        tooltip: What is chosen.
    """
    pairs = (
        list(options.items()) if isinstance(options, Mapping) else [(str(o), o) for o in options]
    )
    if not pairs:
        raise AttnlabError(f"The control {description!r} has no options. Give at least one.")
    start = pairs[0][1] if value is None else value
    is_short = len(pairs) <= 5 and sum(len(label) for label, _ in pairs) <= 40
    note = f"{tooltip or description}. {'Tab and Space choose.' if is_short else KEYS}"
    common = {"options": pairs, "value": start, "description": description, "tooltip": note}
    if is_short:
        looks = {"description_width": "initial", "button_width": "auto"}
        return w.ToggleButtons(**common, tooltips=[f"{note} ({n})" for n, _ in pairs], style=looks)
    looks = {"description_width": "initial"}
    return w.Dropdown(**common, style=looks, layout=w.Layout(width="98%"))


class Explorer:
    """A live panel: controls left, picture right, words under the controls.

    It holds no model: ``draw`` is a pure function of the control values. An error in it is
    written into the status line, and the picture it could not draw is taken away.
    """

    def __init__(
        self,
        render: Callable[[Values], tuple[str, str]],
        controls: Controls,
        *,
        has_reset: bool = True,
        output_class: str = "attnlab-picture",
    ) -> None:
        """Build the panel and fill it once.

        Args:
            render: From the values to the HTML on the right and the words of the status line.
            controls: At most four, by argument name, top to bottom.
            has_reset: Whether to add a Reset button.
            output_class: CSS class of the right side.
        """
        if len(controls) > MOST_CONTROLS:
            raise AttnlabError(
                f"{len(controls)} controls ({', '.join(controls)}) are more than a learner can "
                f"hold in mind. Keep {MOST_CONTROLS}, or make two explorers."
            )
        self.controls = dict(controls)
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
        left = [*self.controls.values(), *([self.reset_button] if has_reset else []), self.status]
        self.panel = beside(left, self.picture)
        self._fill()

    @property
    def values(self) -> dict[str, Any]:
        """The value of each control, by argument name."""
        return {name: control.value for name, control in self.controls.items()}

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
        self.picture.value, words = self._render(self.values)
        self.status.value = status_html(words)


def show_explorer(
    draw: Callable[..., Figure],
    controls: Controls,
    *,
    presets: Sequence[Values],
    describe: Callable[..., str],
    reset: bool = True,
) -> Explorer | None:
    """Show pictures a reader can read dead, then a panel a learner can drive.

    Args:
        draw: Pure function of the control values; returns a new figure. It runs inside
            ``style()``, and the figure is closed for it.
        controls: At most four, keyed by argument of ``draw``; see ``slider`` and ``choice``.
        presets: Two to four settings to print as still pictures: what GitHub, a PDF and CI
            show. An argument that a preset leaves out has its control's starting value.
        describe: The same values in words: caption, alt text and live status line.
        reset: Whether the panel has a Reset button.

    Returns:
        The explorer, or None if ``ATTNLAB_WIDGETS=off``.

    Raises:
        UnknownNameError: If a preset sets something that no control has.
    """
    for values in _settings(presets, controls):
        with style():
            show_still(draw(**values), describe(**values))
    if not widgets_on():
        return None

    def render(values: Values) -> tuple[str, str]:
        words = describe(**values)
        with style():
            return picture_html(draw(**values), alt=words), words

    explorer = Explorer(render, controls, has_reset=reset)
    show_live(explorer.panel)
    return explorer


def show_playground(
    write: Callable[..., Texts],
    controls: Controls,
    *,
    presets: Sequence[Values],
    describe: Callable[..., str] | None = None,
    reset: bool = True,
) -> Explorer | None:
    """Show texts for given settings, then a panel that writes another at each change.

    Args:
        write: Pure function of the control values; returns a text, or texts by title to be
            read side by side.
        controls: As in ``show_explorer``; ``playground_controls`` makes the usual four.
        presets: Settings whose texts are printed.
        describe: The same values in words; by default the values themselves.
        reset: Whether the panel has a Reset button.
    """
    say = describe or _say_values
    for values in _settings(presets, controls):
        display(Markdown(_texts_markdown(write(**values), say(**values))))
    if not widgets_on():
        return None

    def render(values: Values) -> tuple[str, str]:
        return _texts_html(write(**values)), say(**values)

    playground = Explorer(render, controls, has_reset=reset, output_class="attnlab-text")
    show_live(playground.panel)
    return playground


def playground_controls(
    *, prompts: Sequence[str], mixers: Sequence[str] | Mapping[str, str], most_seeds: int = 20
) -> dict[str, w.ValueWidget]:
    """Return the controls of a generation playground: prompt, mixer, temperature, seed."""
    return {
        "prompt": choice("Prompt", options=list(prompts), tooltip="How the text begins"),
        "mixer": choice("Mixer", options=mixers, tooltip="Which trained model goes on"),
        "temperature": slider(
            "Temperature",
            value=0.8,
            minimum=0.1,
            maximum=1.5,
            step=0.1,
            tooltip="Low: the likeliest token, nearly always; 1: the model's own chances",
        ),
        "seed": slider("Seed", value=0, minimum=0, maximum=most_seeds, tooltip="Another draw"),
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


class _Png:
    """The bytes of a picture and its size on the page, in CSS pixels."""

    def __init__(self, data: bytes, *, width: int, height: int) -> None:
        self.data, self.width, self.height = data, width, height


def _png(fig: Figure) -> _Png:
    file = io.BytesIO()
    with style():
        fig.savefig(file, format="png", dpi=DOTS_PER_INCH, metadata={"Software": None})
    width, height = (round(inches * SHOWN_PER_INCH) for inches in fig.get_size_inches())
    return _Png(_with_palette(file), width=width, height=height)


def _with_palette(file: io.BytesIO) -> bytes:
    """Return a PNG of at most 256 colours: a third of the bytes, and no difference to see."""
    with Image.open(file) as picture:
        small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
    out = io.BytesIO()
    small.save(out, format="png", optimize=True)
    return out.getvalue()


def _settings(presets: Sequence[Values], controls: Controls) -> list[dict[str, Any]]:
    start = {name: control.value for name, control in controls.items()}
    for name in (name for preset in presets for name in preset):
        if name not in start:
            raise UnknownNameError(
                "control", name, start, next_step="A preset sets controls by their name."
            )
    return [{**start, **preset} for preset in presets]


def _say_values(**values: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) + "."


def _by_title(texts: Texts) -> dict[str, str]:
    return {"": texts} if isinstance(texts, str) else dict(texts)


def _texts_markdown(texts: Texts, words: str) -> str:
    parts = [f"*{words}*"]
    for title, text in _by_title(texts).items():
        heading = f"**{title}**\n\n" if title else ""
        parts.append(f"{heading}~~~text\n{text}\n~~~")
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
