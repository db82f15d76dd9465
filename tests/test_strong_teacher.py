"""The strong teacher of the study of stand-ins: what its recipe adds, at the smallest scale."""

import pytest

from attnlab.records import read_records
from attnlab.studies import Folders, Plan, get_study, run_plan
from attnlab.studies.engine import work_file
from attnlab.studies.replaced import TEACHER
from attnlab.training import load_translator

PLAN = Plan(study="replaced", corpus="toy", variants=(TEACHER,))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("replaced")
    folders = Folders(runs=root / "runs", work=root / "work")
    list(run_plan(PLAN, folders=folders))
    return folders


def test_its_record_has_bleu_by_beam_beside_greedy(folders):
    (record,) = read_records(folders.run_file(PLAN.study))
    found, details = record["metrics"], record["details"]
    assert found["beam_bleu_low"] <= found["beam_bleu"] <= found["beam_bleu_high"]
    assert (details["bleu"]["beam_size"], details["beam"]["beam_size"]) == (1, 2)
    assert record["config"]["train"]["n_averaged"] == 2


def test_its_tables_are_one_and_its_weights_are_averaged(folders):
    (job,) = get_study(PLAN.study).jobs(PLAN)
    model, _ = load_translator(work_file(job, folders, "model"))
    assert model.source_embedding.weight is model.head.weight
    assert job.train.n_averaged == 2
    assert max(job.points) == job.train.n_steps
