"""Notebook 13: heads and their stand-ins, what records are drawn as, switches that go back."""

from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from small_teacher import teacher_for

from attnlab.chapters.attention_after_training import checks, live, pictures, records
from attnlab.distillation import SITES, StudentSpec, build_students, capture, substitute
from attnlab.distillation.surgery import load_students, save_students
from attnlab.distillation.transfer import exam_of, head_table
from attnlab.paths import MODELS
from attnlab.records import RunRecord
from attnlab.show import picture
from attnlab.sources import translation_source
from attnlab.studies.arms import TEACHER, arm_columns
from attnlab.studies.replaced_verdicts import SENTENCES
from attnlab.training import collate_pairs, save_model, translate_all
from attnlab.training.scores import pack_counts

SOURCE = translation_source()
PAIRS = SOURCE.sample_pairs(4)


def stand_ins(teacher, **how):
    found = {}
    for site in SITES:
        own = {n: v for n, v in how.items() if n != "window" or site != "cross"}
        found |= build_students(teacher, spec=StudentSpec(site=site, method="linear", **own))
    return found


@cache
def toy():
    sizes = {"source_vocab_size": SOURCE.vocab_size, "target_vocab_size": SOURCE.vocab_size}
    teacher = teacher_for(**sizes, max_len=24, d_model=16, n_heads=4, n_encoder_layers=2)
    built = {"linear": stand_ins(teacher), "window": stand_ins(teacher, window=2)}
    return live.Switches(teacher, built, SOURCE, PAIRS)


@cache
def lessons():
    return capture(toy().teacher, collate_pairs(PAIRS))


def exam():
    return exam_of(toy().teacher, PAIRS, sites=SITES)


def points():
    return live.kernel_points(toy().teacher, ("cross", 1), lessons()["cross", 1], head=0)


def heads():
    students = toy().stand_ins["linear"]
    found = pd.DataFrame(head_table(toy().teacher, students, exam()))
    return pd.concat([found.assign(name=name) for name in ("hedgehog", "elu")])


def runs(*rows, **more):
    """Return runs of arms by variant, seed and BLEU, with the columns that pictures read."""
    table = pd.DataFrame(rows, columns=["variant", "seed", "bleu"])
    missing = dict.fromkeys((*records.COLUMNS, records.PRECISION), np.nan)
    table = table.assign(**{n: v for n, v in missing.items() if n not in table}, **more)
    table = table.assign(bleu_low=table["bleu"] - 1, bleu_high=table["bleu"] + 1)
    return arm_columns(table)


BASE, CHANGED = records.BASE, records.ablation(records.planned_arms())
KEEPS = runs((TEACHER, 0, 40.0), (BASE, 0, 39.0), ("all/linear/keep_half", 0, 39.5))
RUNS = runs((TEACHER, 0, 40.0), (BASE, 0, 39.0), ("all/linear/no_window", 0, 36.0))
TASKS = pd.DataFrame(
    [("a headline", "cross", 12.0), ("a headline", "all", 11.0), ("a reply", "cross", 19.0)],
    columns=["task", "site", "score"],
).assign(teacher=20.0, trivial=10.0, n_seeds=3, stand_in="linear", metric="ROUGE-L", chrf=30.0)


LENGTHS = pd.DataFrame(
    [(kind, "greedy", 32, time, times, 0.9 * times, 1.1 * times, kib)
     for kind, time, times, kib in (("teacher", 50, 1.0, 100), ("teacher", 100, 1.0, 200),
                                    ("linear", 50, 1.2, 60), ("linear", 100, 0.8, 60))],
    columns=["variant", "work", "batch", "time", "times", "times_low", "times_high", "state_kib"],
)  # fmt: skip


def switched(**put):
    every = dict.fromkeys(pictures.SITES, "attention") | put
    return live.draw_switches(toy(), RUNS, **every)


def window(**dials):
    read = PAIRS[0][0]
    words = [f"word {n}" for n in range(len(read))]
    places = {"encoder_self": words, "decoder_self": ["<bos>", *words]}
    one = capture(toy().teacher, collate_pairs([(read, read)]))
    build = lambda window: stand_ins(toy().teacher, window=window)  # noqa: E731
    return live.draw_window(toy().teacher, one, build, places, **dials)


class TestChapter(ChapterTests):
    SLUG = "attention_after_training"
    PICTURES = {  # noqa: RUF012
        "kernels": (lambda: pictures.kernels(points()), "keeps the order of scores best"),
        "look_ups": (
            lambda: window(site="encoder_self", layer=1, head=1, window=30),
            "window 30 and features is nearest to it. Share of the weight that lies elsewhere",
        ),
        "entropies": (lambda: pictures.entropies(heads()), "heads, each with its stand-in"),
        "orders": (
            lambda: pictures.orders(
                pd.DataFrame({"label": ["3 alone", "2, then 3"], "bleu": [50.0, 60.0]}), teacher=99
            ),
            "Highest with 2, then 3, 60.0; the teacher (line) has 99.0.",
        ),
        "by_length": (
            lambda: pictures.by_length(LENGTHS), "At 100 words 1 of 1 stand-ins write faster",
        ),
        "by_length/none": (lambda: pictures.by_length(LENGTHS[:0]), "not recorded yet"),
        "passes": (
            lambda: pictures.passes(records.passes([
                {"seed": seed, "curve": {"tokens_seen": [1e6, 2e6], "loss_nats": [3, 2.5 + seed]}}
                for seed in (0, 1)
            ])),
            "lowest after 2 of 2 million tokens, 2.500 nats",
        ),
        "passes/none": (lambda: pictures.passes(records.passes([])), "not recorded yet"),
        "recorded_ablation": (pictures.recorded_ablation, "recorded"),
        "recorded_tasks": (pictures.recorded_tasks, "e"),
        "kept": (
            lambda: pictures.kept(records.kept(records.spans(KEEPS))),
            "Kept by what stays: none 97",
        ),
        "kept/none": (lambda: pictures.kept(pd.DataFrame()), "not recorded yet"),
        "switches": (lambda: switched(), "as long, 40.0), seeds 1: teacher."),
        "switches/window": (
            lambda: switched(encoder_self="window", decoder_self="window", cross="linear"),
            "tuned afterwards, 39.0 (attention, trained on as long, 40.0), seeds 1: all",
        ),
        "switches/none": (lambda: switched(cross="linear"), "captions: not recorded"),
    }  # fmt: skip
    PANELS = {  # noqa: RUF012
        "kernels": lambda: (
            lambda **at: live.draw_kernels(toy().teacher, lessons(), **at), pictures.HEAD_DIALS
        ),
        "window": lambda: (window, pictures.WINDOW_DIALS),
        "switches": lambda: (lambda **put: switched(**put), pictures.SWITCH_DIALS),
    }  # fmt: skip


# Heads


def test_a_stand_in_with_a_window_over_all_has_the_head_it_stands_for():
    students = stand_ins(toy().teacher, window=30)
    own = {place: one for place, one in students.items() if place[0] != "cross"}
    found = pd.DataFrame(head_table(toy().teacher, own, exam(), near=30))
    assert len(found) == 4 * len(own)
    assert found["relative_error"].max() < 1e-8
    assert found["entropy_nats"].min() > 0
    assert found["near_share"].to_numpy() == pytest.approx(1)  # all of it is near


def test_kernels_are_those_of_the_pairs_that_a_query_may_see():
    table = points()
    lesson = lessons()["cross", 1]
    n_pairs = ((~lesson.padding).sum(1) * (~lesson.source_padding).sum(1)).sum()
    assert (table.groupby("name").size() == int(n_pairs)).all()
    means = table.groupby("name")["kernel"].mean()
    expected = np.exp(table[table["name"] == "elu"]["score"]).mean()
    assert means.to_numpy() == pytest.approx(expected, rel=1e-4)


def test_gates_of_the_committed_stand_ins_lie_where_the_notebook_says():
    students, _ = load_students(MODELS / "captions" / "all-linear-students.safetensors")
    gates = [one.near_gate.sigmoid() for (site, _), one in students.items() if site != "cross"]
    assert 0.085 <= min(map(torch.min, gates)) < 0.1 < max(map(torch.max, gates)) <= 0.165


# Ablation


def test_rows_of_the_ablation_differ_from_the_recipe_in_what_their_words_say():
    planned = records.planned_arms()
    assert len(CHANGED) > 10
    assert len(set(CHANGED.values())) == len(CHANGED)
    assert CHANGED["all/linear/relu"] == "features: relu, no window"
    assert CHANGED["all/linear/untaught/corrections"] == "tuned only, low-rank corrections tuned"
    for variant, words in CHANGED.items():
        assert words
        assert 1 <= len(records.unlike(planned.loc[BASE], planned.loc[variant])) <= 2
        assert planned.loc[variant, "site"] == planned.loc[BASE, "site"]


def test_the_ablation_counts_what_is_not_recorded_and_names_the_dearest_change():
    one = picture(pictures.draw_ablation)(records.spans(RUNS), records.planned_arms())
    assert f"1 of {len(CHANGED)} changes recorded" in one.words
    assert "Of single changes most is lost by: no window." in one.words
    assert "The recipe at all sites keeps 97.5% of its teacher" in one.words
    assert "Each: no window 92.3%." in one.words
    nothing = picture(pictures.draw_ablation)(records.spans(RUNS[:1]), records.planned_arms())
    assert "not recorded yet" in nothing.words


def test_a_change_is_judged_by_its_pairs_with_the_recipe_and_the_best_on_validation():
    random = np.random.default_rng(0)

    def counts(right):
        written = np.tile(20 - np.arange(4), (80, 1))
        found = np.rint(np.clip(right, 0, 1)[:, None] * written)
        return pack_counts(np.hstack([found, written, np.full((80, 2), 20)]).astype(int))

    rows = []
    for seed in (0, 1, 2):
        hard = random.uniform(0.3, 0.9, 80)  # of each sentence; for stand-ins others are
        odd = hard + random.normal(0, 0.25, 80)
        for variant, share, known in ((TEACHER, 1.0, 40), ("all/identity/tuned_all", 1.0, 40),
                                      (BASE, 0.97, 38), ("all/linear/no_window", 0.95, 37),
                                      ("all/ssd", 0.96, 39)):  # fmt: skip
            right = hard if share == 1 else odd[::-1] if variant == "all/ssd" else odd
            rows.append((variant, seed, 40 * share, known, counts(right * share)))
    table = runs(*[row[:3] for row in rows])
    table["validation_bleu"] = [row[3] for row in rows]
    table[SENTENCES] = [row[4] for row in rows]
    found = records.spans(table)
    assert found.loc["all/linear/no_window", "high"] > found.loc[BASE, "low"]  # intervals overlap
    said = records.conclusions(found)
    assert "seed by seed: no window (9" in said[2]
    assert "ssd" not in said[2]
    assert said[3].startswith("Of 3 rows at all sites with 3 seeds most is kept on validation by")
    assert "state space; on test" in said[3]
    assert len(records.conclusions(found.assign(n_seeds=1, n_pairs=1))) == 3
    found[records.PRECISION] = np.where(
        found.index == "all/linear/no_window", "bfloat16", "float32"
    )
    assert records.conclusions(found)[-1].endswith("came along, in bfloat16: no window.")


def test_tasks_are_drawn_by_what_is_kept_above_a_trivial_answer():
    one = picture(pictures.draw_tasks)(TASKS)
    assert "least is kept at cross in a headline (linear): 20% of what" in one.words
    assert "Tasks: 2; seeds: 3 or more" in one.words
    assert "not recorded yet" in picture(pictures.draw_tasks)(TASKS[:0]).words
    weak = TASKS.assign(teacher=[19.0, 19.0, 20.0])
    one = picture(pictures.draw_tasks)(weak)
    assert "least is kept at cross in a reply (linear): 90% of what" in one.words
    assert one.words.endswith("Teacher too weak to decide: a headline.")
    assert "least is kept" not in picture(pictures.draw_tasks)(weak[:2]).words
    table = records.tasks_markdown(TASKS.assign(low=9.0, high=13.0))
    assert (
        "| a headline | ROUGE-L | 10.0 | 20.0 | cross: linear | 12.0 (9.0 to 13.0) | 30.0 | 3 |"
        in table
    )


# Switches


def test_an_arm_is_found_by_what_it_puts_at_each_site():
    assert records.at_switches(RUNS, **dict.fromkeys(SITES, "attention"))["bleu"].tolist() == [40.0]
    linear = records.at_switches(RUNS, **dict.fromkeys(SITES, "linear"))
    assert linear["variant"].tolist() == ["all/linear/no_window"]
    assert records.at_switches(RUNS[:0], **dict.fromkeys(SITES, "linear")).empty


def test_switches_go_back_and_change_what_is_written_only_while_they_are_on():
    one = toy()
    before = [w.clone() for w in one.teacher.parameters()]
    whole = one.translate(live.USUAL)
    one.bleu(cross="linear")
    assert one.translate(live.USUAL) == whole
    assert all(torch.equal(a, b) for a, b in zip(before, one.teacher.parameters(), strict=True))
    assert one.bleu(cross="attention") == one.bleu()


def test_a_first_sentence_is_one_that_the_switches_change():
    one, written = live.Switches(toy().teacher, {}, SOURCE, SOURCE.sample_pairs(8)), {}
    texts = [SOURCE.decode(read) for read, _ in one.test]
    one.translate = lambda text, cross="attention", **_: written.get(text) * (cross == "linear")
    written |= dict.fromkeys(texts, "") | {texts[3]: "otherwise", texts[5]: "otherwise, too"}
    assert one.first_changed(**dict.fromkeys(SITES, "linear")) == texts[3]
    same = one.first_changed(**dict.fromkeys(SITES, "attention"))
    assert same == texts[0]  # nothing changes anything: the first there is


def test_weight_within_a_window_is_read_from_the_newest_record_that_has_it(tmp_path):
    assert records.near_shares(path=tmp_path).empty
    for variant, shares in (("all/ssd", (0.5, 0.7, 0.9)), ("all/mean", None)):
        sites = ("encoder_self", "encoder_self", "decoder_self", "cross")
        heads = [{"site": site, "near_share": share}
                 for site, share in zip(sites, (*(shares or ()), None), strict=False)]  # fmt: skip
        record = RunRecord(
            experiment=records.CAPTIONS, variant=variant, seed=0, config={}, metrics={},
            details={"heads": heads}, seconds=1.0, command="", commit="", environment={},
            finished_at="",
        )  # fmt: skip
        record.append_to(tmp_path / "replaced.jsonl")
    found = records.near_shares(path=tmp_path)
    assert found.to_dict() == pytest.approx({"encoder_self": 0.6, "decoder_self": 0.9})


def test_the_playground_reads_what_it_knows_and_marks_what_differs():
    play = live.Playground(toy())
    put = dict.fromkeys(SITES, "attention")
    texts = play.write(sentence="the dog see xyzzy", **put)
    assert texts["Read"] == "the dog see"
    assert texts["With these switches"] == texts["Attention everywhere"]
    said = play.say(sentence="the dog see xyzzy", **put)
    assert "Translator of the toy; encoder self: attention; " in said
    assert "xyzzy" in said
    assert live.changes("a b", "a c d") == "\n  ^  (1 fewer)"
    assert live.changes("a b", "a b") == ""


def test_captions_that_are_not_here_are_none(tmp_path):
    assert live.captions_here(tmp_path) is None


def test_captions_are_translated_with_a_switch_at_each_site(tmp_path, monkeypatch):
    facts, teacher = {"experiment": records.CAPTIONS}, toy().teacher
    (tmp_path / "here").mkdir()
    save_model(tmp_path / "here" / "teacher.safetensors", model=teacher, **facts)
    students = stand_ins(teacher, window=4)
    file = tmp_path / "here" / "all-linear-students.safetensors"
    save_students(file, students=students, variant="all/linear/students", **facts)
    monkeypatch.setattr(live, "prepare_pairs", lambda *_, **__: SimpleNamespace(vocabulary=SOURCE))
    here = live.captions_here(tmp_path)
    put = {"encoder_self": "window", "decoder_self": "attention", "cross": "linear"}
    assert here.translate(live.USUAL) == toy().translate(live.USUAL)
    chosen = {place: one for place, one in students.items() if place[0] != "decoder_self"}
    with substitute(teacher, chosen):
        (written,) = translate_all(teacher, [SOURCE.encode(live.USUAL)], max_len=23)
    assert here.translate(live.USUAL, **put) == SOURCE.decode(written)
    assert here.translate("a", encoder_self="linear").startswith("(nothing called linear for")
    play = live.Playground(toy(), captions=lambda: here)
    assert play.say(sentence="ein Hund", **put).startswith("Translator of captions; encoder self")
    assert play.say(sentence=live.USUAL, **put).startswith("Translator of the toy;")


# Exercises


def test_the_right_answers_are_those_of_the_library():
    teacher = toy().teacher
    student = stand_ins(teacher, window=3)["decoder_self", 0]
    x = torch.randn(1, 7, teacher.config.d_model)
    q, k, v = (student.in_heads(name, x)[0, 1] for name in ("query", "key", "value"))
    phi = [student.features(z[None, None].expand(1, 4, -1, -1), s)[0, 1]
           for z, s in ((q, "query"), (k, "key"))]  # fmt: skip
    right = checks.check_window_and_rest.right
    found = right(q, k, v, *phi, 3, student.near_gate.sigmoid().flatten()[1])
    width = q.shape[1]
    expected = student(x)[0, :, width : 2 * width]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    W = student.query_feature_weight[1]
    torch.testing.assert_close(checks.check_features.right(q, W), phi[0])
