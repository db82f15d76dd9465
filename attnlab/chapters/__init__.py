"""Chapters: what serves one notebook only, in a folder with its slug; never each other."""

from __future__ import annotations

import importlib.util
import pkgutil
from types import ModuleType

from attnlab.show import list_figures


def list_chapters() -> list[str]:
    """Return the slugs of the chapters, sorted."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if module.ispkg)


def import_part(chapter: str, part: str) -> ModuleType | None:
    """Return a chapter's module ``pictures``, ``checks`` or ``live``; None if it has none."""
    name = f"{__name__}.{chapter}.{part}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def load_figures() -> list[str]:
    """Import the pictures of every chapter; return the names of all figures, sorted."""
    for chapter in list_chapters():
        import_part(chapter, "pictures")
    return list_figures()
