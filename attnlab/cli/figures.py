"""``attnlab figure``: draw the committed figures again from the records."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from attnlab.cli.speak import say


def add_commands(commands: Any) -> None:
    """Add ``figure`` with ``list`` and ``make``."""
    figure = commands.add_parser("figure", help="draw the figures of the workbook from records")
    actions = figure.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="the id of every figure")
    listing.set_defaults(run=_list)
    make = actions.add_parser("make", help="write ID.svg, ID.png and ID.json")
    make.add_argument("ids", nargs="*", metavar="ID", help="default all")
    make.add_argument("--out", type=Path, default=Path("figures"), help="folder to write to")
    make.set_defaults(run=_make)


def _list(options: argparse.Namespace) -> None:
    from attnlab.figures import list_figures

    for figure in list_figures():
        say(figure)


def _make(options: argparse.Namespace) -> None:
    from attnlab.figures import list_figures, make_figure

    for figure in options.ids or list_figures():
        files = make_figure(figure, out=options.out)
        say(f"{files.svg}, {files.png}, {files.json}")
