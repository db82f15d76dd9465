"""Widgets of notebook 04: the training board, the playground, keys of a memory, held-out books."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from attnlab.analysis.memory import KeyAtlas
from attnlab.analysis.race import RACERS, Lap, Race
from attnlab.config import ModelConfig, TrainConfig
from attnlab.corpora import load_tokenizer
from attnlab.models import LanguageModel
from attnlab.paths import MODELS
from attnlab.plots.curves import describe_loss_curves, plot_loss_curves
from attnlab.plots.language import describe_losses_by_book, in_words, plot_losses_by_book
from attnlab.plots.memory import describe_key, plot_key
from attnlab.seeding import torch_generator
from attnlab.show.style import look
from attnlab.sources import Source, tales
from attnlab.training import load_model
from attnlab.widgets.board import RunBoard, show_run_board
from attnlab.widgets.core import (
    Explorer,
    choice,
    playground_controls,
    show_explorer,
    show_playground,
    slider,
)

N_POINTS = 40  # of a curve on the board
N_ORACLE_WINDOWS = 512
ALL = "all"
BEGINNINGS = {
    "children": (
        "Once upon a time there was",
        '"Come here," said the',
        "The little girl looked at the",
    ),
    "tales": ("Nora was a kind girl.", "It was a windy day.", "They ran to the forest."),
}


def race_curves(laps: Sequence[Lap]) -> pd.DataFrame:
    """Return the training losses of a race, averaged over about forty stretches of steps.

    Returns:
        Rows ``name``, ``seed``, ``tokens_seen``, ``loss_nats``, as ``plot_loss_curves`` reads.
    """
    table = pd.DataFrame([(lap.variant, lap.step, lap.tokens_seen, lap.loss_nats) for lap in laps])
    table.columns = ["name", "step", "tokens_seen", "loss_nats"]
    width = max(1, -(-int(table["step"].max()) // N_POINTS))
    table["stretch"] = (table["step"] - 1) // width
    curves = table.groupby(["name", "stretch"], sort=False, as_index=False).agg(
        tokens_seen=("tokens_seen", "max"), loss_nats=("loss_nats", "mean")
    )
    return curves.assign(seed=0)


@lru_cache(maxsize=8)
def window_oracle_nats(context_len: int) -> float:
    """Return the true source's mean loss on windows of the tales, as models are scored."""
    source = tales()
    windows = source.sample_windows(N_ORACLE_WINDOWS, window_len=context_len + 1, stream="test")
    return float(source.oracle_nats(windows))


def draw_race(laps: Sequence[Lap], *, oracle_nats: float | None = None) -> Figure:
    """Draw the curves of a race so far."""
    ax = plot_loss_curves(race_curves(laps), oracle_nats=oracle_nats, quantity="Training loss")
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    ax.set_ylim(0, None)
    ax.figure.set_size_inches(7.4, 3.6)
    return ax.figure


def describe_race(laps: Sequence[Lap], *, oracle_nats: float | None = None) -> str:
    """Say where each model of a race stands."""
    words = describe_loss_curves(race_curves(laps), oracle_nats=oracle_nats)
    return f"Training loss, averaged over short stretches of steps. {words}"


def show_race_board(*, still: Sequence[Lap], base: ModelConfig, train: TrainConfig) -> RunBoard:
    """Show a finished race on the tales, then a board that runs another.

    Args:
        still: Laps of the finished race.
        base: Sizes of the models; the board changes context and layers.
        train: Budget; the board changes the steps and the rate.
    """
    controls = {
        "n_steps": slider(
            "Steps", value=100, minimum=20, maximum=400, step=20, tooltip="Batches each model reads"
        ),
        "context_len": choice(
            "Context (tokens)",
            options=[8, 16, 32],
            value=base.context_len,
            tooltip="Longest prefix a model may read",
        ),
        "n_layers": choice("Layers", options=[1, 2], tooltip="Blocks in each model"),
        "lr": choice(
            "Learning rate",
            options=[0.003, 0.01, 0.03],
            value=train.lr,
            tooltip="Highest step size of the schedule",
        ),
    }
    state = {"oracle_nats": window_oracle_nats(base.context_len)}

    def run(*, n_steps: int, context_len: int, n_layers: int, lr: float) -> Iterator[Lap]:
        state["oracle_nats"] = window_oracle_nats(context_len)
        yield from _race(base, train, n_steps, context_len, n_layers, lr).laps()

    return show_run_board(
        run,
        controls,
        n_ticks=lambda **values: values["n_steps"] * len(RACERS),
        draw=lambda laps: draw_race(laps, **state),
        describe=lambda laps: describe_race(laps, **state),
        still=still,
    )


def _race(
    base: ModelConfig, train: TrainConfig, n_steps: int, context_len: int, n_layers: int, lr: float
) -> Race:
    sizes = base.to_dict() | {"context_len": context_len, "n_layers": n_layers}
    budget = train.to_dict() | {"n_steps": n_steps, "lr": lr, "warmup_steps": max(1, n_steps // 20)}
    return Race(tales(), base=ModelConfig(**sizes), train=TrainConfig(**budget))


@dataclass(frozen=True)
class Writer:
    """A trained model with the way from text to its tokens and back."""

    model: LanguageModel
    encode: Callable[[str], Any]
    decode: Callable[[Any], str]

    def tokens(
        self, prompt: str, *, n_tokens: int, temperature: float, seed: int, top_p: float = 1.0
    ) -> np.ndarray:
        """Return the tokens of a prompt and its continuation: ``(n_prompt + n_tokens,)``."""
        start = torch.as_tensor(np.asarray(self.encode(prompt), dtype=np.int64))[None]
        written = self.model.generate(
            start[:, -self.model.config.context_len :],
            n_tokens=n_tokens,
            temperature=temperature,
            top_p=None if top_p >= 1 else top_p,
            generator=torch_generator(seed, "generate"),
        )
        return written[0].numpy()

    def write(self, prompt: str, **settings: Any) -> str:
        """Return prompt and continuation as text; settings as for ``tokens``."""
        return self.decode(self.tokens(prompt, **settings).tolist())


def source_writers(models: Mapping[str, LanguageModel], *, source: Source) -> dict[str, Writer]:
    """Return a writer for each model of a synthetic source."""
    return {
        name: Writer(model.eval(), source.encode, lambda ids: source.decode(np.asarray(ids)))
        for name, model in models.items()
    }


def load_writers(corpus: str = "children", *, folder: Path = MODELS) -> dict[str, Writer]:
    """Return the committed models of a corpus by mixer; empty where there are none.

    Args:
        corpus: Folder of the models: ``<mixer>.safetensors`` beside one ``tokenizer.json``.
        folder: Where the corpora's folders lie.
    """
    place = Path(folder) / corpus
    files = {path.stem: path for path in place.glob("*.safetensors")}
    if not files or not (place / "tokenizer.json").exists():
        return {}
    tokenizer = load_tokenizer(place / "tokenizer.json")
    ordered = [*(name for name in RACERS if name in files), *sorted(files.keys() - set(RACERS))]
    return {
        name: Writer(load_model(files[name])[0], tokenizer.encode, tokenizer.decode)
        for name in ordered
    }


def write_side_by_side(
    writers: Mapping[str, Writer],
    *,
    prompt: str,
    mixer: str = ALL,
    temperature: float = 0.8,
    seed: int = 0,
    n_tokens: int = 50,
) -> dict[str, str]:
    """Return a text by title from one writer or, for ``mixer="all"``, from each.

    All draw from the same stream of chance: where two models agree on the chances, they
    write the same token.
    """
    chosen = writers if mixer == ALL else {mixer: writers[mixer]}
    settings = {"n_tokens": n_tokens, "temperature": temperature, "seed": seed}
    return {look(name).label: one.write(prompt, **settings) for name, one in chosen.items()}


def show_generation_playground(
    writers: Mapping[str, Writer],
    *,
    prompts: Sequence[str],
    presets: Sequence[Mapping[str, Any]],
    n_tokens: int = 50,
) -> Explorer | None:
    """Show texts for some settings, then a panel: prompt, mixer, temperature, seed.

    Args:
        writers: By mixer; see ``load_writers`` and ``source_writers``.
        prompts: Beginnings to choose from.
        presets: Settings to print; ``mixer="all"`` sets every model side by side.
        n_tokens: Length of a continuation.
    """
    names = {look(name).label: name for name in writers} | {"All, side by side": ALL}

    def write(**values: Any) -> dict[str, str]:
        return write_side_by_side(writers, n_tokens=n_tokens, **values)

    return show_playground(
        write,
        playground_controls(prompts=prompts, mixers=names),
        presets=presets,
        describe=_describe_setting,
    )


def _describe_setting(*, prompt: str, mixer: str, temperature: float, seed: int) -> str:
    who = "All mixers go" if mixer == ALL else f"{look(mixer).label} goes"
    return f"{who} on from “{prompt}” at temperature {temperature:.1f}, seed {seed}."


def show_key_explorer(atlas: KeyAtlas, *, keys: Sequence[int]) -> Explorer | None:
    """Show some keys of a memory, then a slider over all of them.

    Args:
        atlas: From ``analysis.memory.map_keys``.
        keys: Those to print as pictures.
    """
    names = {"states": atlas.states, "symbols": atlas.symbols}

    def arrays(key: int) -> dict[str, Any]:
        harm, writes = atlas.damage_nats[:, key], atlas.writes[key]
        return {"activity": atlas.activity[:, key], "writes": writes, "damage_nats": harm, **names}

    key = slider(
        "Key", value=int(keys[0]), minimum=0, maximum=atlas.n_keys - 1, tooltip="Which memory slot"
    )
    return show_explorer(
        lambda key: plot_key(**arrays(key)),
        {"key": key},
        presets=[{"key": int(one)} for one in keys],
        describe=lambda key: describe_key(key=key, **arrays(key)),
    )


def telling_keys(atlas: KeyAtlas, *, n_keys: int = 2) -> list[int]:
    """Return the keys whose loss hurts most, one for each state they hurt, worst first.

    Damage counts by the share of time of the state.
    """
    harm = np.nan_to_num(atlas.damage_nats) * atlas.share[:, None]
    chosen: dict[int, int] = {}
    for key in np.argsort(-harm.max(axis=0), kind="stable"):
        chosen.setdefault(int(harm[:, key].argmax()), int(key))
    return list(chosen.values())[:n_keys]


def show_book_explorer(
    books: pd.DataFrame, *, presets: Sequence[Mapping[str, Any]]
) -> Explorer | None:
    """Show the losses by book, then a panel: unit, and what to compare with.

    Args:
        books: Rows ``book``, ``variant``, ``seed``, ``loss_nats``, ``bits_per_byte``.
        presets: Settings of ``metric`` and ``baseline``.
    """
    units = {"nats per token": "loss_nats", "bits per byte": "bits_per_byte"}
    baselines = {"nothing": "", **{look(v).label: v for v in dict.fromkeys(books["variant"])}}
    controls = {
        "metric": choice("Unit", options=units, tooltip="Bits per byte ignore the tokenizer"),
        "baseline": choice(
            "Subtract", options=baselines, value="", tooltip="Whose loss on the same book and seed"
        ),
    }
    return show_explorer(
        lambda metric, baseline: draw_books(books, metric=metric, baseline=baseline),
        controls,
        presets=presets,
        describe=lambda metric, baseline: describe_books(books, metric=metric, baseline=baseline),
    )


def draw_books(books: pd.DataFrame, *, metric: str, baseline: str = "") -> Figure:
    """Draw the loss by book, or the difference to a baseline on the same book and seed."""
    ax = plot_losses_by_book(relative_to(books, baseline=baseline, metric=metric), metric=metric)
    if baseline:
        ax.axvline(0.0, color=look(baseline).colour, lw=1.2)
        ax.set_xlabel(f"{ax.get_xlabel()}, minus {in_words(baseline)}")
    return ax.figure


def describe_books(books: pd.DataFrame, *, metric: str, baseline: str = "") -> str:
    """Say what the picture of the books shows."""
    if not baseline:
        return describe_losses_by_book(books, metric=metric)
    gaps = relative_to(books, baseline=baseline, metric=metric)
    by_book = gaps.pivot_table(index="book", columns="variant", values=metric, aggfunc="mean")
    parts = [
        f"{look(str(v)).label} {by_book[v].mean():+.3f}, below it on {int((by_book[v] < 0).sum())}"
        for v in by_book.mean().sort_values().index
    ]
    return f"Mean difference to {in_words(baseline)} over {len(by_book)} books: {'; '.join(parts)}."


def relative_to(books: pd.DataFrame, *, baseline: str, metric: str) -> pd.DataFrame:
    """Subtract the baseline's value on the same book and seed; without one, change nothing."""
    if not baseline:
        return books
    keys = ["book", "seed"]
    base = books[books["variant"] == baseline].set_index(keys)[metric].rename("base")
    joined = books[books["variant"] != baseline].join(base, on=keys).dropna(subset=["base"])
    return joined.assign(**{metric: joined[metric] - joined["base"]}).drop(columns="base")
