"""Exercises and live helpers of notebook 08: every mistake is seen, every number has its reason."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.config import TrainConfig
from attnlab.distillation import StudentSpec, build_student, build_students, measure_errors
from attnlab.distillation.naive import encoder_naive
from attnlab.records import RunRecord
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.teaching import distillation as exercises
from attnlab.teaching import distillation_runs as runs
from attnlab.teaching.core import CheckFailed, unseen_mistakes
from attnlab.teaching.live_translation import seeded_translator
from attnlab.teaching.quiz import quiz_markdown

SOURCE = translation_source()


@pytest.fixture(scope="module")
def teacher():
    sizes = {"source_vocab_size": SOURCE.vocab_size, "target_vocab_size": SOURCE.vocab_size}
    return seeded_translator(**sizes, d_model=8, n_heads=2, d_ff=8, max_len=16).float()


def test_every_mistake_in_the_net_is_recognised():
    cases, mistakes = exercises.alr_cases(), exercises.ALR_MISTAKES
    assert unseen_mistakes(reference=exercises.alr_net, cases=cases, mistakes=mistakes) == []


def test_every_mistake_in_the_running_sums_is_recognised():
    cases, mistakes = exercises.prefix_cases(), exercises.PREFIX_MISTAKES
    reference = exercises.prefix_hidden
    assert unseen_mistakes(reference=reference, cases=cases, mistakes=mistakes) == []


def test_right_answers_pass_and_wrong_ones_are_told(capsys):
    exercises.check_alr_net(exercises.alr_net)
    exercises.check_prefix_hidden(exercises.prefix_hidden)
    assert capsys.readouterr().out.count("Correct") == 2
    with pytest.raises(CheckFailed, match="empty slots"):
        exercises.check_alr_net(exercises.ALR_MISTAKES[0].wrong)
    with pytest.raises(CheckFailed, match="all W numbers"):
        exercises.check_prefix_hidden(exercises.PREFIX_MISTAKES[0].wrong)


def test_the_numbers_on_the_page_come_out():
    x = torch.tensor([[3.0], [1.0]], dtype=torch.float64)
    y = exercises.alr_net(x, 2, exercises.hand_weights())
    torch.testing.assert_close(y.flatten(), torch.tensor([1.0, -2.0]).double(), atol=1e-3, rtol=0)


def test_the_reference_net_is_the_package_s():
    student = build_student(StudentSpec(width=5), max_len=5, d_model=3, n_heads=1).double()
    slots = student.net
    weights = {
        "gain": slots.norm_gain.flatten(), "shift": slots.norm_shift.flatten(),
        "w_1": slots.first_weight.flatten(0, 1), "b_1": slots.first_bias[0],
        "hidden_gain": slots.hidden_gain[0], "hidden_shift": slots.hidden_shift[0],
        "w_2": slots.second_weight.flatten(1), "b_2": slots.second_bias.flatten(),
    }  # fmt: skip
    x = torch.randn(5, 3, generator=torch_generator(0, "data"), dtype=torch.float64)
    padding = torch.arange(5) >= 3
    want = encoder_naive(student, x[None], source_padding=padding[None])[0]
    torch.testing.assert_close(exercises.alr_net(x, 3, weights), want)


@settings(deadline=None, max_examples=25)
@given(time=st.integers(1, 7), width=st.integers(2, 5), seed=st.integers(0, 99))
def test_running_sums_and_the_rest_are_a_decoder_student(time, width, seed):
    spec = StudentSpec(site="decoder_self", width=width)
    sizes = {"max_len": 7, "d_model": 3, "n_heads": 1}
    net = build_student(spec, **sizes, generator=torch_generator(seed, "init")).double()
    x = torch.randn(time, 3, generator=torch_generator(seed, "data"), dtype=torch.float64)
    first = exercises.prefix_hidden(x, *exercises.first_layer(net))
    torch.testing.assert_close(exercises.rest_of_net(net, first), net(x[None])[0])


def test_the_quiz_has_reasons():
    assert len(exercises.DISTILLATION_QUIZ) >= 3
    assert "Answers, with reasons" in quiz_markdown(exercises.DISTILLATION_QUIZ)


# Live helpers


def test_counts_are_the_published_formulas():
    counts, W, d = runs.count_table(), 50 * 128, 128
    assert counts.loc["ALR, ALRR, ELR", "XS"] == 2 * W * 25 + 3 * W + 3 * 25 == 339_275
    assert counts.loc["ASLR, all heads", "XS"] == 8 * (W * 200 + 200 * 800 + 2 * W + 600 + 800)
    assert counts.loc["Decoder self, ALR", "L"] == W * 3200 + 3200 * d + 2 * W + 9600 + d
    assert counts.loc["Cross, ALR", "M"] == 3 * W * 1600 + 5 * W + 4800


def test_a_course_teaches_and_keeps_what_it_reports(teacher):
    arms = {"alr/m": StudentSpec(size="m"), "aslr/xs": StudentSpec(method="aslr", size="xs")}
    config = TrainConfig(n_steps=20, batch_size=16, lr=1e-2)
    course = runs.Course(teacher, source=SOURCE, arms=arms, config=config, n_lessons=60)
    points = list(course.points(every=10))
    assert [point.step for point in points] == [0, 10, 20]
    rows = runs.as_rows(points)
    assert len(rows) == 3 * 2 * 2
    assert set(rows["layer"]) == {1, 2}
    for name, errors in course.errors().items():
        best = np.min([point.errors[name] for point in points[1:]], axis=0)
        np.testing.assert_allclose(errors, best, rtol=1e-4)
        assert max(errors) < max(points[0].errors[name])


def test_judging_leaves_the_teacher_as_it_was(teacher):
    pairs = SOURCE.sample_pairs(3)
    before = teacher.encode(torch.from_numpy(pairs[0][0])[None])
    row = runs.judge(teacher, build_students(teacher, spec=StudentSpec()), source=SOURCE,
                     n_sentences=4)  # fmt: skip
    assert set(row) == {"accuracy", "bleu", "exact_match"}
    assert torch.equal(teacher.encode(torch.from_numpy(pairs[0][0])[None]), before)


def test_head_outputs_are_those_of_the_site(teacher):
    tokens = SOURCE.encode("a cat hear")
    student = build_students(teacher, spec=StudentSpec())["encoder_self", 1]
    y, found = runs.head_outputs(teacher, student, source=SOURCE, tokens=tokens, layer=1)
    assert y.shape == found.shape == (2, 3, 4)
    with torch.no_grad():
        x = teacher.source_embedding(torch.from_numpy(tokens)[None]) + teacher.source_position[:3]
        x = teacher.encoder[0](x)
        layer = teacher.encoder[1]
        want = layer.self_attention.heads(layer.self_attention_norm(x))[0]
    np.testing.assert_allclose(np.concatenate(list(y), -1), want.numpy(), rtol=1e-4, atol=1e-5)


def test_a_hook_sees_what_capture_sees(teacher):
    tokens = torch.from_numpy(SOURCE.encode("a cat hear"))[None]
    site = teacher.encoder[0].self_attention
    seen = runs.hooked_heads(site, lambda: teacher.encode(tokens))
    assert seen.shape == (1, 3, 8)
    assert not site.out._forward_pre_hooks


def test_the_floor_is_what_the_best_plane_misses():
    y = torch.zeros(6, 1, 3)
    for i, (channel, size) in enumerate([(0, 1), (0, -1), (1, 2), (1, -2), (2, 3), (2, -3)]):
        y[i, 0, channel] = size
    floors = runs.bottleneck(torch.zeros_like(y), y)  # squared singular values 18, 8, 2
    np.testing.assert_allclose(28 * floors.stream[:5], [28, 28, 10, 2, 0], atol=1e-5)
    np.testing.assert_allclose(floors.update, floors.stream)


@settings(deadline=None, max_examples=10)
@given(width=st.integers(2, 6), seed=st.integers(0, 99))
def test_no_student_is_better_than_its_floor(width, seed):
    x, y = torch.randn(2, 30, 3, 4, generator=torch_generator(seed, "data"), dtype=torch.float64)
    floors = runs.bottleneck(x, y)
    spec = StudentSpec(method="alrr", width=width)
    sizes = {"max_len": 3, "d_model": 4, "n_heads": 1}
    student = build_student(spec, **sizes, generator=torch_generator(seed, "init")).double()
    with torch.no_grad():  # the best second map for these hidden units: least squares
        h = student.net.hidden(student.net.read(x), student.net.fold())
        ones = torch.ones(len(h), 1, dtype=h.dtype)
        best = torch.linalg.lstsq(torch.cat([h, ones], 1), y.flatten(1), driver="gelsd").solution
        student.net.second_weight.copy_(best[:-1].view_as(student.net.second_weight))
        student.net.second_bias.copy_(best[-1].view_as(student.net.second_bias))
    assert runs.stream_error(student, x, y) >= floors.stream[width] - 1e-9


def test_one_length_holds_the_sentences_of_that_length(teacher):
    lessons = runs.collect_lessons(teacher, SOURCE.sample_pairs(40), spec=StudentSpec())
    length = int(lessons.lengths[0])
    x, y = runs.same_length(lessons, layer=0, length=length)
    assert x.shape == y.shape == (int((lessons.lengths == length).sum()), length, 8)
    student = build_students(teacher, spec=StudentSpec())
    assert measure_errors(student, held_out=lessons).shape == (2,)


# Records


def test_records_are_read_where_there_are_any(tmp_path):
    empty = runs.recorded_arms(path=tmp_path)
    assert empty.empty
    assert {"variant", "bleu", "relative_error"} <= set(empty.columns)
    for seed, error in ((0, 0.2), (1, 0.4)):
        metrics = {"bleu": 90.0 + seed, "relative_error": error, "n_stand_in_weights": 100}
        record = RunRecord(experiment=runs.EXPERIMENT, variant="encoder_self/alr/m", seed=seed,
                           config={}, metrics=metrics, seconds=1.0)  # fmt: skip
        record.append_to(tmp_path / "attentionless.jsonl")
    arms = runs.recorded_arms(path=tmp_path)
    (row,) = runs.over_seeds(arms, columns=["bleu", "relative_error"]).to_dict("records")
    assert (row["bleu_low"], row["bleu"], row["bleu_high"]) == (90.0, 90.5, 91.0)
    assert row["relative_error"] == pytest.approx(0.3)
    assert (row["site"], row["n_seeds"]) == ("encoder_self", 2)
    assert "seeds 0, 1" in runs.source_line(arms)


def test_orders_at_one_rate_and_at_the_best_are_compared(tmp_path):
    RunRecord(experiment=runs.EXPERIMENT, variant="teacher", seed=0, config={}, metrics={},
              seconds=1.0).append_to(tmp_path / "attentionless.jsonl")  # fmt: skip
    scores = {"alr/m": (90.0, 91.0), "elr/m": (80.0, 95.0), "alrr/m": (70.0, None)}
    for method, (bleu, at_best) in scores.items():
        for ending, value in (("", bleu), ("/best_lr", at_best)):
            if value is None:
                continue
            tried = [{"site": "encoder_self", "lr": lr, "relative_error": error}
                     for lr, error in ((0.001, 0.5), (0.003, 0.2))]  # fmt: skip
            RunRecord(experiment=runs.EXPERIMENT, variant=f"encoder_self/{method}{ending}", seed=0,
                      config={"fit": {"lr": 0.001}}, metrics={"bleu": value}, seconds=1.0,
                      details={"rates": tried} if ending else {},
                      ).append_to(tmp_path / "attentionless.jsonl")  # fmt: skip
    arms = runs.recorded_arms(path=tmp_path)
    assert arms.loc[arms["way"] == "best_lr", "lr"].tolist() == [0.003, 0.003]
    assert arms.loc[arms["way"] == "", "lr"].dropna().tolist() == [0.001] * 3
    words = runs.best_rates(arms, site="encoder_self")
    assert "one rate: alr/m 90.0, elr/m 80.0; each at its best rate: elr/m 95.0, alr/m" in words
    assert "another order. Best rates: alr/m 0.003, elr/m 0.003." in words
    assert "not recorded yet" in runs.best_rates(arms, site="cross")
    assert "not recorded yet" in runs.best_rates(arms.head(0), site="cross")


def test_an_empty_table_has_no_rows_over_seeds():
    assert runs.over_seeds(pd.DataFrame(columns=["variant"]), columns=[]).empty
