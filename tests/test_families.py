"""Study ``mixers``: every mixer at equal weights or equal work, at the best of three rates."""

import pandas as pd
import pytest

from attnlab.analysis import theory
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import list_mixers
from attnlab.models import LanguageModel
from attnlab.records import load_runs
from attnlab.studies import Folders, Plan, families, run_plan
from attnlab.studies.study import jobs_of

SIZES = {scale: budget for (scale, corpus), budget in families.BUDGETS.items() if corpus is None}


@pytest.mark.parametrize("vocab_size", [8, 64, 500])
@pytest.mark.parametrize("name", list_mixers())
def test_matched_models_cost_what_attention_costs_within_three_percent(name, vocab_size):
    for scale in ("classroom", "paper"):
        base = ModelConfig(vocab_size=vocab_size, **SIZES[scale].model)
        teacher = LanguageModel(base)
        wanted = sum(p.numel() for p in teacher.parameters())
        model = LanguageModel(families.matched(name, base))
        assert sum(p.numel() for p in model.parameters()) == pytest.approx(wanted, rel=0.03)
        wanted = theory.expected_language_model_multiplications(base)
        model = families.matched(name, base, match="work")
        found = theory.expected_language_model_multiplications(model)
        assert found == pytest.approx(wanted, rel=0.03)


def test_a_width_changes_only_where_the_channel_mixer_cannot_pay():
    base = ModelConfig(vocab_size=64, **SIZES["classroom"].model)
    assert families.matched("attention", base) == base
    assert families.matched("he", base).d_model == base.d_model
    assert families.matched("she", base).d_model < base.d_model


def test_a_model_that_no_width_pays_for_is_refused():
    base = ModelConfig(vocab_size=8, context_len=4096, d_model=4, n_layers=1, n_heads=1)
    with pytest.raises(AttnlabError, match=r"No model with 'she' has .* of weights within 3%"):
        families.matched("she", base)


@pytest.mark.parametrize("corpus", ["tales", "recall", "in_context"])
def test_a_few_mixers_run_on_every_kind_of_data_at_smoke_scale(corpus, tmp_path):
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    plan = Plan(study="mixers", corpus=corpus, variants=("identity", "attention", "she"))
    list(run_plan(plan, folders=folders))
    runs = load_runs(plan.name, path=folders.runs)
    assert list(runs["variant"]) == list(plan.variants)
    assert set(runs["config.match"]) == {"weights"}
    assert (runs["validation_loss_nats"] > 0).all()
    assert (runs["test_loss_nats"] > runs["oracle_nats"]).all()


@pytest.mark.parametrize("scale", ["smoke", "classroom", "paper"])
def test_every_model_begins_with_a_short_convolution_in_recall_and_nowhere_else(scale):
    for corpus in ("recall", "fuzzy", "in_context"):
        plan = Plan(study="mixers", scale=scale, corpus=corpus, variants=("mean",))
        widths = {job.model.short_conv for job in jobs_of(plan)}
        assert widths == {0 if corpus == "in_context" else 3}


def test_seed_zero_tries_three_rates_and_further_seeds_take_the_best_on_validation(monkeypatch):
    plan = Plan(study="mixers", scale="classroom", variants=("mean", "he"))
    tried = [(job.variant, job.train.lr) for job in jobs_of(plan)]
    assert tried == [(name, lr) for name in ("mean", "he") for lr in (0.003, 0.01, 0.03)]
    recorded = pd.DataFrame(
        {
            "variant": ["mean"] * 4 + ["he"] * 3,
            "seed": [0, 0, 0, 1, 0, 0, 0],
            "config.train.lr": [0.003, 0.01, 0.03, 0.003, 0.003, 0.01, 0.03],
            "validation_loss_nats": [3.0, 2.0, 2.5, 1.0, 1.5, 1.6, float("nan")],
            "config.match": "weights",
        }
    )
    monkeypatch.setattr(families, "load_runs", lambda *_, **__: recorded)
    again = Plan(study="mixers", scale="classroom", variants=("mean", "he"), seeds=(1, 2))
    chosen = [(job.variant, job.train.seed, job.train.lr) for job in jobs_of(again)]
    assert chosen == [("mean", 1, 0.01), ("he", 1, 0.003), ("mean", 2, 0.01), ("he", 2, 0.003)]
    recorded["config.match"] = "work"
    with pytest.raises(AttnlabError, match=r"lacks for 'mean'\. Run it first: .* --seeds 0"):
        jobs_of(again)


def test_a_match_that_there_is_not_is_answered_with_those_there_are():
    with pytest.raises(UnknownNameError, match="'wieghts'"):
        families.get_match("wieghts")
