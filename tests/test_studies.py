"""Studies: planned, resumable, and the same numbers after any interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import load_curves, load_runs, read_records
from attnlab.studies import Folders, Plan, list_studies, run_plan, unfinished_plans
from attnlab.studies.core import export_models
from attnlab.studies.language_model import VARIANTS, curve_steps
from attnlab.training import load_model

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys, time
from pathlib import Path
from attnlab.studies import Folders, Plan, language_model, run_plan
language_model.CHECKPOINT_EVERY_S = 0.0
folders = Folders(runs=Path(sys.argv[1]), work=Path(sys.argv[2]))
plan = Plan(study="language-model", variants=("she", "attention"))
for progress in run_plan(plan, folders=folders):
    print(progress.job, progress.step, flush=True)
    time.sleep(float(sys.argv[3]))
"""


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
    progress = run(Plan(study="language-model"), folders)
    assert {p.message for p in progress if p.step == p.n_steps} != {"recorded before"}
    table = load_runs("language-model/smoke/tales", path=folders.runs)
    assert list(table["variant"]) == list(VARIANTS)
    assert (table["oracle_nats"] < table["test_loss_nats"]).all()
    assert (
        table["test_gap_nats"].sub(table["test_loss_nats"] - table["oracle_nats"]).abs().max() == 0
    )
    curves = load_curves("language-model/smoke/tales", path=folders.runs)
    last = curves.groupby("variant")["tokens_seen"].max()
    assert set(last) == {8 * 8 * 8}


def test_finished_jobs_are_not_run_again(folders):
    plan = Plan(study="language-model", variants=("mean",))
    run(plan, folders)
    again = run(plan, folders)
    assert [p.message for p in again] == ["recorded before"]
    assert len(list(read_records(folders.runs))) == 1
    assert unfinished_plans(folders=folders) == []


def test_another_process_holding_a_job_is_left_alone(folders):
    first, second = (
        run_plan(Plan(study="language-model", variants=("mean",)), folders=folders)
        for _ in range(2)
    )
    next(first)
    assert [p.message for p in second] == ["another process has it"]
    list(first)
    assert len(list(read_records(folders.runs))) == 1


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
    plan = Plan(study="language-model", variants=("he",))
    with pytest.raises(AttnlabError, match="has no trained model here"):
        list(export_models(plan, to=tmp_path / "models", folders=folders))
    run(plan, folders)
    (path,) = export_models(plan, to=tmp_path / "models", folders=folders)
    model, facts = load_model(path)
    assert model.config.mixer == "he"
    assert facts["experiment"] == "language-model/smoke/tales"


def test_a_plan_asked_for_in_parts_is_remembered_whole(folders):
    for seed in (0, 1):
        next(
            run_plan(
                Plan(study="language-model", variants=("mean",), seeds=(seed,)), folders=folders
            )
        )
    (plan,) = unfinished_plans(folders=folders)
    assert plan.seeds == (0, 1)
    assert plan.variants == ("mean",)
    file = next(folders.work.glob("*/plan-*.json"))
    assert json.loads(file.read_text())["study"] == "language-model"


@pytest.mark.parametrize("n_steps", [1, 2, 8, 930])
def test_a_curve_ends_with_the_last_step(n_steps):
    assert max(curve_steps(n_steps)) == n_steps
    assert min(curve_steps(n_steps)) == 1


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ({"study": "langage-model"}, "Did you mean 'language-model'"),
        ({"study": "language-model", "variants": ("shee",)}, "Did you mean 'she'"),
        ({"study": "language-model", "corpus": "child"}, "data set is called 'child'"),
    ],
)
def test_unknown_names_are_answered_with_the_nearest(plan, words, folders):
    with pytest.raises(UnknownNameError, match=words):
        run(Plan(**plan), folders)


def test_unknown_scales_and_missing_seeds_are_explained():
    with pytest.raises(UnknownNameError, match="classroom minutes"):
        Plan(study="language-model", scale="huge")
    with pytest.raises(AttnlabError, match="at least one seed"):
        Plan(study="language-model", seeds=())


def test_every_study_says_what_it_is():
    for study in list_studies():
        assert study.summary
        assert study.variants
