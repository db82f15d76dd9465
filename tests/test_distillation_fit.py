"""Capture and fit: the teacher's own numbers, and students that learn from them."""

import dataclasses
import itertools

import pytest
import torch
from small_teacher import (
    CROSS,
    DECODER,
    ENCODER,
    EVERYWHERE,
    PAPER,
    RICH,
    differ,
    label,
    lessons_for,
    some_batches,
    some_pairs,
    teacher_for,
    weights_of,
)

from attnlab.config import BOS, EOS, PAD, TrainConfig
from attnlab.distillation import (
    Fitted,
    StudentSpec,
    build_students,
    capture,
    collect_activations,
    cut_targets,
    find_site,
    fit,
    fit_steps,
    fit_students,
    measure_errors,
    substitute,
)
from attnlab.errors import AttnlabError, DivergenceError
from attnlab.training import PairBatches, collate_pairs
from attnlab.training.loop import learning_rate

SHORT = TrainConfig(n_steps=12, batch_size=8, lr=1e-2, warmup_steps=2, weight_decay=0.01)
everywhere = pytest.mark.parametrize("spec", [*EVERYWHERE, *RICH], ids=label)


def fitted(teacher, spec, *, layers=None, eval_every=100, **settings):
    """Fit students on three batches, measured on a fourth; return them, logs and exam."""
    lessons, exam = (lessons_for(teacher, spec, s, n, layers=layers) for s, n in ((0, 3), (50, 1)))
    students = build_students(teacher, spec=spec, layers=layers)
    config = dataclasses.replace(SHORT, **settings)
    steps = fit_steps(students, lessons, held_out=exam, config=config, eval_every=eval_every)
    return students, list(steps), exam


# capture


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_capture_equals_what_a_forward_hook_sees(norm):
    teacher, (source, target) = teacher_for(norm=norm), some_batches()[0]
    layers = [("encoder_self", teacher.encoder, "self_attention"),
              ("decoder_self", teacher.decoder, "self_attention"),
              ("cross", teacher.decoder, "cross_attention")]  # fmt: skip
    sites = {(s, i): getattr(m, name) for s, stack, name in layers for i, m in enumerate(stack)}
    seen, handles = {}, []
    for key, site in sites.items():

        def note(module, args, kwargs, output, key=key):
            seen[key] = [*args, module.heads(*args, **kwargs)]

        handles.append(site.register_forward_hook(note, with_kwargs=True))
    with torch.no_grad():
        teacher.predictions(source, target)
    for handle in handles:
        handle.remove()
    found = capture(teacher, (source, target))
    assert set(found) == set(seen)
    for key, lesson in found.items():
        x, *memory, heads = seen[key]
        assert torch.equal(lesson.inputs, x)
        assert torch.equal(lesson.targets, heads)
        assert (lesson.memory is not None) == (key[0] == "cross")
        assert all(torch.equal(lesson.memory, m) for m in memory)


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_capture_of_larger_parts_equals_the_equations(norm):
    teacher, (source, target) = teacher_for(norm=norm), some_batches()[0]
    sublayers, layers = (capture(teacher, (source, target), method=m) for m in ("alrr", "elr"))
    assert list(sublayers) == list(layers) == [("encoder_self", i) for i in range(3)]
    for i, layer in enumerate(teacher.encoder):
        x, y = sublayers["encoder_self", i][:2]
        norm_of, attend, mask = layer.self_attention_norm, layer.self_attention, source == PAD
        if norm == "pre":
            expected = x + attend(norm_of(x), source_padding=mask)
        else:
            expected = norm_of(x + attend(x, source_padding=mask))
        torch.testing.assert_close(y, expected)
        assert torch.equal(layers["encoder_self", i].inputs, x)
        whole = layer(x, source_padding=mask)
        torch.testing.assert_close(layers["encoder_self", i].targets, whole)


def test_capture_leaves_the_teacher_as_it_was():
    teacher = teacher_for().train()
    first = capture(teacher, some_batches()[0])
    assert teacher.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in teacher.modules())
    second = capture(teacher, some_batches()[0])  # dropout is off
    for key, lesson in first.items():
        assert torch.equal(lesson.targets, second[key].targets)
        assert not lesson.targets.requires_grad


def test_capture_takes_the_sites_and_layers_that_it_is_asked_for():
    teacher, batch = teacher_for(), some_batches()[0]
    found = capture(teacher, batch, sites=["cross", "decoder_self"], layers=[1])
    assert list(found) == [("cross", 1), ("decoder_self", 1)]
    with pytest.raises(AttnlabError, match="no layer 2 at cross"):
        capture(teacher, batch, sites=["cross"], layers=[2])
    with pytest.raises(AttnlabError, match="exists for encoder_self only"):
        capture(teacher, batch, method="elr", sites=["cross"])


def test_the_decoder_reads_no_end_of_sentence():
    source, target = collate_pairs([([5], [6, 7, 8]), ([5, 6], [7])])
    assert target.tolist() == [[BOS, 6, 7, 8, EOS], [BOS, 7, EOS, PAD, PAD]]
    lesson = capture(teacher_for(), (source, target))["decoder_self", 0]
    assert lesson.padding.tolist() == [[False] * 4, [False, False, True, True]]


@everywhere
def test_kept_lessons_are_the_captured_ones_without_padding(spec):
    teacher, batches = teacher_for(), some_batches(2)
    lessons = collect_activations(teacher, batches, spec=spec)
    rows = [13, 4, 19]
    kept = lessons.batch(rows)
    captured = [capture(teacher, batch, method=spec.method, sites=[spec.site]) for batch in batches]
    assert lessons.n_sentences == 20
    for layer, (place, row) in itertools.product(lessons.layers, enumerate(rows)):
        lesson = captured[row // 10][spec.site, layer]
        is_real = ~lesson.padding[row % 10]
        n = int(is_real.sum())
        assert torch.equal(kept.inputs[layer, place, :n], lesson.inputs[row % 10][is_real])
        assert torch.equal(kept.targets[layer, place, :n], lesson.targets[row % 10][is_real])
        assert (kept.inputs[layer, place, n:] == 0).all()
        assert kept.padding[place].tolist() == [i >= n for i in range(kept.padding.shape[1])]
        if spec.site == "cross":
            is_read = ~lesson.source_padding[row % 10]
            memory = lesson.memory[row % 10][is_read]
            assert torch.equal(kept.memory[place, : len(memory)], memory)
            assert (~kept.source_padding[place]).sum() == len(memory)


def test_students_end_at_rate_zero_and_are_not_decayed():
    assert (learning_rate(fit.FIT.n_steps, fit.FIT), fit.FIT.weight_decay) == (0, 0)


def test_lessons_that_do_not_fit_or_are_none_are_refused():
    teacher, spec = teacher_for(), StudentSpec()
    with pytest.raises(AttnlabError, match=r"more than max_mib=0.*fewer batches"):
        lessons_for(teacher, spec, max_mib=0.01)
    lessons = lessons_for(teacher, CROSS[0])
    numbers = sum(part.numel() for part in (lessons.inputs, lessons.targets, lessons.memory))
    assert lessons.mib == 4 * numbers / 2**20
    for batches in ([], [collate_pairs([([], [5])])]):
        with pytest.raises(AttnlabError, match="no sentence to learn from"):
            collect_activations(teacher, batches, spec=spec)


@pytest.mark.parametrize("spec", [ENCODER[0], DECODER, PAPER, CROSS[3]], ids=label)
def test_empty_sentences_among_others_teach_nothing_and_break_nothing(spec):
    batches = [collate_pairs([([], []), ([5, 6], [7]), ([], [8])])] * 2
    plan = dataclasses.replace(SHORT, batch_size=1, n_steps=8)
    lessons = collect_activations(teacher_for(), batches, spec=spec)
    students = build_students(teacher_for(), spec=spec)
    assert len(list(fit_steps(students, lessons, held_out=lessons, config=plan))) == 8


def test_a_pass_reads_every_sentence_once_and_passes_and_seeds_differ():
    lessons = lessons_for(teacher_for(), StudentSpec(), n=2)
    marks = torch.arange(20.0).repeat_interleave(lessons.lengths)[None, :, None]
    marked = dataclasses.replace(lessons, inputs=marks, targets=marks)

    def order(n_pass, seed=0):
        steps = range(4 * n_pass, 4 * n_pass + 4)
        batches = [marked.training_batch(i, batch_size=5, seed=seed) for i in steps]
        return torch.cat([batch.inputs[0, :, 0, 0] for batch in batches]).tolist()

    orders = [order(0), order(1), order(0, seed=1)]
    assert all(sorted(one) == list(range(20)) for one in orders)
    assert all(a != b for a, b in itertools.combinations([*orders, list(range(20))], 2))


# fit


@pytest.mark.parametrize("spec", [ENCODER[1], RICH[1], DECODER, CROSS[0], RICH[5]], ids=label)
def test_all_layers_together_learn_what_each_learns_alone(spec):
    teacher = teacher_for(torch.float64)
    together, logs, _ = fitted(teacher, spec, eval_every=3)
    alone, losses = {}, torch.zeros(len(logs))
    for _, layer in together:
        own, own_logs, _ = fitted(teacher, spec, eval_every=3, layers=[layer])
        alone |= own
        losses += torch.tensor([log.loss for log in own_logs])
    torch.testing.assert_close(torch.tensor([log.loss for log in logs]), losses)
    torch.testing.assert_close(weights_of(together), weights_of(alone), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "change",
    [{"lr": 5e-3}, {"weight_decay": 0.1}, {"beta_1": 0.5}, {"beta_2": 0.5}, {"batch_size": 5},
     {"seed": 1}, {"warmup_steps": 0}, {"schedule": "inverse_sqrt"}, {"precision": "bf16"}],
)  # fmt: skip
def test_every_setting_changes_what_is_learnt(change):
    plain, changed = (
        weights_of(fitted(teacher_for(), CROSS[1], **settings)[0]) for settings in ({}, change)
    )
    assert {name for *_, name in differ(plain, changed)} == {name for *_, name in plain}


def test_gradients_are_not_clipped_and_maps_alone_decay():
    plain, clipped, decayed = (
        weights_of(fitted(teacher_for(), ENCODER[0], n_steps=1, **how)[0])
        for how in ({}, {"max_grad_norm": 1e-9}, {"weight_decay": 0.5})
    )
    assert not differ(plain, clipped)
    moved = {name for *_, name in differ(plain, decayed)}
    assert moved == {"net.first_weight", "net.second_weight"}


def test_a_student_keeps_its_best_weights_and_measuring_changes_no_lesson():
    plan = {"n_steps": 60, "batch_size": 10, "schedule": "inverse_sqrt", "lr": 3e-2}
    teacher = teacher_for()
    students, logs, exam = fitted(teacher, StudentSpec(size="l"), eval_every=5, **plan)
    measured = torch.tensor([log.errors for log in logs if log.errors])
    assert len(measured) == 12
    assert (measured[-1] > measured.amin(0)).any()  # the last are not the best
    found = measure_errors(students, held_out=exam, batch_size=10)
    torch.testing.assert_close(found, measured.double().amin(0))
    rarely = fitted(teacher, StudentSpec(size="l"), eval_every=60, **plan)[1]
    assert [log.loss for log in rarely] == [log.loss for log in logs]
    assert [log.step for log in rarely if log.errors] == [60]


def test_students_beat_the_mean_of_what_they_imitate():
    teacher = teacher_for(dropout=0.0)
    plan = TrainConfig(n_steps=150, batch_size=64, lr=1e-2, min_lr_fraction=0.0, weight_decay=0.0)
    found = fit_students(teacher, some_batches(40), site="decoder_self", size="l", config=plan)
    assert isinstance(found, Fitted)
    assert found.error < 0.5  # a constant has 1
    assert list(found.students) == list(found.errors) == [("decoder_self", 0), ("decoder_self", 1)]
    assert found.logs[-1].loss < 0.5 * found.logs[0].loss
    with substitute(teacher, found.students):
        assert len(teacher.translate(some_batches()[0][0])) == 10


def test_every_tenth_batch_is_held_out_and_not_learnt_from():
    teacher, batches = teacher_for(), some_batches(11)
    options = {"size": "s", "config": SHORT, "seed": 1}
    found = fit_students(teacher, batches, **options)
    learnt = [batch for i, batch in enumerate(batches) if i != 9]
    asked = fit_students(teacher, learnt, held_out=[batches[9]], **options)
    assert found.errors == asked.errors
    assert not differ(weights_of(found.students), weights_of(asked.students))
    for change in ({"held_out": [batches[9]]}, {"seed": 2}):
        other = fit_students(teacher, batches, **{**options, **change})
        assert differ(weights_of(found.students), weights_of(other.students))


def test_batches_of_pairs_teach_one_pass():
    pairs = PairBatches(some_pairs(60), max_tokens=60, seed=0)
    listed = [pairs[i] for i in range(pairs.n_batches)]
    first, second = (
        fit_students(teacher_for(), batches, size="s", depth=2, config=SHORT).errors
        for batches in (pairs, listed)
    )
    assert first == second


@pytest.mark.parametrize("spec", [*ENCODER, DECODER, PAPER], ids=label)
@torch.no_grad()
def test_the_best_constant_has_an_error_of_one_and_a_perfect_student_of_zero(spec):
    teacher = teacher_for(torch.float64)
    lessons = lessons_for(teacher, spec)
    students = build_students(teacher, spec=spec)
    if spec.replaces_heads:
        for i, student in enumerate(students.values()):
            for weight in student.parameters():
                weight.zero_()
            bias = student.net.second_bias  # the mean at every output position, head by head
            heads = lessons.targets[i].mean(0).view(*bias.shape[:-2], 1, bias.shape[-1])
            bias.copy_(heads.expand_as(bias))
        errors = measure_errors(students, held_out=lessons)
        torch.testing.assert_close(errors, torch.ones_like(errors))
    for i, layer in enumerate(lessons.layers):  # answers with the targets, batch after batch
        answers = (lesson.targets[i] for lesson in lessons.in_order(batch_size=7))
        own = lessons_for(teacher, spec, layers=[layer])
        perfect = [lambda x, a=answers, **_: next(a)]
        assert measure_errors(perfect, held_out=own, batch_size=7).tolist() == [0.0]


@pytest.mark.parametrize("spec", [ENCODER[0], ENCODER[2], DECODER, CROSS[3]], ids=label)
@torch.no_grad()
def test_errors_are_those_of_the_update_not_of_heads_or_stream(spec):
    teacher = teacher_for(torch.float64)
    lessons, students = lessons_for(teacher, spec), build_students(teacher, spec=spec)
    errors = measure_errors(students, held_out=lessons, batch_size=7)
    lesson = lessons.batch(range(lessons.n_sentences))
    for i, (_, layer) in enumerate(students):
        y = students[spec.site, layer](lesson.inputs[i], **lesson.context)
        x, y, target = (part[~lesson.padding] for part in (lesson.inputs[i], y, lesson.targets[i]))
        if spec.replaces_heads:
            out = find_site(teacher, site=spec.site, layer=layer).out
            x, y, target = 0, out(y), out(target)
        update = target - x
        spread = (update - update.mean(0)).square().sum()
        torch.testing.assert_close(errors[i], (y - target).square().sum() / spread)


def test_a_loss_is_a_share_of_the_variance_of_what_is_predicted():
    teacher = teacher_for(torch.float64)
    for spec in (ENCODER[0], ENCODER[2]):
        _, logs, exam = fitted(teacher, spec, n_steps=1)
        lesson = lessons_for(teacher, spec).training_batch(0, batch_size=8, seed=0)
        start, expected = build_students(teacher, spec=spec), 0.0
        for i, student in enumerate(start.values()):
            wrong = student(lesson.inputs[i], source_padding=lesson.padding) - lesson.targets[i]
            predicted = exam.targets[i] - (0 if spec.replaces_heads else exam.inputs[i])
            spread = (predicted - predicted.mean(0)).square().mean()
            expected += wrong[~lesson.padding].square().mean() / spread
        assert logs[0].loss == pytest.approx(expected.item())


def test_the_paper_net_is_examined_with_the_whole_target_and_others_as_they_are_used():
    teacher = teacher_for(torch.float64)
    lessons, students = lessons_for(teacher, PAPER), build_students(teacher, spec=PAPER)
    with_future = measure_errors(students, held_out=lessons)
    for student in students.values():
        student.sees_future = False
    without = measure_errors(students, held_out=lessons)
    assert not torch.allclose(with_future, without)
    for layout in CROSS[:2]:
        same = build_students(teacher, spec=layout)
        assert torch.equal(measure_errors(same, held_out=lessons), without)


def test_cut_lessons_are_read_to_their_end_and_cut_elsewhere_at_each_step(monkeypatch):
    teacher, nets, cuts = teacher_for(), [PAPER, *CROSS[:2]], []

    def noted(padding, *, seed, step):
        cuts.append((seed, step))
        return cut_targets(padding, seed=seed, step=step)

    monkeypatch.setattr(fit, "cut_targets", noted)
    losses = [fitted(teacher, spec, n_steps=3, seed=2)[1][0].loss for spec in nets]
    assert cuts == [(2, 0), (2, 1), (2, 2)]
    lesson = lessons_for(teacher, PAPER).training_batch(0, batch_size=8, seed=2)
    cut = cut_targets(lesson.padding, seed=2, step=0)
    exam, expected = lessons_for(teacher, PAPER, 50, 1), 0.0
    for i, student in enumerate(build_students(teacher, spec=PAPER).values()):
        masks = {"source_padding": lesson.source_padding, "target_padding": cut}
        wrong = (student(lesson.inputs[i], lesson.memory, **masks) - lesson.targets[i])[~cut]
        expected += (wrong.square().mean() / exam.variance[i]).item()
    assert losses[1] == pytest.approx(expected, rel=1e-5)
    assert len({round(loss, 4) for loss in losses}) == 3


def test_targets_are_cut_to_at_least_one_token_and_at_most_all():
    mask = torch.arange(6) >= torch.tensor([[6], [3], [1], [0]])
    kept = []
    for step in range(200):
        cut = cut_targets(mask, seed=0, step=step)
        assert (cut >= mask).all()  # padding stays padding
        assert (cut[:, 1:] >= cut[:, :-1]).all()  # only an end is cut off
        assert torch.equal(cut, cut_targets(mask, seed=0, step=step))
        kept.append((~cut).sum(1))
    assert torch.stack(kept).amin(0).tolist() == [1, 1, 1, 0]
    assert torch.stack(kept).amax(0).tolist() == [6, 3, 1, 0]
    other = [(~cut_targets(mask, seed=1, step=step)).sum(1) for step in range(200)]
    assert not torch.equal(torch.stack(kept), torch.stack(other))


@pytest.mark.parametrize("spec", [ENCODER[0], DECODER, CROSS[1]], ids=label)
def test_students_learn_in_bfloat16_too(spec):
    spec = dataclasses.replace(spec, size="m")
    errors, rounded = (
        fitted(teacher_for(), spec, n_steps=30, precision=precision)[1][-1].errors
        for precision in ("fp32", "bf16")
    )
    assert rounded != errors
    assert sum(rounded) == pytest.approx(sum(errors), rel=0.05)


def test_settings_that_cannot_work_are_refused_in_words():
    teacher = teacher_for()
    lessons = lessons_for(teacher, StudentSpec())
    with pytest.raises(AttnlabError, match="leaves nothing to hold out"):
        fit_students(teacher, some_batches(1), config=SHORT)
    with pytest.raises(AttnlabError, match="need held_out lessons beside them"):
        fit_students(teacher, lessons, config=SHORT)
    students = build_students(teacher, spec=ENCODER[0])
    some = lessons_for(teacher, StudentSpec(), layers=[0])
    with pytest.raises(AttnlabError, match="Collect both with the same layers"):
        next(fit_steps(students, some, held_out=lessons))


def test_a_loss_that_is_not_finite_stops_the_fit():
    teacher, spec = teacher_for(), ENCODER[0]
    lessons, students = lessons_for(teacher, spec), build_students(teacher, spec=spec)
    with torch.no_grad():
        students["encoder_self", 1].net.second_bias.fill_(torch.inf)
    with pytest.raises(DivergenceError, match=r"diverged at step 1.*\b1\.net"):
        next(fit_steps(students, lessons, held_out=lessons, config=SHORT))


@torch.no_grad()
def test_later_layers_can_be_taught_behind_students():
    teacher = teacher_for()
    students = build_students(teacher, spec=ENCODER[0], layers=[0])
    plain = capture(teacher, some_batches()[0], sites=["encoder_self"], layers=[2])
    with substitute(teacher, students):
        behind = capture(teacher, some_batches()[0], sites=["encoder_self"], layers=[2])
        lesson = behind["encoder_self", 2]
        site = teacher.encoder[2].self_attention
        heads = site.heads(lesson.inputs, source_padding=lesson.padding)
    torch.testing.assert_close(lesson.targets, heads)
    assert not torch.allclose(lesson.inputs, plain["encoder_self", 2].inputs)
