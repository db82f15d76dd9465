"""A board that runs long work a tick at a time, so that Stop is heard."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import ipywidgets as w
from matplotlib.figure import Figure

from attnlab.errors import AttnlabError
from attnlab.show.style import style
from attnlab.widgets.core import (
    MOST_CONTROLS,
    Controls,
    beside,
    error_html,
    picture_html,
    show_live,
    show_still,
    status_html,
    widgets_on,
)

REDRAW_S = 0.5  # between two pictures of a running board
REPORT_S = 0.1  # between two moves of the progress bar


class RunBoard:
    """Run and Stop for a generator, with a progress bar, a live picture and words.

    A plain loop would block the kernel and Stop would not be heard until its end, so an
    asyncio task takes one item from the generator, lets the kernel look at its messages,
    and goes on. Without an event loop (a script, a test) Run runs to the end.
    """

    def __init__(
        self,
        run: Callable[..., Iterator[Any]],
        controls: Controls,
        *,
        n_ticks: int | Callable[..., int],
        draw: Callable[[Sequence[Any]], Figure],
        describe: Callable[[Sequence[Any]], str],
    ) -> None:
        """Build the panel; nothing runs until ``drive`` or a click. See ``show_run_board``."""
        if len(controls) > MOST_CONTROLS:
            raise AttnlabError(f"{len(controls)} controls are too many; keep {MOST_CONTROLS}.")
        self.controls = dict(controls)
        self.history: list[Any] = []
        self.n_redraws = 0
        self._run, self._n_ticks, self._draw, self._describe = run, n_ticks, draw, describe
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._build()

    def _build(self) -> None:
        self.run_button = w.Button(description="Run", tooltip="Start with the values above")
        self.stop_button = w.Button(
            description="Stop", tooltip="End after this step", disabled=True
        )
        self.progress = w.IntProgress(min=0, max=1, description="Progress")
        self.picture, self.status = w.HTML(), w.HTML(status_html("Press Run to start."))
        self.progress.tooltip = "Share of the steps that are done"
        self.progress.layout.width = "98%"
        self.picture.add_class("attnlab-picture")
        self.status.add_class("attnlab-status")
        self.run_button.on_click(lambda _: self.start())
        self.stop_button.on_click(lambda _: self.stop())
        buttons = w.HBox([self.run_button, self.stop_button])
        for button in buttons.children:
            button.layout.width = "48%"
        left = [*self.controls.values(), buttons, self.progress, self.status]
        self.panel = beside(left, self.picture)

    @property
    def is_running(self) -> bool:
        """Whether a run is under way."""
        return not self.stop_button.disabled

    def start(self) -> None:
        """Start a run in the background, or run to the end where there is no event loop."""
        if self.is_running:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(self.drive())
            return
        self._task = loop.create_task(self.drive())
        self._task.add_done_callback(_fetch_error)

    def stop(self) -> None:
        """Ask the run to end after the item it is at."""
        self._stopping = True

    def _ipython_display_(self) -> None:
        """Show nothing: the panel is on the page already."""

    async def drive(self) -> None:
        """Run from the present values to the end, to Stop, or to an error, which is shown."""
        values = {name: control.value for name, control in self.controls.items()}
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
        with closing(_closable(self._run(**values))) as items:
            for item in items:
                self.history.append(item)
                clock = time.monotonic()
                if clock - reported > REPORT_S:
                    reported, self.progress.value = clock, len(self.history)
                if clock - redrawn > REDRAW_S:
                    self._redraw(f"Step {len(self.history)} of {n_ticks}.")
                    redrawn = time.monotonic()  # a slow picture must not eat the run
                await asyncio.sleep(0)
                if self._stopping:
                    break
        self.progress.value = len(self.history)
        how = "Stopped" if self._stopping else "Done"
        self._redraw(f"{how} after {len(self.history)} of {n_ticks} steps.")

    def _redraw(self, lead: str) -> None:
        if not self.history:
            self.status.value = status_html(lead)
            return
        self.n_redraws += 1
        words = self._describe(self.history)
        with style():
            self.picture.value = picture_html(self._draw(self.history), alt=words)
        self.status.value = status_html(f"{lead} {words}")

    def _set_running(self, is_running: bool) -> None:
        self.run_button.disabled = is_running
        self.stop_button.disabled = not is_running
        for control in self.controls.values():
            control.disabled = is_running


def show_run_board(
    run: Callable[..., Iterator[Any]],
    controls: Controls,
    *,
    n_ticks: int | Callable[..., int],
    draw: Callable[[Sequence[Any]], Figure],
    describe: Callable[[Sequence[Any]], str],
    still: Sequence[Any] = (),
) -> RunBoard | None:
    """Show the picture of a finished run, then a board on which a learner starts another.

    Args:
        run: From the control values to a generator; each item it yields is one tick. A tick
            should take less than 0.1 s, since Stop is heard between ticks.
        controls: At most four, by argument of ``run``.
        n_ticks: How many items a run yields, or a function of the control values.
        draw: From all items so far to a figure; it runs inside ``style()``.
        describe: The same in words.
        still: Items of a run made before: what a reader sees who never clicks.

    Returns:
        The board, or None if ``ATTNLAB_WIDGETS=off``.
    """
    if still:
        with style():
            show_still(draw(still), describe(still))
    if not widgets_on():
        return None
    board = RunBoard(run, controls, n_ticks=n_ticks, draw=draw, describe=describe)
    if still:
        board.picture.value = _still_html(draw, describe, still)
    show_live(board.panel)
    return board


def _still_html(
    draw: Callable[[Sequence[Any]], Figure],
    describe: Callable[[Sequence[Any]], str],
    still: Sequence[Any],
) -> str:
    with style():
        return picture_html(draw(still), alt=f"An earlier run. {describe(still)}")


def _closable(items: Iterator[Any]) -> Any:
    """Return something that yields the items and can be closed, as a generator can."""
    return items if hasattr(items, "close") else (item for item in items)


def _fetch_error(task: asyncio.Task[None]) -> None:
    """Take the error of a finished task: the status line has shown it."""
    if not task.cancelled():
        task.exception()
