"""Widgets: still pictures first, then a live panel of controls, picture and words."""

from attnlab.widgets.board import RunBoard, show_run_board
from attnlab.widgets.core import (
    Explorer,
    choice,
    debounce,
    picture_html,
    playground_controls,
    show_explorer,
    show_playground,
    show_still,
    slider,
    widgets_on,
)
from attnlab.widgets.predict import Guess, predict_first

__all__ = [
    "Explorer",
    "Guess",
    "RunBoard",
    "choice",
    "debounce",
    "picture_html",
    "playground_controls",
    "predict_first",
    "show_explorer",
    "show_playground",
    "show_run_board",
    "show_still",
    "slider",
    "widgets_on",
]
