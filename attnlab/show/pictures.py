"""A picture is a figure with its words; one function makes both."""

from __future__ import annotations

import base64
import functools
import html
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from IPython.display import display
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from attnlab.show.style import style
from attnlab.show.words import caption_html, split_caption

DOTS_PER_INCH = 150  # in the file
SHOWN_PER_INCH = 100  # on the page


@dataclass(frozen=True)
class Picture:
    """A figure and its words: caption, alt text, status line and test."""

    fig: Figure
    words: str

    @property
    def caption(self) -> str:
        """What to see: what stands below the figure, and its alt text."""
        return split_caption(self.words)[0]

    @property
    def ax(self) -> Any:
        """The first axes of the figure."""
        return self.fig.axes[0]

    def saying(self, words: str) -> Picture:
        """Return the same figure with other words."""
        return Picture(self.fig, words)

    def png(self) -> bytes:
        """Return the figure as a PNG of at most 256 colours: a third of the bytes, alike to see."""
        file, out = io.BytesIO(), io.BytesIO()
        with style():
            pack = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 1}}
            self.fig.savefig(file, format="png", dpi=DOTS_PER_INCH, **pack)
        with Image.open(file) as picture:
            small = picture.convert("RGB").quantize(256, dither=Image.Dither.NONE)
        small.save(out, format="png", optimize=True)
        return out.getvalue()

    def html(self, *, is_quick: bool = False) -> str:
        """Return an ``<img>`` element that holds the figure, with its caption as alt text.

        Args:
            is_quick: One dot a pixel and hardly packed, in half the time: for a picture that
                follows a slider.
        """
        width, height = self.size
        data = self._quick_png() if is_quick else self.png()
        return (
            f"<img alt='{html.escape(self.caption, quote=True)}' width='{width}' height='{height}' "
            f"decoding='sync' style='max-width:100%;height:auto' "
            f"src='data:image/png;base64,{_base64(data)}'>"
        )

    def figure(self) -> str:
        """Return a ``<figure>`` element: the picture, below it what to see and the rest folded."""
        caption = f"<figcaption>{caption_html(self.words)}</figcaption>"
        return f"<figure style='margin:0 0 1em'>{self.html()}{caption}</figure>"

    def _quick_png(self) -> bytes:
        """Return a PNG drawn once: ``savefig`` draws twice where a layout is to be found."""
        out, before = io.BytesIO(), self.fig.dpi
        with style():
            canvas = FigureCanvasAgg(self.fig)
            self.fig.dpi = SHOWN_PER_INCH
            canvas.draw()
            pixels = Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba())
            pixels.convert("RGB").save(out, format="png", compress_level=1)
            self.fig.dpi = before
        return out.getvalue()

    @property
    def size(self) -> tuple[int, int]:
        """Width and height on the page, in CSS pixels."""
        width, height = (round(inches * SHOWN_PER_INCH) for inches in self.fig.get_size_inches())
        return width, height


def picture(draw: Callable[..., tuple[Any, str]]) -> Any:
    """Make a function that returns axes (or a figure) and words draw in the house style.

    A picture that takes ``ax`` can be a part of another one: it draws there, and its ``words``
    are at hand for those of the whole.

    Example::

        @picture
        def staircase(losses, *, ax=None):
            ax = new_axes(ax)
            ax.step(range(len(losses)), losses)
            return ax, f"The loss falls from {losses[0]:.3f} to {losses[-1]:.3f}."
    """

    @functools.wraps(draw)
    def drawn(*args: Any, **values: Any) -> Picture:
        with style():
            axes, words = draw(*args, **values)
        return Picture(getattr(axes, "figure", None) or axes, words)

    drawn.is_picture = True
    return drawn


def show(one: Picture, *, lead: str = "") -> None:
    """Show a picture as a still; below what to see, which is the alt text, and the rest folded.

    As HTML, since JupyterLab, GitHub and exported pages all keep the ``alt`` of an ``<img>``, and
    none of them that of an output's metadata.

    Args:
        lead: Words to set before those of the picture.
    """
    one = one.saying(f"{lead}{one.words}")
    display({"text/html": one.figure(), "text/plain": one.words}, raw=True)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
