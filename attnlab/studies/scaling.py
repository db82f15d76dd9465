"""Study ``scaling``: loss by weights and tokens where the floor is known, one pass over the text.

Every model is trained anew for every number of tokens, so that its rate has fallen to the end of
the cosine there. The learning rate is transferred by a rule, not swept at every size: 0.3 / d for
every mixer, since the update of a matrix by Adam grows with its width. ``--axis rate=0.1,0.3,0.9``
records what other factors do, at two widths and one number of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from attnlab.analysis.scaling import ScalingFit, fit_scaling
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import UnknownNameError
from attnlab.mixers import list_mixers
from attnlab.models import LanguageModel
from attnlab.seeding import numpy_generator
from attnlab.sources import Source, tales, variable_length_chain
from attnlab.studies.engine import Job
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import StreamTask

WANTED = ("attention", "she", "he", "linear_attention", "gated_delta_net")
VARIANTS = tuple(name for name in WANTED if name in list_mixers())
WIDTHS = {"smoke": (4, 6, 8), "classroom": (12, 20, 36, 64), "paper": (12, 20, 36, 64, 116)}
STEPS = {  # tokens are 512 times as many, each read once
    "smoke": (2, 4, 8),
    "classroom": (200, 500, 1250, 2500),
    "paper": (200, 500, 1250, 3125, 7812),
}
CONTEXT_LEN, BATCH_SIZE, N_LAYERS, N_HEADS = 32, 16, 2, 2
RATE = 0.3  # learning rate times width
SWEPT_WIDTHS, SWEPT_STEPS = (1, -1), 1  # places in WIDTHS and STEPS where rates are swept
N_WINDOWS = {"validation": 256, "test": 1024}  # held out, the same for all runs
Floats = tuple[float, ...]
POINT = ("variant", "config.model.d_model", "config.train.n_steps", "seed")


@lru_cache(maxsize=2)
def scaling_source(name: str) -> Source:
    """Return the source of a corpus by name.

    ``tales`` has 181 words. ``tree`` is a variable-length chain of 32 symbols with Zipf's shares:
    after the eight most frequent the symbol before counts as well, 280 contexts in all.

    Raises:
        UnknownNameError: There is no such source.
    """
    if name == "tales":
        return tales()
    if name != "tree":
        raise UnknownNameError("source", name, CORPORA, next_step="See: attnlab study list.")
    n_symbols, n_deep = 32, 8
    shares = 1 / np.arange(1, n_symbols + 1)
    dice, symbols = numpy_generator(0, "scaling/tree"), [f"s{i}" for i in range(n_symbols)]
    contexts = [(new,) for new in symbols[n_deep:]]
    contexts += [(old, new) for new in symbols[:n_deep] for old in symbols]
    draws = np.maximum(dice.gamma(8 * shares / shares.sum(), size=(len(contexts), n_symbols)), 1e-9)
    laws = dict(zip(contexts, draws / draws.sum(1, keepdims=True), strict=True))
    return variable_length_chain(laws, symbols=symbols)


CORPORA = ("tales", "tree")


@dataclass(frozen=True, kw_only=True)
class ScalingTask(StreamTask):
    """Predict a stream that is read once; held-out windows, in nats and above the true source."""

    validation: np.ndarray  # windows (n_windows, context_len + 1), to choose a rate by

    def score(self, model: LanguageModel) -> tuple[dict[str, float], dict[str, Any]]:
        """Return losses, the floor on the same windows, and the weights without embeddings."""
        metrics, _ = super().score(model)
        blocks = sum(weight.numel() for weight in model.blocks.parameters())
        gap = metrics["test_loss_nats"] - metrics["oracle_nats"]
        chosen_by = StreamTask(train=self.train, held_out=self.validation).validate(model)
        metrics |= {"validation_loss_nats": chosen_by["loss_nats"], "test_gap_nats": gap}
        return {**metrics, "n_block_weights": blocks}, {}

    def validate(self, model: LanguageModel) -> dict[str, float]:
        """Return nothing: what counts is the end of each training."""
        return {}


@lru_cache(maxsize=4)
def _stream(corpus: str, seed: int, n_tokens: int) -> np.ndarray:
    return scaling_source(corpus).sample(n_tokens, generator=numpy_generator(seed, "scaling/train"))


@lru_cache(maxsize=4)
def _held_out(corpus: str, split: str) -> tuple[np.ndarray, float]:
    source, length = scaling_source(corpus), CONTEXT_LEN + 1
    dice = numpy_generator(0, f"scaling/{split}")
    windows = source.sample(N_WINDOWS[split] * length, generator=dice).reshape(-1, length)
    return windows, float(source.oracle_nats(windows))


def scaling_task(job: Job) -> ScalingTask:
    """Return the task of a job; seeds differ in text, order and initial weights."""
    corpus, n_tokens = job.task["corpus"], job.train.n_steps * BATCH_SIZE * CONTEXT_LEN
    test, oracle_nats = _held_out(corpus, "test")
    h = scaling_source(corpus).entropy_rate_nats
    return ScalingTask(
        train=_stream(corpus, job.train.seed, n_tokens + 1),
        held_out=test,
        validation=_held_out(corpus, "validation")[0],
        oracle_nats=oracle_nats,
        facts={"name": corpus, "train": n_tokens, "entropy_rate_nats": h},
    )


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed and cheap ones first."""
    widths, steps = WIDTHS[plan.scale], STEPS[plan.scale]
    if plan.axes:
        widths, steps = tuple(widths[i] for i in SWEPT_WIDTHS), (steps[SWEPT_STEPS],)
    return [
        _job(plan, name, d_model=d, n_steps=n, seed=seed, **point)
        for seed in plan.seeds
        for point in plan.points
        for n in steps
        for d in widths
        for name in plan.variants or VARIANTS
    ]


def _job(
    plan: Plan, name: str, *, d_model: int, n_steps: int, seed: int, rate: float = RATE
) -> Job:
    sizes = {"context_len": CONTEXT_LEN, "n_layers": N_LAYERS, "n_heads": N_HEADS}
    n_words = scaling_source(plan.corpus).vocab_size
    how = {"batch_size": BATCH_SIZE, "warmup_steps": max(1, n_steps // 20), "lr": rate / d_model}
    return Job(
        experiment=plan.name,
        variant=name,
        model=ModelConfig(mixer=name, vocab_size=n_words, d_model=d_model, **sizes),
        train=TrainConfig(seed=seed, n_steps=n_steps, **how),
        task={"corpus": plan.corpus, **({"rate": rate} if plan.axes else {})},
        make_task=scaling_task,
        points={n_steps},
    )


def scaling_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Return one row a run, the last where it was repeated: ``variant``, ``seed`` and sizes.

    ``N`` are weights without embeddings, ``D`` tokens read, ``loss`` and ``floor`` in nats.
    """
    names = {"n_block_weights": "N", "tokens_seen": "D", "test_loss_nats": "loss",
             "oracle_nats": "floor"}  # fmt: skip
    if not set(names) <= set(runs):
        return pd.DataFrame(columns=["variant", "seed", *names.values()])
    last = runs.drop_duplicates(list(POINT), keep="last").dropna(subset=list(names))
    return last.rename(columns=names)[["variant", "seed", *names.values()]].reset_index(drop=True)


def fit_runs(runs: pd.DataFrame, *, is_free: bool = False, n_draws: int = 200) -> ScalingFit:
    """Fit the law to rows of ``scaling_runs`` of one variant, above the known floor or without it.

    Raises:
        AttnlabError: The runs do not tell the powers.
    """
    columns = (tuple(runs[name]) for name in ("N", "D", "loss", "floor"))
    return _fit(*columns, is_free=is_free, n_draws=n_draws)


@lru_cache(maxsize=64)
def _fit(N: Floats, D: Floats, loss: Floats, floor: Floats, **how: Any) -> ScalingFit:
    is_free, n_draws = how["is_free"], how["n_draws"]
    sizes = {"n_tokens": D, "loss_nats": loss, "n_draws": n_draws}
    return fit_scaling(N, floor_nats=None if is_free else floor, **sizes)


register_study(
    Study(
        name="scaling",
        summary="loss by weights and tokens above a known floor, one pass, five mixers",
        variants=VARIANTS,
        corpora=CORPORA,
        jobs=jobs,
        axes={"rate": float},
    )
)
