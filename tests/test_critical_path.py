"""Critical paths are traced from real modules, agree with closed forms, and can be read."""

import functools
import heapq
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnlab.analysis import critical_path, theory
from attnlab.analysis.critical_path.capture import capture
from attnlab.analysis.critical_path.operations import (
    CHANGES_NOTHING,
    DECIDES,
    UNKNOWN,
    Each,
    Source,
    combine,
    critical_term,
)
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, list_mixers, naive
from attnlab.mixers.convolution import list_methods
from attnlab.models import LanguageModel

MIXERS = ("attention", "she", "he", "we", "me", "identity", "mean")
ORDERS = ("tree", "sequential")
SHE = "mul acc mul mul acc"
ATTENTION = "mul acc mul acc mul max add exp acc div mul acc mul acc"
# (d_model, context_len, n_heads): one, odd, prime, and a power of two
SIZES = [
    *((1, 1, 1), (2, 1, 1), (1, 2, 1), (3, 5, 3), (4, 7, 2)),
    *((7, 3, 1), (6, 6, 6), (13, 16, 1), (8, 31, 4), (16, 17, 2)),
]


def mixer_of(name, d_model, context_len, n_heads=1, **options):
    heads = {"n_heads": n_heads} if name == "attention" else {}
    return build_mixer(name, d_model=d_model, context_len=context_len, **heads, **options)


def model_of(name, *, d_model=4, context_len=3, n_layers=1):
    options = {"method": "im2col"} if name == "she" else {}
    return LanguageModel(
        ModelConfig(
            mixer=name,
            mixer_options=options,
            d_model=d_model,
            n_heads=2,
            context_len=context_len,
            vocab_size=5,
            n_layers=n_layers,
            d_ff=5,
        )
    )


def one_by_one(trace, *, accumulate):
    """Return depths and work of a trace, going through its scalars one after the other."""
    depth, work = [0] * (trace.program.n_scalars + 1), Counter()

    def join(kind, arrivals):
        heap = list(arrivals)
        work[kind] += len(heap) - 1
        while len(heap) > 1:
            if accumulate == "tree":
                heap.sort()
            heap[:2] = [max(heap[:2]) + 1]
        return heap[0]

    def each(operation):
        columns = [numbers.flatten().tolist() for _, numbers in operation.inputs]
        parts = (operation.out, operation.is_new, operation.cost)
        for number, is_new, cost, *others in zip(
            *(part.flatten().tolist() for part in parts), *columns, strict=True
        ):
            if is_new:
                depth[number] = max(depth[other] for other in others) + cost
                work[operation.kind] += cost

    def result(operation, b, i, j):
        terms = []
        left, right = operation.left, operation.right
        for k in range(left.code.shape[-1]):
            ends = [(part.numbers[b % len(part.code), row, k % part.code.shape[-1]].item(),
                     part.code[b % len(part.code), row, k % part.code.shape[-1]].item())
                    for part, row in ((left, i), (right, j))]  # fmt: skip
            codes = {code for _, code in ends}
            if DECIDES in codes:
                continue
            cost = UNKNOWN in codes and CHANGES_NOTHING not in codes
            work["mul"] += cost
            terms.append(max(depth[number] for number, _ in ends) + cost)
        return join(operation.kind, terms)

    for operation in trace.operations:
        if isinstance(operation, Each):
            each(operation)
        elif not isinstance(operation, Source):
            for place in np.ndindex(operation.shape):
                number = operation.rows[place].item()
                if number:
                    depth[number] = result(operation, *place)
    return np.array(depth)[trace.output.numpy()], {kind: n for kind, n in work.items() if n}


def require_engines_agree(trace):
    """Compare depths in both orders, work and levels with what loops over scalars find."""
    is_running = any(getattr(operation, "is_running", False) for operation in trace.operations)
    for accumulate in ORDERS:
        depths, work = one_by_one(trace, accumulate=accumulate)
        np.testing.assert_array_equal(depths, trace.depths(accumulate=accumulate))
        levels = trace.levels(accumulate=accumulate)
        assert levels.sum() == trace.n_operations
        assert is_running or work == trace.work
        assert is_running or len(levels) >= depths.max(initial=0)


# Closed forms


@pytest.mark.parametrize("name", MIXERS)
def test_the_traced_step_has_the_depth_of_the_closed_form_at_ten_sizes(name):
    for d_model, context_len, n_heads in SIZES:
        trace = critical_path.trace_step(mixer_of(name, d_model, context_len, n_heads))
        for accumulate in ORDERS:
            expected = theory.expected_depth(
                name,
                d_model=d_model,
                context_len=context_len,
                n_heads=n_heads,
                accumulate=accumulate,
            )
            path = trace.longest_path(accumulate=accumulate)
            found = path.depth, trace.depth(accumulate=accumulate)
            assert found == (expected, expected), (d_model, context_len, accumulate)
            chain = theory.expected_chain(
                name,
                d_model=d_model,
                context_len=context_len,
                n_heads=n_heads,
                accumulate=accumulate,
            )
            assert [(s.kind, s.depth, s.name) for s in path.steps] == list(chain)


def test_every_mixer_has_a_closed_form():
    for name in list_mixers():
        assert theory.expected_depth(name, d_model=3, context_len=2) >= 0


@pytest.mark.parametrize(
    ("name", "context_len", "accumulate", "depth"),
    [
        # linear maps 2 (1 + 7), scores 1 + 5 + 1, softmax 7 + 1 + 1 + 7 + 1, average 1 + 7
        ("attention", 128, "tree", 48),
        ("attention", 2048, "tree", 60),  # three sums over time are 4 levels deeper
        ("attention", 128, "sequential", 674),  # 2 * 128 + (1 + 31 + 1) + (127 + 130) + 128
        ("she", 128, "tree", 24),  # 1 + log2(128 * 128) + 1 + 1 + 7
        ("she", 2048, "tree", 28),
        ("she", 128, "sequential", 16_513),  # 1 + (128 * 128 - 1) + 1 + 1 + 127
        ("he", 128, "tree", 19),  # the value is late: 8, 1, then 1 + 8 for one late term
        ("he", 2048, "tree", 22),
        ("we", 128, "tree", 9),
        ("me", 128, "tree", 9),
    ],
)
def test_closed_forms_at_the_size_of_the_paper(name, context_len, accumulate, depth):
    sizes = {"d_model": 128, "context_len": context_len, "n_heads": 4}
    assert theory.expected_depth(name, accumulate=accumulate, **sizes) == depth


@pytest.mark.parametrize("name", ["attention", "she", "he"])
def test_the_size_of_the_paper_can_be_traced(name):
    trace = critical_path.trace_step(mixer_of(name, 128, 128, n_heads=4))
    for accumulate in ORDERS:
        expected = theory.expected_depth(
            name, d_model=128, context_len=128, n_heads=4, accumulate=accumulate
        )
        assert trace.longest_path(accumulate=accumulate).depth == expected


# Names


@pytest.mark.parametrize("accumulate", ORDERS)
def test_the_chain_of_she_has_the_published_names(accumulate):
    path = critical_path.trace_step(mixer_of("she", 6, 5)).longest_path(accumulate=accumulate)
    assert path.names == SHE
    names = ["lag_weight", "lag_weight", "lag_weight × adjust", "out", "out"]
    assert [step.name for step in path.steps] == names
    assert path.steps[1].n_terms == 6 * 5


def test_the_chain_of_attention_goes_through_its_softmax():
    path = critical_path.trace_step(mixer_of("attention", 8, 5, 2)).longest_path()
    assert path.names == ATTENTION
    assert path.start[0] == "x_t"
    assert path.steps[2].name == "query × key"
    assert {step.name for step in path.steps[5:10]} == {"softmax"}
    assert [step.name for step in path.steps[-2:]] == ["out", "out"]


def test_a_table_has_one_row_a_step():
    path = critical_path.trace_step(mixer_of("she", 6, 5)).longest_path()
    table = path.table()
    assert table["kind"].tolist() == SHE.split()
    assert table["depth"].sum() == path.depth
    assert table["n_terms"].tolist() == [2, 30, 2, 2, 6]
    assert all(len(element) == 2 for element in table["element"])


def test_a_program_without_operations_has_an_empty_path():
    path = critical_path.trace_step(mixer_of("identity", 3, 2)).longest_path()
    assert (path.depth, path.names, path.start[0]) == (0, "", "x_t")
    assert path.table().empty


def test_the_path_belongs_to_the_program():
    x = torch.randn(1, 9, 4)
    loop, one_sum = (
        critical_path.trace_module(mixer_of("she", 4, 9, method=method), x).longest_path()
        for method in ("lags", "im2col")
    )
    # a product of 4 terms, 8 additions one after the other, gate, output map of 4 terms
    assert (loop.depth, loop.names) == (1 + 2 + 8 + 1 + 3, "mul acc add mul mul acc")
    assert loop.steps[2].depth == 8
    assert (one_sum.depth, one_sum.names) == (1 + 6 + 1 + 3, SHE)
    mixer = mixer_of("she", 4, 9)
    definition = critical_path.trace_module(functools.partial(naive.she, mixer), x).longest_path()
    assert (definition.depth, definition.names) == (loop.depth, loop.names)
    assert [s.name for s in definition.steps] == [s.name for s in loop.steps]


# Agreement of the two engines


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize("size", [(1, 2), (3, 4)])
def test_both_engines_agree_on_step_definition_and_parallel_pass(name, size):
    d_model, time = size
    mixer = mixer_of(name, d_model, time)
    x = torch.randn(2, time, d_model)
    require_engines_agree(critical_path.trace_step(mixer))
    require_engines_agree(critical_path.trace_module(mixer, x))
    loop = functools.partial(naive.definition(name), mixer)
    require_engines_agree(critical_path.trace_module(loop, x[:1]))


@pytest.mark.parametrize("name", ["attention", "mean"])
def test_both_engines_agree_beyond_the_context(name):
    require_engines_agree(critical_path.trace_module(mixer_of(name, 2, 3), torch.randn(1, 5, 2)))


@pytest.mark.parametrize(
    ("name", "method"),
    [
        *(("she", m) for m in list_methods(3)),
        *(("he", "fft"), ("we", "toeplitz")),
    ],
)
def test_both_engines_agree_on_every_way_to_convolve(name, method):
    mixer = mixer_of(name, 2, 3, method=method)
    x = torch.randn(1, 3, 2)
    trace = critical_path.trace_module(mixer, x)
    torch.testing.assert_close(mixer(x), naive.she(mixer, x))  # tracing left nothing behind
    require_engines_agree(trace)
    # one term, the gate, and what its maps add, are waited for whatever the method
    assert trace.depth() > theory.expected_depth("we", d_model=2, context_len=1)
    assert trace.shape == (1, 3, 2)


@pytest.mark.parametrize("name", ["attention", "he"])
def test_blocks_and_whole_models_can_be_traced(name):
    model = model_of(name, n_layers=2)
    tokens = torch.tensor([[1, 4, 2]])
    whole = critical_path.trace_module(model, tokens)
    block = critical_path.trace_module(model.blocks[0], torch.randn(1, 3, 4))
    for trace in (whole, block, critical_path.trace_step(model)):
        require_engines_agree(trace)
    names = [step.name for step in whole.longest_path().steps]
    assert {"blocks.0.mixer_norm", "blocks.1.mlp.keys", "norm"} <= set(names)
    assert names[-1] == "token_embedding"  # tied to the head


def test_a_whole_model_of_the_papers_width_is_traced_in_seconds():
    config = ModelConfig(
        mixer="she",
        mixer_options={"method": "im2col"},
        d_model=128,
        context_len=128,
        vocab_size=50,
        n_layers=1,
    )
    trace = critical_path.trace_module(LanguageModel(config), torch.zeros(1, 128, dtype=torch.long))
    names = trace.longest_path().names
    # embedding plus position; norm; the mixer; residual; norm
    norm = "acc mul add mul acc mul add rsqrt mul mul add"
    assert names.startswith(f"add {norm} {SHE} add {norm} mul acc add gelu mul acc add")
    assert names.endswith(f"{norm} mul acc")


@pytest.mark.parametrize("method", ["im2col", "fft", "planes", "lags"])
def test_the_traced_graph_computes_what_the_module_computes(method):
    mixer = mixer_of("she", 3, 5, method=method).double()
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    graph, _ = capture(mixer, [x])
    torch.testing.assert_close(graph(x), mixer(x))


@pytest.mark.parametrize("name", ["attention", "he"])
def test_the_traced_graph_of_a_model_computes_its_logits(name):
    model = model_of(name).double()
    tokens = torch.tensor([[3, 0, 2]])
    graph, _ = capture(model, [tokens])
    torch.testing.assert_close(graph(tokens), model(tokens))


def attention_step(mixer, *, has_max, x_t, keys, values):
    """Attend from one token, the division after the sum of values."""
    q, k, v = (linear(x_t).view(4, 1, 32) for linear in (mixer.query, mixer.key, mixer.value))
    scores = q @ torch.cat([keys, k], 1).mT * 32**-0.5
    if has_max:
        scores = scores - scores.amax(-1, keepdim=True)
    shares = scores.exp()
    mixed = (shares @ torch.cat([values, v], 1)) / shares.sum(-1, keepdim=True)
    return mixer.out(mixed.view(1, 128))


@pytest.mark.parametrize(("has_max", "depth"), [(True, 48 - 7), (False, 48 - 7 - 8)])
def test_a_deferred_division_and_no_maximum_shorten_the_chain_of_attention(has_max, depth):
    # the sum of shares runs beside the sum of values; the maximum took 7, the difference 1
    mixer = mixer_of("attention", 128, 128, 4)

    def step(x_t, keys, values):
        return attention_step(mixer, has_max=has_max, x_t=x_t, keys=keys, values=values)

    cache = torch.randn(4, 127, 32)
    trace = critical_path.trace_module(step, torch.randn(1, 128), cache, cache)
    assert trace.depth() == depth


def test_a_fast_transform_is_a_butterfly():
    def transform(x):
        return torch.view_as_real(torch.fft.rfft(x))

    x = torch.randn(2, 8, dtype=torch.float64)
    graph, _ = capture(transform, [x])
    torch.testing.assert_close(graph(x), transform(x))
    trace = critical_path.trace_module(transform, x)
    # of four real numbers, frequency 1 is x0 - x2 and x3 - x1 (the factors 1 and -i are free);
    # one of eight takes two such, one of them turned: a product, a sum, and a sum of both
    assert trace.depth() == 1 + 3
    require_engines_agree(trace)


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 2, "method": "toeplitz"},
        {"index": "absolute", "scale": "rsqrt_t"},
        {"extract": "scalar", "adjust": "position_only", "scale": "inv_t"},
        {"bias": True, "scale": "rsqrt_l"},
    ],
)
def test_both_engines_agree_on_options_of_the_family(options):
    mixer = mixer_of("she", 2, 4, **options)
    require_engines_agree(critical_path.trace_step(mixer))
    require_engines_agree(critical_path.trace_module(mixer, torch.randn(1, 4, 2)))


# Work


@pytest.mark.parametrize("name", MIXERS)
def test_the_step_does_exactly_the_multiplications_of_the_equation(name):
    for d_model, context_len, n_heads in [(4, 7, 2), (3, 5, 1), (8, 2, 1)]:
        sizes = {"d_model": d_model, "n_heads": n_heads}
        trace = critical_path.trace_step(mixer_of(name, d_model, context_len, n_heads))
        up_to = theory.expected_multiplications(name, time=context_len, **sizes)
        before = theory.expected_multiplications(name, time=context_len - 1, **sizes)
        assert trace.n_multiplications == up_to - before


@pytest.mark.parametrize("name", ["attention", "she", "we", "me"])
def test_the_definition_does_exactly_the_multiplications_of_the_equation(name):
    mixer, x = mixer_of(name, 4, 5), torch.randn(1, 5, 4)
    trace = critical_path.trace_module(functools.partial(naive.definition(name), mixer), x)
    expected = theory.expected_multiplications(name, d_model=4, time=5)
    assert trace.n_multiplications == expected


def test_one_sum_over_lags_multiplies_no_padding():
    trace = critical_path.trace_module(mixer_of("she", 3, 5, method="im2col"), torch.randn(1, 5, 3))
    assert trace.n_multiplications == theory.expected_multiplications("she", d_model=3, time=5)


def test_torch_counts_the_same_products():
    mixer, x_t = mixer_of("she", 5, 4), torch.randn(1, 5)
    trace = critical_path.trace_step(mixer)
    state = mixer.initial_state(1)
    for _ in range(3):
        state = mixer.step(x_t, state)[1]
    with FlopCounterMode(display=False) as counter:
        mixer.step(x_t, state)
    n_gate = 5  # torch counts products of matrices only, two operations a term
    assert trace.n_multiplications == counter.get_total_flops() // 2 + n_gate


def test_work_is_told_by_kind():
    # softmax of 5 scores: 4 comparisons, 5 differences, exponentials and divisions, 4 sums
    trace = critical_path.trace_module(lambda x: x.softmax(-1), torch.randn(1, 5))
    assert trace.work == {"add": 5, "exp": 5, "div": 5, "max": 4, "acc": 4}
    assert trace.n_operations == 23
    assert trace.longest_path().names == "max add exp acc div"


# Workers


def test_more_work_and_a_shorter_chain_win_above_the_crossover():
    she, he, attention = (
        critical_path.trace_step(mixer_of(name, 16, 16, 4)) for name in ("she", "he", "attention")
    )
    units = critical_path.crossover_units(she, attention)

    def bound(trace, workers):
        return trace.n_operations / workers + trace.depth()

    assert units > 1
    assert bound(she, 1.01 * units) < bound(attention, 1.01 * units)
    assert bound(she, 0.99 * units) > bound(attention, 0.99 * units)
    assert critical_path.crossover_units(attention, she) is None
    assert critical_path.crossover_units(he, attention) == 1.0  # less work as well
    assert critical_path.crossover_units(attention, he) is None
    assert critical_path.crossover_units(he, he) is None


# Reductions


@given(st.lists(st.integers(0, 70), min_size=1, max_size=40))
def test_a_tree_over_unequal_arrivals_joins_the_earliest_first(arrivals):
    heap = list(arrivals)
    heapq.heapify(heap)
    while len(heap) > 1:
        heapq.heappush(heap, max(heapq.heappop(heap), heapq.heappop(heap)) + 1)
    depth = torch.tensor(arrivals)
    assert combine(depth, torch.ones_like(depth).bool(), accumulate="tree") == heap[0]


def test_one_late_term_waits_for_nobody():
    depth = torch.tensor([9] + [1] * 127)
    # 127 terms ready at 1 are one at 8; the late one joins it at 9
    assert combine(depth, torch.ones(128).bool(), accumulate="tree") == 10
    assert critical_term(depth, torch.ones(128).bool(), accumulate="tree") == 0


@given(
    st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=20),
    st.sampled_from(ORDERS),
)
def test_a_sum_is_never_earlier_with_a_later_term_and_leaves_dead_terms_out(terms, accumulate):
    depth = torch.tensor([ready for ready, _ in terms])
    live = torch.tensor([is_live for _, is_live in terms])
    ready = combine(depth, live, accumulate=accumulate)
    assert ready == combine(depth[live], live[live], accumulate=accumulate)
    if live.any():
        term = critical_term(depth, live, accumulate=accumulate)
        assert live[term]
        later = depth.clone()
        later[term] += 1
        assert combine(later, live, accumulate=accumulate) >= ready


@given(st.lists(st.integers(0, 9), min_size=1, max_size=30))
def test_every_level_above_the_critical_term_has_a_term_of_its_own_to_join(arrivals):
    depth, live = torch.tensor(arrivals), torch.ones(len(arrivals)).bool()
    term = critical_term(depth, live, accumulate="tree")
    n_levels = int(combine(depth, live, accumulate="tree") - depth[term])
    # level k joins the chain with something that is ready by then
    others = sorted(arrivals[:term] + arrivals[term + 1 :])
    assert n_levels <= len(others)
    assert all(other <= arrivals[term] + level for level, other in enumerate(others[:n_levels]))


def test_a_running_total_adds_in_the_order_of_the_program():
    depth, live = torch.tensor([5, 0, 0, 0]), torch.ones(4).bool()
    assert combine(depth, live, accumulate="sequential") == 5 + 3
    assert combine(depth.flip(0), live, accumulate="sequential") == 5 + 1


# Constants


def test_masked_scores_do_not_lengthen_the_chains_of_early_positions():
    trace = critical_path.trace_module(mixer_of("attention", 4, 8), torch.randn(1, 8, 4))
    depths = trace.depths()[0].max(-1)
    step = [theory.expected_depth("attention", d_model=4, context_len=seen) for seen in range(1, 9)]
    assert depths.tolist() == step


@pytest.mark.parametrize(
    ("function", "depth"),
    [
        (lambda x: x * 1.0 + 0.0, 0),
        (lambda x: x * 3.0, 1),
        (lambda x: x / 4, 1),  # a product with the reciprocal, known beforehand
        (lambda x: (x * 0.0 + 2).exp(), 0),
        (lambda x: F.pad(x, (2, 2)).sum(-1), 2),  # 3 terms: the padding is no term
        (lambda x: -x, 0),
        (lambda x: x**2, 1),
        (lambda x: torch.where(x > 0, x, 0.0), 2),
        (lambda x: x.cumsum(-1), 2),
    ],
)
def test_what_a_constant_makes_needless_costs_nothing(function, depth):
    trace = critical_path.trace_module(function, torch.randn(2, 3))
    assert trace.depth() == depth
    require_engines_agree(trace)


def test_writing_into_a_tensor_is_traced():
    def program(x):
        y = x.clone()
        y[:, 0] += x[:, 1]
        y *= 2
        return y

    trace = critical_path.trace_module(program, torch.randn(2, 3))
    assert trace.depths().tolist() == [[2, 1, 1]] * 2
    require_engines_agree(trace)


def test_dropout_is_off_while_a_model_is_traced_and_on_again_after():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    trace = critical_path.trace_module(model, torch.randn(1, 3))
    assert trace.longest_path().names == "mul acc add"
    assert all(part.training for part in model.modules())


# Choices and errors


def test_a_path_ends_at_the_newest_position():
    trace = critical_path.trace_module(mixer_of("she", 4, 4, method="im2col"), torch.randn(2, 4, 4))
    newest = trace.longest_path()
    assert newest.end[1] == 3
    assert newest.depth == 1 + 4 + 1 + 3
    assert trace.depths()[0, 0].max() == 1 + 2 + 1 + 3


def test_the_context_of_a_step_can_be_shorter():
    mixer = mixer_of("she", 4, 9)
    depth = critical_path.trace_step(mixer, context=2).depth()
    assert depth == theory.expected_depth("she", d_model=4, context_len=2)
    with pytest.raises(AttnlabError, match="context=10 must be 1 to context_len=9"):
        critical_path.trace_step(mixer, context=10)


def test_an_unknown_operation_is_named_with_what_to_add():
    with pytest.raises(AttnlabError, match=r"aten\.sort.*lowering\.py.*textbook\.py"):
        critical_path.trace_module(lambda x: x.sort(-1)[0], torch.randn(3))


def test_places_that_are_computed_are_refused():
    table = nn.Embedding(3, 2)
    with pytest.raises(AttnlabError, match="reads from places that the program computes"):
        critical_path.trace_module(lambda x: table(x + 1), torch.tensor([0]))


def test_wrong_choices_are_named():
    trace = critical_path.trace_step(mixer_of("me", 2, 2))
    with pytest.raises(AttnlabError, match="'fast' is not one of tree, sequential"):
        trace.longest_path(accumulate="fast")
    with pytest.raises(AttnlabError, match="'fast' is not one of tree, sequential"):
        theory.expected_depth("me", d_model=2, context_len=2, accumulate="fast")
    with pytest.raises(AttnlabError, match="returned no tensor"):
        critical_path.trace_module(lambda x: 3, torch.ones(1))


def test_levels_are_for_tiny_programs(monkeypatch):
    monkeypatch.setattr(critical_path.trace, "MOST_OPERATIONS", 50)
    trace = critical_path.trace_module(lambda x: x.softmax(-1), torch.randn(20))
    assert repr(trace) == "Trace(6 nodes of the aten graph, result (20,))"
    with pytest.raises(AttnlabError, match="tiny"):
        trace.levels()


def test_training_mode_gradients_and_numbers_are_left_alone():
    mixer = mixer_of("attention", 4, 3).train()
    x = torch.randn(1, 3, 4)
    before = mixer(x)
    critical_path.trace_module(mixer, x)
    torch.testing.assert_close(mixer(x), before)
    assert mixer.training
    assert all(p.grad is None for p in mixer.parameters())


def test_a_trace_is_the_same_where_gradients_are_off():
    layer = mixer_of("she", 3, 5, method="staged")
    traced = critical_path.trace_module(layer, torch.ones(1, 5, 3))
    with torch.no_grad():
        again = critical_path.trace_module(layer, torch.ones(1, 5, 3))
    assert again.work == traced.work
