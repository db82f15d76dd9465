"""The ablation study: each variant differs from SHE in the one thing its name says."""

import pytest
import torch

from attnlab.seeding import torch_generator
from attnlab.studies import Folders, Plan, get_study, run_plan
from attnlab.studies.ablation import (
    SIZES,
    VARIANTS,
    ablation_task,
    held_out_windows,
    jobs,
)

PLAN = Plan(study="extractor-ablation", scale="smoke", seeds=(0,))
JOBS = {job.variant: job for job in jobs(PLAN)}


def build_ablated(job):
    return ablation_task(job).build(job.model, generator=torch_generator(job.train.seed, "init"))


def test_every_variant_has_a_job_and_a_digest_of_its_own():
    assert set(JOBS) == set(VARIANTS)
    assert len({job.digest for job in JOBS.values()}) == len(VARIANTS)


def test_a_variant_says_what_it_takes_away():
    mixers = {name: build_ablated(job).blocks[0].mixer for name, job in JOBS.items()}
    assert mixers["she/extraction_only"].gate == "none"
    assert mixers["she/adjustment_only"].lag_weight.shape[0] == 1
    assert mixers["she/no_output_map"].out is None
    assert mixers["she/absolute"].index == "absolute"
    assert mixers["she/rsqrt_t"].scale == mixers["she/rsqrt_t_large_start"].scale == "rsqrt_t"


def test_the_factor_is_compared_at_the_same_start():
    size = {
        name: float(build_ablated(JOBS[name]).blocks[0].mixer.lag_weight.detach().std())
        for name in ("she", "she/rsqrt_t", "she/rsqrt_t_large_start")
    }
    assert size["she/rsqrt_t"] == pytest.approx(size["she"], rel=0.05)
    root = SIZES["context_len"] ** 0.5
    assert size["she/rsqrt_t_large_start"] == pytest.approx(root * size["she"], rel=0.05)


def test_initial_weights_depend_on_the_seed_alone():
    first, again = (build_ablated(JOBS["she/adjustment_only"]) for _ in range(2))
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_run_leaves_a_record_with_losses_by_position(tmp_path):
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    plan = Plan(study=PLAN.study, scale="smoke", variants=("she/adjustment_only",), seeds=(3,))
    reports = list(run_plan(plan, folders=folders))
    assert reports[-1].step == reports[-1].n_steps
    from attnlab.records import load_details, load_runs

    path = folders.run_file(PLAN.study)
    row = load_runs("extractor-ablation/smoke/tales", path=path).iloc[0]
    assert row["oracle_nats"] == held_out_windows()[1] < row["test_loss_nats"]
    by_position = load_details("extractor-ablation/smoke/tales", "by_position", path=path)
    assert len(by_position) == SIZES["context_len"]
    assert by_position["loss_nats"].mean() == pytest.approx(row["test_loss_nats"])


def test_the_study_is_listed():
    assert get_study("extractor-ablation").corpora == ("tales",)
