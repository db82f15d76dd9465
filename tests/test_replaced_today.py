"""The study of stand-ins for a strong teacher's attention: rows, stages, records, interruptions."""

import json

import pytest
import torch

from attnlab.distillation import SITES
from attnlab.distillation.surgery import load_replaced, students_in
from attnlab.records import load_details, read_records
from attnlab.studies import Folders, Plan, export_models, get_study, replaced, run_plan, stand_ins
from attnlab.studies.arms import ARMS, ARMS_OF_TODAY, TEACHER, arm_columns, get_arm
from attnlab.studies.engine import run_job, work_file
from attnlab.studies.stages import stage_lengths
from attnlab.tasks import pairs, prepare_pairs
from attnlab.training import engine
from attnlab.training.checkpoint import read_tensors

TOY = {"study": "replaced", "scale": "smoke", "corpus": "toy"}
FIRST = "all/linear"


def jobs(*variants):
    return get_study("replaced").jobs(Plan(**TOY, variants=variants))


def places(tmp_path, name):
    return Folders(runs=tmp_path / name / "runs", work=tmp_path / name / "work")


def run(folders, *variants):
    list(run_plan(Plan(**TOY, variants=variants), folders=folders))


def last(generator):
    """Return what a generator returns at its end."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


def recorded(folders):
    return {each["variant"]: each for each in read_records(folders.run_file("replaced"))}


@pytest.fixture(scope="module", autouse=True)
def _few_sentences():
    """Hold out as few pairs as tell anything, for speed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pairs, "N_HELD_OUT", 30)
        prepare_pairs.cache_clear()
        yield
    prepare_pairs.cache_clear()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Folders in which every row was run at the smallest scale."""
    folders = places(tmp_path_factory.mktemp("replaced"), "done")
    run(folders, *ARMS_OF_TODAY)
    return folders


# Rows


def test_every_row_has_its_own_name_words_and_place_in_one_study():
    assert {arm.name: arm for arm in ARMS_OF_TODAY.values()} == ARMS_OF_TODAY
    assert len({arm.words for arm in ARMS_OF_TODAY.values()}) == len(ARMS_OF_TODAY)
    assert ARMS_OF_TODAY.keys() & ARMS.keys() == {TEACHER}
    words = {
        FIRST: "all sites: linear attention (hedgehog, window 4)",
        "all/linear/no_window": "all sites: linear attention (hedgehog)",
        "all/linear/elu": "all sites: linear attention (elu)",
        "cross/linear": "cross: linear attention (hedgehog)",
        "all/linear/untaught": "all sites: linear attention (hedgehog, window 4), tuned only",
        "all/identity/tuned_all": "teacher, trained on as long as students are tuned",
        "all/uniform/tuned_all": "all sites: uniform average, everything tuned",
        "cross/per_query/l/depth_2/in_turn": "cross: net per query L, depth 2, "
        "taught, then everything tuned",
    }
    assert {name: ARMS_OF_TODAY[name].words for name in words} == words
    assert get_arm("all/linear/keep_half_of_cross").has_cross_softmax
    assert not get_arm(FIRST).has_cross_softmax


def test_a_table_has_linear_attention_beside_it_and_a_window_stands_at_self_sites_only():
    parts = get_arm("all/gated_delta").parts
    assert [part.method for part in parts.values()] == ["gated_delta", "gated_delta", "linear"]
    assert [part.window for part in get_arm(FIRST).parts.values()] == [4, 4, 0]


def test_stages_take_as_many_steps_in_all_whatever_they_are():
    assert stage_lengths((2, 3), n_steps=600) == {2: 100, 3: 500}
    assert stage_lengths((1, 2, 3), n_steps=600) == {1: 50, 2: 50, 3: 500}
    assert stage_lengths((2,), n_steps=7) == {2: 7}
    assert stage_lengths((3,), n_steps=7) == {3: 7}
    learning = [
        job for job in jobs(*ARMS_OF_TODAY) if isinstance(job, stand_ins.StandInJob) and job.lengths
    ]
    assert {sum(job.lengths.values()) for job in learning} == {12}
    assert all(n >= 1 for job in learning for n in job.lengths.values())


def test_arms_that_differ_after_the_swap_share_what_was_taught_before_it():
    def taught(name):
        return [stage.digest for stage in jobs(name)[0].stages("float32")]

    assert taught(FIRST) == taught("all/linear/references") == taught("all/linear/norms")
    others = ("untuned", "weights", "own_inputs", "window_8", "matrix_first")
    assert all(taught(FIRST) != taught(f"all/linear/{name}") for name in others)
    assert len({job.digest for job in jobs(*ARMS_OF_TODAY)}) == len(ARMS_OF_TODAY)


# Records


def test_every_row_runs_and_has_read_as_many_tokens(done):
    runs = recorded(done)
    assert list(runs) == list(ARMS_OF_TODAY)
    scratch = "all/linear/scratch"
    seen = {name: each["metrics"].get("tokens_seen") for name, each in runs.items()}
    by_arms = {n for name, n in seen.items() if name not in (TEACHER, scratch)}
    assert len(by_arms - {None}) == 1
    assert [name for name, n in seen.items() if n is None] == ["all/mean", "all/uniform"]
    assert seen[scratch] == seen[TEACHER]
    for name, each in runs.items():
        has_beam = name == TEACHER or get_arm(name).site == "all"
        assert ("beam_bleu" in each["metrics"]) == has_beam, name
        assert "validation_bleu" in each["metrics"]


def test_a_record_says_how_each_stage_went_and_what_each_head_is(done):
    runs, name = recorded(done), TOY["study"] + "/smoke/toy"
    heads = load_details(name, "heads", path=done.runs)
    first = heads[heads["variant"] == FIRST]
    assert len(first) == 3 * 2  # a layer at each site, two heads
    assert ((first["entropy_nats"] >= 0) & (first["relative_error"] > 0)).all()
    stages = {v: [s["stage"] for s in each["details"]["stages"]] for v, each in runs.items()
              if v != TEACHER}  # fmt: skip
    assert stages[FIRST] == [2]
    assert stages["all/linear/matrix_first"] == [1, 2]
    assert stages["all/linear/untaught"] == []
    kept = runs["all/linear/keep_half"]
    assert kept["metrics"]["n_kept"] == 2 == 3 - len(kept["details"]["order"])
    table = arm_columns(load_details(name, "layers", path=done.runs))
    assert {"feature_map", "window", "signal", "keeps"} <= set(table.columns)


def test_what_an_arm_wrote_is_loaded_with_its_stand_ins_in_place(done, tmp_path):
    plan = Plan(**TOY, variants=(FIRST,))
    model, facts = load_replaced(work_file(jobs(FIRST)[0], done, "model"))
    assert set(students_in(model)) == {(site, 0) for site in SITES}
    assert facts["variant"] == FIRST
    _, details = replaced.translation_task(jobs(FIRST)[0]).score(model)
    assert details["bleu"]["sentences"] == recorded(done)[FIRST]["details"]["bleu"]["sentences"]
    (path,) = export_models(plan, to=tmp_path, folders=done)
    exported, facts = load_replaced(path)
    assert path.name == "all-linear.safetensors"
    assert {weight.dtype for weight in read_tensors(path)[0].values()} == {torch.bfloat16}
    weights = zip(model.parameters(), exported.parameters(), strict=True)
    assert all(torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in weights)
    plain, _ = load_replaced(work_file(jobs("all/identity/tuned_all")[0], done, "model"))
    assert students_in(plain) == {}


# Interruptions


def timeless(record):
    kept = {name: record[name] for name in ("variant", "seed", "config", "metrics", "curve")}
    details = {n: part for n, part in record["details"].items() if n != "stages"}
    stages = [{n: v for n, v in s.items() if n != "seconds"} for s in record["details"]["stages"]]
    return json.dumps({**kept, "details": details, "stages": stages}, sort_keys=True)


@pytest.mark.parametrize("variant", ["all/linear/matrix_first", "all/linear/corrections"])
def test_an_arm_killed_at_any_step_ends_with_the_same_bits(variant, done, tmp_path, monkeypatch):
    folders = places(tmp_path, "killed")
    source, copy = (work_file(jobs(TEACHER)[0], place, "model") for place in (done, folders))
    copy.write_bytes(source.read_bytes())
    monkeypatch.setattr(engine, "CHECKPOINT_EVERY_S", -1)
    n_attempts = 0
    while not folders.run_file("replaced").exists():
        steps = run_plan(Plan(**TOY, variants=(variant,)), folders=folders)
        for _ in zip(range(3), steps, strict=False):
            pass
        steps.close()
        n_attempts += 1
        assert n_attempts < 20
    assert n_attempts > 3
    assert timeless(recorded(folders)[variant]) == timeless(recorded(done)[variant])
    ends = [read_tensors(work_file(jobs(variant)[0], each, "model")) for each in (done, folders)]
    assert ends[0][1] == ends[1][1]
    assert all(torch.equal(weight, ends[1][0][name]) for name, weight in ends[0][0].items())
    assert not list(folders.work.glob("replaced/*.checkpoint.safetensors"))


def test_what_is_tuned_hears_the_teacher_with_its_attention(done, tmp_path, monkeypatch):
    folders, heard = places(tmp_path, "heard"), []
    source, copy = (work_file(jobs(TEACHER)[0], place, "model") for place in (done, folders))
    copy.write_bytes(source.read_bytes())

    def listen(*, teacher, **how):
        heard.append(students_in(teacher))
        return tuning(teacher=teacher, **how)

    tuning = stand_ins.Tuning
    monkeypatch.setattr(stand_ins, "Tuning", listen)
    run(folders, "all/linear/teacher_alone")
    assert heard == [{}]


def test_a_teacher_is_trained_once_by_whoever_comes_first(tmp_path, monkeypatch):
    folders, (teacher,), trained = places(tmp_path, "both"), jobs(TEACHER), []
    monkeypatch.setattr("attnlab.studies.engine.WAIT_S", 0.0)
    monkeypatch.setattr(
        replaced, "run_job", lambda job, where: trained.append(job) or run_job(job, where)
    )
    first, second = (replaced.find_teacher(teacher, folders) for _ in range(2))
    next(first)
    waiting = [next(second).message for _ in range(2)]
    assert waiting == ["another process does this"] * 2
    weights = [last(finder)[0].head.weight for finder in (first, second)]
    assert trained == [teacher]
    assert torch.equal(*weights)
    assert list(recorded(folders)) == [TEACHER]
    run(folders, TEACHER)
    assert trained == [teacher]
    assert len(list(read_records(folders.run_file("replaced")))) == 1
