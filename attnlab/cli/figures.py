"""``attnlab figure``: draw the committed figures again from the records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attnlab.cli.speak import say


def add_commands(commands: Any) -> None:
    """Add ``figure``."""
    figure = commands.add_parser(
        "figure",
        help="draw the figures of the workbook from records",
        description="Write ID.svg, ID.png and ID.json (caption, alt text, records used).",
    )
    figure.add_argument("ids", nargs="*", metavar="ID", help="see --list; default all")
    figure.add_argument("--list", action="store_true", help="show the ids and draw nothing")
    figure.add_argument("--out", type=Path, default=Path("figures"), help="folder to write to")
    figure.set_defaults(run=_figure)


def _figure(options: argparse.Namespace) -> None:
    from attnlab.figures import list_figures, make_figure

    for figure in options.ids or list_figures():
        if options.list:
            say(figure)
        else:
            files = make_figure(figure, out=options.out)
            say(f"{files.svg}, {files.png}, {files.json}")
