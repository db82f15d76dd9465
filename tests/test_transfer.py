"""Stages of a stand-in: what is matched, what tuning minimises, and in which order to replace."""

from dataclasses import replace
from itertools import islice, pairwise

import pytest
import torch
from small_teacher import some_pairs, teacher_for
from torch import nn
from torch.nn import functional as F

from attnlab.config import TrainConfig
from attnlab.distillation import (
    StudentSpec,
    build_controls,
    build_students,
    capture,
    find_site,
    substitute,
)
from attnlab.distillation.transfer import (
    Transfer,
    Tuning,
    cheapest_next,
    exam_of,
    head_table,
    relative_errors,
)
from attnlab.distillation.tuning import set_dropout
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models.loss import linear_cross_entropy, linear_distillation
from attnlab.training import PairBatches, collate_pairs, train_model

TRAIN = TrainConfig(n_steps=2, lr=1e-2, warmup_steps=0, seed=0)
PAIRS = some_pairs(40)
BATCH = collate_pairs(PAIRS[:6])


@pytest.fixture(scope="module")
def teacher():
    return teacher_for()


@pytest.fixture(scope="module")
def exam(teacher):
    return exam_of(teacher, PAIRS[:20], sites=("encoder_self", "decoder_self", "cross"))


def stand_ins(teacher, *sites, **options):
    specs = [StudentSpec(site=site, method="linear", **options) for site in sites]
    return {k: s for spec in specs for k, s in build_students(teacher, spec=spec).items()}


def transfer(teacher, exam, students, **how):
    where = {"keys": tuple(students), "held_out": exam, "max_tokens": 60}
    return Transfer(teacher=teacher, pairs=PAIRS, **where, **how)


def loss_of(task, students):
    model = nn.ModuleList(students.values())
    return task.train_options(model, TRAIN)["loss"](*BATCH)


# Loss of a teacher's distribution


@pytest.mark.parametrize(("share", "temperature"), [(0.0, 1.0), (0.5, 1.0), (1.0, 2.0), (0.3, 1.5)])
def test_distillation_in_chunks_is_its_equation_in_values_and_gradients(share, temperature):
    draw = torch.Generator().manual_seed(0)
    features, weight, taught, taught_weight = (
        torch.randn(shape, generator=draw, dtype=torch.float64)
        for shape in ((7, 3), (11, 3), (7, 5), (11, 5))
    )
    labels = torch.randint(11, (7,), generator=draw)
    features.requires_grad_(True)
    weight.requires_grad_(True)
    given = {"taught": taught, "taught_weight": taught_weight}
    how = {"share": share, "temperature": temperature, "rows_at_once": 3}
    found, plain = linear_distillation(features, weight, labels, **given, **how)
    logits, log_p = features @ weight.T, (taught @ taught_weight.T / temperature).log_softmax(-1)
    log_q = (logits / temperature).log_softmax(-1)
    gap = (log_p.exp() * (log_p - log_q)).sum(-1).mean()
    surprise = F.cross_entropy(logits, labels)
    wanted = share * temperature**2 * gap + (1 - share) * surprise
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(plain, surprise)
    assert not plain.requires_grad
    both = [torch.autograd.grad(3 * each, (features, weight)) for each in (found, wanted)]
    torch.testing.assert_close(*both)


def test_a_model_is_no_distance_from_itself():
    features, weight = torch.randn(5, 3, requires_grad=True), torch.randn(9, 3)
    labels, same = torch.arange(5), {"taught": features, "taught_weight": weight}
    found, plain = linear_distillation(features, weight, labels, **same, share=1.0)
    assert float(found.detach()) == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(plain, linear_cross_entropy(features, weight, labels).detach())
    assert torch.autograd.grad(found, features)[0].abs().max() < 1e-6
    with pytest.raises(AttnlabError, match=r"share=1.5"):
        linear_distillation(features, weight, labels, **same, share=1.5)


# Stages before the swap


@pytest.mark.parametrize("match", ["outputs", "weights", "matrix", "both"])
def test_a_window_over_everything_has_nothing_left_to_learn(teacher, exam, match):
    exact = stand_ins(teacher, "encoder_self", "decoder_self", window=teacher.config.max_len)
    rough = stand_ins(teacher, "encoder_self", "decoder_self", "cross")
    assert float(loss_of(transfer(teacher, exam, exact, match=match), exact).detach()) < 1e-4
    assert float(loss_of(transfer(teacher, exam, rough, match=match), rough).detach()) > 1e-2


def test_a_stand_in_reads_what_is_below_it_only_if_it_shall(teacher, exam):
    students = stand_ins(teacher, "encoder_self")
    body = teacher_for()
    substitute(body, students)
    by_teacher = transfer(teacher, exam, students)
    own = replace(by_teacher, inputs="own", body=body)
    given, read = own.lessons(BATCH)
    first, last = ("encoder_self", 0), ("encoder_self", teacher.config.n_encoder_layers - 1)
    assert torch.equal(given[first].inputs, read[first].inputs)
    assert not torch.allclose(given[last].inputs, read[last].inputs)
    given, read = by_teacher.lessons(BATCH)
    assert torch.equal(given[last].inputs, read[last].inputs)
    with pytest.raises(AttnlabError, match="needs body"):
        transfer(teacher, exam, students, inputs="own")


def test_learning_to_match_makes_errors_smaller_and_leaves_the_teacher_alone(teacher, exam):
    students = stand_ins(teacher, "encoder_self", "decoder_self", "cross")
    before, weights = relative_errors(students, exam), teacher.head.weight.clone()
    train = replace(TRAIN, n_steps=25)
    model, task = nn.ModuleList(students.values()), transfer(teacher, exam, students)
    *_, state = train_model(task, model, train, points={25})
    after = relative_errors(students, exam)
    assert sum(after.values()) < 0.9 * sum(before.values())
    assert state.curve["relative_error"][-1] == pytest.approx(sum(after.values()) / len(after))
    assert torch.equal(weights, teacher.head.weight)
    batches = PairBatches(PAIRS, max_tokens=60, seed=0).starting_at(0)
    assert state.tokens_seen == sum(int((t[:, 1:] != 0).sum()) for _, t in islice(batches, 25))


def test_a_stage_goes_on_at_the_batch_at_which_the_one_before_it_ended(teacher, exam):
    students = stand_ins(teacher, "cross")
    whole = transfer(teacher, exam, students).batches(teacher, TRAIN)
    later = Tuning(teacher=teacher, pairs=PAIRS, max_tokens=60, first_batch=3, validation=PAIRS)
    wanted = list(islice(whole, 6))[3:]
    found = list(islice(later.batches(teacher, TRAIN), 3))
    assert all(torch.equal(a, b) for one, two in zip(wanted, found, strict=True)
               for a, b in zip(one, two, strict=True))  # fmt: skip


def test_what_cannot_be_matched_is_refused(teacher, exam):
    nets = build_students(teacher, spec=StudentSpec(site="encoder_self"))
    with pytest.raises(AttnlabError, match="no matrix of weights"):
        loss_of(transfer(teacher, exam, nets, match="weights"), nets)
    with pytest.raises(UnknownNameError, match="outputs"):
        transfer(teacher, exam, nets, match="output")


# Tuning


def test_tuning_by_references_is_training_and_the_teacher_has_nothing_to_teach_itself(teacher):
    same = {"teacher": teacher, "pairs": PAIRS, "max_tokens": 60, "validation": PAIRS[:9]}
    assert Tuning(**same, signal="references").train_options(teacher, TRAIN) == {}
    losses = {
        signal: Tuning(**same, signal=signal).train_options(teacher, TRAIN)["loss"](*BATCH)
        for signal in ("teacher", "both")
    }
    plain = float(teacher.loss(*BATCH).detach())
    assert [float(found[1]) for found in losses.values()] == pytest.approx([plain, plain])
    assert float(losses["teacher"][0].detach()) == pytest.approx(0, abs=1e-6)
    assert float(losses["both"][0].detach()) == pytest.approx(plain / 2, rel=1e-4)


def test_dropout_is_set_wherever_something_is_dropped_but_where_attention_has_its_own():
    model = teacher_for(dropout=0.4)
    set_dropout(model, 0.2)
    shares = {
        getattr(module, name)
        for module in model.modules()
        for name in ("p", "dropout")
        if isinstance(getattr(module, name, None), float)
    }
    assert shares == {0.2} == {model.config.dropout}
    model = teacher_for(dropout=0.4, attention_dropout=0.0)
    set_dropout(model, 0.2)
    assert model.encoder[0].self_attention.dropout == 0.0
    assert model.encoder[0].dropout.p == 0.2


# Heads, and what to replace first


def test_a_constant_misses_all_of_every_head_and_entropies_are_those_of_rows(teacher, exam):
    site = "decoder_self"
    means = build_controls("mean", teacher=teacher, site=site, activations=exam[site])
    rows = head_table(teacher, means, exam)
    assert len(rows) == teacher.config.n_decoder_layers * teacher.config.n_heads
    assert [row["relative_error"] for row in rows] == pytest.approx([1.0] * len(rows), rel=1e-4)
    most = torch.log(torch.tensor(float(exam[site].lengths.max())))
    assert all(0 <= row["entropy_nats"] <= most for row in rows)
    assert all(0 < row["near_share"] < 1 for row in rows)
    errors = relative_errors(means, exam)
    assert list(errors.values()) == pytest.approx([1.0] * len(errors), rel=1e-4)


@pytest.mark.parametrize(("site", "near"), [("encoder_self", 2), ("decoder_self", 3)])
def test_near_is_what_lies_less_than_so_many_positions_away(teacher, site, near):
    one = exam_of(teacher, PAIRS[:1], sites=(site,))
    rows = head_table(teacher, stand_ins(teacher, site), one, near=near)
    lesson = capture(teacher, collate_pairs(PAIRS[:1]))[site, 1]
    weights = find_site(teacher, site=site, layer=1).attention_weights(lesson.inputs)[0].detach()
    n = weights.shape[-1]
    near_by = [sum(float(weights[h, t, s]) for t in range(n) for s in range(n) if abs(t - s) < near)
               for h in range(len(weights))]  # fmt: skip
    found = [row["near_share"] for row in rows if row["layer"] == 1]
    assert found == pytest.approx([share / n for share in near_by])
    assert 0 < min(found) < max(found) < 1


def test_the_cheapest_next_is_put_in_first_and_everything_back_afterwards(teacher):
    students = stand_ins(teacher, "encoder_self", "cross")
    price = {key: (7 * i) % 5 + 1 for i, key in enumerate(students)}
    asked, before = [], dict(teacher.named_modules())

    def loss(model):
        there = [key for key, student in students.items() if student in set(model.modules())]
        asked.append(len(there))
        return float(sum(price[key] for key in there))

    order = cheapest_next(teacher, students, loss=loss, n_kept=1)
    taken = [key for key, _ in order]
    assert taken == sorted(students, key=lambda key: price[key])[: len(students) - 1]
    assert [cost for _, cost in order] == [sum(price[k] for k in taken[: i + 1])
                                           for i in range(len(taken))]  # fmt: skip
    assert all(a <= b for a, b in pairwise(asked))
    assert dict(teacher.named_modules()) == before
