"""Critical paths are traced from real modules, agree with closed forms, and can be read."""

import heapq
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from attnlab.analysis import theory
from attnlab.analysis.critical_path import crossover_units, trace, trace_module, trace_step
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
from attnlab.mixers import build_mixer, find_mixer, list_mixers, naive
from attnlab.mixers.convolution import list_methods
from attnlab.models import LanguageModel

MIXERS = [name for name in list_mixers() if find_mixer(name).expected_chain is not None]
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


def model_of(name, *, n_layers=1):
    sizes = {"d_model": 4, "n_heads": 2, "context_len": 3, "vocab_size": 5, "d_ff": 5}
    return LanguageModel(ModelConfig(mixer=name, n_layers=n_layers, **sizes))


def one_by_one(traced, *, accumulate):
    """Return depths and work of a trace, going through its scalars one after the other."""
    depth, work = [0] * (traced.program.n_scalars + 1), Counter()

    def join(kind, terms):
        work[kind] += len(terms) - 1
        while len(terms) > 1:
            terms = sorted(terms) if accumulate == "tree" else terms
            terms = [max(terms[:2]) + 1, *terms[2:]]
        return terms[0]

    def product(ends):
        codes = {code for _, code in ends}
        cost = UNKNOWN in codes and CHANGES_NOTHING not in codes
        work["mul"] += cost
        return max(depth[number] for number, _ in ends) + cost

    for operation in traced.operations:
        if isinstance(operation, Each):
            columns = [numbers.flatten().tolist() for _, numbers in operation.inputs]
            its = (operation.out, operation.is_new, operation.cost)
            its = (part.flatten().tolist() for part in its)
            for number, is_new, cost, *others in zip(*its, *columns, strict=True):
                if is_new:
                    depth[number] = max(depth[other] for other in others) + cost
                    work[operation.kind] += cost
        elif not isinstance(operation, Source):
            for (b, i, j), number in np.ndenumerate(operation.rows.numpy()):
                if number:
                    sides = [
                        list(zip(s.numbers[b % len(s.code), at].tolist(),
                                 s.code[b % len(s.code), at].tolist(), strict=True))
                        for s, at in ((operation.left, i), (operation.right, j))
                    ]  # fmt: skip
                    left, right = sides[0], sides[1] * (len(sides[0]) // len(sides[1]))
                    pairs = zip(left, right, strict=True)
                    live = [ends for ends in pairs if DECIDES not in (ends[0][1], ends[1][1])]
                    depth[number] = join(operation.kind, [product(ends) for ends in live])
    return np.array(depth)[traced.output.numpy()], {kind: n for kind, n in work.items() if n}


def parallel(name, time=4, **options):
    d_model = options.pop("d_model", 2)
    mixer = mixer_of(name, d_model, options.pop("context_len", time), **options)
    return trace_module(mixer, torch.randn(1, time, d_model))


def transform(x):
    return torch.view_as_real(torch.fft.rfft(x))


def overwritten(x):
    y = x.clone()
    y[:, 0] += x[:, 1]
    y *= 2
    return y


# what a constant makes needless costs nothing
FUNCTIONS = {  # depth of the result for an input (2, 8)
    "neutral": (lambda x: x * 1.0 + 0.0, 0),
    "constant": (lambda x: x * 3.0, 1),
    "reciprocal": (lambda x: x / 4, 1),  # known beforehand, so a product
    "zero": (lambda x: (x * 0.0 + 2).exp(), 0),
    "padding": (lambda x: F.pad(x, (2, 2)).sum(-1), 3),  # is no term: 8 are left
    "sign": (lambda x: -x, 0),
    "square": (lambda x: x**2, 1),
    "choice": (lambda x: torch.where(x > 0, x, 0.0), 2),
    "prefixes": (lambda x: x.cumsum(-1), 3),
    "written": (overwritten, 2),
    # of four real numbers, frequency 1 is x0 - x2 and x3 - x1 (the factors 1 and -i are free);
    # one of eight takes two such, one of them turned: a product, a sum, and a sum of both
    "butterfly": (transform, 1 + 3),
}
OPTIONS = [
    {"rank": 2, "method": "toeplitz"},
    {"index": "absolute", "scale": "rsqrt_t"},
    {"extract": "scalar", "adjust": "position_only", "scale": "inv_t"},
    {"bias": True, "scale": "rsqrt_l"},
]
PROGRAMS = {
    **{n: partial(trace_module, f, torch.ones(2, 8)) for n, (f, _) in FUNCTIONS.items()},
    **{f"step {n}": lambda n=n: trace_step(mixer_of(n, 3, 4)) for n in MIXERS},
    **{f"step {n}, one channel": lambda n=n: trace_step(mixer_of(n, 1, 2)) for n in MIXERS},
    **{f"parallel {n}": partial(parallel, n, d_model=3) for n in MIXERS},
    **{f"beyond the context {n}": partial(parallel, n, 5, context_len=3) for n in MIXERS},
    **{
        f"definition {n}": lambda n=n: trace_module(
            partial(naive.definition(n), mixer_of(n, 2, 3)), torch.ones(1, 3, 2)
        )
        for n in MIXERS
    },
    **{f"she by {m}": partial(parallel, "she", 3, method=m) for m in list_methods(3)},
    **{f"we by {m}": partial(parallel, "we", 3, method=m) for m in list_methods(2)},
    **{f"step {o}": lambda o=o: trace_step(mixer_of("she", 2, 4, **o)) for o in OPTIONS},
    **{f"parallel {o}": partial(parallel, "she", **o) for o in OPTIONS},
    "model": lambda: trace_module(model_of("he", n_layers=2), torch.tensor([[1, 4, 2]])),
    "model's step": lambda: trace_step(model_of("attention")),
    "block": lambda: trace_module(model_of("attention").blocks[0], torch.ones(1, 3, 4)),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_depths_work_and_levels_are_those_of_a_loop_over_scalars(name):
    traced = PROGRAMS[name]()
    is_running = any(getattr(operation, "is_running", False) for operation in traced.operations)
    for accumulate in ORDERS:
        depths, work = one_by_one(traced, accumulate=accumulate)
        np.testing.assert_array_equal(depths, traced.depths(accumulate=accumulate))
        levels = traced.levels(accumulate=accumulate)
        assert levels.sum() == traced.n_operations
        if not is_running:  # its work is that of the sequential program
            assert work == traced.work
            assert len(levels) >= depths.max(initial=0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_a_constant_makes_needless_costs_nothing(name):
    function, depth = FUNCTIONS[name]
    assert trace_module(function, torch.ones(2, 8)).depth() == depth


# Closed forms


@pytest.mark.parametrize("accumulate", ORDERS)
@pytest.mark.parametrize("name", MIXERS)
def test_the_traced_step_has_the_chain_of_the_closed_form_at_ten_sizes(name, accumulate):
    for d_model, context_len, n_heads in SIZES:
        sizes = {"d_model": d_model, "context_len": context_len, "n_heads": n_heads}
        traced = trace_step(mixer_of(name, **sizes))
        path = traced.longest_path(accumulate=accumulate)
        expected = theory.expected_depth(name, accumulate=accumulate, **sizes)
        assert path.depth == traced.depth(accumulate=accumulate) == expected
        chain = theory.expected_chain(name, accumulate=accumulate, **sizes)
        assert [step[:3] for step in path.steps] == list(chain)


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
    sizes = {"d_model": 128, "context_len": 128, "n_heads": 4}
    traced = trace_step(mixer_of(name, **sizes))
    for accumulate in ORDERS:
        expected = theory.expected_depth(name, accumulate=accumulate, **sizes)
        assert traced.longest_path(accumulate=accumulate).depth == expected


# Names


def test_the_chain_of_attention_goes_through_its_softmax():
    path = trace_step(mixer_of("attention", 8, 5, 2)).longest_path()
    assert path.names == ATTENTION
    assert path.start[0] == "x_t"
    assert path.steps[2].name == "query × key"
    assert {step.name for step in path.steps[5:10]} == {"softmax"}
    assert [step.name for step in path.steps[-2:]] == ["out", "out"]


def test_a_table_has_one_row_a_step():
    path = trace_step(mixer_of("she", 6, 5)).longest_path()
    table = path.table()
    assert table["kind"].tolist() == SHE.split()
    assert table["depth"].sum() == path.depth
    assert table["n_terms"].tolist() == [2, 30, 2, 2, 6]
    assert all(len(element) == 2 for element in table["element"])


def test_a_program_without_operations_has_an_empty_path():
    path = trace_step(mixer_of("identity", 3, 2)).longest_path()
    assert (path.depth, path.names, path.start[0]) == (0, "", "x_t")
    assert path.table().empty


def test_the_path_belongs_to_the_program():
    x = torch.randn(1, 9, 4)
    loop, one_sum = (
        trace_module(mixer_of("she", 4, 9, method=method), x).longest_path()
        for method in ("lags", "im2col")
    )
    # a product of 4 terms, 8 additions one after the other, gate, output map of 4 terms
    assert (loop.depth, loop.names) == (1 + 2 + 8 + 1 + 3, "mul acc add mul mul acc")
    assert loop.steps[2].depth == 8
    assert (one_sum.depth, one_sum.names) == (1 + 6 + 1 + 3, SHE)
    mixer = mixer_of("she", 4, 9)
    definition = trace_module(partial(naive.she, mixer), x).longest_path()
    assert (definition.depth, definition.names) == (loop.depth, loop.names)
    assert [s.name for s in definition.steps] == [s.name for s in loop.steps]


def test_steps_of_a_model_are_named_by_its_parts():
    whole = trace_module(model_of("he", n_layers=2), torch.tensor([[1, 4, 2]]))
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
    traced = trace_module(LanguageModel(config), torch.zeros(1, 128, dtype=torch.long))
    names = traced.longest_path().names
    # embedding plus position; norm; the mixer; residual; norm
    norm = "acc mul add mul acc mul add rsqrt mul mul add"
    assert names.startswith(f"add {norm} {SHE} add {norm} mul acc add gelu mul acc add")
    assert names.endswith(f"{norm} mul acc")


@pytest.mark.parametrize(
    ("function", "x"),
    [
        *((mixer_of("she", 3, 5, method=m).double(), torch.randn(2, 5, 3).double())
          for m in ("fft", "planes", "lags")),
        *((model_of(name).double(), torch.tensor([[3, 0, 2]])) for name in ("attention", "he")),
        (transform, torch.randn(2, 8).double()),
    ],
)  # fmt: skip
def test_the_traced_graph_computes_what_the_program_computes(function, x):
    graph, _ = capture(function, [x])
    torch.testing.assert_close(graph(x), function(x))


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
    traced = trace_module(step, torch.randn(1, 128), cache, cache)
    assert traced.depth() == depth


# Work


@pytest.mark.parametrize("name", MIXERS)
def test_the_step_does_exactly_the_multiplications_of_the_equation(name):
    for d_model, context_len, n_heads in [(4, 7, 2), (3, 5, 1), (8, 2, 1)]:
        sizes = {"d_model": d_model, "n_heads": n_heads}
        traced = trace_step(mixer_of(name, d_model, context_len, n_heads))
        up_to = theory.expected_multiplications(name, time=context_len, **sizes)
        before = theory.expected_multiplications(name, time=context_len - 1, **sizes)
        assert traced.n_multiplications == up_to - before


@pytest.mark.parametrize("name", ["attention", "she", "we", "me"])
def test_the_definition_does_exactly_the_multiplications_of_the_equation(name):
    mixer, x = mixer_of(name, 4, 5), torch.randn(1, 5, 4)
    traced = trace_module(partial(naive.definition(name), mixer), x)
    expected = theory.expected_multiplications(name, d_model=4, time=5)
    assert traced.n_multiplications == expected


def test_one_sum_over_lags_multiplies_no_padding():
    traced = trace_module(mixer_of("she", 3, 5, method="im2col"), torch.randn(1, 5, 3))
    assert traced.n_multiplications == theory.expected_multiplications("she", d_model=3, time=5)


def test_torch_counts_the_same_products():
    mixer, x_t = mixer_of("she", 5, 4), torch.randn(1, 5)
    traced = trace_step(mixer)
    state = mixer.initial_state(1)
    for _ in range(3):
        state = mixer.step(x_t, state)[1]
    with FlopCounterMode(display=False) as counter:
        mixer.step(x_t, state)
    n_gate = 5  # torch counts products of matrices only, two operations a term
    assert traced.n_multiplications == counter.get_total_flops() // 2 + n_gate


def test_work_is_told_by_kind():
    # softmax of 5 scores: 4 comparisons, 5 differences, exponentials and divisions, 4 sums
    traced = trace_module(lambda x: x.softmax(-1), torch.randn(1, 5))
    assert traced.work == {"add": 5, "exp": 5, "div": 5, "max": 4, "acc": 4}
    assert traced.n_operations == 23
    assert traced.longest_path().names == "max add exp acc div"


# Workers


def test_more_work_and_a_shorter_chain_win_above_the_crossover():
    she, he, attention = (
        trace_step(mixer_of(name, 16, 16, 4)) for name in ("she", "he", "attention")
    )
    units = crossover_units(she, attention)

    def bound(trace, workers):
        return trace.n_operations / workers + trace.depth()

    assert units > 1
    assert bound(she, 1.01 * units) < bound(attention, 1.01 * units)
    assert bound(she, 0.99 * units) > bound(attention, 0.99 * units)
    assert crossover_units(attention, she) is None
    assert crossover_units(he, attention) == 1.0  # less work as well
    assert crossover_units(attention, he) is None
    assert crossover_units(he, he) is None


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
    traced = trace_module(mixer_of("attention", 4, 8), torch.randn(1, 8, 4))
    depths = traced.depths()[0].max(-1)
    step = [theory.expected_depth("attention", d_model=4, context_len=seen) for seen in range(1, 9)]
    assert depths.tolist() == step


def test_a_model_is_traced_without_dropout_and_left_as_it_was():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    x = torch.randn(1, 3)
    before = model[0](x)
    traced = trace_module(model, x)
    assert traced.longest_path().names == "mul acc add"
    assert all(part.training for part in model.modules())
    assert all(weight.grad is None for weight in model.parameters())
    torch.testing.assert_close(model[0](x), before)


# Choices and errors


def test_a_path_ends_at_the_newest_position():
    traced = trace_module(mixer_of("she", 4, 4, method="im2col"), torch.randn(2, 4, 4))
    newest = traced.longest_path()
    assert newest.end[1] == 3
    assert newest.depth == 1 + 4 + 1 + 3
    assert traced.depths()[0, 0].max() == 1 + 2 + 1 + 3


def test_the_context_of_a_step_can_be_shorter():
    mixer = mixer_of("she", 4, 9)
    depth = trace_step(mixer, context=2).depth()
    assert depth == theory.expected_depth("she", d_model=4, context_len=2)
    with pytest.raises(AttnlabError, match="context=10 must be 1 to context_len=9"):
        trace_step(mixer, context=10)


def test_an_unknown_operation_is_named_with_what_to_add():
    with pytest.raises(AttnlabError, match=r"aten\.sort.*lowering\.py.*textbook\.py"):
        trace_module(lambda x: x.sort(-1)[0], torch.randn(3))


def test_places_that_are_computed_are_refused():
    table = nn.Embedding(3, 2)
    with pytest.raises(AttnlabError, match="reads from places that the program computes"):
        trace_module(lambda x: table(x + 1), torch.tensor([0]))


def test_wrong_choices_are_named():
    traced = trace_step(mixer_of("me", 2, 2))
    with pytest.raises(AttnlabError, match="'fast' is not one of tree, sequential"):
        traced.longest_path(accumulate="fast")
    with pytest.raises(AttnlabError, match="'fast' is not one of tree, sequential"):
        theory.expected_depth("me", d_model=2, context_len=2, accumulate="fast")
    with pytest.raises(AttnlabError, match="returned no tensor"):
        trace_module(lambda x: 3, torch.ones(1))


def test_levels_are_for_tiny_programs(monkeypatch):
    monkeypatch.setattr(trace, "MOST_OPERATIONS", 50)
    traced = trace_module(lambda x: x.softmax(-1), torch.randn(20))
    assert repr(traced) == "Trace(6 nodes of the aten graph, result (20,))"
    with pytest.raises(AttnlabError, match="tiny"):
        traced.levels()


def test_a_trace_is_the_same_where_gradients_are_off():
    layer = mixer_of("she", 3, 5, method="staged")
    traced = trace_module(layer, torch.ones(1, 5, 3))
    with torch.no_grad():
        again = trace_module(layer, torch.ones(1, 5, 3))
    assert again.work == traced.work
