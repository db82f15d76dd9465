"""Pictures of critical paths: programs level by level, chains link by link, path against clock."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import combinations, pairwise

import ipywidgets as w
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from attnlab.analysis import critical_path
from attnlab.analysis.theory import expected_chain, expected_multiplications
from attnlab.chapters.critical_path.live import (
    Program,
    busy_workers,
    level_sizes,
    levels,
    longest_chain,
)
from attnlab.mixers import build_mixer
from attnlab.show import LOOKS, figure, look, name_points, new_axes, picture
from attnlab.show.chains import longest_chains
from attnlab.show.kinds import listed, name_ends, spread, tick_at
from attnlab.show.style import FAMILIES

GREY, ON_PATH = LOOKS["table"].colour, "black"
SIGNS = {"mul": "×", "add": "+"}


@picture
def program(program: Program, *, named: Collection[str] = ()):
    """Every operation at its level, with lines to what it waits for; thick: a longest chain.

    Inputs and weights are written beside the operations of level 1.

    Args:
        program: Kind (``mul`` or ``add``) and operands of each operation.
        named: Operations whose name is written beside them.
    """
    ready, chain = levels(program), longest_chain(program)
    ax, height = new_axes(size=(7.2, 5.2)), _heights(program, ready)
    places = range(1, len(chain) + 1)
    spots = {name: (ready[name], height[name]) for name in program}
    _draw_program(ax, program, spots, chain=chain)
    for name, (_, operands) in program.items():
        if name in named:
            ax.text(ready[name], height[name] - 0.42, name, fontsize=9, ha="center", va="bottom")
        if ready[name] == 1:
            at, written = (0.72, height[name]), "   ".join(operands)
            ax.text(*at, written, fontsize=8, ha="right", va="center", color=GREY)
    ax.set(xlim=(-0.1, len(chain) + 0.5), xticks=places,
           ylim=(max(height.values()) + 0.7, min(height.values()) - 0.8),
           xlabel="Level: operations that follow each other")  # fmt: skip
    sizes = [list(ready.values()).count(level) for level in places]
    return ax, (
        f"{len(program)} operations on {len(chain)} levels; by level, from left to right: "
        f"{', '.join(map(str, sizes))}. Thick: one longest chain, "
        f"{' '.join(SIGNS[program[name][0]] for name in chain)}."
    )


@picture
def sums(n_terms: int):
    """A sum of n terms twice: one addition after the other, and as a tree."""
    axes, depths = new_axes(size=(7.2, 3.2), columns=2), []
    for ax, title in zip(axes, ("One after the other", "In a tree"), strict=True):
        program = sum_program(n_terms, is_tree=title == "In a tree")
        ready, chain = levels(program), longest_chain(program)
        spots = {f"a{i}": (0.0, float(i)) for i in range(1, n_terms + 1)}
        ax.plot(*zip(*spots.values(), strict=True), "s", color=GREY, markersize=5, zorder=3)
        for name, (_, operands) in program.items():
            spots[name] = (ready[name], float(np.mean([spots[operand][1] for operand in operands])))
        _draw_program(ax, program, spots, chain=[program[chain[0]][1][0], *chain])
        depths.append(len(chain))
        ax.set_title(f"{title}: depth {len(chain)}", fontsize=10)
        ax.set(xlim=(-0.4, len(chain) + 0.5), ylim=(n_terms + 0.7, 0.3), xlabel="Level",
               xticks=range(len(chain) + 1))  # fmt: skip
    return axes[0], (
        f"A sum of {n_terms} terms takes {n_terms - 1} additions in any order. One after the other "
        f"they form a chain of {depths[0]}; in a tree, side by side where possible, one of "
        f"{depths[1]}."
    )


def sum_program(n_terms: int, *, is_tree: bool) -> dict[str, tuple[str, list[str]]]:
    """Return additions of ``a1``, ``a2``, ...: two by two, level by level, or in a row."""
    program: dict[str, tuple[str, list[str]]] = {}
    terms = [f"a{i}" for i in range(1, n_terms + 1)]
    while len(terms) > 1:
        n_pairs = len(terms) // 2 if is_tree else 1
        pairs = [terms[2 * i : 2 * i + 2] for i in range(n_pairs)]
        sums = {f"s{len(program) + i}": ("add", pair) for i, pair in enumerate(pairs)}
        program |= sums
        terms = [*sums, *terms[2 * n_pairs :]]
    return program


def _heights(program: Program, ready: Mapping[str, int]) -> dict[str, float]:
    """Place each operation at the mean height of what it waits for, apart from its neighbours."""
    height: dict[str, float] = {}
    for level in range(1, max(ready.values()) + 1):
        wanted = {}
        for place, name in enumerate(name for name in program if ready[name] == level):
            above = [height[operand] for operand in program[name][1] if operand in height]
            wanted[name] = float(np.mean(above)) if above else float(place)
        names = sorted(wanted, key=wanted.__getitem__)
        apart = spread([wanted[name] for name in names], gap=1.0 if level == 1 else 1.6)
        height |= dict(zip(names, apart, strict=True))
    return height


def _draw_program(
    ax: Axes, program: Program, spots: Mapping[str, tuple[float, float]], *, chain: Sequence[str]
) -> None:
    """Draw operations at their spots, and lines from what they wait for if that has a spot."""
    thick, thin = {"color": ON_PATH, "lw": 2.6}, {"color": GREY, "lw": 0.8, "alpha": 0.7}
    for name, (kind, operands) in program.items():
        for operand in operands:
            if operand in spots:
                is_on = (operand, name) in pairwise(chain)
                ends = zip(spots[operand], spots[name], strict=True)
                ax.plot(*ends, zorder=1 + is_on, **(thick if is_on else thin))
        edge = {"mec": ON_PATH, "mew": 2.2} if name in chain else {"mec": GREY, "mew": 1.0}
        ax.plot(*spots[name], "o", markersize=13, mfc="white", zorder=3, **edge)
        inside = {"ha": "center", "va": "center_baseline", "fontsize": 10, "zorder": 4}
        ax.text(*spots[name], SIGNS[kind], **inside)
    ax.yaxis.set_visible(False)
    ax.spines["left"].set_visible(False)


# Chains, link by link -----------------------------------------------------------------------------

ORDERS = {"in a tree": "tree", "one by one": "sequential"}


@picture
def beside_attention(*, mixer: str, context_len: int, d_model: int, accumulate: str):
    """The chain of attention above that of a mixer, from closed forms: no model has to be built."""
    sizes = {"context_len": context_len, "d_model": d_model}
    one = longest_chains(chains_table(("attention", mixer), accumulate=accumulate, **sizes))

    def n_new(name: str) -> int:  # multiplications for the newest token
        heads = {"d_model": d_model, "n_heads": min(4, d_model)}
        times = (context_len, context_len - 1)
        until, before = (expected_multiplications(name, time=time, **heads) for time in times)
        return until - before

    ratio = n_new(mixer) / n_new("attention")
    order = next(label for label, order in ORDERS.items() if order == accumulate)
    shown = f"{ratio:,.0f}" if ratio >= 10 else f"{ratio:.2g}"
    return one.fig, (
        f"ℓ = {context_len:,}, d = {d_model:,}, sums {order}. {one.words} "
        f"{look(mixer).label} multiplies {shown} times as often as attention."
    )


def chains_table(
    names: Sequence[str], *, context_len: int, d_model: int, accumulate: str
) -> pd.DataFrame:
    """Return one row a link for ``longest_chains``, from the closed forms."""
    sizes = {"context_len": context_len, "d_model": d_model, "n_heads": min(4, d_model)}
    table = pd.DataFrame(
        {"mixer": name, **step._asdict()}
        for name in names
        for step in expected_chain(name, accumulate=accumulate, **sizes)
    )
    depth = table["depth"]
    return table.assign(n_terms=depth + 1 if accumulate == "sequential" else 2**depth)


def path_dials() -> dict[str, object]:
    """Return the dials of ``beside_attention``; sizes double from one stop to the next."""

    def doubling(description: str, n_stops: int) -> w.SelectionSlider:
        return w.SelectionSlider(
            options=[(f"{2**k:,}", 2**k) for k in range(n_stops)],
            value=128,
            description=description,
            tooltip=f"{description}. Arrow keys double or halve it.",
            style={"description_width": "initial"},
            layout=w.Layout(width="98%"),
        )

    return {
        "mixer": ("Mixer", {look(name).label: name for name in ("she", "he", "we", "me")}),
        "context_len": doubling("Context ℓ (tokens)", 13),
        "d_model": doubling("Width d (channels)", 11),
        "accumulate": ("Sums", ORDERS, "How terms are added up"),
    }


@figure("critical-path")
def traced_chains():
    """The chains that the tracer finds in attention and in SHE, newest token."""
    tables = []
    for name, options in {"attention": {"n_heads": 4}, "she": {}}.items():
        mixer = build_mixer(name, d_model=128, context_len=128, **options)
        table = critical_path.trace_step(mixer).longest_path().table()
        tables.append(table.assign(mixer=name))
    return longest_chains(pd.concat(tables, ignore_index=True))


# Counts by size and by workers --------------------------------------------------------------------


@picture
def depth_growth(table: pd.DataFrame):
    """The depth of the newest token's chain against the length of the context.

    Args:
        table: Rows ``name``, ``context_len`` and ``depth``.
    """
    ax, said, ends = new_axes(), [], {}
    ax.set_xscale("log", base=2)
    for name, rows in table.sort_values("context_len").groupby("name", sort=False):
        one, first, last = look(str(name)), rows.iloc[0], rows.iloc[-1]
        ax.plot(rows["context_len"], rows["depth"], **one.line())
        ends[str(name)] = (last["context_len"], last["depth"])
        said.append(
            f"{one.label} from {first['depth']:,.0f} at {first['context_len']:,.0f} "
            f"to {last['depth']:,.0f} at {last['context_len']:,.0f}"
        )
    lengths = sorted(table["context_len"].unique())
    tick_at(ax.xaxis, lengths[:: max(1, -(-len(lengths) // 9))])
    ax.set(xlabel="Context length ℓ (tokens)", ylabel="Depth (operations in a row)")
    ax.set_ylim(bottom=0)
    name_ends(ax, ends)
    return ax, f"Operations in a row, by tokens of context: {'; '.join(said)}."


@picture
def bound(table: pd.DataFrame):
    """The bound ``work / P + depth`` against the number of workers P; crossings are marked.

    Args:
        table: Rows ``name``, ``work`` and ``depth``, in operations.
    """
    ax, crossings, ends, said, won = new_axes(), list(_crossings(table)), {}, [], []
    most = 10 * max([*table["work"] / table["depth"], *(units for *_, units, _ in crossings)])
    units = np.geomspace(1, most, 25)
    ax.set(xscale="log", yscale="log", xlabel="Workers P")
    for name, work, depth in table[["name", "work", "depth"]].itertuples(index=False):
        steps, one = work / units + depth, look(name)
        ax.plot(units, steps, **one.line(), markevery=4)
        ends[name] = (most, steps[-1])
        said.append(f"{one.label} {work:,.0f} operations, depth {depth:,.0f}")
    for short, other, where, steps in crossings:
        ax.plot([where, where], [0, steps], color="black", linestyle="dotted", lw=1, zorder=1)
        ax.plot(where, steps, "o", mfc="none", mec="black", ms=13, mew=1.2, zorder=5)
        workers = f"{float(f'{where:.2g}'):,.0f} workers"  # two digits mean something
        ax.annotate(workers, (where, steps), (0, 40), textcoords="offset points", ha="center",
                    arrowprops={"arrowstyle": "-", "lw": 0.7, "shrinkB": 7})  # fmt: skip
        labels = look(short).label, look(other).label
        won.append(f"{labels[0]} is below {labels[1]} above about {workers}")
    ax.set(ylabel="Bound on time steps: work / P + depth", ylim=(0.5 * table["depth"].min(), None))
    name_ends(ax, ends)
    end = f"{'; '.join(won)}." if won else "No two curves cross."
    return ax, f"{'; '.join(said)}. {end}"


def _crossings(table: pd.DataFrame) -> Iterator[tuple[str, str, float, float]]:
    """Return (shorter chain, other, workers, steps) wherever the shorter chain has more work."""
    for a, b in combinations(table.itertuples(), 2):
        short, other = (a, b) if a.depth < b.depth else (b, a)
        saved, extra = other.depth - short.depth, short.work - other.work
        if saved > 0 and extra > 0:
            units = extra / saved
            yield short.name, other.name, units, short.work / units + short.depth


WORKER_DIALS = {
    "units": ("Workers P", 8, 1, 256, 1, "Each does one operation a step"),
    "size": ("Width d = context ℓ", [2, 4, 8], 8, "Of both mixers"),
    "accumulate": ("Sums", {"in a tree": "tree", "one after the other": "sequential"},
                   "How terms are added up"),
}  # fmt: skip


@picture
def workers(*, units: int, size: int, accumulate: str):
    """How many of P workers are busy at each step of the next token, attention above SHE."""
    sizes = {"d_model": size, "context_len": size, "accumulate": accumulate}
    busy = {n: busy_workers(level_sizes(n, **sizes), units=units) for n in ("attention", "she")}
    lengths = {name: len(steps) for name, steps in busy.items()}
    longest, parts = max(lengths.values()), []
    axes = new_axes(size=(6.4, 3.8), rows=2, sharex=True)
    for ax, (name, steps) in zip(axes, busy.items(), strict=True):
        one, n = look(name), len(steps)
        ax.stairs(steps, range(n + 1), fill=True, color=one.colour, alpha=0.75, lw=0)
        ax.axhline(units, color="black", lw=1, linestyle="dotted")
        ax.axvline(n, color=one.colour, lw=1.4)
        side, gap = ("right", -0.01) if n > 0.7 * longest else ("left", 0.01)
        at = (n + gap * longest, 1.26 * units)
        ax.text(*at, f"{one.label}: {n:,} steps", ha=side, va="top", fontsize=9)
        ax.set(ylim=(0, 1.28 * units), xlim=(0, 1.02 * longest), ylabel="Busy workers")
        ax.yaxis.set_major_locator(MaxNLocator(3, integer=True))
        parts.append(
            f"{one.label} {sum(steps):,} operations in {n:,} steps "
            f"({sum(steps) / (units * n):.0%} of the workers' time used)"
        )
    axes[-1].set_xlabel("Step")
    first = min(lengths, key=lengths.__getitem__)
    is_tied = len(set(lengths.values())) == 1
    verdict = "They are done together" if is_tied else f"{look(first).label} is done first"
    order = "sums in a tree" if accumulate == "tree" else "one addition after the other"
    workers = "1 worker" if units == 1 else f"{units:,} workers"
    return axes[0], f"d = ℓ = {size}, {order}. {workers}: {'; '.join(parts)}. {verdict}."


# Path against clock -------------------------------------------------------------------------------

RULERS = {  # column: (label, marker, dash)
    "depth_ratio": ("depth", "v", FAMILIES["table"].dash),
    "work_ratio": ("work", "^", FAMILIES["convolution"].dash),
    "time_ratio": ("clock", "o", "solid"),
}


@picture
def ratio_by_size(race: pd.DataFrame):
    """The ratios of depth, work and time against the size, both axes logarithmic.

    Args:
        race: Columns ``d_model``, ``depth_ratio``, ``work_ratio``, ``time_ratio``, ``low``,
            ``high``; SHE over attention.
    """
    ax, sizes, last = new_axes(), race["d_model"].to_numpy(), race.iloc[-1]
    colours = {label: "black" if label == "clock" else GREY for label, *_ in RULERS.values()}
    ax.set(xscale="log", yscale="log", xlabel="Width and context, d = ℓ")
    for column, (label, marker, dash) in RULERS.items():
        ax.plot(sizes, race[column], color=colours[label], marker=marker, linestyle=dash)
    ax.fill_between(sizes, race["low"], race["high"], color="black", alpha=0.15, lw=0)
    ax.axhline(1.0, color=LOOKS["attention"].colour, lw=1.4, zorder=1)
    ax.set_ylabel("SHE over attention (log scale)")
    ratios = race[list(RULERS)].to_numpy()
    tick_at(ax.xaxis, sizes)
    tick_at(ax.yaxis, plain_ratios(ratios))
    ax.set_ylim(0.6 * min(1.0, ratios.min()), 1.6 * max(1.0, ratios.max()))
    ends = {label: (last["d_model"], last[column]) for column, (label, *_) in RULERS.items()}
    name_points(ax, ends, colours=colours)
    parts = [
        f"d = ℓ = {row.d_model:.0f}: depth {row.depth_ratio:.2f}, work {row.work_ratio:.1f}, "
        f"time {row.time_ratio:.2f} ({row.low:.2f} to {row.high:.2f})"
        for row in race.itertuples()
    ]
    chosen = {"faster": race["high"] < 1, "slower": race["low"] > 1}
    verdict = " and ".join(
        f"{how} at {listed([f'{n:.0f}' for n in sizes[those]]) or 'no size'}"
        for how, those in chosen.items()
    )
    return ax, (
        "One more token, SHE over attention: depth, work and time by width and context. By the "
        f"clock SHE is {verdict}. At {'; '.join(parts)}."
    )


@picture
def rulers(pairs: pd.DataFrame):
    """For each pair of programs the ratios of depth, work and time on one line.

    Args:
        pairs: Columns ``pair`` (words), ``depth_ratio``, ``work_ratio``, ``time_ratio``, ``low``,
            ``high``; the program with the shorter path over the other.
    """
    ax = new_axes(size=(7.2, 1.2 + 0.5 * len(pairs)))
    rows, ratios = np.arange(len(pairs)), pairs[list(RULERS)].to_numpy()
    ax.hlines(rows, ratios.min(1), ratios.max(1), color=GREY, lw=0.8, alpha=0.6)
    for column, (label, marker, _) in RULERS.items():
        colour, fill = ("black", "full") if label == "clock" else (GREY, "none")
        ax.plot(pairs[column], rows, marker, fillstyle=fill, color=colour, label=label, zorder=3)
    ax.hlines(rows, pairs["low"], pairs["high"], color="black", lw=2.2, zorder=2)
    ax.axvline(1.0, color=LOOKS["attention"].colour, lw=1.4, zorder=1)
    ax.set(xscale="log", xlabel="Shorter path over longer path (log scale)")
    ax.set_yticks(rows, list(pairs["pair"]))
    ax.set_ylim(len(pairs) - 0.5, -0.6)
    ax.tick_params(axis="y", length=0)
    ax.spines["left"].set_visible(False)
    tick_at(ax.xaxis, plain_ratios(ratios))
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3)
    parts = []
    for row in pairs.itertuples():
        faster = "faster" if row.high < 1 else "slower" if row.low > 1 else "not clearly either"
        parts.append(
            f"{row.pair}: depth {row.depth_ratio:.2g}, work {row.work_ratio:.2g}, "
            f"time {row.time_ratio:.2g}, so {faster}"
        )
    return ax, (
        "The shorter path over the longer one, by depth, work and clock; left of the line it takes "
        f"less. {'; '.join(parts)}."
    )


def plain_ratios(values: np.ndarray) -> list[float]:
    """Return numbers for a logarithmic axis: 0.5, 1, 2, 5, ..., and no more than nine."""
    steps = [m * 10.0**e for e in range(-4, 6) for m in (1, 2, 5)]
    inside = [step for step in steps if 0.7 * values.min() <= step <= 1.4 * values.max()]
    return inside if len(inside) <= 9 else [n for n in inside if np.isclose(np.log10(n) % 1, 0)]
