"""Students: causal where they must be, blind to padding, counted, and equal to their definition."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.distillation import (
    METHODS,
    SIZES,
    StudentSpec,
    build_student,
    expected_student_weights,
    student_width,
)
from attnlab.distillation.naive import student_naive
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models.search import select_rows

MAX_LEN, D_MODEL, N_HEADS = 7, 6, 3
CAUSAL_CROSS = ("truncated", "prefix", "per_query", "low_rank", "extractor")

ENCODER = [
    StudentSpec(method="alr"),
    StudentSpec(method="aslr"),
    StudentSpec(method="alrr", skip="identity"),
    StudentSpec(method="alrr", skip="linear"),
    StudentSpec(method="elr", depth=2),
]
DECODER = [StudentSpec(site="decoder_self", depth=depth) for depth in (1, 3)]
PAPER = [StudentSpec(site="cross", layout="paper", depth=depth) for depth in (1, 2)]
CROSS = [
    *[StudentSpec(site="cross", layout=layout) for layout in CAUSAL_CROSS],
    StudentSpec(site="cross", layout="per_query", gate=True, depth=2),
    StudentSpec(site="cross", layout="per_query", learned_head=True),
]
OVER_SLOTS = [
    *[*ENCODER, *DECODER, *PAPER],
    *[spec for spec in CROSS if spec.layout not in ("low_rank", "extractor")],
]
CAUSAL = [*DECODER, *CROSS]


def label(spec):
    return spec.label


def random_student(spec, seed=0, max_len=MAX_LEN, d_model=D_MODEL, n_heads=N_HEADS):
    """Return a student in float64 with every weight random, gains and shifts included."""
    student = build_student(spec, max_len=max_len, d_model=d_model, n_heads=n_heads).double()
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


def call(student, x, memory, *, target_mask=None, memory_mask=None):
    """Call a student as its site is called."""
    if student.spec.site == "cross":
        return student(x, memory, source_padding=memory_mask, target_padding=target_mask)
    return student(x, **own_padding(student.spec, target_mask))


def own_padding(spec, mask):
    return {"source_padding" if spec.site == "encoder_self" else "target_padding": mask}


def define(student, x, memory, *, target_mask=None, memory_mask=None):
    if student.spec.site == "cross":
        masks = {"source_padding": memory_mask, "target_padding": target_mask}
        return student_naive(student, x, memory, **masks)
    return student_naive(student, x, **own_padding(student.spec, target_mask))


def streamed(student, x, memory, *, memory_mask=None):
    if student.spec.site == "cross":
        state = student.initial_state(memory, source_padding=memory_mask)
    else:
        state = student.initial_state(x.shape[0])
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = student.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1)


def gradients(y, wanted):
    return torch.autograd.grad((y * some(*y.shape, seed=5)).sum(), wanted, allow_unused=True)


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


def test_the_widths_are_the_papers_shares_of_a_whole_sentence():
    def widths(**options):
        specs = [StudentSpec(size=size, **options) for size in SIZES]
        return [student_width(spec, max_len=50, d_model=128) for spec in specs]

    assert widths() == widths(site="decoder_self") == [25, 50, 800, 3200, 12800]
    assert widths(method="aslr") == [200, 400, 800, 1600, 1600]
    assert widths(site="cross") == [50, 100, 1600, 6400, 25600]
    assert student_width(StudentSpec(size="xs"), max_len=3, d_model=2) == 2
    assert student_width(StudentSpec(width=13), max_len=50, d_model=128) == 13


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER, *CROSS], ids=label)
@given(max_len=st.integers(1, 11), d_head=st.integers(1, 5), n_heads=st.integers(1, 3))
def test_every_student_has_the_expected_number_of_weights(spec, max_len, d_head, n_heads):
    sizes = {"max_len": max_len, "d_model": d_head * n_heads, "n_heads": n_heads}
    student = build_student(spec, **sizes)
    assert student.n_weights == expected_student_weights(**spec.to_dict(), **sizes)


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER, *CROSS], ids=label)
def test_every_weight_is_registered_and_learns(spec):
    student = random_student(spec)
    y = call(student, some(2, 7, 6), some(2, 7, 6, seed=1))
    y.square().sum().backward()
    for name, weight in student.named_parameters():
        assert weight.grad is not None, name
        assert (weight.grad != 0).any(), name


# fast = definition


@pytest.mark.parametrize("spec", OVER_SLOTS, ids=label)
@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    memory_length=st.integers(1, 7),
    seed=st.integers(0, 2**16),
)
def test_sums_over_slots_equal_the_loop_in_values_and_gradients(spec, lengths, memory_length, seed):
    student = random_student(spec, seed)
    x = some(len(lengths), max(lengths), 6, seed=seed).requires_grad_()
    memory = some(len(lengths), memory_length, 6, seed=seed + 1).requires_grad_()
    memory_lengths = [memory_length, 1, 0][: len(lengths)]
    masks = {
        "target_mask": padding(lengths, max(lengths)),
        "memory_mask": padding(memory_lengths, memory_length),
    }
    fast, slow = (f(student, x, memory, **masks) for f in (call, define))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)
    wanted = [x, *student.parameters()] + ([memory] if spec.site == "cross" else [])
    for a, b in zip(gradients(fast, wanted), gradients(slow, wanted), strict=True):
        a, b = (torch.zeros(()) if g is None else g for g in (a, b))
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_in_float32_the_prefix_sums_stay_as_close_as_rounding():
    spec = StudentSpec(site="decoder_self", size="m")
    student = build_student(spec, max_len=50, d_model=16, n_heads=2)
    x = some(2, 50, 16).float()
    torch.testing.assert_close(student(x), student_naive(student, x), rtol=1e-4, atol=1e-5)


# causality


@pytest.mark.parametrize("spec", CAUSAL, ids=label)
@given(time=st.integers(2, 7), place=st.integers(0, 5), seed=st.integers(0, 2**16))
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


@pytest.mark.parametrize("spec", PAPER, ids=label)
def test_the_papers_cross_net_sees_the_words_it_has_to_predict(spec):
    student = random_student(spec)
    assert not student.is_causal
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    edited = x.clone()
    edited[:, -1] += 1.0
    change = (call(student, x, memory) - call(student, edited, memory)).abs().amax((0, 2))
    assert (change[:-1] > 1e-3).all()  # every earlier position moves
    student.sees_future = False
    change = (call(student, x, memory) - call(student, edited, memory)).abs().amax((0, 2))
    assert (change[:-1] < 1e-12).all()
    assert student.is_causal


@pytest.mark.parametrize("spec", CAUSAL, ids=label)
@given(time=st.integers(1, 7), memory_length=st.integers(1, 7), seed=st.integers(0, 2**16))
def test_token_by_token_equals_all_at_once(spec, time, memory_length, seed):
    student = random_student(spec, seed)
    x, memory = some(3, time, 6, seed=seed), some(3, memory_length, 6, seed=seed + 1)
    mask = padding([memory_length, 1, 0], memory_length)
    torch.testing.assert_close(
        streamed(student, x, memory, memory_mask=mask),
        call(student, x, memory, memory_mask=mask),
        rtol=1e-9,
        atol=1e-9,
    )


@pytest.mark.parametrize("spec", PAPER, ids=label)
def test_in_use_the_papers_cross_net_reads_zeros_beyond_the_prefix(spec):
    student = random_student(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    stepwise = streamed(student, x, memory)
    for t in range(5):
        cut = call(student, x[:, : t + 1], memory)[:, -1]
        torch.testing.assert_close(stepwise[:, t], cut, rtol=1e-9, atol=1e-9)
    assert not torch.allclose(stepwise[:, :-1], call(student, x, memory)[:, :-1])


@pytest.mark.parametrize("spec", CAUSAL, ids=label)
def test_states_can_be_reordered_for_beam_search(spec):
    student = random_student(spec)
    x, memory = some(2, 5, 6), some(2, 4, 6, seed=1)
    mask = padding([4, 3], 4)
    rows = torch.tensor([1, 0, 1])
    if spec.site == "cross":
        state = student.initial_state(memory, source_padding=mask)
    else:
        state = student.initial_state(2)
    for x_t in x[:, :4].unbind(1):
        _, state = student.step(x_t, state)
    found, _ = student.step(x[rows, 4], select_rows(state, rows))
    expected = call(student, x, memory, memory_mask=mask)[rows, 4]
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", DECODER, ids=label)
def test_the_decoders_state_does_not_grow(spec):
    student = random_student(spec)

    def n_numbers(state):
        return sum(part.numel() for part in state.sums)

    state = student.initial_state(1)
    sizes = [n_numbers(state)]
    for x_t in some(1, 7, 6).unbind(1):
        _, state = student.step(x_t, state)
        sizes.append(n_numbers(state))
    assert set(sizes) == {student.width + 2}


# padding and length


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER, *CROSS], ids=label)
@given(seed=st.integers(0, 2**16), n_more=st.integers(1, 2))
def test_padding_and_what_stands_in_it_change_nothing(spec, seed, n_more):
    student = random_student(spec, seed)
    x, memory = some(2, 5, 6, seed=seed), some(2, 4, 6, seed=seed + 1)
    target_mask, memory_mask = padding([5, 2], 5), padding([1, 4], 4)
    masks = {"target_mask": target_mask, "memory_mask": memory_mask}
    y = call(student, x, memory, **masks)
    assert (y[target_mask] == 0).all()
    x[target_mask], memory[memory_mask] = torch.nan, torch.inf
    torch.testing.assert_close(call(student, x, memory, **masks), y, rtol=0, atol=0)
    longer, more_memory = (torch.cat([part, some(2, n_more, 6)], 1) for part in (x, memory))
    wider = {
        "target_mask": padding([5, 2], 5 + n_more),
        "memory_mask": padding([1, 4], 4 + n_more),
    }
    z = call(student, longer, more_memory, **wider)[:, :5]
    torch.testing.assert_close(z, y, rtol=1e-9, atol=1e-9)
    one = call(student, x[1:, :2], memory[1:])
    torch.testing.assert_close(one, y[1:, :2], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER, *CROSS], ids=label)
def test_a_sentence_of_nothing_gives_finite_numbers_and_gradients(spec):
    student = random_student(spec)
    x = some(2, 3, 6).requires_grad_()
    memory = some(2, 3, 6, seed=1).requires_grad_()
    mask = padding([3, 0], 3)
    y = call(student, x, memory, target_mask=mask, memory_mask=mask)
    assert y.isfinite().all()
    y.sum().backward()
    assert all(weight.grad.isfinite().all() for weight in student.parameters())


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER], ids=label)
def test_a_sentence_without_slots_is_refused_in_words(spec):
    student = random_student(spec)
    with pytest.raises(AttnlabError, match=r"of 8 tokens does not fit a student with 7 slots"):
        call(student, some(1, 8, 6), some(1, 3, 6))


@pytest.mark.parametrize("layout", ["paper", "per_query", "extractor"])
def test_a_source_without_slots_is_refused_in_words(layout):
    student = random_student(StudentSpec(site="cross", layout=layout))
    with pytest.raises(AttnlabError, match="source of 8 tokens does not fit"):
        call(student, some(1, 3, 6), some(1, 8, 6))
    with pytest.raises(AttnlabError, match="source of 8 tokens does not fit"):
        student.initial_state(some(1, 8, 6))


@pytest.mark.parametrize(
    "spec", [DECODER[0], PAPER[0], StudentSpec(site="cross", layout="extractor")], ids=label
)
def test_a_step_beyond_the_last_slot_is_refused_in_words(spec):
    student = random_student(spec)
    with pytest.raises(AttnlabError, match="of 8 tokens does not fit"):
        streamed(student, some(1, 8, 6), some(1, 3, 6))


# specifications


def test_a_misspelt_choice_names_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'decoder_self'"):
        StudentSpec(site="decoder_selv")
    with pytest.raises(UnknownNameError, match="size of a student"):
        StudentSpec(size="xxl")


def test_choices_that_do_not_apply_are_refused():
    for site, method in itertools.product(("decoder_self", "cross"), METHODS[1:]):
        with pytest.raises(AttnlabError, match="exists for encoder_self only"):
            StudentSpec(site=site, method=method)
    with pytest.raises(AttnlabError, match="skip='linear' does not apply to encoder_self-alr"):
        StudentSpec(skip="linear")
    with pytest.raises(AttnlabError, match="gate=True does not apply"):
        StudentSpec(site="cross", gate=True)
    with pytest.raises(AttnlabError, match="depth=2 does not apply"):
        StudentSpec(site="cross", layout="low_rank", depth=2)
    with pytest.raises(AttnlabError, match="layout='per_query' does not apply"):
        StudentSpec(layout="per_query")
    with pytest.raises(AttnlabError, match="width=0"):
        StudentSpec(width=0)


def test_sizes_may_be_written_in_capitals():
    assert StudentSpec(method="ALR", size="XL") == StudentSpec(size="xl")


def test_a_specification_survives_json():
    for spec in [*ENCODER, *CROSS]:
        assert StudentSpec.from_dict(spec.to_dict()) == spec
    labels = [spec.label for spec in [*ENCODER, *DECODER, *PAPER, *CROSS]]
    assert len(set(labels)) == len(labels)


@pytest.mark.parametrize("spec", [*ENCODER, *DECODER, *PAPER, *CROSS], ids=label)
def test_stacked_students_do_what_each_does_alone(spec):
    students = [random_student(spec, seed) for seed in range(3)]
    stack = type(students[0]).stack(students)
    x, memory = some(3, 2, 5, 6), some(1, 2, 4, 6, seed=1)
    target_mask, memory_mask = padding([5, 2], 5), padding([4, 3], 4)
    context = own_padding(spec, target_mask)
    if spec.site == "cross":
        context |= {"memory": memory, "source_padding": memory_mask}
    together = stack.run(x, **context)
    for i, student in enumerate(students):
        alone = call(student, x[i], memory[0], target_mask=target_mask, memory_mask=memory_mask)
        torch.testing.assert_close(together[i], alone, rtol=1e-10, atol=1e-10)
    others = [random_student(spec, 9) for _ in students]
    stack.unstack(others)
    for student, other in zip(students, others, strict=True):
        for weight, copied in zip(student.parameters(), other.parameters(), strict=True):
            assert torch.equal(weight, copied)
