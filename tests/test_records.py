"""Records: appended whole, read back tidy, refused when they are not records."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

import pytest

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import RUNS, RunRecord, load_curves, load_details, load_runs, read_records


def record(variant="she", seed=0, experiment="toy/smoke/ring", **metrics):
    return RunRecord(
        experiment=experiment,
        variant=variant,
        seed=seed,
        config={"job": f"{variant}{seed}", "model": {"d_model": 8, "mixer_options": {}}},
        metrics=metrics or {"test_loss_nats": 1.5 + seed},
        curve={"tokens_seen": [10, 20], "loss_nats": [2.0, 1.5]},
        details={"books": {"book": ["A", "B"], "loss_nats": [1.0, 2.0]}},
        seconds=1.0,
    )


def test_a_record_says_where_it_came_from(tmp_path):
    path = tmp_path / "toy.jsonl"
    record().append_to(path)
    (line,) = read_records(path)
    assert line["environment"]["torch"]
    assert line["environment"]["python"]
    assert line["commit"]
    assert line["command"]
    assert line["finished_at"].endswith("+00:00")


def test_runs_become_one_tidy_table_in_the_order_asked_for(tmp_path):
    path = tmp_path / "toy.jsonl"
    for seed in (0, 1):
        for variant in ("she", "attention", "mean"):
            record(variant, seed).append_to(path)
    table = load_runs("toy", path=path, variants=["attention", "she"])
    assert list(table["variant"]) == ["attention", "attention", "she", "she"]
    assert list(table["test_loss_nats"]) == [1.5, 2.5, 1.5, 2.5]
    assert set(table["config.model.d_model"]) == {8}
    curves = load_curves("toy", path=path)
    assert len(curves) == 12
    assert {"variant", "seed", "tokens_seen", "loss_nats"} <= set(curves)
    books = load_details("toy", "books", path=path)
    assert list(books["book"].unique()) == ["A", "B"]


def test_many_writers_never_mix_their_lines(tmp_path):
    path = tmp_path / "toy.jsonl"
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda seed: record(seed=seed).append_to(path), range(40)))
    assert sorted(r["seed"] for r in read_records(path)) == list(range(40))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_no_number_is_refused(value):
    with pytest.raises(AttnlabError, match="Record the failure in details"):
        record(loss_nats=value)


@pytest.mark.parametrize("line", ["{", "[]", '{"variant": "she"}', "null"])
def test_a_line_that_is_no_record_is_named(line, tmp_path):
    path = tmp_path / "toy.jsonl"
    record().append_to(path)
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(AttnlabError, match=r"toy.jsonl line 2 is not a run record"):
        list(read_records(path))


def test_an_unknown_experiment_is_answered_with_those_there_are(tmp_path):
    path = tmp_path / "toy.jsonl"
    record().append_to(path)
    with pytest.raises(UnknownNameError, match="toy/smoke/ring"):
        load_runs("toy/paper", path=path)
    with pytest.raises(AttnlabError, match="a table of details called 'films'"):
        load_details("toy", "films", path=path)


def test_the_committed_records_are_records_of_known_studies():
    from attnlab.studies import list_studies

    names = {study.name for study in list_studies()} | {"speed"}  # the clock is no study
    records = list(read_records(RUNS))
    assert records, "data/runs holds the evidence behind every stated result"
    for each in records:
        assert each["experiment"].split("/")[0] in names
        assert each["environment"]["torch"]
        assert each["seconds"] > 0


def test_no_two_committed_records_are_of_the_same_variant_and_seed():
    runs = [json.dumps([r["experiment"], r["variant"], r["seed"]]) for r in read_records(RUNS)]
    assert len(runs) == len(set(runs))


def test_an_unknown_variant_is_answered_with_the_nearest(tmp_path):
    path = tmp_path / "toy.jsonl"
    record().append_to(path)
    with pytest.raises(UnknownNameError, match="Did you mean 'she'"):
        load_runs("toy", path=path, variants=["shee"])
