"""Study ``language-model``: the same model, trainer and batches; only the mixer differs.

Holds the order of mixers that arXiv:2308.07661 reports against training cost, as there, and
against what that paper lacks: held-out loss, seeds, attention of the same size and the same cost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from attnlab.analysis.theory import (
    expected_language_model_multiplications,
    expected_language_model_weights,
)
from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import load_runs
from attnlab.studies.engine import Job
from attnlab.studies.study import Plan, Study, register_study
from attnlab.tasks import Dataset, LanguageTask, list_datasets, prepare_dataset
from attnlab.training import WindowBatches, steps_dense_early, steps_every

VARIANTS = {  # name: what a table calls it
    "attention": "attention, 4 heads",
    "attention_1_head": "attention, 1 head",
    "she": "SHE",
    "he": "HE",
    "we": "WE",
    "me": "ME",
    "mean": "mean of the past",
    "identity": "no mixing",
    "attention_matched_parameters": "attention, as many weights as SHE",
    "attention_matched_compute": "attention, as many multiplications as SHE",
}


# What a sweep may change besides: fields of the model, and options of its mixer (which of them it
# has decides who is concerned)
EXTRACTORS = ("she", "he", "we", "me")
SETTINGS: dict[str, dict[str, Any]] = {
    "as_usual": {},
    "post_norm": {"norm": "post"},
    "bias": {"options": {"bias": True}},
    "rsqrt_t": {"options": {"scale": "rsqrt_t"}, "of": EXTRACTORS},
    "inv_t": {"options": {"scale": "inv_t"}, "of": EXTRACTORS},
    "absolute": {"options": {"index": "absolute"}, "of": EXTRACTORS},
    "no_output_map": {"options": {"out_proj": False}, "of": ("she", "he")},
    "output_map": {"options": {"out_proj": True}, "of": ("we", "me")},
    **{f"start_decay_{p}": {"options": {"start_decay": p}, "of": EXTRACTORS} for p in (0.5, 1, 2)},
    **{f"start_times_{f}": {"options": {"start_scale": f}, "of": ("attention",)} for f in (0.5, 2)},
}


STARTS = tuple(name for name in SETTINGS if name == "as_usual" or name.startswith("start"))
BEST_START = "best_start"  # of the recorded ones, for each variant


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Sizes of one scale: fields of the model, and of its training.

    Args:
        n_passes: Of real text; gives ``n_steps`` where the training does not.
        vocab_size: Asked of the tokenizer.
    """

    model: dict[str, Any]
    train: dict[str, Any]
    n_passes: float = 0.0
    vocab_size: int = 5000

    @property
    def n_tokens(self) -> int:
        """Tokens that the steps of the training read; 0 where passes count."""
        return self.train.get("n_steps", 0) * self.train["batch_size"] * self.model["context_len"]

    @property
    def data(self) -> dict[str, int]:
        """What ``prepare_dataset`` takes: a synthetic stream is as long as is read once."""
        return {"vocab_size": self.vocab_size, "n_train_tokens": self.n_tokens + 1}


SMALL = {"context_len": 64, "d_model": 64, "n_layers": 2}
LARGE = {"context_len": 128, "d_model": 128, "n_layers": 6}
PAPER = {"batch_size": 64, "lr": 2e-3}
BUDGETS = {  # by scale and corpus; None: every other one
    ("smoke", None): Budget(model={"context_len": 8, "d_model": 16, "n_layers": 1}, vocab_size=300,
                            train={"batch_size": 8, "lr": 3e-3, "n_steps": 8}),
    ("classroom", None): Budget(model=SMALL, vocab_size=1000,
                                train={"batch_size": 32, "lr": 3e-3, "n_steps": 400}),
    ("classroom", "children"): Budget(model=SMALL, vocab_size=2000,
                                      train={"batch_size": 32, "lr": 3e-3, "n_steps": 1500}),
    ("classroom", "children/swept"): Budget(
        model=SMALL, vocab_size=1000,
        train={"batch_size": 32, "lr": 1e-2, "n_steps": 1280, "precision": "fp32_onednn"}),
    ("paper", None): Budget(model=LARGE, n_passes=1, train={**PAPER, "precision": "bf16"}),
    ("paper", "tales"): Budget(model=LARGE, train={**PAPER, "n_steps": 2000}),
    ("paper", "python_reference"): Budget(model=LARGE, n_passes=8, vocab_size=2000,
                                          train={**PAPER, "precision": "bf16"}),
}  # fmt: skip


def jobs(plan: Plan) -> list[Job]:
    """Return the jobs of a plan, seed by seed: an early stop leaves whole comparisons."""
    names = plan.variants or VARIANTS
    wanted = [(s, p, name) for s in plan.seeds for p in plan.points for name in names]
    return [_job(plan, seed, name, **p) for seed, p, name in wanted if _concerns(p, name)]


def _concerns(point: Mapping[str, Any], variant: str) -> bool:
    """Tell whether a setting changes anything of a variant."""
    of = SETTINGS.get(point.get("setting", "as_usual"), {}).get("of")
    return of is None or variant in of or ("attention" in of and variant.startswith("attention"))


def _job(
    plan: Plan,
    seed: int,
    variant: str,
    *,
    lr: float | str | None = None,
    passes: float | None = None,
    setting: str = "as_usual",
    precision: str | None = None,
) -> Job:
    """Return one job; where the budget sets the steps, more passes mean less text."""
    sizes, swept = plan.choose(BUDGETS), {}
    if setting == BEST_START:
        like = "attention" if variant.startswith("attention_matched") else variant
        setting = best_recorded(plan.name, "setting", variant=like, among=STARTS)
    text = dict(sizes.data)
    if passes is not None and sizes.n_tokens and plan.corpus != "tales" and passes > 1:
        text["n_read_tokens"] = round(sizes.n_tokens / passes)
    data = prepare_dataset(plan.corpus, **text)
    batches = _batches_of_a_pass(data, sizes)
    n_passes = passes or sizes.n_passes
    n_steps = sizes.train.get("n_steps") or round(n_passes * batches)
    points = steps_dense_early(n_steps)
    if plan.axes:
        swept = {"passes": n_passes or sizes.n_tokens / data.facts["train"], "setting": setting}
        points |= steps_every(max(1, batches // 2), n_steps) if sizes.n_passes else set()
    base = ModelConfig(vocab_size=data.vocab_size, n_heads=4, **sizes.model)
    train = {**sizes.train, "n_steps": n_steps, "warmup_steps": max(1, n_steps // 20)}
    if precision:
        train["precision"] = precision
    if lr in CHOSEN_BY:
        where = {"variant": variant, "setting": setting, "passes": passes}
        lr = float(best_recorded(plan.name, "lr", by=CHOSEN_BY[lr], **where))
    if lr is not None:
        train["lr"] = lr
    return Job(
        experiment=plan.name,
        variant=variant,
        model=changed(variant_config(variant, base), setting),
        train=TrainConfig(seed=seed, **train),
        task={"corpus": plan.corpus, **text, **swept},
        make_task=language_task,
        points=points,
    )


def changed(model: ModelConfig, setting: str) -> ModelConfig:
    """Return a model with one of ``SETTINGS``."""
    fields = dict(SETTINGS[setting])
    fields.pop("of", None)
    options = {**model.mixer_options, **fields.pop("options", {})}
    return replace(model, mixer_options=options, **fields)


def best_recorded(
    experiment: str,
    what: str,
    *,
    variant: str,
    setting: str | None = None,
    passes: float | None = None,
    among: Collection[str] | None = None,
    by: str = "validation_loss_nats",
) -> Any:
    """Return the setting with the lowest validation loss among the recorded ones of seed 0.

    Args:
        what: The axis to choose on, ``lr`` or ``setting``.
        by: Another loss to choose by: where the training cost is judged, that cost.
        setting: Where rates are chosen.
        passes: Over the text; where none or not these are recorded, the fewest that are.
        among: Settings that may be chosen; None for all.

    Raises:
        AttnlabError: There is none.
    """
    names = {"lr": "config.train.lr", "passes": "config.passes", "setting": "config.setting"}
    runs = load_runs(experiment, columns=["variant", "seed", by, *names.values()])
    runs = runs[(runs["variant"] == variant) & (runs["seed"] == 0)]
    if setting is not None:
        runs = runs[runs[names["setting"]] == setting]
    if among is not None:
        runs = runs[runs[names["setting"]].isin(among)]
    if runs.empty:
        raise AttnlabError(
            f"No {what} is recorded for {variant}, so none is the best. Run seed 0 with several "
            f"first, as in --axis {what}={','.join(TRY[what])}."
        )
    recorded = runs[names["passes"]]
    runs = runs[recorded == (passes if passes in set(recorded) else recorded.min())]
    return runs.loc[runs[by].idxmin(), names[what]]


CHOSEN_BY = {"best": "validation_loss_nats", "cheapest": "train_loss_nats"}  # words for a rate
TRY = {"lr": ("0.003", "0.01", "0.03"), "setting": ("as_usual", "start_decay_1")}


def _batches_of_a_pass(data: Dataset, sizes: Budget) -> int:
    windows = {"context_len": sizes.model["context_len"], "batch_size": sizes.train["batch_size"]}
    return WindowBatches(data.train, seed=0, **windows).n_batches


def language_task(job: Job) -> LanguageTask:
    """Return the task of a job."""
    options = {name: value for name, value in job.task.items() if name not in AXES}
    return LanguageTask(data=prepare_dataset(options.pop("corpus"), **options))


def variant_config(variant: str, base: ModelConfig) -> ModelConfig:
    """Return the model of a variant; matched ones are attention widened to the cost of SHE."""
    if variant == "attention_1_head":
        return replace(base, mixer="attention", n_heads=1)
    if not variant.startswith("attention_matched"):
        return replace(base, mixer=variant)
    measure = {
        "attention_matched_parameters": expected_language_model_weights,
        "attention_matched_compute": expected_language_model_multiplications,
    }[variant]
    aim = measure(replace(base, mixer="she"))
    widths = range(base.n_heads, 40 * base.d_model, base.n_heads)
    models = (replace(base, mixer="attention", d_model=d, d_ff=4 * d) for d in widths)
    return min(models, key=lambda model: abs(measure(model) - aim))


def _rate(word: str) -> float | str:
    return word if word in CHOSEN_BY else float(word)


def _setting(word: str) -> str:
    if word not in (known := (*SETTINGS, BEST_START)):
        raise UnknownNameError("setting", word, known, next_step="Choose one of these.")
    return word


AXES = {"lr": _rate, "passes": float, "setting": _setting, "precision": str}

register_study(
    Study(
        name="language-model",
        summary="attention, four Extractors and baselines in one language model, same batches",
        variants=tuple(VARIANTS),
        corpora=list_datasets(),
        jobs=jobs,
        axes=AXES,
    )
)
