"""A process killed at any moment, again and again: results are those of one left in peace.

Three kills here; ``ATTNLAB_KILLS=100 pytest tests/test_kills.py`` makes so many.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

N_KILLS = int(os.environ.get("ATTNLAB_KILLS", "3"))
ROOT = Path(__file__).resolve().parents[1]
SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
from attnlab.records import read_records
from attnlab.studies import Folders, Plan, run_plan, unfinished_plans
from attnlab.training import engine

engine.CHECKPOINT_EVERY_S = 0
root, n_kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)
plan = Plan(study="language-model", variants=("she", "attention"))


def fork(folders):
    child = os.fork()
    if child:
        return child
    try:
        for _ in run_plan(plan, folders=folders):
            pass
        os._exit(0)
    except BaseException as error:
        print("failed:", repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def results(folders):
    found = []
    for each in read_records(folders.runs):
        for name in ("seconds", "finished_at"):
            del each[name]
        found.append(each)
    return found


def folders(name):
    return Folders(runs=root / name, work=root / f"{name}-work")


calm = folders("calm")
started = time.perf_counter()
assert os.waitpid(fork(calm), 0)[1] == 0
seconds = time.perf_counter() - started
killed, n_rounds, report = 0, 0, []
while killed < n_kills or not n_rounds:
    here, of_round, n_rounds = folders(f"round{n_rounds}"), 0, n_rounds + 1
    while True:
        child = fork(here)
        if killed < n_kills and of_round < 10:
            time.sleep(chance.random() * seconds)
            os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status):
            assert status == 0, status
            break
        killed, of_round = killed + 1, of_round + 1
    left = [p.name for p in root.glob(f"{here.work.name}/**/*") if "tmp" in p.name]
    left += [p.name for p in here.work.glob("*/*.checkpoint.*")]
    report.append({"kills": of_round, "equal": results(here) == results(calm), "left": left,
                   "unfinished": len(unfinished_plans(folders=here))})
print(json.dumps(report))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="not on Windows: the test forks and kills")
def test_however_often_it_is_killed_a_study_ends_with_equal_numbers_and_nothing_left(tmp_path):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path), str(N_KILLS)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert sum(each["kills"] for each in report) >= N_KILLS
    for each in report:
        assert each["equal"], report
        assert (each["left"], each["unfinished"]) == ([], 0)
