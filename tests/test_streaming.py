"""Token by token, in blocks or in one go: the same function, whatever the form and length."""

import copy
import io
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensors import assert_same, fitting, randomised, stepped, tokens

from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, list_mixers, mixer_options, naive, streaming
from attnlab.mixers.base import Ring
from attnlab.mixers.streaming import TiledStream, Tiling, choose_streaming

EXACT = {"rtol": 1e-10, "atol": 1e-10}
KINDS = (
    ("she", {}),
    ("she", {"rank": 1}),
    ("she", {"rank": 3, "bias": True}),
    ("he", {}),
    ("we", {}),
    ("me", {}),
    ("we", {"extract": "scalar", "bias": True}),
)
EVERY_KIND = pytest.mark.parametrize("kind", KINDS, ids=str)
SCALES = ("none", "rsqrt_t", "inv_t", "rsqrt_l")
LENGTHS = (1, 2, 3, 5, 7, 16, 17, 31, 32, 33, 67, 97, 131)

kinds = st.sampled_from(KINDS)
tilings = st.tuples(st.sampled_from(LENGTHS), st.sampled_from([1, 2, 4, 16]), st.integers(0, 3))


def built(kind, *, d_model=3, context_len, seed=0, **more):
    """Return a mixer in float64 whose weights keep its outputs near one."""
    name, options = kind
    mixer = build_mixer(name, d_model=d_model, context_len=context_len, **options, **more)
    with torch.no_grad():
        for weight in randomised(mixer, seed).parameters():
            weight /= math.sqrt(d_model)
        mixer.lag_weight /= math.sqrt(context_len)
    return mixer


def with_tiling(mixer, batch_size, block, largest):
    """Return an empty state with tiles of any sizes, not those that would be chosen."""
    ring = mixer.initial_state(batch_size, streaming="ring")
    return TiledStream(ring, Tiling(mixer.context_len, block, largest))


@given(
    kind=kinds,
    scale=st.sampled_from(SCALES),
    tiling=st.none() | tilings,  # None for the ring
    batch=st.integers(1, 3),
    d_model=st.sampled_from([1, 2, 5]),
    lengths=st.lists(st.integers(1, 70), min_size=1, max_size=5),
    starts_with_prefill=st.booleans(),
    data=st.data(),
)
@settings(max_examples=80)
@torch.no_grad()
def test_prefixes_and_steps_in_turn_equal_the_parallel_pass_in_the_ring_and_tiles_of_any_size(
    kind, scale, tiling, batch, d_model, lengths, starts_with_prefill, data
):
    context_len, block, doublings = tiling or (data.draw(st.sampled_from(LENGTHS)), 0, 0)
    mixer = built(kind, d_model=d_model, context_len=context_len, scale=scale)
    x = tokens(batch, sum(lengths), d_model)
    state = mixer.initial_state(batch, streaming="ring")
    if tiling:
        state = with_tiling(mixer, batch, block, block << doublings)
    outputs = []
    for i, chunk in enumerate(x.split(lengths, dim=1)):
        at_once = (i % 2 == 0) == starts_with_prefill
        y, state = mixer.prefill(chunk, state) if at_once else stepped(mixer, chunk, state)
        outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), mixer(x), **EXACT)


@pytest.mark.parametrize("kind", [("she", {}), ("we", {})], ids=str)
@torch.no_grad()
def test_large_tiles_equal_the_parallel_pass_when_rows_are_split(kind, monkeypatch):
    monkeypatch.setattr(streaming, "CACHED_NUMBERS", 1024)
    mixer = built(kind, d_model=2, context_len=300)
    x = tokens(3, 700, 2)
    y, state = stepped(mixer, x, mixer.initial_state(3, streaming="tiles"))
    assert state.tiling.largest > streaming.TOEPLITZ_SIZE
    torch.testing.assert_close(y, mixer(x), **EXACT)


@EVERY_KIND
@torch.no_grad()
def test_tiles_equal_the_definition_and_err_by_a_few_parts_in_a_million_in_float32(kind):
    mixer, x = built(kind, context_len=19), tokens(2, 45, 3)
    y, _ = stepped(mixer, x, with_tiling(mixer, 2, 2, 8))
    torch.testing.assert_close(y, naive.definition(kind[0])(mixer, x), **EXACT)
    mixer, x = built(kind, d_model=16, context_len=130), tokens(2, 300, 16)
    exact = mixer(x)
    y, _ = stepped(mixer.float(), x.float(), mixer.initial_state(2, streaming="tiles"))
    assert (y - exact).abs().max() < 5e-6 * exact.abs().max()
    y, _ = stepped(mixer.bfloat16(), x.bfloat16(), mixer.initial_state(2, streaming="tiles"))
    assert y.dtype == torch.bfloat16
    whole = mixer(x.bfloat16())
    assert (y - whole).abs().max() < 0.05 * whole.abs().max()  # eight bits, a few roundings


@given(tiling=tilings)
def test_every_pair_within_the_context_is_covered_once(tiling):
    n_lags, block, doublings = tiling
    plan = Tiling(n_lags, block, block << doublings)
    n_tokens = min(3 * n_lags + 2 * plan.largest, 150)
    covered = Counter()
    for n in range(n_tokens):  # the token with index n has just come
        near = min(n % block + 1, n_lags)
        covered.update((n - lag, n) for lag in range(near))
        size = plan.due(n + 1)
        n_blocks = min(plan.n_reached, (n + 1) // size) if size == plan.largest else 1
        inputs = range(n + 1 - n_blocks * size, n + 1) if size else ()
        covered.update(
            (i, t)
            for i in inputs
            for t in range(n + 1, min(n + 1 + size, n_tokens))
            if t - i < n_lags
        )
    wanted = {(i, t) for t in range(n_tokens) for i in range(max(0, t - n_lags + 1), t + 1)}
    assert covered == Counter(wanted)


def multiply_adds_a_token(plan):
    """Count those of a channel over one period: two transforms and the products of each tile."""
    total = plan.largest * (plan.block + 1) / 2
    for n in range(plan.largest + 1, 2 * plan.largest + 1):
        size = plan.due(n)
        n_blocks = plan.n_reached if size == plan.largest else 1
        total += 2 * size * (2 * math.log2(2 * size) + 4 * n_blocks) if size else 0
    return total / plan.largest


@pytest.mark.parametrize("shape", [(1,), (1, 1, 1)], ids=["vector", "matrix"])
def test_the_cost_of_a_token_grows_with_the_square_of_the_logarithm(shape):
    costs = {
        n: multiply_adds_a_token(Tiling.choose(torch.zeros(n, *shape)))
        for n in (2**8, 2**12, 2**16)
    }
    for n in (2**12, 2**16):
        growth, squared_logarithms = costs[n] / costs[2**8], (math.log2(n) / 8) ** 2
        assert growth < 1.1 * squared_logarithms  # against n / 2**8 for the ring


@torch.no_grad()
def test_a_stream_works_off_exactly_the_tiles_that_are_due(monkeypatch):
    worked_off = []
    add = TiledStream._add

    def spy(self, size, end, kernel):
        worked_off.append((end, size))
        return add(self, size, end, kernel)

    monkeypatch.setattr(TiledStream, "_add", spy)
    mixer = built(("she", {}), context_len=40)
    state = with_tiling(mixer, 1, 2, 16)
    stepped(mixer, tokens(1, 100, 3), state)
    due = [(n, state.tiling.due(n)) for n in range(1, 100)]  # the last is not worked off early
    assert worked_off == [(n, size) for n, size in due if size]


@pytest.mark.parametrize("kind", [("she", {}), ("he", {})], ids=str)
@torch.no_grad()
def test_an_endless_stream_keeps_its_memory(kind):
    mixer = built(kind, context_len=21)
    state = with_tiling(mixer, 2, 2, 8)

    def places():
        signals = sum(s.numel() for block in state._signals for s in block)
        return state.ring.slots.data_ptr(), state.pending.data_ptr(), signals

    _, state = stepped(mixer, tokens(2, 60, 3), state)
    before = places()
    _, state = stepped(mixer, tokens(2, 200, 3, seed=1), state)
    assert places() == before
    assert state.ring.slots.shape[1] == 2 * 21


@torch.no_grad()
def test_a_broken_input_is_forgotten():
    mixer = built(("she", {}), context_len=21)
    state = with_tiling(mixer, 1, 2, 8)
    x = tokens(1, 120, 3)
    broken = x.clone()
    broken[:, 3] = torch.nan
    y, _ = stepped(mixer, broken, state)
    gone = 3 + (state.tiling.n_reached + 2) * state.tiling.largest
    torch.testing.assert_close(y[:, gone:], mixer(x)[:, gone:], **EXACT)


@EVERY_KIND
def test_with_gradients_tiles_are_the_ring_and_gradients_those_of_the_parallel_pass(kind):
    mixer, x = built(kind, context_len=5), tokens(2, 12, 3).requires_grad_()
    streamed, state = stepped(mixer, x, with_tiling(mixer, 2, 1, 2))
    assert isinstance(state, Ring)
    assert_same(streamed, mixer(x), [x, *mixer.parameters()], **EXACT)


@pytest.mark.parametrize("name", list_mixers())
def test_gradients_flow_through_a_prefix_and_the_steps_after_it(name):
    mixer = build_mixer(name, d_model=4, context_len=5).double()
    x = fitting(mixer, tokens(2, 9, 4)).requires_grad_()
    first, state = mixer.prefill(x[:, :-3])
    rest, _ = stepped(mixer, x[:, -3:], state)
    assert_same(torch.cat([first, rest], 1), mixer(x), [x], **EXACT)


def test_gradients_may_come_and_go_during_a_stream():
    mixer = built(("she", {}), context_len=7)
    x = tokens(1, 30, 3)
    state = with_tiling(mixer, 1, 1, 4)
    with torch.no_grad():
        first, state = stepped(mixer, x[:, :13], state)
    second, state = stepped(mixer, x[:, 13:16], state)
    with torch.no_grad():
        third, _ = stepped(mixer, x[:, 16:], state)
    assert second.requires_grad
    torch.testing.assert_close(torch.cat([first, second, third], 1), mixer(x), **EXACT)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in list_mixers()),
        *((name, {"n_heads": 2}) for name in list_mixers() if "n_heads" in mixer_options(name)),
    ],
)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    context_len=st.sampled_from([1, 2, 5, 8]),
    batch=st.integers(1, 2),
)
@torch.no_grad()
def test_every_mixer_reads_prefixes_and_then_single_tokens(
    name, options, lengths, context_len, batch
):
    mixer = build_mixer(name, d_model=4, context_len=context_len, **options).double()
    x = fitting(mixer, tokens(batch, sum(lengths) + 3, 4))
    state, outputs, ends = None, [], [sum(lengths[: i + 1]) for i in range(len(lengths))]
    for chunk in x.tensor_split(ends, dim=1):
        if chunk.shape[1]:
            y, state = mixer.prefill(chunk, state)
            outputs.append(y)
    torch.testing.assert_close(torch.cat(outputs, 1), mixer(x), **EXACT)
    half = len(x[0]) // 2
    if half:
        first, state = mixer.prefill(x[:, :half])
        rest, _ = stepped(mixer, x[:, half:], state)
        torch.testing.assert_close(torch.cat([first, rest], 1), mixer(x), **EXACT)


@pytest.mark.parametrize("scale", SCALES)
@torch.no_grad()
def test_the_running_sum_of_the_absolute_index_goes_on_after_a_prefix(scale):
    mixer = built(("she", {"index": "absolute", "scale": scale}), context_len=12)
    x = tokens(2, 12, 3)
    first, state = mixer.prefill(x[:, :5])
    second, state = stepped(mixer, x[:, 5:8], state)
    third, _ = mixer.prefill(x[:, 8:], state)
    torch.testing.assert_close(torch.cat([first, second, third], 1), mixer(x), **EXACT)


WRITES = {
    "in place": lambda weight: weight.mul_(-1.5),
    "through data": lambda weight: weight.data.mul_(-1.5),
}


@torch.no_grad()
def test_weights_that_change_count_for_all_inputs_as_in_the_ring():
    mixer = built(("she", {}), context_len=23)
    x = tokens(2, 90, 3)
    forms = [mixer.initial_state(2, streaming="ring"), with_tiling(mixer, 2, 2, 8)]
    for chunk in x.split(30, dim=1):
        outputs = [stepped(mixer, chunk, state) for state in forms]
        forms = [state for _, state in outputs]
        torch.testing.assert_close(outputs[0][0], outputs[1][0], **EXACT)
        WRITES["in place"](mixer.lag_weight)


@torch.no_grad()
def test_a_write_that_torch_does_not_count_is_seen_when_the_largest_tile_is_due():
    mixer = built(("we", {}), context_len=23)
    x = tokens(1, 40, 3)
    _, state = stepped(mixer, x[:, :20], with_tiling(mixer, 1, 2, 8))
    WRITES["through data"](mixer.lag_weight)
    y, _ = stepped(mixer, x[:, 20:], state)
    torch.testing.assert_close(y[:, 4:], mixer(x)[:, 24:], **EXACT)


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@torch.no_grad()
def test_a_new_stream_has_the_weights_of_its_time(write):
    mixer = built(("he", {}), context_len=23)
    x = tokens(1, 60, 3)
    stepped(mixer, x, with_tiling(mixer, 1, 2, 8))
    write(mixer.lag_weight)
    y, _ = stepped(mixer, x, with_tiling(mixer, 1, 2, 8))
    torch.testing.assert_close(y, mixer(x), **EXACT)


@torch.no_grad()
def test_copies_and_files_of_a_mixer_leave_the_transformed_weights_out():
    mixer = built(("she", {}), context_len=23)
    x = tokens(1, 60, 3)
    names = set(mixer.state_dict())
    y, _ = stepped(mixer, x, with_tiling(mixer, 1, 2, 8))
    twin = copy.deepcopy(mixer)
    stored = io.BytesIO()
    torch.save(mixer, stored)
    read = torch.load(io.BytesIO(stored.getvalue()), weights_only=False)
    assert set(mixer.state_dict()) == names
    for other in (twin, read):
        assert len(other._kernels) == 0
        WRITES["in place"](other.lag_weight)
        z, _ = stepped(other, x, with_tiling(other, 1, 2, 8))
        torch.testing.assert_close(z, other(x), **EXACT)
    z, _ = stepped(mixer, x, with_tiling(mixer, 1, 2, 8))
    torch.testing.assert_close(z, y, **EXACT)


@EVERY_KIND
@torch.no_grad()
def test_an_empty_batch_streams_through_large_tiles(kind):
    mixer = built(kind, context_len=23)
    y, _ = stepped(mixer, tokens(0, 20, 3), with_tiling(mixer, 0, 2, 8))
    assert y.shape == (0, 20, 3)


@torch.no_grad()
def test_a_copied_state_goes_its_own_way():
    mixer = built(("she", {}), context_len=23)
    x = tokens(1, 40, 3)
    _, state = stepped(mixer, x, with_tiling(mixer, 1, 2, 8))
    fork = copy.deepcopy(state)
    one, _ = stepped(mixer, tokens(1, 30, 3, seed=1), state)
    other, _ = stepped(mixer, tokens(1, 30, 3, seed=1), fork)
    torch.testing.assert_close(one, other, **EXACT)


@torch.no_grad()
def test_an_automatic_stream_takes_the_ring_for_short_contexts_and_tiles_for_long_ones():
    for name, context_len, form in (
        ("she", 16, Ring),
        ("she", 512, TiledStream),
        ("me", 64, Ring),
        ("me", 2048, TiledStream),
    ):
        mixer = build_mixer(name, d_model=16, context_len=context_len)
        assert isinstance(mixer.initial_state(1), form)


@pytest.mark.parametrize("shape", [(4,), (4, 4)], ids=["vector", "matrix"])
def test_more_work_a_lag_never_turns_tiles_back_into_the_ring(shape):
    for n_lags in (32, 64, 128, 256, 512):
        chosen = [
            choose_streaming(torch.zeros(n_lags, *shape), batch_size=batch, width=4)
            for batch in (1, 16, 256, 4096)
        ]
        assert chosen == sorted(chosen)


@torch.no_grad()
def test_wrong_streams_are_explained():
    mixer = build_mixer("she", d_model=3, context_len=4)
    with pytest.raises(AttnlabError, match="streaming='fast' is not one of auto, ring, tiles"):
        mixer.initial_state(1, streaming="fast")
    for form in ("ring", "tiles"):
        with pytest.raises(AttnlabError, match="batch of 3; got 2 rows"):
            mixer.step(torch.zeros(2, 3), mixer.initial_state(3, streaming=form))
    absolute = build_mixer("she", d_model=3, context_len=4, index="absolute")
    with pytest.raises(AttnlabError, match="running sum only"):
        absolute.initial_state(1, streaming="tiles")
    with pytest.raises(AttnlabError, match="Position 5 lies beyond context_len=4"):
        absolute.prefill(torch.zeros(1, 2, 3), absolute.prefill(torch.zeros(1, 3, 3))[1])
    with pytest.raises(AttnlabError, match="built for d_model=3"):
        mixer.prefill(torch.zeros(1, 2, 5))
