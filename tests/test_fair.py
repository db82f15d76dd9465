"""Fair ground: sweeps by axis, the choice on validation, and verdicts by ground."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from attnlab.analysis.compare import FAILS, HOLDS
from attnlab.cli import main
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.records import RunRecord, read_records
from attnlab.seeding import seeded, torch_generator
from attnlab.studies import Folders, Plan, fair, get_study, run_plan
from attnlab.studies import mixers as study
from attnlab.tasks import language
from attnlab.training import products

PLAN = Plan(study="language-model", corpus="python_reference", variants=("she", "attention"))
MADE = {  # made losses: variant: by rate, training cost and validation
    "attention": {1e-2: (3.0, 3.1), 3e-2: (3.2, 3.3)},
    "attention_1_head": {1e-2: (3.2, 3.3), 3e-2: (3.1, 3.2)},
    "she": {1e-2: (2.8, 3.4), 3e-2: (2.5, 3.5)},
    "he": {1e-2: (2.9, 3.0), 3e-2: (2.95, 2.9)},
    "me": {1e-2: (3.4, 3.5), 3e-2: (3.12, 3.22)},
}


def swept(passes=(1.0,), setting="as_usual", shift=0.0, seeds=(0, 1, 2)):
    rows = [
        {"variant": name, "seed": seed, "passes": p, "setting": setting, "lr": lr,
         "train_loss_nats": cost + shift + 0.001 * seed, "validation_loss_nats": held + shift,
         "test_loss_nats": held + shift + 0.002 * seed}
        for name, rates in MADE.items() for lr, (cost, held) in rates.items()
        for p in passes for seed in seeds
    ]  # fmt: skip
    return pd.DataFrame(rows)


def recorded(table, folder, experiment=fair.SWEPT):
    for row in table.to_dict("records"):
        RunRecord(
            experiment=experiment, variant=row["variant"], seed=row["seed"],
            config={"job": "x", "passes": row["passes"], "setting": row["setting"],
                    "train": {"lr": row["lr"], "precision": row.get("precision", "fp32")}},
            metrics={n: row[n] for n in row if n.endswith("_nats")}, curve={}, details={},
            seconds=1.0, environment={},
        ).append_to(folder / "language-model.jsonl")  # fmt: skip
    return folder


@pytest.fixture
def made(tmp_path):
    for experiment in fair.ONE_RATE:
        recorded(swept(seeds=(0, 1)), tmp_path, experiment)
    better = swept(setting="start_decay_1", shift=-0.5).query("variant == 'he'")
    return recorded(pd.concat([swept((1.0, 40.0)), better]), tmp_path)


def test_a_sweep_makes_a_job_of_every_point_and_names_itself():
    axes = {"lr": (1e-3, 1e-2), "passes": (1.0, 4.0), "setting": ("as_usual", "absolute")}
    jobs = get_study("language-model").jobs(replace(PLAN, axes=axes, seeds=(0, 1)))
    assert len({job.digest for job in jobs}) == len(jobs) == 2 * 2 * 2 * (2 + 1)  # no absolute attn
    assert {job.experiment for job in jobs} == {"language-model/smoke/python_reference/swept"}
    assert [job.train.seed for job in jobs] == sorted(job.train.seed for job in jobs)
    absolute = next(job for job in jobs if job.task["setting"] == "absolute")
    assert absolute.variant == "she"
    assert absolute.model.mixer_options == {"index": "absolute"}
    plain = get_study("language-model").jobs(PLAN)[0]
    assert "passes" not in plain.task
    assert plain.experiment == PLAN.name


def test_more_passes_are_the_same_steps_over_less_text():
    once, often = (
        get_study("language-model").jobs(replace(PLAN, axes={"passes": (n,)}))[0]
        for n in (1.0, 4.0)
    )
    assert once.train.n_steps == often.train.n_steps
    n_read = often.train.n_steps * often.train.batch_size * often.model.context_len
    task = often.make_task(often)
    assert task.facts["train"] == pytest.approx(n_read / 4, abs=len(task.data.train))
    assert once.make_task(once).facts["train"] > n_read
    for split in ("validation", "test"):
        whole, cut = (getattr(job.make_task(job).data, split) for job in (once, often))
        assert all(np.array_equal(a, b) for a, b in zip(whole, cut, strict=True))


def test_a_cut_takes_the_same_share_of_every_document_from_its_middle():
    documents = tuple(np.arange(start, start + n) for start, n in ((0, 4000), (9000, 8000)))
    parts = {"validation": (), "test": (), "facts": {"train": 12_000}}
    data = language.Dataset(name="two", vocab_size=9, train=documents, **parts)
    cut = language._cut(data, 3000)
    assert [len(d) for d in cut.train] == [1000, 2000]
    assert [int(d[0]) for d in cut.train] == [1500, 12_000]
    assert cut.facts["train"] == 3000
    assert len(language._cut(data, 600).train) == 1  # no crumbs
    assert sum(map(len, language._cut(data, 10**9).train)) == 12_000


def test_the_best_rate_and_start_are_chosen_on_validation_of_seed_0(made, monkeypatch):
    monkeypatch.setattr(study, "load_runs", lambda *a, **k: fair.load_runs(*a, path=made, **k))
    ask = {"passes": 1.0, "setting": "as_usual"}
    assert study.best_recorded(fair.SWEPT, "lr", variant="she", **ask) == 1e-2  # not the cheapest
    assert study.best_recorded(fair.SWEPT, "lr", variant="me", **ask) == 3e-2
    starts = {"variant": "he", "among": study.STARTS}
    assert study.best_recorded(fair.SWEPT, "setting", **starts) == "start_decay_1"
    assert study.best_recorded(fair.SWEPT, "lr", variant="she", by="train_loss_nats", **ask) == 3e-2
    few = {"variant": "me", "setting": "as_usual", "passes": 4.0}  # not recorded: the fewest are
    assert study.best_recorded(fair.SWEPT, "lr", **few) == 3e-2
    with pytest.raises(AttnlabError, match=r"--axis lr=0\.003"):
        study.best_recorded(fair.SWEPT, "lr", variant="we", **ask)
    better = swept(setting="start_decay_1", shift=-0.5)
    recorded(pd.concat([swept(), better]), made, f"{PLAN.name}/swept")
    axes = {"passes": (1.0,), "lr": ("best",), "setting": (study.BEST_START,)}
    job = get_study("language-model").jobs(replace(PLAN, variants=("he",), axes=axes))[0]
    assert (job.task["setting"], job.train.lr) == ("start_decay_1", 3e-2)
    assert job.model.mixer_options == {"start_decay": 1}
    plan = replace(PLAN, variants=("she",), axes={"passes": (1.0,), "lr": ("best", "cheapest")})
    assert [job.train.lr for job in get_study("language-model").jobs(plan)] == [1e-2, 3e-2]


def test_verdicts_by_ground(made):
    judged = fair.ground_verdicts(path=made).set_index(["ground", "quantity", "variant"])
    judged = judged.sort_index()
    ground = "books, best rates, 40 passes"
    assert judged.loc[(ground, "training cost", "she"), "verdict"] == HOLDS
    assert judged.loc[(ground, "held-out loss", "she"), "verdict"] == FAILS
    assert judged.loc[(ground, "held-out loss", "me"), "verdict"] == HOLDS  # 3.22 against 3.2
    assert set(judged.loc["tales, one rate for all", "verdict"]) == {"two runs"}
    assert "we" not in judged.index.get_level_values("variant")


def test_a_better_start_counts_for_its_variant_alone(made):
    runs = fair.swept_runs(path=made)
    assert fair.chosen_starts(runs)["he"] == "start_decay_1"
    assert fair.chosen_starts(runs)[fair.SIZE] == fair.chosen_starts(runs)["attention"]
    once = fair.at_best_rate(fair.with_chosen_starts(runs), "test_loss_nats")
    once = once.query("passes == 1 and seed == 0")
    assert once.set_index("variant")["test_loss_nats"].to_dict() == pytest.approx(
        {"attention": 3.1, "attention_1_head": 3.2, "she": 3.4, "he": 2.4, "me": 3.22}
    )
    table = fair.sensitivity(path=made).query("quantity == 'held-out loss'")
    he = table[table["variant"] == "he"].set_index("setting")["mean"]
    assert he.to_dict() == pytest.approx({"as_usual": -0.1, "start_decay_1": -0.6})


def test_a_control_in_another_precision_replaces_no_run(made):
    before = fair.swept_runs(path=made)
    control = swept(seeds=(0,), shift=-9.0).query("variant == 'she'").assign(precision="bf16")
    recorded(control, made)
    pd.testing.assert_frame_equal(fair.swept_runs(path=made), before)


def test_what_is_judged_is_not_what_chooses():
    table = swept((1.0, 40.0))
    slow = table["lr"] == 1e-2
    told = table.assign(test_loss_nats=table["test_loss_nats"].where(slow, 0.0))  # the other shines
    for metric, lr in (("test_loss_nats", 1e-2), ("train_loss_nats", 3e-2)):
        assert set(fair.at_best_rate(told, metric).query("variant == 'she'")["lr"]) == {lr}
    often = swept((40.0,), setting="start_decay_2", shift=-1.0)  # better after many passes alone
    once = swept((1.0,), setting="start_decay_2", shift=+1.0)
    shines = once.assign(test_loss_nats=0.0)
    runs = pd.concat([table, often, shines], ignore_index=True)
    assert set(fair.chosen_starts(runs).values()) == {"as_usual"}
    own = fair.at_own_rate(told[told["passes"] == 1].assign(corpus="children"))
    assert set(own.query("variant == 'she'")["lr"]) == {1e-2}


def test_winners_and_differences_point_by_point():
    runs = swept()
    won = fair.winners(runs, "train_loss_nats", among=tuple(MADE))
    assert won[1.0].to_dict() == {1e-2: "she", 3e-2: "she"}
    assert fair.winners(runs, "train_loss_nats", among=("she", "we")).empty
    gone = ~((runs["lr"] == 3e-2) & (runs["variant"] == "he"))
    assert list(fair.winners(runs[gone], "train_loss_nats", among=tuple(MADE)).index) == [1e-2]
    gap = fair.differences(runs, "she", "attention", "test_loss_nats")
    np.testing.assert_allclose(gap[1.0], [0.3, 0.2])
    own = runs["variant"].map({"she": (0, 1), "attention": (1, 2)})
    paired = [s in kept if isinstance(kept, tuple) else False
              for s, kept in zip(runs["seed"], own, strict=True)]  # fmt: skip
    lone = runs[paired].assign(test_loss_nats=runs["test_loss_nats"] + runs["seed"].eq(2) * 9.0)
    gap = fair.differences(lone, "she", "attention", "test_loss_nats")
    np.testing.assert_allclose(gap[1.0], [0.3, 0.2])
    with pytest.raises(AttnlabError, match="both we and attention"):
        fair.differences(runs, "we", "attention", "test_loss_nats")


def test_axes_on_the_command_line(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr("attnlab.studies.Folders", lambda device: Folders(
        runs=tmp_path / "runs", work=tmp_path / "work"))  # fmt: skip
    words = ["study", "run", "language-model", "--variants", "mean", "--threads", "1", "--axis"]
    assert main([*words, "lr=0.001,0.01"]) == 0
    lrs = [record["config"]["train"]["lr"] for record in read_records(tmp_path / "runs")]
    assert lrs == [0.001, 0.01]
    assert main([*words, "lr=fast"]) == 2
    assert "'fast' is not a list of numbers, as 0.003,0.01 is, for 'lr'" in capsys.readouterr().err
    for wrong in ("colour=1", "setting=upside_down"):
        assert main([*words, wrong]) == 1
    with pytest.raises(UnknownNameError):
        list(run_plan(replace(PLAN, axes={"colour": (1,)})))
    begun = [json.loads(f.read_text()) for f in Path(tmp_path).glob("work/*/plan-*.json")]
    assert any(each["axes"] == {"lr": [0.001, 0.01]} for each in begun)


@pytest.mark.parametrize("name", ["she", "he", "we", "me"])
def test_a_start_that_decays_keeps_the_size_of_the_sum(name):
    sizes = {"d_model": 32, "context_len": 64}
    with seeded(torch_generator(0, "init")):
        even = build_mixer(name, **sizes)
    with seeded(torch_generator(0, "init")):
        falling = build_mixer(name, start_decay=1.0, **sizes)
    share = (falling.lag_weight / even.lag_weight).flatten(1).detach()
    torch.testing.assert_close(share[:, 0] / share[0, 0], 1 / torch.arange(1.0, 65))
    assert float(share[:, 0].square().mean()) == pytest.approx(1.0)
    torch.testing.assert_close(share, share[:, :1].expand_as(share))
    others = [(a, b) for a, b in zip(even.parameters(), falling.parameters(), strict=True)]
    assert all(torch.equal(a, b) for a, b in others if a.shape != even.lag_weight.shape)


def test_attention_may_start_more_even():
    built = []
    for options in ({}, {"start_scale": 0.5}):
        with seeded(torch_generator(0, "init")):
            built.append(build_mixer("attention", d_model=8, context_len=4, **options))
    usual, even = built
    assert torch.equal(even.query.weight, usual.query.weight / 2)
    assert torch.equal(even.key.weight, usual.key.weight / 2)
    assert torch.equal(even.value.weight, usual.value.weight)


def test_products_by_another_route_are_as_exact_and_leave_no_trace():
    before = products._ROUTE.fp32_precision
    q, k, v = (torch.randn(2, 3, 9, 8, requires_grad=True) for _ in range(3))
    attend = torch.nn.functional.scaled_dot_product_attention
    found = []
    for context in (products.onednn_products(), products._route(before)):
        with context:
            out = attend(q, k, v, is_causal=True) @ torch.ones(8, 8)
            found.append([out, *torch.autograd.grad(out.square().sum(), (q, k, v))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    with pytest.raises(ZeroDivisionError), products.onednn_products():
        raise ZeroDivisionError
    assert products._ROUTE.fp32_precision == before


def test_where_the_route_is_not_exact_it_is_not_taken(monkeypatch):
    before = products._ROUTE.fp32_precision
    monkeypatch.setattr(products, "_is_exact", lambda: False)
    with products.onednn_products():
        assert products._ROUTE.fp32_precision == before
