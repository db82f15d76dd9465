"""Pictures of critical paths: the chain link by link, its growth, and bounds with P workers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.show.style import LOOKS, Look, look, new_axes

PATH_WIDTH = 7.6  # inches
CHAIN_HEIGHT = 1.6  # inches, for each chain
PITCH = 2.2  # from one chain to the next, in heights of a box
MOST_LINKS = 30  # that are drawn one by one; a longer chain is drawn module by module
MOST_LINEAR = 90  # operations that are drawn to scale; beyond, by the logarithm
MOST_BRANCHES = 5  # levels of a drawn tree
LETTER = 0.068  # inches a letter takes
GREY = LOOKS["table"].colour
TINTS = {"mul": 0.80, "acc": 0.16, "max": 0.30, "mixer": 0.80, "mlp": 0.30}  # how dark a box is
OTHER_TINT = 0.50
NORM_TINT = 0.12
NAME_ROWS = (0.2, 0.45, 0.7)  # how far below the chain names are written
BLOCK = re.compile(r"(?:\w+\.)*\w+\.\d+(?=\.)")


def plot_path(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw longest chains as boxes in a row, as long as they are deep, one chain above another.

    A small tree or a row of dots in a box says how its terms are joined. Chains of more than
    90 operations are not to scale: a box grows with the logarithm of its depth. Chains of more
    than 30 links are drawn with one box a module.

    Args:
        table: Rows of ``Path.table()``: ``kind``, ``depth``, ``name`` (what the link works on)
            and, if known, ``n_terms``. A column ``mixer`` tells several chains apart.
        ax: Axes to draw on; a new figure without it.
    """
    chains = [(mixer, _links(rows)) for mixer, rows in _chains(table)]
    ax = new_axes(ax, size=(PATH_WIDTH, 0.55 + CHAIN_HEIGHT * len(chains)))
    is_linear = all(_fits_to_scale(links) for _, links in chains)
    longest = max(_widths(links, is_linear=is_linear).sum() for _, links in chains)
    inches = 0.87 * ax.figure.get_figwidth() / max(longest, 1)  # of one unit of width
    for place, (mixer, links) in enumerate(chains):
        base = -PITCH * place
        _draw_chain(ax, mixer, links, base=base, inches=inches, is_linear=is_linear)
    ax.set(xlim=(0, 1.09 * max(longest, 1)), ylim=(1.22 - PITCH * len(chains), 1.42))
    ax.spines[["left", "top", "right"]].set_visible(False)
    ax.set_yticks([])
    _label_scale(ax, longest, is_linear=is_linear)
    return ax


def _label_scale(ax: Axes, longest: float, *, is_linear: bool) -> None:
    if is_linear:
        ax.spines["bottom"].set_bounds(0, longest)
        ticks = MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]).tick_values(0, longest)
        ax.set_xticks([tick for tick in ticks if tick <= longest])
        ax.set_xlabel("Operations that follow each other")
        return
    ax.set_xticks([])
    ax.spines["bottom"].set_visible(False)
    ax.set_xlabel("From input to output (a box grows with the logarithm of its depth)")


def describe_path(table: pd.DataFrame) -> str:
    """Say how deep each chain is and what its links are, and compare two chains."""
    sentences, depths = [], []
    for mixer, rows in _chains(table):
        links, depth = _links(rows), int(rows["depth"].sum())
        depths.append((_label(mixer) or "The chain", depth))
        if len(links) < len(rows):
            listed = ", ".join(f"{name} {deep:,}" for name, deep in _by_depth(links)[:4])
            said = listed
        else:
            said = ", ".join(f"{kind} {deep:,}" for kind, deep in _kinds(links)) or "none"
        count = f"{depth:,} operation{'s follow' if depth != 1 else ' follows'} each other"
        sentences.append(f"{depths[-1][0]}: {count} ({said}).")
    if len(depths) == 2 and min(depth for _, depth in depths) > 0:
        (short, less), (long, more) = sorted(depths, key=lambda pair: pair[1])
        if less < more:
            sentences.append(
                f"The chain of {short} is {less / more:.2f} times as long as that of {long}."
            )
    return " ".join(sentences)


def plot_depth_growth(table: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Draw the depth of the newest token's chain against the length of the context.

    Args:
        table: Rows ``name`` (or ``mixer``), ``context_len`` and ``depth``. A program of its own,
            written ``she/lag loop``, has hollow markers.
        ax: Axes to draw on; a new figure without it.
    """
    table, ax = _named(table, "context_len", "depth"), new_axes(ax)
    for name, rows in table.groupby("name", sort=False):
        rows = rows.sort_values("context_len")
        line = look(str(name)).line()
        if "/" in str(name):
            line |= {"fillstyle": "none", "linewidth": 1.0}
        ax.plot(rows["context_len"], rows["depth"], **line)
    ax.set_xscale("log", base=2)
    lengths = sorted(table["context_len"].unique())
    ax.xaxis.set_major_locator(FixedLocator(lengths[:: max(1, -(-len(lengths) // 9))]))
    ax.xaxis.set_major_formatter(lambda x, _: f"{x:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    seen = table.loc[table["depth"] > 0, "depth"]
    if len(seen) and seen.max() > 100 * seen.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(lambda y, _: f"{y:,.0f}")
        ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        ax.set_ylim(bottom=0)
    ax.set(xlabel="Context length ℓ (tokens)", ylabel="Depth (operations in a row)")
    _legend_beside(ax)
    return ax


def describe_depth_growth(table: pd.DataFrame) -> str:
    """Say the depth of each program at the shortest and the longest context."""
    said = []
    for name, rows in _named(table, "context_len", "depth").groupby("name", sort=False):
        rows = rows.sort_values("context_len")
        first, last = rows.iloc[0], rows.iloc[-1]
        said.append(
            f"{look(str(name)).label} from {first['depth']:,.0f} at {first['context_len']:,.0f} "
            f"to {last['depth']:,.0f} at {last['context_len']:,.0f}"
        )
    return f"Operations in a row, by tokens of context: {'; '.join(said)}."


def plot_bound(
    table: pd.DataFrame, *, most_units: float | None = None, ax: Axes | None = None
) -> Axes:
    """Draw the bound ``work / P + depth`` against the number of workers P; mark crossings.

    Args:
        table: Rows ``name`` (or ``mixer``), ``work`` and ``depth``, in operations.
        most_units: Where the axis ends; far enough to see every floor without it.
        ax: Axes to draw on; a new figure without it.
    """
    table, ax = _named(table, "work", "depth"), new_axes(ax)
    crossings = list(_crossings(table))
    if most_units is None:
        floors = table["work"] / table["depth"].clip(lower=1)
        most_units = 10 * max([*floors, *(units for *_, units, _ in crossings), 10.0])
    units = np.geomspace(1, most_units, 25)
    for _, row in table.iterrows():
        steps = row["work"] / units + row["depth"]
        ax.plot(units, steps, **look(row["name"]).line(), markevery=4)
    for _, _, where, steps in crossings:
        ax.plot([where, where], [0, steps], color="black", linestyle="dotted", lw=1, zorder=1)
        ax.plot(where, steps, "o", mfc="none", mec="black", ms=13, mew=1.2, zorder=5)
        ax.annotate(
            f"{_rounded(where)} workers",
            (where, steps),
            (8, 12),
            textcoords="offset points",
        )
    ax.set(
        xscale="log",
        yscale="log",
        xlabel="Workers P",
        ylabel="Bound on time steps: work / P + depth",
        ylim=(0.6 * max(1, table["depth"].min()), None),
    )
    _legend_beside(ax)
    return ax


def describe_bound(table: pd.DataFrame) -> str:
    """Say where a program with more work and a shorter chain begins to win."""
    table = _named(table, "work", "depth")
    said = [
        f"{look(row['name']).label} {row['work']:,.0f} operations, depth {row['depth']:,.0f}"
        for _, row in table.iterrows()
    ]
    won = [
        f"{look(short).label} is below {look(other).label} above about {_rounded(units)} workers"
        for short, other, units, _ in _crossings(table)
    ]
    end = f"{'; '.join(won)}." if won else "No two curves cross."
    return f"{'; '.join(said)}. {end}"


def _draw_chain(
    ax: Axes, mixer: str, links: pd.DataFrame, *, base: float, inches: float, is_linear: bool
) -> None:
    seen = _look(mixer)
    ends = np.cumsum([0, *_widths(links, is_linear=is_linear)])
    depth = int(links["depth"].sum())
    for left, right, (_, link) in zip(ends, ends[1:], links.iterrows(), strict=False):
        _draw_link(ax, (left, right), link, seen.colour, base=base, inches=inches)
    if mixer:
        heading = {"color": seen.colour, "weight": "bold", "va": "bottom"}
        ax.text(0, base + 1.09, seen.label, ha="left", **heading)
    total = {"weight": "bold", "color": seen.colour, "fontsize": 13, "va": "center"}
    ax.text(ends[-1] + 0.09 / inches, base + 0.5, f"{depth:,}", ha="left", **total)
    _draw_names(ax, links, ends, base=base, inches=inches)


def _draw_link(
    ax: Axes,
    span: tuple[float, float],
    link: pd.Series,
    colour: str,
    *,
    base: float,
    inches: float,
) -> None:
    """Draw one box, its kind, its depth and how its terms are joined."""
    left, right = span
    kind, depth, middle = str(link["kind"]), int(link["depth"]), (left + right) / 2
    tint, gap = _tint(kind), min(0.012 / inches, 0.08 * (right - left))
    box = Rectangle((left + gap, base), right - left - 2 * gap, 1, facecolor=_paler(colour, tint))
    ax.add_artist(box)
    ink = {"color": "white" if tint > 0.6 else "black", "ha": "center", "va": "center"}
    lines = kind.split("_") if link["is_module"] else [kind]
    width, letters = (right - left) * inches, max(map(len, lines))
    if width < 1.6 * LETTER * len(lines):
        return  # too narrow for a word
    if width < LETTER * (letters + 2) or depth == 1:
        words = "\n".join(lines) if depth == 1 or link["is_module"] else f"{kind} {depth:,}"
        ax.text(middle, base + 0.5, words, rotation=90, fontsize=8.5, linespacing=1.0, **ink)
        return
    has_drawing = _draw_joining(ax, span, link, colour, base=base)
    words = "\n".join([*lines, f"{depth:,}"]) if link["is_module"] else f"{kind} {depth:,}"
    ax.text(middle, base + (0.82 if has_drawing else 0.5), words, fontsize=9, **ink)


def _paler(colour: str, tint: float) -> tuple[float, ...]:
    """Return the colour laid over white with this strength; it hides what is below."""
    return tuple(1 - tint * (1 - part) for part in to_rgb(colour))


def _tint(kind: str) -> float:
    return NORM_TINT if kind.endswith("norm") else TINTS.get(kind, OTHER_TINT)


def _draw_joining(
    ax: Axes, span: tuple[float, float], link: pd.Series, colour: str, *, base: float
) -> bool:
    """Draw a tree from many terms to one, or a row of additions; say whether there is one."""
    if link["kind"] not in ("acc", "max", "add") or pd.isna(link.get("n_terms")):
        return False
    depth, n_terms = int(link["depth"]), int(link["n_terms"])
    margin = 0.06 * (span[1] - span[0])
    left, right = span[0] + margin, span[1] - margin
    pen = {"color": colour, "lw": 0.7, "solid_capstyle": "round"}
    if n_terms <= 2 or depth >= n_terms - 1 > 1:
        dots = np.linspace(left, right, min(depth, 12) + 1)
        ax.plot(dots, np.full(len(dots), base + 0.36), marker="o", ms=2.6, **pen)
        return True
    levels = min(depth, MOST_BRANCHES)
    branches = _branches(np.linspace(left, right, levels + 1), base + 0.06, base + 0.64)
    ax.plot(*branches, **pen)
    ax.plot(right, base + 0.35, marker="o", ms=2.6, **pen)
    return True


def _branches(at: np.ndarray, low: float, high: float) -> tuple[list[float], list[float]]:
    """Return the lines of a tree that joins pairs from one place to the next, as one line."""
    heights = np.linspace(low, high, 2 ** (len(at) - 1))
    xs, ys = [], []
    for here, there in pairwise(at):
        joined = heights.reshape(-1, 2).mean(1)
        for place, height in enumerate(heights):
            xs += [here, there, np.nan]  # the gap lifts the pen
            ys += [height, joined[place // 2], np.nan]
        heights = joined
    return xs, ys


def _draw_names(
    ax: Axes, links: pd.DataFrame, ends: np.ndarray, *, base: float, inches: float
) -> None:
    """Write below a bracket what its links work on; below the others where it is crowded."""
    reached = [-np.inf] * len(NAME_ROWS)  # how far to the right each row is written
    for first, last, name in _groups(links):
        left, right, half = ends[first], ends[last + 1], LETTER * len(name) / inches / 2
        middle = max((left + right) / 2, half)
        free = [row for row, end in enumerate(reached) if middle - half > end + LETTER / inches]
        fits = 2 * half < 3 * (right - left)
        row = next((row for row in free if row or fits), len(NAME_ROWS) - 1)
        reached[row] = middle + half
        pad = 0.03 / inches
        ax.plot([left + pad, right - pad], [base - 0.1] * 2, color=GREY, lw=1.2)
        if row:
            centre, end = (left + right) / 2, base - NAME_ROWS[row] + 0.02
            ax.plot([centre, centre], [base - 0.1, end], color=GREY, lw=0.6)
        over = {"facecolor": "white", "edgecolor": "none", "pad": 0.4}  # hides others' lines
        at = middle, base - NAME_ROWS[row]
        ax.text(*at, name, ha="center", va="top", fontsize=9, bbox=over, zorder=4)


def _groups(links: pd.DataFrame) -> Iterator[tuple[int, int, str]]:
    names = [str(name).removesuffix(", constant") for name in links["name"]]
    first = 0
    for place in range(len(names)):
        if place + 1 == len(names) or names[place + 1] != names[first]:
            if names[first]:
                yield first, place, names[first]
            first = place + 1


def _links(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows as they are, or one row a module where they are too many to draw."""
    rows = rows[rows["depth"] > 0].reset_index(drop=True).assign(is_module=False)
    if len(rows) <= MOST_LINKS:
        return rows
    blocks, modules = rows["name"].map(_block), rows["name"].map(_module)
    run = ((blocks != blocks.shift()) | (modules != modules.shift())).cumsum()
    grouped = rows.assign(kind=modules, name=blocks, is_module=True).groupby(run)
    return grouped.agg(
        kind=("kind", "first"),
        depth=("depth", "sum"),
        name=("name", "first"),
        is_module=("is_module", "first"),
    )


def _block(name: str) -> str:
    """Return ``blocks.0`` for whatever happens in it, and nothing outside the blocks."""
    found = BLOCK.findall(name)
    return found[-1] if found else ""


def _module(name: str) -> str:
    """Return ``mixer`` for what one of its weights does in a block; a sum is the residual."""
    if " + " in name:
        return "residual" if _block(name) else name
    inner = name.removeprefix(_block(name)).removeprefix(".")
    return inner.split(".")[0]


def _by_depth(links: pd.DataFrame) -> list[tuple[str, int]]:
    """Return the modules of a long chain, the deepest first."""
    whole = links.groupby("kind", sort=False)["depth"].sum().sort_values(ascending=False)
    return [(str(kind), int(depth)) for kind, depth in whole.items()]


def _kinds(links: pd.DataFrame) -> list[tuple[str, int]]:
    return [(str(kind), int(depth)) for kind, depth in zip(links.kind, links.depth, strict=True)]


def _fits_to_scale(links: pd.DataFrame) -> bool:
    return bool(links["is_module"].any()) or int(links["depth"].sum()) <= MOST_LINEAR


def _widths(links: pd.DataFrame, *, is_linear: bool) -> np.ndarray:
    depth = links["depth"].to_numpy(dtype=float)
    return depth if is_linear else 1 + np.log2(depth)


def _chains(table: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    missing = [column for column in ("kind", "depth", "name") if column not in table.columns]
    if missing:
        raise AttnlabError(
            f"A table of chains needs the column {missing[0]!r}; this one has "
            f"{list(table.columns)}. Path.table() makes one."
        )
    if "mixer" not in table.columns:
        yield "", table
        return
    for mixer, rows in table.groupby("mixer", sort=False):
        yield str(mixer), rows


def _look(mixer: str) -> Look:
    """Return the look of a mixer; a chain without a known name looks like the true source."""
    try:
        return look(mixer)
    except UnknownNameError:
        return Look(family="", label=mixer, colour="#444444", dash="solid", marker="None")


def _label(mixer: str) -> str:
    return _look(mixer).label


def _named(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    table = table.rename(columns={"mixer": "name"}) if "name" not in table.columns else table
    missing = [column for column in ("name", *columns) if column not in table.columns]
    if missing:
        raise AttnlabError(
            f"The table needs the columns name, {', '.join(columns)}; {missing[0]!r} is not "
            f"among {list(table.columns)}."
        )
    return table.dropna(subset=list(columns))


def _crossings(table: pd.DataFrame) -> Iterator[tuple[str, str, float, float]]:
    """Return (shorter chain, other, workers, steps) wherever the shorter chain has more work."""
    for (_, a), (_, b) in combinations(table.iterrows(), 2):
        short, other = (a, b) if a["depth"] < b["depth"] else (b, a)
        saved, extra = other["depth"] - short["depth"], short["work"] - other["work"]
        if saved > 0 and extra > 0:
            units = extra / saved
            yield short["name"], other["name"], units, short["work"] / units + short["depth"]


def _rounded(units: float) -> str:
    """Return a count with two digits that mean something, for example ``170,000``."""
    return f"{float(f'{units:.2g}'):,.0f}"


def _legend_beside(ax: Axes) -> None:
    if ax.get_legend_handles_labels()[0]:
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
