"""Students: causal where they must be, blind to padding, counted, and equal to their definition."""

import dataclasses
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_teacher import (
    CROSS,
    DECODER,
    ENCODER,
    EVERYWHERE,
    LAYOUTS,
    PAPER,
    RICH,
    label,
    teacher_for,
)

from attnlab.distillation import (
    METHODS,
    SIZES,
    StudentSpec,
    build_student,
    build_students,
    expected_student_weights,
    student_width,
)
from attnlab.distillation.naive import student_naive
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models.search import select_rows

SIZES_HERE = {"max_len": 7, "d_model": 6, "n_heads": 3}
EVERY = [
    dataclasses.replace(spec, size="m")  # a norm over two units would leave only signs
    for spec in [*EVERYWHERE, *RICH, dataclasses.replace(CROSS[2], learned_head=True)]
]
OVER_SLOTS = [spec for spec in EVERY if spec.layout not in ("low_rank", "extractor")]
CAUSAL = [spec for spec in EVERY if spec.layout != "paper"]
DECODERS, PAPERS = (
    [spec for spec in EVERY if (spec.site, spec.layout) == (site, "paper")]
    for site in ("decoder_self", "cross")
)
CAUSAL += DECODERS
every, causal = (pytest.mark.parametrize("spec", specs, ids=label) for specs in (EVERY, CAUSAL))
paper = pytest.mark.parametrize("spec", PAPERS, ids=label)
seeds = st.integers(0, 2**16)


def random_student(spec, seed=0):
    """Return a student in float64 with every weight random, gains and shifts included."""
    student = build_student(spec, **SIZES_HERE).double()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in student.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return student


def some(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def padding(lengths, time):
    return torch.arange(time) >= torch.tensor(lengths)[:, None]


def call(student, x, memory, *, own=None, source=None, by=None):
    """Call a student, or its definition, as its site is called: ``own`` is the padding of x."""
    masks = {"encoder_self": {"source_padding": own}, "decoder_self": {"target_padding": own},
             "cross": {"source_padding": source, "target_padding": own}}  # fmt: skip
    args = (x, memory) if student.spec.site == "cross" else (x,)
    return (by or type(student).__call__)(student, *args, **masks[student.spec.site])


def begin(student, batch_size, memory, source=None):
    if student.spec.site == "cross":
        return student.initial_state(memory, source_padding=source)
    return student.initial_state(batch_size)


def streamed(student, x, memory, source=None):
    state, outputs = begin(student, len(x), memory, source), []
    for x_t in x.unbind(1):
        y_t, state = student.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1)


# sizes


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"method": "alr"}, [339_275, 659_350, 10_261_600, 40_988_800, 163_897_600]),
        ({"method": "alrr"}, [339_275, 659_350, 10_261_600, 40_988_800, 163_897_600]),
        ({"method": "elr"}, [339_275, 659_350, 10_261_600, 40_988_800, 163_897_600]),
        ({"method": "aslr"}, [11_633_600, 23_158_400, 46_208_000, 92_307_200, 92_307_200]),
        ({"site": "decoder_self"}, [176_203, 339_478, 5_237_728, 20_912_128, 83_609_728]),
        ({"site": "cross"}, [992_150, 1_952_300, 30_756_800, 122_931_200, 491_628_800]),
    ],
    ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
)
def test_the_papers_students_have_the_papers_number_of_weights(options, counts):
    # at 50 positions, width 128, 8 heads; counted on the published classes
    sizes = {"max_len": 50, "d_model": 128, "n_heads": 8}
    options = {"method": "alr", **options}
    found = [expected_student_weights(**options, size=size, **sizes) for size in SIZES]
    assert found == counts
    with torch.device("meta"):  # no memory for weights nobody looks at
        built = [build_student(StudentSpec(**options, size=s), **sizes) for s in SIZES]
    assert [student.n_weights for student in built] == counts


def test_widths_beside_the_papers_are_counted_on_a_row_or_given():
    def width(max_len=50, d_model=128, **options):
        return student_width(StudentSpec(**options), max_len=max_len, d_model=d_model)

    cross = {layout: width(site="cross", layout=layout, size="l") for layout in LAYOUTS}
    assert cross == {"truncated": 6400, "prefix": 6400, "per_query": 3200, "low_rank": 32,
                     "extractor": 8}  # fmt: skip
    assert width(size="xs", max_len=3, d_model=2) == 2  # a norm over one unit says nothing
    assert width(width=13) == 13


@every
@given(max_len=st.integers(1, 11), d_head=st.integers(1, 5), n_heads=st.integers(1, 3))
def test_every_student_has_the_expected_number_of_weights(spec, max_len, d_head, n_heads):
    sizes = {"max_len": max_len, "d_model": d_head * n_heads, "n_heads": n_heads}
    student = build_student(spec, **sizes)
    assert student.n_weights == expected_student_weights(**spec.to_dict(), **sizes)


@every
def test_every_weight_is_registered_and_learns(spec):
    student = random_student(spec)
    y = call(student, some(2, 7, 6), some(2, 7, 6, seed=1))
    y.square().sum().backward()
    for name, weight in student.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad != 0).any(), name


def test_every_seed_and_every_layer_starts_elsewhere():
    for spec in (ENCODER[0], DECODER, PAPER):
        first, other, again = (
            [s.net.first_weight for s in build_students(teacher_for(), spec=spec, seed=n).values()]
            for n in (0, 1, 0)
        )
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        pairs = itertools.combinations([*first, *other], 2)
        assert not any(torch.equal(a, b) for a, b in pairs)


# fast = definition


@pytest.mark.parametrize("spec", OVER_SLOTS, ids=label)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    memory_length=st.integers(1, 7),
    seed=seeds,
)
def test_sums_over_slots_equal_the_loop_in_values_and_gradients(spec, lengths, memory_length, seed):
    student = random_student(spec, seed)
    x = some(len(lengths), max(lengths), 6, seed=seed).requires_grad_()
    memory = some(len(lengths), memory_length, 6, seed=seed + 1).requires_grad_()
    memory_lengths = [memory_length, 1, 0][: len(lengths)]
    masks = {
        "own": padding(lengths, max(lengths)),
        "source": padding(memory_lengths, memory_length),
    }
    fast, slow = (call(student, x, memory, **masks, by=by) for by in (None, student_naive))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    wanted = [x, *student.parameters()] + ([memory] if spec.site == "cross" else [])
    of_fast, of_slow = (
        torch.autograd.grad((y * some(*y.shape, seed=5)).sum(), wanted, materialize_grads=True)
        for y in (fast, slow)
    )
    torch.testing.assert_close(of_fast, of_slow, rtol=1e-8, atol=1e-8)


def test_in_float32_the_prefix_sums_stay_as_close_as_rounding():
    spec = StudentSpec(site="decoder_self", size="m")
    student = build_student(spec, max_len=50, d_model=16, n_heads=2)
    x = some(2, 50, 16).float()
    torch.testing.assert_close(student(x), student_naive(student, x), rtol=1e-4, atol=1e-5)


# causality


@causal
@given(time=st.integers(2, 7), place=st.integers(0, 5), seed=seeds)
def test_no_output_depends_on_a_later_position(spec, time, place, seed):
    place = min(place, time - 2)
    student = random_student(spec, seed)
    assert student.is_causal
    x, memory = some(2, time, 6, seed=seed), some(2, 4, 6, seed=seed + 1)
    edited = x.clone()
    edited[:, place + 1 :] = some(2, time - place - 1, 6, seed=seed + 2)
    before, after = call(student, x, memory), call(student, edited, memory)
    torch.testing.assert_close(before[:, : place + 1], after[:, : place + 1], rtol=0, atol=1e-12)
    assert not torch.allclose(before[:, place + 1 :], after[:, place + 1 :])


@paper
def test_the_papers_cross_net_sees_the_words_it_has_to_predict(spec):
    student = random_student(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    edited = x.clone()
    edited[:, -1] += 1.0
    for sees_future in (True, False):
        assert student.is_causal is not sees_future
        change = (call(student, x, memory) - call(student, edited, memory)).abs().amax((0, 2))[:-1]
        assert (change > 1e-3).all() if sees_future else (change < 1e-12).all()
        whole = student(x, memory, sees_future=True)
        assert torch.equal(call(student, x, memory), whole) == sees_future
        student.sees_future = False


@paper
def test_in_use_the_papers_cross_net_reads_zeros_beyond_the_prefix(spec):
    student = random_student(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    stepwise = streamed(student, x, memory)
    for t in range(5):
        cut = call(student, x[:, : t + 1], memory)[:, -1]
        torch.testing.assert_close(stepwise[:, t], cut, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(stepwise[:, :-1], call(student, x, memory)[:, :-1])


@causal
@given(time=st.integers(1, 7), memory_length=st.integers(1, 7), seed=seeds)
def test_token_by_token_equals_all_at_once(spec, time, memory_length, seed):
    student = random_student(spec, seed)
    x, memory = some(3, time, 6, seed=seed), some(3, memory_length, 6, seed=seed + 1)
    source = padding([memory_length, 1, 0], memory_length)
    found, expected = streamed(student, x, memory, source), call(student, x, memory, source=source)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@causal
def test_states_can_be_reordered_for_beam_search(spec):
    student = random_student(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    source, rows = padding([4, 3], 4), torch.tensor([1, 0, 1])
    state = begin(student, 2, memory, source)
    for x_t in x[:, :4].unbind(1):
        _, state = student.step(x_t, state)
    found, _ = student.step(x[rows, 4], select_rows(state, rows))
    expected = call(student, x, memory, source=source)[rows, 4]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", DECODERS, ids=label)
def test_the_decoders_state_does_not_grow(spec):
    student = random_student(spec)
    state, sizes = student.initial_state(1), set()
    for x_t in some(1, 7, 6).unbind(1):
        sizes.add(sum(part.numel() for part in state.sums))
        _, state = student.step(x_t, state)
    assert sizes == {sum(part.numel() for part in state.sums)} == {student.width + 2}


# padding and length


@every
@given(seed=seeds, n_more=st.integers(1, 2))
def test_padding_and_what_stands_in_it_change_nothing(spec, seed, n_more):
    student = random_student(spec, seed)
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
    student = random_student(spec)
    mask = padding([3, 0], 3)
    y = call(student, some(2, 3, 6), some(2, 3, 6, seed=1), own=mask, source=mask)
    assert y.isfinite().all()
    y.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in student.parameters())


NO_SLOT = [  # spec, lengths of x and of the source, whether a step refuses it too
    *[(spec, 8, 3, spec.site != "encoder_self") for spec in [*ENCODER, DECODER, PAPER, CROSS[-1]]],
    *[(spec, 3, 8, True) for spec in [PAPER, CROSS[2], CROSS[-1]]],
]


@pytest.mark.parametrize(("spec", "time", "source_time", "has_steps"), NO_SLOT)
def test_a_sentence_without_slots_is_refused_in_words(spec, time, source_time, has_steps):
    student = random_student(spec)
    x, memory = some(1, time, 6), some(1, source_time, 6)
    for use in (call, streamed)[: 1 + has_steps]:
        with pytest.raises(AttnlabError, match=r"of 8 tokens does not fit a student with 7 slots"):
            use(student, x, memory)


# specifications


def test_a_misspelt_choice_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'decoder_self'"):
        StudentSpec(site="decoder_selv")
    with pytest.raises(UnknownNameError, match="size of a student"):
        StudentSpec(size="xxl")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        *[({"site": site, "method": method}, "exists for encoder_self only")
          for site, method in itertools.product(("decoder_self", "cross"), METHODS[1:])],
        ({"skip": "linear"}, "skip='linear' does not apply to encoder_self-alr"),
        ({"site": "cross", "gate": True}, "gate=True does not apply"),
        ({"site": "cross", "learned_head": True}, "learned_head=True does not apply"),
        ({"site": "cross", "layout": "low_rank", "depth": 2}, "depth=2 does not apply"),
        ({"layout": "per_query"}, "layout='per_query' does not apply"),
        ({"width": 0}, "width=0"),
    ],
)  # fmt: skip
def test_choices_that_do_not_apply_are_refused(options, says):
    with pytest.raises(AttnlabError, match=says):
        StudentSpec(**options)


def test_a_specification_survives_json_and_has_a_label_of_its_own():
    assert all(StudentSpec(**spec.to_dict()) == spec for spec in EVERY)
    assert len({spec.label for spec in EVERY}) == len({*EVERY})
    assert StudentSpec(method="ALR", size="XL") == StudentSpec(size="xl")
