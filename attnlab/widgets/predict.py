"""Predict first: a learner commits to a guess before the result is shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ipywidgets as w
from IPython.display import Markdown, display
from matplotlib.axes import Axes

from attnlab.errors import AttnlabError
from attnlab.plots.curves import mark_guess
from attnlab.widgets.core import show_live, status_html, widgets_on


class Guess:
    """What a learner predicted: None until an option is pressed."""

    def __init__(self, question: str, options: Mapping[str, Any]) -> None:
        """Build the buttons; see ``predict_first``."""
        self.question, self.options = question, dict(options)
        self.status = w.HTML(status_html("No guess yet. Choose before you run the next cell."))
        self.status.add_class("attnlab-status")
        self.buttons = w.RadioButtons(
            options=list(options.items()),
            value=None,
            description="Your guess",
            tooltip=f"{question} Arrow keys choose.",
            layout=w.Layout(width="max-content"),
        )
        self.buttons.observe(lambda _: self._record(), names="value")
        self.panel = w.VBox([self.buttons, self.status])

    @property
    def value(self) -> Any:
        """The value of the chosen option, or None."""
        return self.buttons.value

    @property
    def label(self) -> str | None:
        """The words of the chosen option, or None."""
        return self.buttons.label if self.buttons.index is not None else None

    def mark(self, ax: Axes, *, truth: float, unit: str = "") -> Axes:
        """Draw guess (if there is one) and truth as horizontal lines.

        Raises:
            AttnlabError: If the options are not numbers.
        """
        if self.value is not None and not isinstance(self.value, int | float):
            raise AttnlabError(
                f"The guess {self.value!r} is no number, so it has no place on an axis. "
                "Give predict_first options as {label: number}, or use guess.verdict(truth=...)."
            )
        return mark_guess(ax, guess=self.value, truth=truth, unit=unit)

    def verdict(self, *, truth: Any) -> str:
        """Return one sentence that sets the guess beside the truth.

        Args:
            truth: The right option's value, or any measured number.
        """
        says = next((n for n, v in self.options.items() if v == truth), None) or f"{truth}"
        if self.value is None:
            return f"No guess was recorded. The result: {says}."
        if isinstance(truth, int | float) and isinstance(self.value, int | float):
            nearest = min(self.options.values(), key=lambda value: abs(value - truth))
            is_near = self.value == nearest
        else:
            is_near = self.value == truth
        how = "nearest the truth" if is_near else "not what happened"
        return f"You guessed: {self.label}. The result: {says}. Your guess was {how}."

    def _ipython_display_(self) -> None:
        """Show nothing: the buttons are on the page already."""

    def _record(self) -> None:
        self.status.value = status_html(f"Recorded: {self.label}. Run on to see.")


def predict_first(question: str, *, options: Sequence[Any] | Mapping[str, Any]) -> Guess:
    """Ask for a guess before a result; print the question and options for a reader too.

    Args:
        question: One sentence that can turn out wrong.
        options: Values, or values by label. Numbers can be drawn later with ``guess.mark``.

    Returns:
        The guess; ``guess.value`` is None where nobody chose (CI, GitHub).
    """
    named = dict(options) if isinstance(options, Mapping) else {str(o): o for o in options}
    if len(named) < 2:
        raise AttnlabError(f"A prediction needs at least two options; got {list(named)}.")
    guess = Guess(question, named)
    listed = "\n".join(f"- {label}" for label in named)
    display(Markdown(f"**Predict first.** {question}\n\n{listed}"))
    if widgets_on():
        show_live(guess.panel)
    return guess
