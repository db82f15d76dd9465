"""Beyond one process: two that train one model, and two that share the jobs of a study."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from attnlab.cli import main
from attnlab.errors import AttnlabError
from attnlab.records import read_records
from attnlab.studies import Folders, Plan, run_plan, run_sweep
from attnlab.training import load_model
from attnlab.training.parallel import add_up, own_part

ROOT = Path(__file__).parents[1]
TRAIN = "train --mixer she --steps 6 --batch-size 3 --context-len 16 --d-model 16 --layers 1"
PLANS = (
    Plan(study="language-model", variants=("attention",)),
    Plan(study="attentionless", corpus="toy", variants=("teacher", "cross/low_rank/l/tuned")),
)

SCRIPT = f"""
import atexit, os, sys, time
from itertools import islice
from pathlib import Path
from attnlab.cli import main
from attnlab.studies import Folders, Plan, run_plan
from attnlab.training import engine, parallel

def require_no_thread_of_the_group():
    for _ in range(100):
        names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
        if not any("gloo" in name for name in names):
            return
        time.sleep(0.05)
    print("threads of the group outlive it:", names, file=sys.stderr, flush=True)
    os._exit(1)

atexit.register(require_no_thread_of_the_group)  # called last, after the group was left
here = Path(sys.argv[1])
assert main("{TRAIN} --out".split() + [str(here / "out")]) == 0
assert parallel.n_processes() == 2
engine.CHECKPOINT_EVERY_S = 0.0
folders = Folders(runs=here / "runs", work=here / "work")
for plan in {PLANS!r}:
    begun = run_plan(plan, folders=folders)
    list(islice(begun, 3))
    begun.close()
    parallel.agree("both have stopped")
    steps = [progress.step for progress in run_plan(plan, folders=folders)]
    assert steps[0] > 1, "they went on from the checkpoint"
assert {{p.message for p in run_plan(plan, folders=folders)}} == {{"recorded before"}}
"""


def together(script, *arguments, n=2):
    """Run a script in processes that torchrun starts; return what they print."""
    how = ["--standalone", "--nproc-per-node", str(n)]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *how, script, *map(str, arguments)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_alike(found, expected):
    """Compare records of one job but for clocks and the machine, numbers within 1e-4."""
    for name in ("experiment", "variant", "seed", "config"):
        assert found[name] == expected[name]
    assert found["metrics"] == pytest.approx(expected["metrics"], rel=1e-4, abs=1e-4)
    assert found["curve"].keys() == expected["curve"].keys()
    for name, column in expected["curve"].items():
        assert found["curve"][name] == pytest.approx(column, rel=1e-4, abs=1e-4)


@pytest.fixture
def alone(tmp_path):
    """Return the records of the plans, done by this process."""
    folders = Folders(runs=tmp_path / "alone", work=tmp_path / "alone-work")
    for plan in PLANS:
        list(run_plan(plan, folders=folders))
    return [record for plan in PLANS for record in read_records(folders.run_file(plan.study))]


# Data parallel: all processes train one model


def test_two_processes_train_what_one_does(tmp_path, alone, capsys):
    (tmp_path / "script.py").write_text(SCRIPT)
    printed = together(tmp_path / "script.py", tmp_path / "two")
    assert main([*TRAIN.split(), "--out", str(tmp_path / "one")]) == 0
    assert printed.count("Held-out loss") == 1
    assert printed.replace(str(tmp_path / "two" / "out"), str(tmp_path / "one")) in (
        capsys.readouterr().out
    )
    models = [load_model(tmp_path / name / "model.safetensors")[0] for name in ("one", "two/out")]
    for one, two in zip(*(model.parameters() for model in models), strict=True):
        torch.testing.assert_close(two, one, rtol=0, atol=1e-4)
    runs = tmp_path / "two" / "runs"
    found = [r for plan in PLANS for r in read_records(runs / f"{plan.study}.jsonl")]
    assert len(found) == len(alone) == 3
    for record, expected in zip(found, alone, strict=True):
        assert record["environment"]["processes"] == "2"
        assert_alike(record, expected)


def test_rows_are_shared_out_and_lessons_are_read_whole(monkeypatch):
    from attnlab.training import parallel

    rows, seen = torch.arange(10).view(5, 2), []
    monkeypatch.setattr(parallel, "n_processes", lambda: 3)
    for rank in range(3):
        monkeypatch.setattr(parallel, "rank", lambda rank=rank: rank)
        inputs, targets, n = own_part(rows, rows, torch.Tensor.numel)
        assert torch.equal(inputs, targets)
        assert n == inputs.numel()
        seen += inputs.tolist()
        assert own_part((rows,), rows, len) == ((rows,), rows, pytest.approx(5 / 3))
    assert sorted(seen) == rows.tolist()
    monkeypatch.setattr(parallel, "rank", lambda: 1)
    assert own_part(rows[:1], rows[:1], torch.Tensor.numel)[2] == 0  # fewer rows than processes


def test_gradients_are_added_and_an_unused_weight_stays_unused(monkeypatch):
    from attnlab.training import parallel

    used, idle, frozen = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    used.grad, frozen.requires_grad = torch.tensor([1.0, 2.0]), False
    monkeypatch.setattr(parallel, "n_processes", lambda: 2)
    monkeypatch.setattr(parallel.dist, "all_reduce", lambda whole: whole.mul_(2))
    assert add_up([used, idle, frozen], 1.5) == 3.0
    assert used.grad.tolist() == [2.0, 4.0]
    assert idle.grad is frozen.grad is None


def test_processes_that_see_different_checkpoints_are_told_so(monkeypatch, tmp_path):
    from attnlab.training import engine

    monkeypatch.setattr(engine, "agree", lambda step: step + 7)
    folders = Folders(runs=tmp_path, work=tmp_path)
    with pytest.raises(AttnlabError, match=r"after step 0, .* different checkpoints"):
        list(run_plan(PLANS[0], folders=folders))


# A sweep: each process trains a model of its own


SWEPT = Plan(study="language-model", variants=("attention", "mean"), seeds=(0, 1))


@pytest.fixture
def dask():
    return pytest.importorskip("distributed", reason="no Dask")


def test_a_sweep_over_two_processes_records_what_one_does_bit_by_bit(dask, tmp_path):
    one, two = (Folders(runs=tmp_path / n, work=tmp_path / f"{n}-work") for n in ("one", "two"))
    plans = (SWEPT, PLANS[1])
    for plan in plans:
        list(run_plan(plan, folders=one))
    list(run_plan(replace(SWEPT, variants=("mean",), seeds=(0,)), folders=two))
    messages = Counter()
    for plan in plans:
        messages.update(p.message for p in run_sweep(plan, scheduler="local:2", folders=two))
    assert messages["recorded before"] == 1
    assert messages.total() == 6
    for plan in plans:
        alone, swept = (list(read_records(f.run_file(plan.study))) for f in (one, two))
        assert len(swept) == len(alone)
        by_job = {record["config"]["job"]: record for record in swept}
        for record in alone:
            found = by_job.pop(record["config"]["job"])
            assert found["command"] == record["command"]
            for name in ("variant", "seed", "config", "metrics", "curve"):
                assert found[name] == record[name]
    assert not list(two.work.glob("*/*.checkpoint.safetensors"))


def test_a_job_of_a_sweep_that_fails_is_named(dask, tmp_path):
    plan = Plan(study="n-grams", corpus="tales")
    (tmp_path / "runs").write_text("a file where the records should go")
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    here = dask.LocalCluster(n_workers=1, threads_per_worker=2, dashboard_address=None)
    with here, pytest.raises(AttnlabError, match=r"of \d jobs failed.*n-grams/smoke/tales"):
        list(run_sweep(plan, scheduler=here.scheduler_address, folders=folders))


@pytest.mark.parametrize("scheduler", ["here", "local:0", "nothing://x:1"])
def test_a_scheduler_that_is_none_is_told(dask, scheduler, tmp_path):
    folders = Folders(runs=tmp_path, work=tmp_path)
    with pytest.raises(AttnlabError, match=r"No scheduler of Dask answers at .*local:N"):
        list(run_sweep(SWEPT, scheduler=scheduler, folders=folders))


def test_a_sweep_without_dask_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main(["study", "run", "language-model", "--scheduler", "local:2"]) == 1
    assert "pip install 'attnlab[sweep]'" in capsys.readouterr().err
