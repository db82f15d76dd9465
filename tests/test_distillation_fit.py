"""Capture and fit: the teacher's own numbers, and students that learn from them."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, TrainConfig, TranslatorConfig
from attnlab.distillation import (
    Fitted,
    LiveActivations,
    StudentSpec,
    build_controls,
    build_students,
    capture,
    choose_lr,
    collect_activations,
    fit_arms,
    fit_steps,
    fit_students,
    measure_errors,
    substitute,
)
from attnlab.distillation.steps import cut_targets
from attnlab.errors import AttnlabError, CheckpointError, DivergenceError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.training import PairBatches, collate_pairs

CONFIG = TranslatorConfig(
    source_vocab_size=13,
    target_vocab_size=11,
    d_model=12,
    n_heads=3,
    n_encoder_layers=3,
    n_decoder_layers=2,
    d_ff=17,
    dropout=0.1,
    max_len=7,
)
SHORT = TrainConfig(n_steps=12, batch_size=8, lr=1e-2, warmup_steps=2, weight_decay=0.01)
SPECS = [
    StudentSpec(method="alr", size="s"),
    StudentSpec(method="aslr", size="s"),
    StudentSpec(method="alrr", size="s", skip="linear"),
    StudentSpec(method="elr", size="s"),
    StudentSpec(site="decoder_self", size="s"),
    StudentSpec(site="cross", size="s"),
    StudentSpec(site="cross", size="s", layout="truncated"),
    StudentSpec(site="cross", size="s", layout="prefix"),
    StudentSpec(site="cross", size="s", layout="per_query", gate=True, learned_head=True, depth=2),
    StudentSpec(site="cross", size="s", layout="low_rank"),
    StudentSpec(site="cross", size="s", layout="extractor"),
]


def label(spec):
    return spec.label


def teacher_for(dtype=torch.float64, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Translator(config, generator=torch_generator(0, "init")).to(dtype)


def some_pairs(n=10, seed=0):
    random = np.random.default_rng(seed)

    def sentence(vocab_size, longest):
        return random.integers(N_SPECIAL, vocab_size, random.integers(1, longest + 1)).tolist()

    return [(sentence(13, 7), sentence(11, 6)) for _ in range(n)]


def some_batches(n=3, seed=0):
    return [collate_pairs(some_pairs(10, seed + i)) for i in range(n)]


def lessons_for(teacher, spec, seed=0, n=3, **options):
    return collect_activations(teacher, some_batches(n, seed), spec=spec, **options)


def fitted_weights(students):
    return [weight for student in students.values() for weight in student.parameters()]


# capture


class Hooks:
    """What a forward hook on every attention sees: its inputs, and how its last map is called."""

    def __init__(self, teacher):
        self.seen = {}
        self.handles = []
        for site, layers in (("encoder_self", teacher.encoder), ("decoder_self", teacher.decoder)):
            for i, layer in enumerate(layers):
                self.watch((site, i), layer.self_attention)
                if site == "decoder_self":
                    self.watch(("cross", i), layer.cross_attention)

    def watch(self, key, site):
        def note(module, args, kwargs, output):
            self.seen[key] = [*args, module.heads(*args, **kwargs), output]

        self.handles.append(site.register_forward_hook(note, with_kwargs=True))


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_capture_equals_what_a_forward_hook_sees(norm):
    teacher = teacher_for(norm=norm).eval()
    source, target = some_batches()[0]
    hooks = Hooks(teacher)
    with torch.no_grad():
        teacher.predictions(source, target)
    for handle in hooks.handles:
        handle.remove()
    found = capture(teacher, (source, target))
    assert set(found) == set(hooks.seen)
    for (site, layer), lesson in found.items():
        x, *memory, heads, _ = hooks.seen[site, layer]
        assert torch.equal(lesson.inputs, x)
        assert torch.equal(lesson.targets, heads)
        if site == "cross":
            assert torch.equal(lesson.memory, memory[0])
        else:
            assert lesson.memory is None


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_capture_of_larger_parts_equals_the_equations(norm):
    teacher = teacher_for(norm=norm).eval()
    source, target = some_batches()[0]
    mask = source == PAD
    sublayers = capture(teacher, (source, target), method="alrr")
    layers = capture(teacher, (source, target), method="elr")
    assert list(sublayers) == list(layers) == [("encoder_self", i) for i in range(3)]
    for i, layer in enumerate(teacher.encoder):
        x, y, _, _, _ = sublayers["encoder_self", i]
        norm_of, attend = layer.self_attention_norm, layer.self_attention
        with torch.no_grad():
            if norm == "pre":
                expected = x + attend(norm_of(x), source_padding=mask)
            else:
                expected = norm_of(x + attend(x, source_padding=mask))
            torch.testing.assert_close(y, expected)
            whole = layers["encoder_self", i]
            assert torch.equal(whole.inputs, x)
            torch.testing.assert_close(whole.targets, layer(x, source_padding=mask))


def test_capture_leaves_the_teacher_as_it_was():
    teacher = teacher_for()
    assert teacher.training
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
    pairs = [([5], [6, 7, 8]), ([5, 6], [7])]
    source, target = collate_pairs(pairs)
    assert target.tolist() == [[BOS, 6, 7, 8, EOS], [BOS, 7, EOS, PAD, PAD]]
    lesson = capture(teacher_for(), (source, target))["decoder_self", 0]
    assert lesson.padding.tolist() == [[False] * 4, [False, False, True, True]]


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_kept_lessons_are_the_captured_ones_without_padding(spec):
    teacher, batches = teacher_for(), some_batches(2)
    lessons = collect_activations(teacher, batches, spec=spec)
    assert lessons.n_sentences == 20
    rows = [13, 4, 19]
    kept = lessons.batch(rows)
    captured = [capture(teacher, batch, method=spec.method, sites=[spec.site]) for batch in batches]
    for layer, (place, row) in itertools.product(lessons.layers, enumerate(rows)):
        lesson = captured[row // 10][spec.site, layer]
        is_real = ~lesson.padding[row % 10]
        n = int(is_real.sum())
        assert torch.equal(kept.inputs[layer, place, :n], lesson.inputs[row % 10][is_real])
        assert torch.equal(kept.targets[layer, place, :n], lesson.targets[row % 10][is_real])
        assert (kept.inputs[layer, place, n:] == 0).all()
        assert kept.padding[place].tolist() == [False] * n + [True] * (kept.padding.shape[1] - n)
        if spec.site == "cross":
            is_read = ~lesson.source_padding[row % 10]
            memory = lesson.memory[row % 10][is_read]
            assert torch.equal(kept.memory[0, place, : len(memory)], memory)
            assert kept.source_padding[place].logical_not().sum() == len(memory)


def test_lessons_in_half_the_bytes_come_out_as_the_teacher_computes():
    teacher, spec = teacher_for(torch.float32), StudentSpec()
    whole, half = lessons_for(teacher, spec), lessons_for(teacher, spec, dtype=torch.bfloat16)
    assert half.mib == whole.mib / 2
    batch = half.batch([0, 1])
    assert batch.inputs.dtype == torch.float32
    torch.testing.assert_close(batch.inputs, whole.batch([0, 1]).inputs, rtol=1e-2, atol=1e-2)


def test_lessons_that_do_not_fit_or_are_none_are_refused():
    teacher, spec = teacher_for(), StudentSpec()
    with pytest.raises(AttnlabError, match=r"more than max_mib=0.*bfloat16"):
        lessons_for(teacher, spec, max_mib=0.01)
    with pytest.raises(AttnlabError, match="no sentence to learn from"):
        collect_activations(teacher, [], spec=spec)
    with pytest.raises(AttnlabError, match="no sentence to learn from"):
        collect_activations(teacher, [collate_pairs([([], [5])])], spec=spec)


def test_empty_sentences_among_others_teach_nothing_and_break_nothing():
    teacher = teacher_for()
    batches = [collate_pairs([([], []), ([5, 6], [7]), ([], [8])])] * 2
    for spec in (SPECS[0], SPECS[4], SPECS[5], SPECS[9]):
        lessons = collect_activations(teacher, batches, spec=spec)
        plan = dataclasses.replace(SHORT, batch_size=1, n_steps=8)
        students = build_students(teacher, spec=spec)
        logs = list(fit_steps({"a": students}, lessons, held_out=lessons, config=plan))
        assert len(logs) == 8


def test_a_pass_reads_every_sentence_once_and_passes_differ():
    lessons = lessons_for(teacher_for(), StudentSpec(), n=2)
    marked = dataclasses.replace(
        lessons,
        inputs=torch.arange(20.0).repeat_interleave(lessons.lengths)[None, :, None],
    )
    passes = [
        [
            marked.training_batch(4 * p + i, batch_size=5, seed=0).inputs[0, :, 0, 0]
            for i in range(4)
        ]
        for p in range(2)
    ]
    orders = [torch.cat(batches).tolist() for batches in passes]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(20))
    assert orders[0] != orders[1] != list(range(20))


def test_live_lessons_are_the_kept_ones():
    teacher, spec = teacher_for(), StudentSpec(site="cross")
    batches = some_batches(2)
    live = LiveActivations(teacher=teacher, batches=batches, spec=spec, layers=(0, 1))
    kept = collect_activations(teacher, batches, spec=spec)
    for step in range(3):
        found = live.training_batch(step)
        expected = kept.batch(range(10 * (step % 2), 10 * (step % 2) + 10))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=0)


# fit


@pytest.mark.parametrize("spec", SPECS, ids=label)
def test_all_layers_together_learn_what_each_learns_alone(spec):
    teacher = teacher_for()
    lessons, exam = lessons_for(teacher, spec), lessons_for(teacher, spec, seed=50, n=1)
    together = build_students(teacher, spec=spec)
    options = {"config": SHORT, "eval_every": 3, "patience": 2}
    logs = list(fit_steps({"a": together}, lessons, held_out=exam, **options))
    for i, layer in enumerate(lessons.layers):
        alone = build_students(teacher, spec=spec, layers=[layer])
        own = collect_activations(teacher, some_batches(), spec=spec, layers=[layer])
        test = collect_activations(teacher, some_batches(1, 50), spec=spec, layers=[layer])
        own_logs = list(fit_steps({"a": alone}, own, held_out=test, **options))
        for log, own_log in zip(logs, own_logs, strict=False):
            assert log.losses["a"][i] == pytest.approx(own_log.losses["a"][0], rel=1e-6)
        key = spec.site, layer
        torch.testing.assert_close(
            dict(together[key].named_parameters()), dict(alone[key].named_parameters()),
            rtol=1e-5, atol=1e-8,
        )  # fmt: skip


def test_several_arms_learn_what_each_learns_alone():
    teacher = teacher_for()
    arms = {"s": SPECS[0], "m": StudentSpec(size="m"), "heads": SPECS[1]}
    held_out = some_batches(1, 50)
    lrs = {"m": 3e-3}
    options = {"held_out": held_out, "config": SHORT, "eval_every": 4}
    together = fit_arms(teacher, some_batches(), arms=arms, lrs=lrs, **options)
    for name, spec in arms.items():
        alone = fit_arms(teacher, some_batches(), arms={name: spec}, lrs=lrs, **options)[name]
        assert together[name].errors == pytest.approx(alone.errors)
        pairs = zip(
            fitted_weights(together[name].students), fitted_weights(alone.students), strict=True
        )
        for a, b in pairs:
            torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[6]], ids=label)
def test_a_fit_that_was_broken_off_goes_on_to_the_same_bits(spec, tmp_path):
    teacher = teacher_for(torch.float32)
    lessons, exam = lessons_for(teacher, spec), lessons_for(teacher, spec, seed=50, n=1)
    options = {"held_out": exam, "config": SHORT, "eval_every": 5}
    whole = build_students(teacher, spec=spec)
    straight = list(fit_steps({"a": whole}, lessons, **options))
    path = tmp_path / "fit.safetensors"
    broken = build_students(teacher, spec=spec)
    steps = fit_steps({"a": broken}, lessons, **options, checkpoint=path)
    assert list(itertools.islice(steps, 7)) == straight[:7]
    steps.close()
    again = build_students(teacher, spec=spec, seed=9)  # overwritten by the checkpoint
    rest = list(fit_steps({"a": again}, lessons, **options, checkpoint=path))
    assert rest == straight[5:]  # from the last measurement on
    for a, b in zip(fitted_weights(whole), fitted_weights(again), strict=True):
        assert torch.equal(a, b)
    after = build_students(teacher, spec=spec, seed=9)
    assert list(fit_steps({"a": after}, lessons, **options, checkpoint=path)) == []
    assert torch.equal(fitted_weights(after)[0], fitted_weights(whole)[0])


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    teacher, spec = teacher_for(), SPECS[0]
    lessons, path = lessons_for(teacher, spec), tmp_path / "fit.safetensors"
    options = {"held_out": lessons, "checkpoint": path}
    list(fit_steps({"a": build_students(teacher, spec=spec)}, lessons, config=SHORT, **options))
    other = dataclasses.replace(SHORT, lr=1e-3)
    with pytest.raises(CheckpointError, match="belongs to another fit"):
        list(fit_steps({"a": build_students(teacher, spec=spec)}, lessons, config=other, **options))
    wider = build_students(teacher, spec=StudentSpec(size="m"))
    with pytest.raises(CheckpointError, match="belongs to another model"):
        list(fit_steps({"a": wider}, lessons, config=SHORT, **options))


def test_a_student_keeps_its_best_weights_and_stops_when_it_gets_worse():
    teacher, spec = teacher_for(), StudentSpec(size="l")
    lessons, exam = lessons_for(teacher, spec, n=1), lessons_for(teacher, spec, seed=50, n=1)
    plan = dataclasses.replace(SHORT, n_steps=300, batch_size=10, schedule="inverse_sqrt", lr=3e-2)
    students = build_students(teacher, spec=spec)
    options = {"held_out": exam, "config": plan, "eval_every": 5, "patience": 2}
    logs = list(fit_steps({"a": students}, lessons, **options))
    assert len(logs) < 300  # ten sentences are soon known by heart
    measured = torch.tensor([log.errors["a"] for log in logs if log.errors])
    found = measure_errors(students, held_out=exam).update
    torch.testing.assert_close(found, measured.double().amin(0))


def test_students_beat_the_mean_of_what_they_imitate():
    teacher = teacher_for(torch.float32, dropout=0.0)
    batches = some_batches(40)
    plan = TrainConfig(n_steps=150, batch_size=64, lr=1e-2, min_lr_fraction=0.0, weight_decay=0.0)
    found = fit_students(teacher, batches, site="decoder_self", size="l", config=plan)
    assert isinstance(found, Fitted)
    assert found.error < 0.5 < 1.0  # a constant has 1
    assert list(found.students) == [("decoder_self", 0), ("decoder_self", 1)]
    assert [len(heads) for heads in found.head_errors.values()] == [3, 3]
    assert (
        found.logs[-1].losses["decoder_self-alr-l"][0]
        < 0.5 * found.logs[0].losses["decoder_self-alr-l"][0]
    )
    with substitute(teacher, found.students):
        assert len(teacher.translate(some_batches()[0][0])) == 10


def test_the_best_constant_has_an_error_of_one_and_a_perfect_student_of_zero():
    teacher = teacher_for()
    for spec in SPECS[:6]:
        lessons = lessons_for(teacher, spec)
        students = build_students(teacher, spec=spec)
        for i, student in enumerate(students.values()):
            with torch.no_grad():
                for weight in student.parameters():
                    weight.zero_()
                if spec.replaces_heads:
                    net, mean = student.net, lessons.targets[i].mean(0)
                    net.second_bias.copy_(_as_bias(mean, net.second_bias))
        if spec.replaces_heads:
            errors = measure_errors(students, held_out=lessons)
            torch.testing.assert_close(errors.update, torch.ones_like(errors.update))
            torch.testing.assert_close(errors.heads, torch.ones_like(errors.heads))
        perfect = _Echo(lessons)
        found = measure_errors(perfect, held_out=lessons).update
        torch.testing.assert_close(found, torch.zeros_like(found))


class _Echo(torch.nn.Module):
    """Answers with the target itself; what a student would be that knew everything."""

    def __init__(self, lessons):
        super().__init__()
        self.lessons, self.sentences = lessons, iter(lessons.in_order(batch_size=64))

    def run(self, x, **context):
        return next(self.sentences).targets


def _as_bias(mean, bias):
    """Return a mean over tokens ``(d_model,)`` as the bias of every output position."""
    n_nets, n_out, d_out = bias.shape
    return mean.view(n_nets, 1, d_out).expand(n_nets, n_out, d_out)


def test_errors_are_those_of_the_update_not_of_the_stream():
    teacher = teacher_for()
    spec = StudentSpec(method="alrr", size="s", skip="identity")
    lessons = lessons_for(teacher, spec)
    students = build_students(teacher, spec=spec)
    for student in students.values():  # the stream goes through unchanged: no update at all
        with torch.no_grad():
            student.net.second_weight.zero_()
            student.net.second_bias.zero_()
    update = lessons.targets - lessons.inputs
    centred = update - update.mean(1, keepdim=True)
    expected = update.square().sum((1, 2)) / centred.square().sum((1, 2))
    torch.testing.assert_close(measure_errors(students, held_out=lessons).update, expected)
    assert (expected >= 1).all()


def test_the_paper_net_is_examined_with_the_whole_target_and_others_as_they_are_used():
    teacher, spec = teacher_for(), StudentSpec(site="cross", size="s")
    lessons = lessons_for(teacher, spec)
    students = build_students(teacher, spec=spec)
    with_future = measure_errors(students, held_out=lessons).update
    for student in students.values():
        student.sees_future = False
    without = measure_errors(students, held_out=lessons).update
    assert not torch.allclose(with_future, without)
    prefix = dataclasses.replace(spec, layout="prefix")
    same = build_students(teacher, spec=prefix)
    torch.testing.assert_close(measure_errors(same, held_out=lessons).update, without)


def test_targets_are_cut_to_at_least_one_token_and_at_most_all():
    mask = torch.arange(6) >= torch.tensor([[6], [3], [1], [0]])
    kept = []
    for step in range(200):
        cut = cut_targets(mask, seed=0, step=step)
        assert (cut | ~mask | cut).all()
        assert (cut >= mask).all()  # padding stays padding
        assert (cut[:, 1:] >= cut[:, :-1]).all()  # only an end is cut off
        kept.append((~cut).sum(1))
    kept = torch.stack(kept)
    assert kept.amin(0).tolist() == [1, 1, 1, 0]
    assert kept.amax(0).tolist() == [6, 3, 1, 0]
    again = cut_targets(mask, seed=0, step=7)
    assert torch.equal(again, cut_targets(mask, seed=0, step=7))


def test_a_rate_is_chosen_by_its_held_out_error_with_the_same_budget_for_each():
    teacher = teacher_for(torch.float32)
    plan = dataclasses.replace(SHORT, n_steps=30)
    lr, errors = choose_lr(teacher, some_batches(6), spec=SPECS[0], lrs=(1e-7, 1e-2), config=plan)
    assert lr == 1e-2
    assert errors[1e-2] < errors[1e-7]


@pytest.mark.parametrize("spec", [SPECS[0], SPECS[4], SPECS[7]], ids=label)
def test_students_learn_in_bfloat16_too(spec):
    teacher = teacher_for(torch.float32)
    errors = {}
    for precision in ("fp32", "bf16"):
        plan = dataclasses.replace(SHORT, n_steps=30, precision=precision)
        options = {"arms": {"a": spec}, "held_out": some_batches(2, 50), "config": plan}
        errors[precision] = fit_arms(teacher, some_batches(4), **options)["a"].error
    assert errors["bf16"] == pytest.approx(errors["fp32"], rel=0.05)


def test_live_lessons_teach_too():
    teacher = teacher_for(torch.float32)
    batches = PairBatches(some_pairs(60), max_tokens=60, seed=0)
    logs = []
    found = fit_students(
        teacher,
        batches,
        size="s",
        held_out=some_batches(1),
        config=SHORT,
        is_live=True,
        watch=logs.append,
        options={"depth": 2},
    )
    assert found.students["encoder_self", 0].spec.depth == 2
    assert tuple(logs) == found.logs
    assert [log.step for log in logs] == list(range(1, 13))
    assert logs[-1].sentences_seen > 12


def test_settings_that_cannot_work_are_refused_in_words():
    teacher = teacher_for()
    lessons = lessons_for(teacher, StudentSpec())
    with pytest.raises(AttnlabError, match="leaves nothing to hold out"):
        fit_students(teacher, some_batches(1), config=SHORT)
    with pytest.raises(AttnlabError, match="need held_out lessons beside them"):
        fit_students(teacher, lessons, config=SHORT)
    with pytest.raises(AttnlabError, match="need different lessons"):
        fit_arms(teacher, some_batches(), arms={"a": SPECS[0], "b": SPECS[3]}, config=SHORT)
    with pytest.raises(AttnlabError, match="at least one arm"):
        fit_arms(teacher, some_batches(), arms={}, config=SHORT)
    some = lessons_for(teacher, StudentSpec(), layers=[0])
    with pytest.raises(AttnlabError, match="Collect both with the same layers"):
        next(fit_steps({"a": build_students(teacher, spec=SPECS[0])}, some, held_out=lessons))


def test_a_loss_that_is_not_finite_stops_the_fit():
    teacher, spec = teacher_for(), StudentSpec(size="s")
    lessons = lessons_for(teacher, spec)
    students = build_students(teacher, spec=spec)
    with torch.no_grad():
        students["encoder_self", 1].net.second_bias.fill_(torch.inf)
    with pytest.raises(DivergenceError, match=r"students of a diverged at step 1.*Lower lr=0.01"):
        next(fit_steps({"a": students}, lessons, held_out=lessons, config=SHORT))


def test_later_layers_can_be_taught_behind_students():
    teacher = teacher_for().eval()
    students = build_students(teacher, spec=SPECS[0], layers=[0])
    plain = capture(teacher, some_batches()[0], sites=["encoder_self"], layers=[2])
    with substitute(teacher, students):
        behind = capture(teacher, some_batches()[0], sites=["encoder_self"], layers=[2])
        site = teacher.encoder[2].self_attention
        lesson = behind["encoder_self", 2]
        with torch.no_grad():
            heads = site.heads(lesson.inputs, source_padding=lesson.padding)
    torch.testing.assert_close(lesson.targets, heads)
    assert not torch.allclose(lesson.inputs, plain["encoder_self", 2].inputs)


def test_a_control_in_place_of_a_student_is_measured_by_its_loss_alone():
    teacher = teacher_for(torch.float32).eval()
    lessons = lessons_for(teacher, StudentSpec())
    batch = some_batches()[0]
    before = teacher.loss(*batch).item()
    mean = build_controls("mean", teacher=teacher, site="encoder_self", activations=lessons)
    with substitute(teacher, mean):
        assert teacher.loss(*batch).item() != before
    assert teacher.loss(*batch).item() == before
