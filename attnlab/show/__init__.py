"""Show: pictures with their words, panels with dials; tables in, no torch."""

from attnlab.show.boards import Guess, RunBoard, predict_first, show_board
from attnlab.show.figures import figure, list_figures, make_figure
from attnlab.show.kinds import (
    final_gaps,
    final_losses,
    lag_profile,
    loss_curves,
    matrix,
    name_points,
    ranged,
    staircase,
)
from attnlab.show.panels import Explorer, choice, explore, play, playground_dials, slider
from attnlab.show.pictures import Picture, picture, show
from attnlab.show.style import LOOKS, Look, look, new_axes, register_look, style, variants
from attnlab.show.words import wrapped

__all__ = [
    "LOOKS",
    "Explorer",
    "Guess",
    "Look",
    "Picture",
    "RunBoard",
    "choice",
    "explore",
    "figure",
    "final_gaps",
    "final_losses",
    "lag_profile",
    "list_figures",
    "look",
    "loss_curves",
    "make_figure",
    "matrix",
    "name_points",
    "new_axes",
    "picture",
    "play",
    "playground_dials",
    "predict_first",
    "ranged",
    "register_look",
    "show",
    "show_board",
    "slider",
    "staircase",
    "style",
    "variants",
    "wrapped",
]
