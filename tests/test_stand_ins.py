"""Stand-ins: between the teacher's attention and linear attention, causal, streamed, padded."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_teacher import (
    differ,
    label,
    lessons_for,
    logits_of,
    some_batches,
    stepwise_logits,
    teacher_for,
    weights_of,
)
from test_distillation_students import begin, call, padding, some, streamed

from attnlab.config import PAD, TrainConfig
from attnlab.distillation import (
    SITES,
    STAND_INS,
    StudentSpec,
    build_student,
    build_students,
    capture,
    expected_student_weights,
    find_site,
    fit_students,
    load_students,
    save_students,
    stand_ins,
    substitute,
)
from attnlab.distillation.naive import student_naive
from attnlab.distillation.sites import FEATURES
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.mixers.base import state_numbers
from attnlab.models.search import select_rows

SIZES_HERE = {"max_len": 7, "d_model": 6, "n_heads": 3}
LINEAR = [StudentSpec(site=site, method="linear") for site in SITES]
WINDOWS = [
    StudentSpec(site=site, method="linear", window=w, feature_map=name)
    for site, w, name in (
        ("encoder_self", 1, "hedgehog"), ("encoder_self", 2, "relu"),
        ("decoder_self", 1, "elu"), ("decoder_self", 3, "hedgehog"),
    )
]  # fmt: skip
WINDOWS += [dataclasses.replace(spec, window_scale="shared") for spec in WINDOWS[1:4:2]]
MAPS = [StudentSpec(site="cross", method="linear", feature_map=name) for name in FEATURES[1:]]
TABLES = [StudentSpec(site=site, method=method) for site in SITES[:2] for method in STAND_INS[1:]]
EVERY = [*LINEAR, *WINDOWS, *MAPS, *TABLES]
CAUSAL = [spec for spec in EVERY if spec.site != "encoder_self"]
every, causal = (pytest.mark.parametrize("spec", specs, ids=label) for specs in (EVERY, CAUSAL))
seeds = st.integers(0, 2**16)


def random_stand_in(spec, seed=0, **sizes):
    """Return a stand-in in float64 with every weight random, so that each of them matters."""
    student = build_student(spec, **{**SIZES_HERE, **sizes}).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in student.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return student


def masks_of(spec, own, source):
    return {"encoder_self": own, "decoder_self": None, "cross": source}[spec.site]


# between attention and linear attention


@pytest.mark.parametrize("site", SITES[:2])
@pytest.mark.parametrize(
    ("feature_map", "scale"), [*((name, "own") for name in FEATURES), ("elu", "shared")]
)
def test_a_window_that_reaches_everywhere_is_the_teachers_attention(site, feature_map, scale):
    model = teacher_for(torch.float64, attention_bias=True)
    how = {"feature_map": feature_map, "window_scale": scale}
    spec = StudentSpec(site=site, method="linear", window=9, **how)
    lessons = capture(model, some_batches()[0], sites=[site])
    for (_, layer), student in build_students(model, spec=spec).items():
        lesson = lessons[site, layer]
        found = student(lesson.inputs, **lesson.context)
        is_real = ~lesson.padding
        torch.testing.assert_close(found[is_real], lesson.targets[is_real])
        own = find_site(model, site=site, layer=layer)
        how = {"source_padding": lesson.source_padding}
        found, wanted = (
            each(lesson.inputs, **how).transpose(1, 2)[is_real]
            for each in (student.weights, own.attention_weights)
        )
        torch.testing.assert_close(found, wanted)
    is_real = some_batches()[0][1][:, :-1] != PAD
    before = logits_of(model)[is_real]
    for window in (9, 90):
        wide = dataclasses.replace(spec, window=window)
        with substitute(model, build_students(model, spec=wide)):
            torch.testing.assert_close(logits_of(model)[is_real], before)


@pytest.mark.parametrize("feature_map", [*FEATURES])
def test_without_a_window_the_decoder_has_the_linear_attention_of_the_mixer(feature_map):
    student = random_stand_in(
        StudentSpec(site="decoder_self", method="linear", feature_map=feature_map)
    )
    mixer = build_mixer(
        "linear_attention", d_model=6, context_len=7, n_heads=3, feature_map=feature_map
    ).double()
    with torch.no_grad():
        for name in ("query", "key"):
            weight = getattr(student, f"{name}_feature_weight")
            if feature_map == "hedgehog":
                getattr(mixer, f"{name}_features").copy_(weight)
            else:  # the mixer has no maps of features: put them before its queries and keys
                weight.copy_(torch.eye(2).expand_as(weight))
            if feature_map == "relu":
                getattr(student, f"{name}_feature_bias").zero_()
        for name in ("query", "key", "value"):
            getattr(mixer, name).weight.copy_(getattr(student, name).weight)
        mixer.out.weight.copy_(torch.eye(6))
    x = some(2, 7, 6)
    torch.testing.assert_close(student(x), mixer(x), rtol=1e-9, atol=1e-9)


def test_features_are_what_their_names_say():
    z = torch.tensor([[[[0.5, -1.0]]]], dtype=torch.float64)
    a, b = torch.tensor([0.5, -1.0], dtype=torch.float64).softmax(0)
    closed = {
        "softmax": [a, b],
        "hedgehog": [a, b, b, a],  # of two numbers the softmax of -z is that of z, turned round
        "elu": [1.5, torch.tensor(-1.0, dtype=torch.float64).exp()],
        "relu": [0.5, 0.0],
    }
    for name in FEATURES:
        spec = StudentSpec(method="linear", feature_map=name)
        student = build_student(spec, max_len=3, d_model=2, n_heads=1).double()
        wanted = torch.tensor([float(each) for each in closed[name]], dtype=torch.float64)
        for side in ("query", "key"):
            torch.testing.assert_close(student.features(z, side).flatten(), wanted)
    spec = StudentSpec(method="linear", feature_map="relu")
    student = build_student(spec, max_len=3, d_model=2, n_heads=1).double()
    student.query_feature_weight.data.mul_(-2.0)
    student.query_feature_bias.data.add_(0.25)
    assert student.features(z, "query").flatten().tolist() == [0.0, 2.25]


@pytest.mark.parametrize("score", [0.0, 2.0, -3.0, -40.0, 200.0])
@pytest.mark.parametrize("scale", ["own", "shared"])
def test_near_positions_count_a_tenth_at_first_and_on_their_scale(scale, score):
    spec = StudentSpec(
        site="decoder_self", method="linear", window=1, feature_map="softmax", window_scale=scale
    )
    student = build_student(spec, max_len=3, d_model=1, n_heads=1).double()
    with torch.no_grad():  # one feature, which is one; the score is that of the query's own key
        for name in ("query", "key"):
            getattr(student, name).weight.fill_(1.0)
        student.key.weight.fill_(score)
    shares = student.weights(torch.ones(1, 3, 1).double())[0, 0]
    near = 0.1 * torch.tensor(0.0 if scale == "own" else score).double().exp()
    torch.testing.assert_close(shares[2, 2], near / (near + 2), rtol=1e-6, atol=0)
    torch.testing.assert_close(shares[0, 0].item(), 1.0)


@pytest.mark.parametrize("spec", [spec for spec in EVERY if spec.method == "linear"], ids=label)
def test_scores_as_large_as_numbers_get_stay_finite(spec):
    student = build_student(spec, **SIZES_HERE)
    x, memory = 1e6 * some(2, 7, 6).float(), 1e6 * some(2, 7, 6, seed=1).float()
    x.requires_grad_()
    y = call(student, x, memory)
    y.square().mean().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


# fast = definition


@every
@given(lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3), seed=seeds)
def test_all_at_once_equals_the_loop_in_values_and_gradients(spec, lengths, seed):
    student, time = random_stand_in(spec, seed), max(lengths)
    x = some(len(lengths), time, 6, seed=seed).requires_grad_()
    memory = some(len(lengths), 5, 6, seed=seed + 1).requires_grad_()
    masks = {"own": padding(lengths, time), "source": padding([5, 1, 3][: len(lengths)], 5)}
    fast, slow = (call(student, x, memory, **masks, by=by) for by in (None, student_naive))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)
    wanted = [x, *student.parameters()] + ([memory] if spec.site == "cross" else [])
    of_fast, of_slow = (
        torch.autograd.grad((y * some(*y.shape, seed=5)).sum(), wanted, materialize_grads=True)
        for y in (fast, slow)
    )
    torch.testing.assert_close(of_fast, of_slow, rtol=1e-7, atol=1e-7)


@every
def test_long_sentences_by_tables_equal_short_ones_by_pairs(spec, monkeypatch):
    student = random_stand_in(spec)
    x, memory = some(2, 11, 6).requires_grad_(), some(2, 9, 6, seed=1)
    masks = {"own": padding([11, 4], 11), "source": padding([2, 9], 9)}
    pairs = call(student, x, memory, **masks)
    monkeypatch.setattr(stand_ins, "CHUNK", 3)
    tables = call(student, x, memory, **masks)
    torch.testing.assert_close(tables, pairs, rtol=1e-9, atol=1e-9)
    of_tables, of_pairs = (torch.autograd.grad(y.sin().sum(), x)[0] for y in (tables, pairs))
    torch.testing.assert_close(of_tables, of_pairs, rtol=1e-8, atol=1e-8)


@every
def test_weights_times_values_are_the_heads(spec):
    student = random_stand_in(spec)
    x, memory = some(2, 7, 6), some(2, 5, 6, seed=1)
    own, source = padding([7, 3], 7), padding([5, 2], 5)
    mask = masks_of(spec, own, source)
    is_cross = spec.site == "cross"
    shares = student.weights(x, *([memory] if is_cross else []), source_padding=mask)
    assert shares.shape == (2, 3, 7, 5 if is_cross else 7)
    heads = shares @ student.values(memory if is_cross else x)
    heads = heads.transpose(1, 2).flatten(2)
    found = call(student, x, memory, own=own, source=source)
    torch.testing.assert_close(found[~own], heads[~own], rtol=1e-9, atol=1e-9)
    if spec.method == "linear":
        sums = shares.sum(-1).transpose(1, 2)[~own]
        has_some = sums != 0  # relu may have no feature at all in common
        torch.testing.assert_close(sums[has_some], torch.ones_like(sums[has_some]))
        assert (shares >= 0).all()
    if mask is not None:
        real = slice(None) if is_cross else slice(0, 3)
        assert (shares.transpose(1, 3)[mask][:, real] == 0).all()
    if spec.site == "decoder_self":
        assert (shares.triu(1) == 0).all()


# causal, streamed, padded


@causal
@given(time=st.integers(2, 7), place=st.integers(0, 5), seed=seeds)
def test_no_output_depends_on_a_later_position(spec, time, place, seed):
    place = min(place, time - 2)
    student = random_stand_in(spec, seed)
    assert student.is_causal
    x, memory = some(2, time, 6, seed=seed), some(2, 4, 6, seed=seed + 1)
    edited = x.clone()
    edited[:, place + 1 :] = some(2, time - place - 1, 6, seed=seed + 2)
    before, after = call(student, x, memory), call(student, edited, memory)
    torch.testing.assert_close(before[:, : place + 1], after[:, : place + 1], rtol=0, atol=1e-12)
    if spec.feature_map != "relu":  # may have no feature in common with a word, before and after
        assert not torch.allclose(before[:, place + 1 :], after[:, place + 1 :])


@pytest.mark.parametrize("spec", [s for s in EVERY if s.site == "encoder_self"], ids=label)
def test_the_encoder_hears_later_words_as_well_as_earlier_ones(spec):
    if spec.feature_map == "relu":  # may have no feature in common with a word
        spec = dataclasses.replace(spec, feature_map="elu")
    student = random_stand_in(spec)
    assert not student.is_causal
    x = some(1, 5, 6).requires_grad_()
    for t in (0, 2, 4):
        (heard,) = torch.autograd.grad(call(student, x, None)[0, t].square().sum(), x)
        assert (heard[0].abs().amax(-1) > 0).all()


@causal
@given(time=st.integers(1, 7), memory_length=st.integers(1, 7), seed=seeds)
def test_token_by_token_equals_all_at_once(spec, time, memory_length, seed):
    student = random_stand_in(spec, seed)
    x, memory = some(3, time, 6, seed=seed), some(3, memory_length, 6, seed=seed + 1)
    source = padding([memory_length, 1, 0], memory_length)
    found, expected = streamed(student, x, memory, source), call(student, x, memory, source=source)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@causal
def test_states_can_be_reordered_for_beam_search(spec):
    student = random_stand_in(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    source, rows = padding([4, 3], 4), torch.tensor([1, 0, 1])
    state = begin(student, 2, memory, source)
    for x_t in x[:, :4].unbind(1):
        _, state = student.step(x_t, state)
    found, _ = student.step(x[rows, 4], select_rows(state, rows))
    expected = call(student, x, memory, source=source)[rows, 4]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@causal
def test_a_state_does_not_grow_beyond_its_window(spec):
    student = random_stand_in(spec)
    state, sizes = begin(student, 1, some(1, 9, 6)), []
    for x_t in some(1, 7, 6).unbind(1):
        _, state = student.step(x_t, state)
        sizes.append(state_numbers(state))
    n_features = 4 if spec.feature_map == "hedgehog" else 2
    table = 3 * n_features * 3 if spec.method == "linear" else 3 * 2 * 2
    newest = [2 * 6 * min(t, spec.window) for t in range(1, 8)]
    assert sizes == [table + n for n in newest]


@every
@given(seed=seeds, n_more=st.integers(1, 2))
def test_padding_and_what_stands_in_it_change_nothing(spec, seed, n_more):
    student = random_stand_in(spec, seed)
    x, memory = some(2, 5, 6, seed=seed), some(2, 4, 6, seed=seed + 1)
    own, source = padding([5, 2], 5), padding([1, 4], 4)
    y = call(student, x, memory, own=own, source=source)
    assert (y[own] == 0).all()
    x[own], memory[source] = torch.nan, torch.inf
    assert torch.equal(call(student, x, memory, own=own, source=source), y)
    longer, more_memory = (torch.cat([part, some(2, n_more, 6)], 1) for part in (x, memory))
    wider = {"own": padding([5, 2], 5 + n_more), "source": padding([1, 4], 4 + n_more)}
    z = call(student, longer, more_memory, **wider)[:, :5]
    torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-9)
    one = call(student, x[1:, :2], memory[1:])
    torch.testing.assert_close(one, y[1:, :2], rtol=1e-9, atol=1e-9)


@every
def test_a_sentence_of_nothing_gives_finite_numbers_and_gradients(spec):
    student, mask = random_stand_in(spec), padding([3, 0], 3)
    y = call(student, some(2, 3, 6), some(2, 3, 6, seed=1), own=mask, source=mask)
    assert y.isfinite().all()
    y.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in student.parameters())


# in a translator


@every
def test_every_weight_learns_and_is_counted(spec):
    student = random_stand_in(spec)
    call(student, some(2, 7, 6), some(2, 7, 6, seed=1)).square().sum().backward()
    for name, weight in student.named_parameters():
        assert (weight.grad != 0).any(), name
    counted = expected_student_weights(**{"size": "m", **spec.to_dict()}, **SIZES_HERE)
    assert student.n_weights == counted


@every
def test_stand_ins_begin_with_the_teachers_maps_and_undo_gives_back_its_bits(spec):
    model = teacher_for()
    before = logits_of(model)
    students = build_students(model, spec=spec, layers=[1])
    own = find_site(model, site=spec.site, layer=1)
    for name in ("query", "key", "value"):
        mine, given = (getattr(each, name).weight for each in (students[spec.site, 1], own))
        assert torch.equal(mine, given)
        assert mine.data_ptr() != given.data_ptr()
    with substitute(model, students):
        source, target = some_batches()[0]
        assert not torch.equal(logits_of(model), before)
        inputs = target[:, :-1]
        found, is_real = stepwise_logits(model, source, inputs), inputs != PAD
        torch.testing.assert_close(found[is_real], model(source, inputs)[is_real])
        again = build_students(model, spec=spec, layers=[1])  # from the stand-in, now in place
        assert torch.equal(again[spec.site, 1].query.weight, own.query.weight)
    assert torch.equal(logits_of(model), before)


@every
def test_saved_stand_ins_come_back_equal(spec, tmp_path):
    model = teacher_for(attention_bias=spec.site == "cross")
    students = build_students(model, spec=spec, seed=3)
    save_students(tmp_path / "s.safetensors", students=students, note=1)
    loaded, facts = load_students(tmp_path / "s.safetensors")
    assert facts == {"note": 1}
    assert not differ(weights_of(students), weights_of(loaded))
    assert [student.spec for student in loaded.values()] == [spec] * len(students)
    with substitute(model, students):
        before = logits_of(model)
    with substitute(model, loaded):
        assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize("spec", [LINEAR[2], WINDOWS[0], TABLES[-1]], ids=label)
def test_stand_ins_learn_from_the_same_lessons_as_other_students(spec):
    model = teacher_for()
    lessons = lessons_for(model, spec, n=1)  # one batch of all: every step has the same loss
    how = {"n_steps": 10, "batch_size": 10, "lr": 3e-3, "weight_decay": 0.0, "warmup_steps": 0}
    fitted = fit_students(
        model, lessons, held_out=lessons, config=TrainConfig(**how), eval_every=5,
        site=spec.site, method=spec.method, window=spec.window,
    )  # fmt: skip
    first, last = (log.loss for log in (fitted.logs[0], fitted.logs[-1]))
    assert last < first


def test_there_is_nothing_to_begin_with_where_a_net_stands():
    model = teacher_for()
    substitute(model, build_students(model, spec=StudentSpec()))
    with pytest.raises(AttnlabError, match="none that fits"):
        build_students(model, spec=LINEAR[0])


# specifications


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"site": "cross", "method": "ssd"}, "Use method='linear' there"),
        ({"site": "cross", "method": "linear", "window": 2}, "window=2 does not apply to cross"),
        ({"method": "ssd", "window": 2}, "window=2 does not apply to encoder_self-ssd"),
        ({"method": "linear", "window": -1}, "window=-1 must be a whole number, 0 or more"),
        ({"method": "linear", "window": 1.5}, "window=1.5 must be"),
        ({"method": "linear", "window_scale": "shared"}, "window_scale='shared' does not apply"),
        ({"method": "linear", "size": "l"}, "size='l' does not apply"),
        ({"method": "linear", "width": 3}, "width=3 does not apply"),
        ({"method": "gated_delta", "feature_map": "elu"}, "feature_map='elu' does not apply"),
        ({"feature_map": "relu"}, "feature_map='relu' does not apply to encoder_self-alr-m"),
        ({"method": "linear", "depth": 2}, "depth=2 does not apply"),
    ],
)
def test_choices_that_do_not_apply_are_refused(options, says):
    with pytest.raises(AttnlabError, match=says):
        StudentSpec(**options)


def test_a_misspelt_map_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'hedgehog'"):
        StudentSpec(method="linear", feature_map="hedghog")


def test_a_specification_says_more_only_where_more_is_meant():
    old = {"site", "method", "size", "layout", "depth", "width", "gate", "learned_head", "skip"}
    assert StudentSpec().to_dict().keys() == LINEAR[0].to_dict().keys() == old
    assert WINDOWS[1].to_dict().keys() == old | {"feature_map", "window"}
    assert all(StudentSpec(**spec.to_dict()) == spec for spec in EVERY)
    pairs = itertools.combinations([*EVERY, StudentSpec()], 2)
    assert all(a.label != b.label for a, b in pairs)
