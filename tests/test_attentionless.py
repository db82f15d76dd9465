"""The study of what may stand in for attention: its data, its jobs, its records."""

import math
from dataclasses import replace

import pytest
import torch

from attnlab.distillation import LRS, ReplacedSite, StudentSpec, load_students, substitute
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import commit, load_details, load_runs
from attnlab.studies import Folders, Plan, export_models, get_study, run_plan
from attnlab.studies.attentionless import (
    ARMS,
    committed_teacher,
    get_arm,
    list_committed,
    load_committed,
    load_teacher,
    scratch,
    substitutes,
)
from attnlab.studies.engine import work_file
from attnlab.tasks import TranslationTask, prepare_pairs
from attnlab.tasks.translation import SHORT
from attnlab.training import evaluate_forced

SMOKE = {"study": "attentionless", "scale": "smoke", "corpus": "toy"}


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Run a teacher and four arms at the smallest scale; return the folders."""
    root = tmp_path_factory.mktemp("attentionless")
    folders = Folders(runs=root / "runs", work=root / "work")
    variants = ("teacher", "encoder_self/identity", "cross/mean", "cross/truncated/m")
    for variant in (*variants, "cross/per_query/l/tuned"):
        list(run_plan(Plan(**SMOKE, variants=(variant,)), folders=folders))
    return folders


def test_an_arm_that_keeps_the_teachers_attention_scores_like_the_teacher(done):
    runs = load_runs(path=done.run_file("attentionless")).set_index("variant")
    for metric in ("bleu", "test_loss_nats", "test_accuracy", "exact_match"):
        teacher, identity = runs.loc[["teacher", "encoder_self/identity"], metric]
        assert identity == pytest.approx(teacher, abs=1e-9)
    assert runs.loc["cross/mean", "test_loss_nats"] != runs.loc["teacher", "test_loss_nats"]


def test_a_record_says_what_was_replaced_and_by_how_much(done):
    runs = load_runs(path=done.run_file("attentionless")).set_index("variant")
    teacher = load_teacher(teacher_job(), done)
    attention = teacher.decoder[0].cross_attention
    replaced = sum(
        p.numel() for m in ("query", "key", "value") for p in getattr(attention, m).parameters()
    )
    assert runs.loc["cross/truncated/m", "n_replaced_weights"] == replaced
    errors = load_details("attentionless/smoke/toy", "layers", path=done.run_file("attentionless"))
    assert set(errors["site"]) == {"cross"}
    assert (errors["relative_error"] > 0).all()


def teacher_job():
    return get_study("attentionless").jobs(Plan(**SMOKE, variants=("teacher",)))[0]


def test_trained_students_are_kept_and_load_again(done):
    job = get_study("attentionless").jobs(Plan(**SMOKE, variants=("cross/truncated/m",)))[0]
    students, facts = load_students(
        done.work_file("attentionless", f"{job.digest}.students.safetensors")
    )
    assert facts["variant"] == "cross/truncated/m"
    assert all(s.spec == get_arm("cross/truncated/m").parts["cross"] for s in students.values())


def test_tuning_moves_students_and_leaves_the_teacher_as_it_was(done):
    before = load_teacher(teacher_job(), done).state_dict()
    path = work_file(teacher_job(), done, "model")
    assert path.exists()
    after = load_teacher(teacher_job(), done).state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    runs = load_runs(path=done.run_file("attentionless")).set_index("variant")
    assert runs.loc["cross/per_query/l/tuned", "config.n_tuning_steps"] > 0
    assert runs.loc["cross/truncated/m", "config.n_tuning_steps"] == 0


def test_a_second_run_finds_everything_recorded(done):
    plan = Plan(**SMOKE, variants=("teacher", "cross/mean"))
    assert {p.message for p in run_plan(plan, folders=done)} == {"recorded before"}


def test_an_arm_trains_its_teacher_where_the_weights_are_missing(done, tmp_path):
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    with pytest.raises(AttnlabError, match="--variants teacher"):
        load_teacher(teacher_job(), folders)
    list(run_plan(Plan(**SMOKE, variants=("cross/mean",)), folders=folders))
    again = load_runs(path=folders.run_file("attentionless")).set_index("variant")
    before = load_runs(path=done.run_file("attentionless")).set_index("variant")
    assert list(again.index) == ["cross/mean"]
    assert again.loc["cross/mean", "bleu"] == before.loc["cross/mean", "bleu"]


def test_names_of_arms_say_what_they_replace():
    for name, arm in ARMS.items():
        group = name.split("/")[0]
        if group in ("encoder_self", "decoder_self", "cross"):
            assert list(arm.parts) == [group]
        for site, part in arm.parts.items():
            assert isinstance(part, str) or part.site == site
    assert set(get_arm("all/low_rank/l").parts) == {"encoder_self", "decoder_self", "cross"}
    assert get_arm("cross/truncated/l/tuned").parts == get_arm("cross/truncated/l").parts
    assert get_arm("cross/truncated/l").parts["cross"] == StudentSpec(
        site="cross", layout="truncated", size="l"
    )


def test_an_unknown_arm_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="cross/truncated/l"):
        get_arm("cross/truncated/ll")


def test_toy_pairs_share_no_sentence_between_splits():
    data = prepare_pairs("toy", vocab_size=400, max_len=24, n_train_pairs=300)
    train = {tuple(source) for source, _ in data.train}
    assert not train & {tuple(source) for source, _ in data.test}
    with pytest.raises(UnknownNameError, match="set of sentence pairs"):
        prepare_pairs("tales", vocab_size=400, max_len=24, n_train_pairs=3)


@pytest.fixture(scope="module")
def schooled(done):
    """Run arms that learn otherwise, beside those of ``done``; return their rows by name."""
    variants = (
        "cross/low_rank/l/undistilled",
        "cross/low_rank/l/best_lr",
        "all/per_query/l/scratch_quiet",
        "all/per_query/l/scratch_long",
    )
    list(run_plan(Plan(**SMOKE, variants=variants), folders=done))
    return load_runs(path=done.run_file("attentionless")).set_index("variant")


def test_a_run_from_scratch_learns_all_weights_with_the_teachers_recipe(schooled):
    long = schooled.loc["all/per_query/l/scratch_long"]
    quiet = schooled.loc["all/per_query/l/scratch_quiet"]
    assert long["config.train.n_steps"] == 2 * quiet["config.train.n_steps"]
    assert quiet["config.learning.is_quiet"]
    assert quiet["n_weights"] > quiet["n_stand_in_weights"] > 0
    teacher = schooled.loc["teacher", "n_weights"]
    assert quiet["n_weights"] == teacher - quiet["n_replaced_weights"] + quiet["n_stand_in_weights"]
    assert math.isfinite(quiet["validation_loss_nats"])
    assert math.isnan(quiet["relative_error"])


def test_a_quiet_start_silences_what_is_replaced(monkeypatch, tmp_path):
    silent = []

    def look(job, task, translator, *_, **__):
        sites = [m for m in translator.modules() if isinstance(m, ReplacedSite)]
        loudness = sum(float(site.out.weight.detach().abs().sum()) for site in sites)
        silent.append((len(sites), loudness))
        raise AttnlabError("seen enough")
        yield

    monkeypatch.setattr(scratch, "train_job", look)
    for variant in ("all/per_query/l/scratch", "all/per_query/l/scratch_quiet"):
        job = get_study("attentionless").jobs(Plan(**SMOKE, variants=(variant,)))[0]
        with pytest.raises(AttnlabError, match="seen enough"):
            list(scratch.run_from_scratch(job, Folders(runs=tmp_path, work=tmp_path)))
    (n_loud, loud), (n_quiet, quiet) = silent
    assert n_loud == n_quiet == 3
    assert loud > 0
    assert quiet == 0


def test_untrained_students_are_not_taught_before_they_are_tuned(schooled):
    row = schooled.loc["cross/low_rank/l/undistilled"]
    assert math.isnan(row["relative_error"])
    assert row["config.n_tuning_steps"] > 0
    assert row["config.learning.begins"] == "untrained"


def test_the_best_of_several_rates_is_kept(schooled, done):
    rates = load_details("attentionless/smoke/toy", "rates", path=done.run_file("attentionless"))
    assert tuple(rates["lr"]) == LRS
    kept = schooled.loc["cross/low_rank/l/best_lr", "relative_error"]
    assert kept == pytest.approx(rates["relative_error"].min())


@pytest.mark.parametrize(
    ("variant", "moves"), [("cross/low_rank/l/tuned", False), ("cross/low_rank/l/tuned_all", True)]
)
def test_what_is_tuned_moves_and_nothing_else(variant, moves, done, monkeypatch):
    teacher = load_teacher(teacher_job(), done)
    before = {name: weight.clone() for name, weight in teacher.state_dict().items()}
    monkeypatch.setattr(substitutes, "load_teacher", lambda *_: teacher)
    job = get_study("attentionless").jobs(Plan(**SMOKE, variants=(variant,)))[0]
    list(substitutes.run_arm(job, done))
    after = teacher.state_dict()
    assert torch.equal(before["target_embedding.weight"], after["target_embedding.weight"]) != moves
    students = done.work_file("attentionless", f"{job.digest}.students.safetensors")
    assert students.exists() != moves  # students alone are no use with a body that is gone


def test_short_training_pairs_and_a_test_of_all_lengths():
    data = prepare_pairs("toy_short", vocab_size=400, max_len=24, n_train_pairs=300)
    assert max(max(len(s), len(t)) for s, t in data.train) <= SHORT
    assert max(len(t) for _, t in data.test) > SHORT
    assert data.facts["train"] == len(data.train) < 300
    small = prepare_pairs("toy_small", vocab_size=400, max_len=24, n_train_pairs=50)
    assert len(small.train) == 50


def test_a_control_cannot_be_trained_from_scratch(monkeypatch, tmp_path):
    arm = replace(get_arm("cross/mean"), begins="scratch")
    monkeypatch.setitem(ARMS, "cross/mean", arm)
    job = get_study("attentionless").jobs(Plan(**SMOKE, variants=("cross/mean",)))[0]
    with pytest.raises(AttnlabError, match="nothing to learn"):
        list(scratch.run_from_scratch(job, Folders(runs=tmp_path, work=tmp_path)))


def test_a_teacher_and_its_students_are_exported_and_found_again(done, tmp_path):
    folder = tmp_path / "toy"
    plan = Plan(**SMOKE, variants=("teacher", "cross/truncated/m"))
    names = [path.name for path in export_models(plan, to=folder, folders=done)]
    assert names == ["teacher.safetensors", "cross-truncated-m.safetensors"]
    assert list_committed("toy", folder=tmp_path) == ("cross/truncated/m",)
    teacher, students, facts = load_committed("toy", "cross/truncated/m", folder=tmp_path)
    assert facts["variant"] == "cross/truncated/m"
    assert set(students) == {("cross", 0)}
    before = load_teacher(teacher_job(), done)
    for name, weight in before.state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight.bfloat16().float())
    found = committed_teacher(teacher_job(), folder=tmp_path)
    assert found is not None
    other = replace(teacher_job(), max_tokens=7)
    assert committed_teacher(other, folder=tmp_path) is None
    with pytest.raises(UnknownNameError, match="cross/truncated/m"):
        load_committed("toy", "cross/truncated/l", folder=tmp_path)


def test_what_was_not_trained_here_cannot_be_exported(done, tmp_path):
    plan = Plan(**SMOKE, variants=("cross/mean",))
    with pytest.raises(AttnlabError, match="has no trained students here"):
        list(export_models(plan, to=tmp_path, folders=done))


def test_students_taught_for_one_arm_are_used_again_by_the_next(done):
    first, second = (
        get_study("attentionless").jobs(Plan(**SMOKE, variants=(variant,)))[0]
        for variant in ("cross/per_query/l/depth_2", "all/per_query/l/learned_head")
    )
    list(run_plan(Plan(**SMOKE, variants=(first.variant, "self/alr/m")), folders=done))
    list(run_plan(Plan(**SMOKE, variants=(second.variant,)), folders=done))
    runs = load_runs(path=done.run_file("attentionless")).set_index("variant")
    for site in ("encoder_self", "decoder_self"):
        assert runs.loc[second.variant, f"config.taught_before.{site}"] == commit()
    fresh, kept = (
        load_students(done.work_file("attentionless", f"{job.digest}.students.safetensors"))[0]
        for job in get_study("attentionless").jobs(
            Plan(**SMOKE, variants=("self/alr/m", second.variant))
        )
    )
    for place, student in fresh.items():
        weights = kept[place].state_dict()
        assert all(torch.equal(weights[name], w) for name, w in student.state_dict().items())


@pytest.mark.parametrize("variant", list_committed("toy"))
def test_committed_students_translate_as_their_record_says(variant):
    teacher, students, facts = load_committed("toy", variant)
    data = prepare_pairs("toy", vocab_size=0, max_len=24, n_train_pairs=1)
    with substitute(teacher, students):
        score = TranslationTask(data=data, max_tokens=1).translate(teacher)
    records = load_runs("attentionless/classroom/toy")
    record = records[records["config.job"] == facts["job"]].iloc[-1]
    assert record["variant"] == variant
    assert score.bleu.score == pytest.approx(record["bleu"], abs=1.0)  # rounded to bfloat16
    assert score.forced.accuracy == pytest.approx(record["test_accuracy"], abs=0.01)


def test_committed_students_for_captions_predict_as_their_record_says(corpus_folder):
    corpus_folder("multi30k")
    (variant,) = list_committed("multi30k/de-en")
    teacher, students, facts = load_committed("multi30k/de-en", variant)
    data = prepare_pairs("multi30k/de-en", vocab_size=6000, max_len=32, n_train_pairs=0)
    with substitute(teacher, students):
        score = evaluate_forced(teacher, data.test)
    records = load_runs("attentionless/paper/multi30k/de-en")
    record = records[records["config.job"] == facts["job"]].iloc[-1]
    assert score.accuracy == pytest.approx(record["test_accuracy"], abs=0.01)
    assert score.loss_nats == pytest.approx(record["test_loss_nats"], abs=0.05)


def test_a_record_holds_the_share_of_its_teachers_bleu(done):
    runs = load_runs(path=done.run_file("attentionless")).set_index("variant")
    assert runs.loc["encoder_self/identity", "bleu_share"] == 1
    arm = runs.loc["cross/truncated/m"]
    assert arm["bleu_share"] == pytest.approx(arm["bleu"] / runs.loc["teacher", "bleu"])
    assert arm["bleu_share_low"] <= arm["bleu_share"] <= arm["bleu_share_high"]
