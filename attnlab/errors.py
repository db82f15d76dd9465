"""Errors a learner may meet. Each message says what, why, and what to do next."""

import difflib
from collections.abc import Iterable


class AttnlabError(ValueError):
    """Base class, so a notebook can catch ours and nothing else."""


def shorten(value: object, n_characters: int = 60) -> str:
    """Return how Python writes a value, cut where it would fill a screen."""
    text = repr(value)
    return text if len(text) <= n_characters else f"{text[: n_characters - 1]}…"


class UnknownNameError(AttnlabError):
    """A name that a registry does not hold: a mixer, a corpus, a study, a figure."""

    def __init__(self, kind: str, name: str, known: Iterable[str], *, next_step: str) -> None:
        """Say which names there are and which of them is nearest.

        Args:
            kind: What was looked for, in the singular, for example ``token mixer``.
            name: The name that was not found.
            known: The names that would have been found.
            next_step: One sentence that says what to do now.
        """
        known = sorted(known)
        near = difflib.get_close_matches(str(name), known, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        super().__init__(
            f"No {kind} is called {shorten(name)}. {hint}Known: {', '.join(known) or 'none'}. "
            f"{next_step}"
        )


class UnknownMixerError(UnknownNameError):
    """A mixer name that the registry does not hold."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        """Name the mixer that was asked for and the ones that exist."""
        step = "To add one, decorate its class with @mixer (CONTRIBUTING.md)."
        super().__init__("token mixer", name, known, next_step=step)


class CorpusNotFoundError(AttnlabError):
    """A corpus whose files are in none of the places that were searched."""


class DownloadError(AttnlabError):
    """A file that no address delivered: no network, no such file, or another file."""


class IntegrityError(AttnlabError):
    """A file whose size or checksum is not the one that was promised."""


class DivergenceError(AttnlabError, FloatingPointError):
    """A loss or gradient that is not a finite number."""


class FileError(AttnlabError, OSError):
    """A file or folder that cannot be read or written."""


class CheckpointError(AttnlabError):
    """A checkpoint that is missing, damaged, or belongs to another configuration."""
