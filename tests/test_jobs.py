"""The names of jobs: committed records, teachers and students are found by them."""

from collections import defaultdict
from types import SimpleNamespace

import pytest

from attnlab.config import digest_of
from attnlab.records import read_records
from attnlab.studies import Plan, get_study, labels
from attnlab.tasks.labels import prepare_labels

PINNED = {  # study, scale and data: what the digests of all its jobs, seeds 0 and 1, come to
    "language-model/smoke/tales": "26bf48bbef21",
    "language-model/classroom/tales": "f316d08ec6f2",
    "extractor-ablation/smoke/tales": "afc414906c22",
    "extractor-ablation/classroom/tales": "957f988d00c0",
    "extractor-ablation/paper/tales": "0165e34c9eb5",
    "n-grams/smoke/tales": "99cc82b6a81c",
    "n-grams/classroom/children": "335d870ecabe",
    "n-grams/paper/tales": "f2d40bd82820",
    "attentionless/smoke/toy": "722b13593369",
    "attentionless/classroom/toy": "390f12574ba6",
    "attentionless/classroom/toy_small": "8bd56569cea2",
    "attentionless/classroom/toy_short": "f018349ccdfc",
    "attentionless/paper/toy": "437a0dfec2dc",
    "attentionless/paper/multi30k/de-en": "013eceb3871e",
    "attentionless/classroom/ted_iwslt/fr-en": "39e1d9e44398",
}
FOLDERS = {"multi30k/de-en": "multi30k", "ted_iwslt/fr-en": "ted_iwslt"}  # of real data


def digests(experiment, *, seeds, variants=()):
    study, scale, corpus = experiment.split("/", 2)
    plan = Plan(study=study, scale=scale, corpus=corpus, seeds=seeds, variants=variants)
    return [job.digest for job in get_study(study).jobs(plan)]


@pytest.mark.parametrize("experiment", PINNED)
def test_no_job_has_lost_its_name(experiment, corpus_folder):
    corpus = experiment.split("/", 2)[-1]
    if corpus in FOLDERS:
        corpus_folder(FOLDERS[corpus])
    assert digest_of({"jobs": digests(experiment, seeds=(0, 1))}) == PINNED[experiment]


def recorded_sizes(records):
    """Return by corpus the sizes of labelled sets that models were recorded with."""
    found = {}
    for record in records:
        study, _, corpus = record["experiment"].split("/", 2)
        if study == "labels":
            model = record["config"]["model"]
            names = ("n_classes", "context_len", "n_inputs" if model["n_inputs"] else "vocab_size")
            found[corpus] = {name: model[name] for name in names}
    return found


def test_questions_have_the_sizes_that_are_recorded(corpus_folder):
    corpus_folder("trec")
    prepare_labels.cache_clear()  # another test may have read little sets of these names
    data = labels.label_data("trec", **labels.BUDGETS["classroom", "trec"].data)
    assert data.sizes == recorded_sizes(read_records())["trec"]


def test_every_committed_record_is_of_a_job_that_can_be_asked_for_again(monkeypatch):
    recorded = defaultdict(lambda: defaultdict(set))  # by experiment and variant
    sizes = recorded_sizes(records := list(read_records()))  # texts and images are slow to read
    monkeypatch.setattr(
        labels, "label_data", lambda corpus, **_: SimpleNamespace(sizes=sizes[corpus])
    )
    for record in records:
        corpus = record["experiment"].split("/", 2)[-1].removesuffix("/swept")
        if not record["experiment"].startswith("speed/") and corpus not in (*FOLDERS, "children"):
            job = (record["config"]["job"], record["seed"])
            recorded[record["experiment"]][record["variant"]].add(job)
    assert len(recorded) > 5
    for experiment, variants in recorded.items():
        alike = defaultdict(list)  # variants by their seeds: a study may not be finished
        for variant, jobs in variants.items():
            alike[tuple(sorted({seed for _, seed in jobs}))].append(variant)
        for seeds, names in alike.items():
            known = set(digests(experiment, seeds=seeds, variants=tuple(names)))
            assert {job for name in names for job, _ in variants[name]} <= known, experiment
