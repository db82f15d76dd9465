"""Boards that run long work so that Stop is heard, and guesses before a result."""

from __future__ import annotations

import asyncio
import html
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from typing import Any

import ipywidgets as w
from IPython.display import Markdown, display

from attnlab.errors import AttnlabError
from attnlab.show.panels import (
    STYLE,
    Dial,
    Live,
    button_row,
    control_values,
    error_html,
    frame,
    in_room,
    make_dials,
    reserved,
    running_loop,
    show_live,
    status_html,
    widgets_on,
)
from attnlab.show.pictures import Picture, show

REDRAW_S = 0.5  # between two pictures of a running board
REPORT_S = 0.1  # between two moves of the progress bar
EXPECTED_LENGTH = 200  # letters of the words below a running board
WORK_S = 0.05  # at most, before the kernel may look at its messages
LISTEN_S = 0.005  # for as long: a click takes some turns of its event loop


class RunBoard(Live):
    """Run and Stop for a generator, with a progress bar, a live picture and words.

    A plain loop would block the kernel and Stop would not be heard until its end, so an
    asyncio task takes items from the generator, lets the kernel look at its messages now and
    then, and goes on. Without an event loop (a script, a test) Run runs to the end.
    """

    def __init__(
        self,
        run: Callable[..., Iterator[Any]],
        dials: Mapping[str, Dial],
        *,
        n_ticks: int | Callable[..., int],
        draw: Callable[[Sequence[Any]], Picture],
        unit: str = "steps",
    ) -> None:
        """Build the panel; nothing runs until ``drive`` or a click. See ``show_board``."""
        self.controls = make_dials(dials)
        self.history: list[Any] = []
        self.n_redraws = 0
        self._run, self._n_ticks, self._draw, self._unit = run, n_ticks, draw, unit
        self._room = (0, 0)
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._loop = running_loop()  # see Later: work is done in one thread
        self._build()

    def _build(self) -> None:
        self.run_button = w.Button(description="Run", tooltip="Start with the values above")
        self.stop_button = w.Button(
            description="Stop", tooltip="End after this step", disabled=True
        )
        self.progress = w.IntProgress(min=0, max=1, description="Progress")
        self.picture, self.status = w.HTML(), w.HTML(status_html("Press Run to start."))
        self.progress.tooltip = "Share of the steps that are done"
        self.picture.add_class("attnlab-picture")
        self.run_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        buttons = button_row([self.run_button, self.stop_button])
        left = [*self.controls.values(), buttons, self.progress]
        self.panel = frame(left, self.picture, self.status)
        self.status.layout.height = reserved("x" * EXPECTED_LENGTH)

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return not self.stop_button.disabled

    def start(self) -> None:
        """Start a run in the background, or run to the end where there is no event loop."""
        if self._loop is None or self._loop.is_closed():
            asyncio.run(self.drive())
        else:
            self._loop.call_soon_threadsafe(self._begin, self._loop)

    def _begin(self, loop: asyncio.AbstractEventLoop) -> None:
        if not self.is_running:
            self._set_running(True)
            self._task = loop.create_task(self.drive())
            self._task.add_done_callback(_fetch_error)

    def stop(self) -> None:
        """Ask the run to end after the item it is at."""
        self._stopping = True

    def close(self) -> None:
        """End the run, if there is one, and the panel."""
        if self._task is not None:
            self._task.cancel()
        super().close()

    def show_earlier(self, one: Picture) -> None:
        """Show the picture of a run made before."""
        earlier = one.saying(f"An earlier run. {one.words}")
        self._put(earlier, is_quick=False)
        self.status.value = status_html(f"Press Run to start. {earlier.words}")
        self.status.layout.height = reserved(earlier.words)

    async def drive(self) -> None:
        """Run from the present values to the end, to Stop, or to an error, which is shown."""
        values = control_values(self.controls)
        self._set_running(True)
        try:
            await self._take_all(values)
        except Exception as error:
            self.status.value = error_html(error)
            raise
        finally:
            self._set_running(False)

    async def _take_all(self, values: dict[str, Any]) -> None:
        self.history, self._stopping = [], False
        n_ticks = self._n_ticks(**values) if callable(self._n_ticks) else self._n_ticks
        self.progress.value, self.progress.max = 0, max(1, n_ticks)
        reported = redrawn = time.monotonic()
        heard = reported
        with closing(_closable(self._run(**values))) as items:
            for item in items:
                if item is not None:
                    self.history.append(item)
                clock = time.monotonic()
                if clock - reported > REPORT_S:
                    reported, self.progress.value = clock, len(self.history)
                if clock - redrawn > REDRAW_S:
                    self._redraw(f"{len(self.history)} of {n_ticks} {self._unit}.")
                    redrawn = time.monotonic()  # a slow picture must not eat the run
                if clock - heard > WORK_S:
                    await asyncio.sleep(LISTEN_S)
                    heard = time.monotonic()
                if self._stopping:
                    break
        self.progress.value = len(self.history)
        how = "Stopped" if self._stopping else "Done"
        lead = f"{how} after {len(self.history)} of {n_ticks} {self._unit}."
        self._redraw(lead, is_quick=False)

    def _redraw(self, lead: str, *, is_quick: bool = True) -> None:
        if not self.history:
            self.status.value = status_html(lead)
            return
        self.n_redraws += 1
        one = self._draw(self.history)
        self._put(one, is_quick=is_quick)
        self.status.value = status_html(f"{lead} {one.words}")

    def _put(self, one: Picture, *, is_quick: bool) -> None:
        self._room = tuple(map(max, self._room, one.size))
        self.picture.value = in_room(one.html(is_quick=is_quick), self._room)

    def _set_running(self, is_running: bool) -> None:
        self.run_button.disabled = is_running
        self.stop_button.disabled = not is_running
        for control in self.controls.values():
            control.disabled = is_running


def show_board(
    run: Callable[..., Iterator[Any]],
    *,
    n_ticks: int | Callable[..., int],
    draw: Callable[[Sequence[Any]], Picture],
    still: Sequence[Any] = (),
    unit: str = "steps",
    **dials: Dial,
) -> RunBoard | None:
    """Show a board on which a learner starts a run, with the picture of a finished run in it.

    Args:
        run: From the control values to a generator; each item it yields is one tick, and None
            is no tick but a moment in which Stop can be heard. Between two of either there
            should be less than 0.2 s.
        n_ticks: How many ticks a run has, or a function of the control values.
        draw: From all items so far to a picture.
        still: Items of a run made before: what a reader sees who never clicks.
        unit: What a tick is, in the plural: ``"laps"``.
        dials: At most four, by argument of ``run``; see ``dial``.

    Returns:
        The board, or None if ``ATTNLAB_WIDGETS=off``.
    """
    earlier = draw(still) if still else None
    if not widgets_on():
        if earlier:
            show(earlier)
        return None
    board = RunBoard(run, dials, n_ticks=n_ticks, draw=draw, unit=unit)
    if earlier is None:
        show_live(board)
    else:
        board.show_earlier(earlier)
        show_live(board, html=earlier.figure(), plain=[earlier.words])
    return board


def _closable(items: Iterator[Any]) -> Any:
    """Return something that yields the items and can be closed, as a generator can."""
    return items if hasattr(items, "close") else (item for item in items)


def _fetch_error(task: asyncio.Task[None]) -> None:
    """Take the error of a finished task: the status line has shown it."""
    if not task.cancelled():
        task.exception()


class Guess(Live):
    """What a learner predicted: None until an option is pressed."""

    def __init__(self, question: str, options: Mapping[str, Any]) -> None:
        """Build the buttons; see ``predict_first``."""
        self.question, self.options = question, dict(options)
        self._truth: list[Any] = []  # once it is known
        self.status = w.HTML(status_html("No guess yet. Choose before you run the next cell."))
        self.status.layout.height = reserved("")
        self.buttons = w.RadioButtons(
            options=list(options.items()),
            value=None,
            description="Your guess",
            tooltip=f"{question} Tab and Space choose.",
        )
        self.buttons.observe(lambda _: self._answer(), names="value")
        asked = w.HTML(f"<p><b>Predict first.</b> {html.escape(question)}</p>")
        look = w.HTML(f"<style>{STYLE}</style>")
        self.panel = w.VBox([look, asked, self.buttons, self.status])
        named = {"style": look, "question": self.panel, "status": self.status}
        for name, widget in named.items():
            widget.add_class(f"attnlab-{name}")

    @property
    def value(self) -> Any:
        """The value of the chosen option, or None."""
        return self.buttons.value

    @property
    def label(self) -> str | None:
        """The words of the chosen option, or None."""
        return self.buttons.label if self.buttons.index is not None else None

    def verdict(self, *, truth: Any) -> str:
        """Return one sentence that sets the guess beside the truth.

        The panel says it too, of this guess and of each one that is made later.

        Args:
            truth: The right option's value, or any measured number.
        """
        self._truth = [truth]
        self._answer()
        return self._sentence(truth)

    def _sentence(self, truth: Any) -> str:
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

    def _answer(self) -> None:
        if self.value is None:
            said = "The result is known, below. Choose all the same: your guess is judged here."
        elif self._truth:
            said = self._sentence(self._truth[0])
        else:
            said = f"Recorded: {self.label}. Run on to see; the verdict comes here."
        self.status.value = status_html(said)


def predict_first(question: str, *, options: Sequence[Any] | Mapping[str, Any]) -> Guess:
    """Ask for a guess before a result; print the question and options for a reader too.

    Args:
        question: One sentence that can turn out wrong.
        options: Values, or values by label.

    Returns:
        The guess; ``guess.value`` is None where nobody chose (CI, GitHub).
    """
    named = dict(options) if isinstance(options, Mapping) else {str(o): o for o in options}
    if len(named) < 2:
        raise AttnlabError(f"A prediction needs at least two options; got {list(named)}.")
    guess = Guess(question, named)
    listed = "\n".join(f"- {label}" for label in named)
    printed = f"**Predict first.** {question}\n\n{listed}"
    if widgets_on():
        show_live(guess, markdown=printed)
    else:
        display(Markdown(printed))
    return guess
