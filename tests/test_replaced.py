"""The study of what may stand in for attention: its rows, its jobs, its records."""

import json
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch

from attnlab.distillation import LRS, ReplacedSite, StudentSpec, load_students, substitute
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.records import commit, load_details, load_runs
from attnlab.studies import Folders, Plan, export_models, get_study, replaced, run_plan
from attnlab.studies.arms import ARMS, Arm, arm_columns, arm_words, get_arm
from attnlab.studies.engine import work_file
from attnlab.studies.replaced import SMOKE, committed_files, committed_teacher, run_arm
from attnlab.tasks import TranslationTask, prepare_pairs
from attnlab.tasks.pairs import SHORT
from attnlab.training import evaluate_forced, load_translator
from attnlab.training.scores import _score, unpack_counts

STUDY = "attentionless"
TOY = {"study": STUDY, "scale": "smoke", "corpus": "toy"}


def jobs(*variants, seeds=(0,)):
    return get_study(STUDY).jobs(Plan(**TOY, variants=variants, seeds=seeds))


def run(folders, *variants):
    list(run_plan(Plan(**TOY, variants=variants), folders=folders))
    return load_runs(path=folders.run_file(STUDY)).set_index("variant")


def run_to_end(job, folders):
    list(run_arm(job, folders))


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folders in which a teacher and an arm of each kind were run at the smallest scale."""
    root = tmp_path_factory.mktemp("attentionless")
    folders = Folders(runs=root / "runs", work=root / "work")
    run(folders, "teacher", "encoder_self/identity", "cross/mean", "cross/truncated/m")
    run(folders, "cross/per_query/l/tuned", "cross/low_rank/l/undistilled")
    run(folders, "cross/low_rank/l/best_lr", "all/per_query/l/scratch_quiet")
    run(folders, "all/per_query/l/scratch_long")
    return folders


@pytest.fixture(scope="module")
def runs(done):
    """The records of ``done`` by variant."""
    return load_runs(path=done.run_file(STUDY)).query("seed == 0").set_index("variant")


def teacher_of(folders):
    return load_translator(work_file(jobs("teacher")[0], folders, "model"))[0]


def students_of(job, folders):
    return load_students(work_file(job, folders, "students"))[0]


def flat(modules):
    return torch.cat([p.detach().flatten() for m in modules.values() for p in m.parameters()])


# Rows


def test_a_row_has_its_own_name_and_words():
    assert {arm.name: arm for arm in ARMS.values()} == ARMS
    assert len({arm.words for arm in ARMS.values()}) == len(ARMS)
    assert arm_words("teacher") == "teacher"
    assert arm_words("self/alr/m/tuned") == "both self sites: ALR M, tuned"
    assert arm_words("encoder_self/alrr/m/linear_skip") == "encoder self: ALRR M, linear skip"
    assert arm_words("encoder_self/identity/tuned_all").startswith("teacher, trained on")
    assert arm_words("cross/uniform/tuned_all") == "cross: uniform average, everything tuned"


def test_a_row_says_what_stands_at_each_site():
    own = StudentSpec(site="cross", layout="per_query", size="l", depth=2)
    assert get_arm("cross/per_query/l/depth_2").parts == {"cross": own}
    assert get_arm("cross/truncated/l/tuned").parts == get_arm("cross/truncated/l").parts
    assert get_arm("teacher").parts == {}
    assert get_arm("decoder_self/mean").parts == {"decoder_self": "mean"}
    self_sites = {
        site: StudentSpec(site=site, size="m") for site in ("encoder_self", "decoder_self")
    }
    assert get_arm("self/alr/m").parts == self_sites
    low_rank = StudentSpec(site="cross", layout="low_rank", size="l")
    assert get_arm("all/low_rank/l").parts == {**self_sites, "cross": low_rank}


def test_columns_stand_beside_every_committed_record():
    runs = arm_columns(load_runs(f"{STUDY}/")).set_index("variant")
    assert set(runs["site"]) == {"", "encoder_self", "decoder_self", "cross", "self", "all"}
    row = runs.loc[["all/per_query/l/learned_head"]].iloc[0]
    assert row[["kind", "size", "begins", "way"]].tolist() == ["per_query", "l", "distilled", ""]
    assert row["has_cross_softmax"]
    looks = {"teacher": "attention", "cross/mean": "table", "cross/paper/l": "feedforward",
             "cross/extractor/m": "extractor", "cross/low_rank/l": "linear_attention"}  # fmt: skip
    assert {variant: get_arm(variant).look for variant in looks} == looks
    assert arm_columns(pd.DataFrame(columns=["variant"])).query("not learned_head").empty


def test_what_does_not_exist_or_cannot_learn_is_refused():
    with pytest.raises(UnknownNameError, match="cross/truncated/l"):
        get_arm("cross/truncated/ll")
    with pytest.raises(AttnlabError, match="nothing to learn"):
        Arm(site="cross", method="mean", begins="scratch")


# Jobs


@pytest.mark.parametrize("variant", [*ARMS][1::7])
def test_every_seed_has_its_own_teacher_lessons_and_order(variant):
    for seed, job in zip((0, 1), jobs(variant, seeds=(0, 1)), strict=True):
        assert job.teacher.train.seed == job.fit.seed == job.train.seed == seed


def test_only_a_run_from_scratch_learns_as_the_teacher_did():
    teacher = replace(jobs("teacher")[0], points={6})
    teacher = replace(teacher, train=replace(teacher.train, label_smoothing=0.1))
    tuned, scratch, slow, long = (
        replaced._arm_job(get_arm(f"all/per_query/l/{way}"), teacher, SMOKE).train
        for way in ("tuned", "scratch", "scratch_slow", "scratch_long")
    )
    assert tuned.label_smoothing == 0
    assert tuned.n_steps == SMOKE.n_tuning_steps
    assert scratch == teacher.train
    assert slow == replace(scratch, lr=scratch.lr / 4)
    assert long == replace(scratch, n_steps=2 * scratch.n_steps)


@pytest.mark.parametrize("variant", ["encoder_self/alr/m", "cross/low_rank/l/undistilled"])
def test_students_begin_apart_for_each_seed_of_one_teacher(variant, done):
    begun = []
    for job in jobs(variant, seeds=(0, 1)):
        still = {"fit": replace(job.fit, lr=1e-30), "train": replace(job.train, lr=1e-30)}
        job = replace(job, teacher=jobs("teacher")[0], **still)
        run_to_end(job, done)
        begun.append(flat(students_of(job, done)))
    assert not torch.equal(*begun)


class Seen(Exception):
    """Carries what a function was called with."""


def test_students_learn_from_training_and_are_measured_on_validation(tmp_path, monkeypatch):
    def look(teacher, lessons, *, held_out, config, seed, **_):
        raise Seen(lessons.lengths.tolist(), held_out.lengths.tolist(), config, seed)

    monkeypatch.setattr(replaced, "fit_students", look)
    (job,) = jobs("encoder_self/alr/m", seeds=(3,))
    with pytest.raises(Seen) as caught:
        run_to_end(job, Folders(runs=tmp_path, work=tmp_path))
    data = replaced.translation_task(job).data
    lengths = [[len(source) for source, _ in pairs] for pairs in (data.train, data.validation)]
    assert caught.value.args == (lengths[0][: job.n_lessons], lengths[1], job.fit, 3)


def test_students_are_taught_anew_when_anything_differs(done, monkeypatch):
    def look(*_, **__):
        raise Seen

    job = replace(jobs("cross/low_rank/l")[0], n_lessons=40)
    run_to_end(job, done)
    monkeypatch.setattr(replaced, "fit_students", look)
    run_to_end(job, done)
    for change in (
        {"n_lessons": 41},
        {"fit": replace(job.fit, lr=0.5)},
        {"variant": "cross/low_rank/l/best_lr"},
        {"variant": "cross/low_rank/m"},
        {"teacher": jobs("teacher", seeds=(1,))[0]},
    ):
        with pytest.raises(Seen):
            run_to_end(replace(job, **change), done)


@pytest.mark.parametrize(
    ("variant", "moves"), [("cross/low_rank/l/tuned", False), ("cross/uniform/tuned_all", True)]
)
def test_what_is_tuned_moves_and_nothing_else(variant, moves, done, monkeypatch):
    moved, train_job = set(), replaced.train_job

    def watch(job, task, model, folders):
        before = {name: weight.clone() for name, weight in model.state_dict().items()}
        state = yield from train_job(job, task, model, folders)
        after = model.state_dict()
        moved.update(name for name, w in before.items() if not torch.equal(w, after[name]))
        return state

    monkeypatch.setattr(replaced, "train_job", watch)
    (job,) = jobs(variant)
    run_to_end(job, done)
    assert any(".student." in name for name in moved)
    assert ("target_embedding.weight" in moved) is moves
    assert all(moves or ".student." in name for name in moved)
    assert work_file(job, done, "students").exists() is not moves  # no use without their body


def test_a_quiet_start_silences_what_is_replaced(monkeypatch, tmp_path):
    def look(job, task, model, folders):
        outs = [m.out.weight.detach() for m in model.modules() if isinstance(m, ReplacedSite)]
        assert all(weight.requires_grad for weight in model.parameters())
        raise Seen([bool(weight.any()) for weight in outs])
        yield

    monkeypatch.setattr(replaced, "train_job", look)
    for way, is_loud in (("scratch", True), ("scratch_quiet", False)):
        (job,) = jobs(f"all/per_query/l/{way}")
        with pytest.raises(Seen) as caught:
            run_to_end(job, Folders(runs=tmp_path, work=tmp_path))
        assert caught.value.args == ([is_loud] * 3,)


# Records


def test_an_arm_that_keeps_the_teachers_attention_scores_like_the_teacher(runs):
    metrics = ["bleu", "test_loss_nats", "test_accuracy", "exact_match"]
    teacher, identity = runs.loc["teacher", metrics], runs.loc["encoder_self/identity", metrics]
    assert identity.tolist() == pytest.approx(teacher.tolist(), abs=1e-9)
    assert runs.loc["cross/mean", "test_loss_nats"] != teacher["test_loss_nats"]
    assert runs["seconds"].between(0, 600).all()


def test_a_record_holds_what_to_choose_by_and_what_to_judge_by(runs):
    assert runs["validation_bleu"].notna().all()
    assert (runs["validation_bleu"] != runs["bleu"]).any()
    assert (runs["details.bleu.beam_size"] == 1).all()
    for row in runs[["bleu", "details.bleu.sentences"]].itertuples(index=False):
        assert _score(unpack_counts(row[1]).sum(0).tolist()) == row.bleu


def test_a_job_without_what_the_study_needs_is_run_again(tmp_path):
    folders = Folders(runs=tmp_path / "runs", work=tmp_path / "work")
    run(folders, "teacher")
    file = folders.run_file(STUDY)
    record = json.loads(file.read_text())
    del record["metrics"]["validation_bleu"], record["sha256"]
    file.write_text(json.dumps(record) + "\n")
    assert len(load_runs(path=file)) == 1
    for _ in range(2):  # the second time nothing is lacking
        list(run_plan(Plan(**TOY, variants=("teacher",)), folders=folders))
        found = load_runs(path=file)
        assert found["config.job"].nunique() == 1
        assert found["validation_bleu"].isna().tolist() == [True, False]


def test_a_record_says_what_was_replaced_and_how_it_learnt(runs, done):
    attention = teacher_of(done).decoder[0].cross_attention
    maps = (attention.query, attention.key, attention.value)
    n_replaced = sum(p.numel() for each in maps for p in each.parameters())
    assert runs.loc["cross/truncated/m", "n_replaced_weights"] == n_replaced
    errors = load_details("attentionless/smoke/toy", "layers", path=done.run_file(STUDY))
    assert set(errors["site"]) == {"cross"}
    assert (errors["relative_error"] > 0).all()
    steps = runs["config.n_tuning_steps"]
    assert steps["cross/per_query/l/tuned"] == SMOKE.n_tuning_steps
    assert steps["cross/truncated/m"] == steps["cross/mean"] == 0
    untaught = runs.loc["cross/low_rank/l/undistilled"]
    assert math.isnan(untaught["relative_error"])
    assert untaught["config.learning.begins"] == "untrained"
    assert untaught["config.n_tuning_steps"] > 0


def test_a_run_from_scratch_counts_all_weights(runs):
    quiet, long = (runs.loc[f"all/per_query/l/scratch_{way}"] for way in ("quiet", "long"))
    assert long["config.train.n_steps"] == 2 * quiet["config.train.n_steps"]
    swapped = quiet["n_stand_in_weights"] - quiet["n_replaced_weights"]
    assert quiet["n_weights"] == runs.loc["teacher", "n_weights"] + swapped
    assert math.isfinite(quiet["validation_loss_nats"])
    assert math.isnan(quiet["relative_error"])
    assert quiet["config.learning.is_quiet"]


def test_the_best_of_several_rates_is_kept(runs, done):
    rates = load_details("attentionless/smoke/toy", "rates", path=done.run_file(STUDY))
    assert tuple(rates["lr"]) == LRS
    kept = runs.loc["cross/low_rank/l/best_lr", "relative_error"]
    assert kept == pytest.approx(rates["relative_error"].min())


def test_an_arm_trains_its_teacher_where_the_weights_are_missing(runs, tmp_path):
    again = run(Folders(runs=tmp_path / "runs", work=tmp_path / "work"), "cross/mean")
    assert list(again.index) == ["teacher", "cross/mean"]  # the teacher has its record, too
    assert again.loc["cross/mean", "bleu"] == runs.loc["cross/mean", "bleu"]


def test_students_taught_for_one_arm_are_used_again_by_the_next(done):
    first, second = jobs("self/alr/m", "all/per_query/l/learned_head")
    run(done, first.variant)
    recorded = run(done, second.variant).loc[second.variant]
    fresh, kept = students_of(first, done), students_of(second, done)
    for site in ("encoder_self", "decoder_self"):
        assert recorded[f"config.taught_before.{site}"] == commit()
    assert torch.equal(flat(fresh), flat({place: kept[place] for place in fresh}))


# Weights


def test_a_teacher_and_its_students_are_exported_and_found_again(done, tmp_path):
    plan = Plan(**TOY, variants=("teacher", "cross/truncated/m"))
    written = list(export_models(plan, to=tmp_path / "toy", folders=done))
    assert [file.stem for file in written] == ["teacher", "cross-truncated-m"]
    assert committed_files("toy", folder=tmp_path) == dict(zip(plan.variants, written, strict=True))
    students, facts = load_students(written[1])
    assert facts["variant"] == "cross/truncated/m"
    assert {"cross": students["cross", 0].spec} == get_arm("cross/truncated/m").parts
    (job,) = jobs("teacher")
    teacher = committed_teacher(job, folder=tmp_path)
    for name, weight in teacher_of(done).state_dict().items():
        assert torch.equal(teacher.state_dict()[name], weight.bfloat16().float())
    other = replace(job, train=replace(job.train, seed=1))
    assert committed_teacher(other, folder=tmp_path) is None
    with pytest.raises(AttnlabError, match="has no trained students here"):
        list(export_models(Plan(**TOY, variants=("cross/mean",)), to=tmp_path, folders=done))


def read_committed(corpus, variant):
    """Return the committed teacher with an arm's students in its place, and the arm's record."""
    files = committed_files(corpus)
    students, facts = load_students(files[variant])
    model, _ = load_translator(files["teacher"])
    substitute(model, students)
    records = load_runs(f"{STUDY}/{'classroom' if corpus == 'toy' else 'paper'}/{corpus}")
    record = records[records["config.job"] == facts["job"]].iloc[-1]
    assert record["variant"] == facts["variant"] == variant
    return model, record


@pytest.mark.parametrize("variant", [*committed_files("toy")][1:])
def test_committed_students_translate_as_their_record_says(variant):
    model, record = read_committed("toy", variant)
    data = prepare_pairs("toy", vocab_size=0, max_len=24, n_train_pairs=1)
    score = TranslationTask(data=data, max_tokens=1).translate(model)
    assert score.bleu.score == pytest.approx(record["bleu"], abs=1.0)  # rounded to bfloat16
    assert score.forced.accuracy == pytest.approx(record["test_accuracy"], abs=0.01)


def test_committed_students_for_captions_predict_as_their_record_says(corpus_folder):
    corpus_folder("multi30k")
    _, variant = committed_files("multi30k/de-en")
    model, record = read_committed("multi30k/de-en", variant)
    data = prepare_pairs("multi30k/de-en", vocab_size=6000, max_len=32, n_train_pairs=0)
    score = evaluate_forced(model, data.test)
    assert score.accuracy == pytest.approx(record["test_accuracy"], abs=0.01)
    assert score.loss_nats == pytest.approx(record["test_loss_nats"], abs=0.05)


# Pairs


def test_toy_pairs_share_no_sentence_between_splits():
    data = prepare_pairs("toy", vocab_size=400, max_len=24, n_train_pairs=300)
    train = {tuple(source) for source, _ in data.train}
    assert not train & {tuple(source) for source, _ in data.test}
    with pytest.raises(UnknownNameError, match="set of sentence pairs"):
        prepare_pairs("tales", vocab_size=400, max_len=24, n_train_pairs=3)


def test_short_training_pairs_and_a_test_of_all_lengths():
    data = prepare_pairs("toy_short", vocab_size=400, max_len=24, n_train_pairs=300)
    assert max(max(len(s), len(t)) for s, t in data.train) <= SHORT
    assert max(len(t) for _, t in data.test) > SHORT
    assert data.facts["train"] == len(data.train) < 300
    small = prepare_pairs("toy_small", vocab_size=400, max_len=24, n_train_pairs=50)
    assert len(small.train) == 50
