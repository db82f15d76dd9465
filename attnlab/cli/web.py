"""``attnlab export web``: trained models as text for pages, and whole pages."""

from pathlib import Path
from typing import Annotated

import typer

from attnlab import cli
from attnlab.errors import AttnlabError

export = typer.Typer(help="Write what others use without Python.", **cli.PLAIN)


@export.callback()
def group() -> None:
    """Write what others use without Python."""


@export.command("web")
def web_files(
    to: Annotated[Path, typer.Option(help="folder to write to")],
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="MODEL", help="files of trained models")
    ] = None,
    page: Annotated[bool, typer.Option("--page", help="whole pages of the workbook")] = False,
) -> None:
    """Write models as FOLDER/CORPUS-NAME.json, or pages that run them without a kernel.

    A file has weights in half precision, words, and logits that the page's program must reproduce.
    """
    from attnlab.web import export_models, write_pages
    from attnlab.web.pages import NO_CAPTIONS

    if not (models or page):
        raise AttnlabError("There is nothing to write: name files of models, or add --page.")
    pages = write_pages(to) if page else []
    for path in [*export_models(models or (), to=to), *pages]:
        cli.say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")
    if pages and not any("captions" in path.stem for path in pages):
        cli.say(NO_CAPTIONS)


cli.app.add_typer(export, name="export")
