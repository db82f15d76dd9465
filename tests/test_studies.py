"""Studies: planned, resumable, and the same numbers after any interruption."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from attnlab.corpora import load_tokenizer, train_bpe
from attnlab.errors import AttnlabError, DivergenceError, UnknownNameError
from attnlab.records import RunRecord, load_curves, load_details, load_runs, read_records
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import tales
from attnlab.studies import (
    Folders,
    Plan,
    ablation,
    export_models,
    n_grams,
    run_plan,
    unfinished_plans,
)
from attnlab.studies.mixers import VARIANTS
from attnlab.studies.study import jobs_of
from attnlab.tasks import Dataset
from attnlab.training import engine, load_model, train_steps

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys, time
from pathlib import Path
from attnlab.studies import Folders, Plan, run_plan
from attnlab.training import engine
engine.CHECKPOINT_EVERY_S = 0.0
folders = Folders(runs=Path(sys.argv[1]), work=Path(sys.argv[2]))
plan = Plan(study="language-model", variants=("she", "attention"))
for progress in run_plan(plan, folders=folders):
    print(progress.job, progress.step, flush=True)
    time.sleep(float(sys.argv[3]))
"""


MEAN = Plan(study="language-model", variants=("mean",))


@pytest.fixture
def folders(tmp_path):
    return Folders(runs=tmp_path / "runs", work=tmp_path / "work")


def run(plan, folders):
    return list(run_plan(plan, folders=folders))


def timeless(record):
    """Return what two runs of a job must share: everything but clocks and where it ran."""
    kept = ("experiment", "variant", "seed", "config", "metrics", "curve", "details")
    return {name: record[name] for name in kept}


def test_every_variant_runs_at_smoke_scale_and_is_recorded(folders):
    run(Plan(study="language-model"), folders)
    table = load_runs("language-model/smoke/tales", path=folders.runs)
    assert list(table["variant"]) == list(VARIANTS)
    assert (table["oracle_nats"] < table["test_loss_nats"]).all()
    curves = load_curves("language-model/smoke/tales", path=folders.runs)
    last = curves.groupby("variant")["tokens_seen"].max()
    assert set(last) == {8 * 8 * 8}


def test_a_job_is_run_once_whoever_asks_for_it(folders):
    first, second = (run_plan(MEAN, folders=folders) for _ in range(2))
    next(first)
    assert [p.message for p in second] == ["another process has it"]
    list(first)
    assert [p.message for p in run(MEAN, folders)] == ["recorded before"]
    assert len(list(read_records(folders.runs))) == 1
    assert unfinished_plans(folders=folders) == []


def test_the_checkpoint_of_a_recorded_job_is_deleted_if_its_process_was_killed_before(folders):
    run(MEAN, folders)
    (job,) = jobs_of(MEAN)
    left = folders.work_file(MEAN.study, f"{job.digest}.checkpoint.safetensors")
    left.write_bytes(b"")
    run(MEAN, folders)
    assert not left.exists()


@pytest.mark.skipif(sys.platform == "win32", reason="not on Windows: the test kills with a signal")
def test_a_killed_study_resumes_to_bit_equal_numbers(tmp_path, folders):
    calm = Folders(runs=tmp_path / "calm", work=tmp_path / "calm-work")
    run(Plan(study="language-model", variants=("she", "attention")), calm)
    command = [sys.executable, "-c", SCRIPT, str(folders.runs), str(folders.work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    for n_lines in (3, 4):  # die twice, at different steps
        process = subprocess.Popen(
            [*command, "0.2"], stdout=subprocess.PIPE, text=True, env=environment
        )
        for _ in range(n_lines):
            process.stdout.readline()
        time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    assert list(folders.work.glob("language-model/*.checkpoint.safetensors"))
    assert len(unfinished_plans(folders=folders)) == 1

    done = subprocess.run(
        [*command, "0"], capture_output=True, text=True, env=environment, check=True
    )
    steps = [int(line.rsplit(" ", 1)[1]) for line in done.stdout.splitlines()]
    assert steps[0] > 1, "the third process went on from a checkpoint, not from the start"
    killed, undisturbed = (list(read_records(f.runs)) for f in (folders, calm))
    assert [timeless(r) for r in killed] == [timeless(r) for r in undisturbed]
    assert unfinished_plans(folders=folders) == []
    assert not list(folders.work.glob("language-model/*.checkpoint.safetensors"))


def test_trained_models_are_exported_with_what_they_are(folders, tmp_path):
    plan = Plan(study="language-model", corpus="python_reference", variants=("he",))
    with pytest.raises(AttnlabError, match="has no trained model here"):
        list(export_models(plan, to=tmp_path / "models", folders=folders))
    run(plan, folders)
    tokenizer, path = export_models(plan, to=tmp_path / "models", folders=folders)
    model, facts = load_model(path)
    assert model.config.mixer == "he"
    assert model.config.vocab_size == load_tokenizer(tokenizer).vocab_size
    assert facts["experiment"] == plan.name
    train_bpe(["another text"], vocab_size=260).save(tokenizer)
    with pytest.raises(AttnlabError, match="models of another tokenizer"):
        list(export_models(plan, to=tmp_path / "models", folders=folders))


def test_a_plan_is_remembered_exactly_while_it_is_unfinished(folders):
    begun = Plan(study="language-model", variants=("identity",), seeds=(2,))
    run(replace(MEAN, seeds=(0, 1)), folders)
    next(run_plan(begun, folders=folders))
    for impossible in (replace(MEAN, variants=("x",)), Plan(study="n-grams", corpus="x")):
        with pytest.raises(UnknownNameError):
            run(impossible, folders)
    assert unfinished_plans(folders=folders) == [begun]


def test_a_job_that_diverges_does_not_stop_the_others(folders, monkeypatch):
    def steps(model, batches, *, config, **rest):
        if model.config.mixer == "she":
            raise DivergenceError("loss nan")
        return train_steps(model, batches, config=config, **rest)

    monkeypatch.setattr(engine, "train_steps", steps)
    with pytest.raises(AttnlabError, match=r"1 of 2 jobs diverged.*she seed 0: loss nan"):
        run(Plan(study="language-model", variants=("she", "mean")), folders)
    assert [r["variant"] for r in read_records(folders.runs)] == ["mean"]


def test_a_process_that_dies_while_recording_keeps_its_checkpoint(folders, monkeypatch):
    def full(self, path):
        raise OSError("the disk is full")

    monkeypatch.setattr(engine, "CHECKPOINT_EVERY_S", 0.0)
    monkeypatch.setattr(RunRecord, "append_to", full)
    with pytest.raises(OSError, match="full"):
        run(MEAN, folders)
    monkeypatch.undo()
    assert list(folders.work.glob("language-model/*.checkpoint.safetensors"))
    again = run(MEAN, folders)
    assert len(list(read_records(folders.runs))) == 1
    assert not [p for p in again if p.step not in (0, p.n_steps)], "nothing was trained again"


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"study": "langage-model"}, "Did you mean 'language-model'"),
        ({"variants": ("shee",)}, "Did you mean 'she'"),
        ({"corpus": "child"}, "data set is called 'child'"),
        ({"scale": "huge"}, "classroom minutes"),
        ({"seeds": ()}, "at least one seed"),
        ({"seeds": (-1,)}, "at least one seed"),
    ],
)
def test_a_plan_that_cannot_be_is_answered_with_what_could(plan, words, folders):
    with pytest.raises(AttnlabError, match=words):
        run(replace(MEAN, **plan), folders)


# Study n-grams


def test_the_order_of_an_n_gram_is_chosen_on_validation_and_scored_on_test(folders, monkeypatch):
    alternating, others = np.arange(60) % 2, np.array([1, 1, 0, 0] * 10)
    data = Dataset(
        name="toy", vocab_size=2, train=(alternating,), validation=(alternating,), test=(others,)
    )
    monkeypatch.setattr(n_grams, "prepare_dataset", lambda *_, **__: data)
    run(Plan(study="n-grams"), folders)
    table = load_details("n-grams/smoke/tales", "orders", path=folders.runs).set_index("order")
    assert list(table.index) == list(n_grams.ORDERS)
    row = load_runs("n-grams/smoke/tales", path=folders.runs).iloc[0]
    assert table["test_loss_nats"].idxmin() == 1 < row["best_order"]
    assert row["test_loss_nats"] == table["test_loss_nats"][row["best_order"]]
    assert (table["train_floor_nats"].diff().dropna() <= 0).all()


# Study extractor-ablation: each variant differs from SHE in the one thing its name says


@pytest.fixture(scope="module")
def ablated():
    """Return the mixer of every variant, untrained."""
    jobs = ablation.jobs(Plan(study="extractor-ablation"))
    assert len({job.digest for job in jobs}) == len(ablation.VARIANTS)
    mixers = {}
    for job in jobs:
        generator = torch_generator(job.train.seed, "init")
        model = ablation.ablation_task(job).build(job.model, generator=generator)
        mixers[job.variant] = model.blocks[0].mixer
    return mixers


def test_a_variant_says_what_it_takes_away(ablated):
    assert ablated["she/extraction_only"].gate == "none"
    assert ablated["she/adjustment_only"].lag_weight.shape[0] == 1
    assert ablated["she/no_output_map"].out is None
    assert ablated["she/absolute"].index == "absolute"
    assert ablated["she/rsqrt_t"].scale == ablated["she/rsqrt_t_large_start"].scale == "rsqrt_t"


def test_the_factor_is_compared_at_the_same_start(ablated):
    size = {name: float(ablated[name].lag_weight.detach().std()) for name in ablated
            if name.startswith("she")}  # fmt: skip
    assert size["she/rsqrt_t"] == pytest.approx(size["she"], rel=0.05)
    root = ablation.SIZES["context_len"] ** 0.5
    assert size["she/rsqrt_t_large_start"] == pytest.approx(root * size["she"], rel=0.05)


def test_an_ablation_is_recorded_with_its_losses_by_position(folders):
    run(Plan(study="extractor-ablation", variants=("she/adjustment_only",), seeds=(3,)), folders)
    row = load_runs("extractor-ablation/smoke/tales", path=folders.runs).iloc[0]
    windows, oracle_nats = ablation.held_out_windows()
    assert row["oracle_nats"] == oracle_nats < row["test_loss_nats"]
    unseen = tales("small").sample(windows.size, generator=numpy_generator(0, "test"))
    assert np.array_equal(unseen, windows.flatten())  # the stream "data" is what is learnt
    places = load_details("extractor-ablation/smoke/tales", "by_position", path=folders.runs)
    assert len(places) == windows.shape[1] - 1 == ablation.SIZES["context_len"]
    assert places["loss_nats"].mean() == pytest.approx(row["test_loss_nats"])
