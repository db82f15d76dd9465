"""The one place that knows which token mixers exist."""

import inspect
from collections.abc import Callable
from typing import Any

from attnlab.config import require_even_heads
from attnlab.errors import AttnlabError, UnknownMixerError
from attnlab.mixers.base import TokenMixer

_BUILDERS: dict[str, Callable[..., TokenMixer]] = {}


def register_mixer(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a class or preset function under ``name``; it takes keywords only."""

    def add(builder: Callable[..., Any]) -> Callable[..., Any]:
        if name in _BUILDERS:
            raise AttnlabError(f"A mixer called {name!r} exists already; choose another name.")
        _BUILDERS[name] = builder
        return builder

    return add


def list_mixers() -> tuple[str, ...]:
    """Return the names that ``build_mixer`` knows, in the order they were registered."""
    return tuple(_BUILDERS)


def build_mixer(name: str, *, d_model: int, context_len: int, **options: Any) -> TokenMixer:
    """Build a token mixer by its name.

    Args:
        name: One of ``list_mixers()``.
        d_model: Width of the residual stream.
        context_len: Longest prefix the mixer looks back over, in tokens.
        options: What the mixer's own docstring lists.

    Raises:
        UnknownMixerError: No mixer has this name; the message has the nearest one.
        AttnlabError: An option the mixer does not have, or a value it cannot take.
    """
    if name not in _BUILDERS:
        raise UnknownMixerError(name, _BUILDERS)
    builder = _BUILDERS[name]
    known = mixer_options(name)
    for option in options:
        if option not in known:
            raise AttnlabError(
                f"Mixer {name!r} has no option {option!r}. It has: {', '.join(known) or 'none'}."
            )
    for size, value in (("d_model", d_model), ("context_len", context_len)):
        if value < 1:
            raise AttnlabError(f"{size}={value} must be 1 or more.")
    if "n_heads" in known:
        require_even_heads(d_model, options.get("n_heads", 1))
    return builder(d_model=d_model, context_len=context_len, **options)


def mixer_summary(name: str) -> str:
    """Return the first line of a mixer's documentation."""
    return (inspect.getdoc(_BUILDERS[name]) or "").splitlines()[0]


def mixer_options(name: str) -> dict[str, Any]:
    """Return the options of a mixer with their defaults."""
    builder = _BUILDERS[name]
    preset = dict(getattr(builder, "preset", {}))
    base = builder.__base__ if preset and inspect.isclass(builder) else builder
    while "preset" in vars(base):  # a preset takes the options of what it presets
        base = base.__base__
    fixed = ("self", "d_model", "context_len")
    parameters = inspect.signature(base).parameters.items()
    return {n: preset.get(n, p.default) for n, p in parameters if n not in fixed}
