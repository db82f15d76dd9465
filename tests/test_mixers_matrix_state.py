"""Tables of keys and values: what they have in common, and what sets each apart."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import assert_same, randomised, tokens

from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, find_mixer, list_mixers
from attnlab.mixers.linear_attention import FEATURE_MAPS, TAYLOR
from attnlab.mixers.matrix_state import PLAIN, MatrixState, Reading, scan

TABLES = [name for name in list_mixers() if issubclass(find_mixer(name), MatrixState)]
EVERY_TABLE = pytest.mark.parametrize("name", TABLES)
seeds = st.integers(0, 2**16)


def fed(*, decay, delta, time, seed=0, fastest=0.5, kernel=PLAIN):
    """Return a reading of two sequences in two heads, keys 3 and values 2 wide, and its leaves."""
    q, k, v = (tokens(2, 2, time, width, seed=seed + i) for i, width in enumerate((3, 3, 2)))
    k = k / k.norm(dim=-1, keepdim=True)
    width = {"none": None, "scalar": 1, "vector": 3}[decay]
    log_decay = width and -fastest * tokens(2, 2, time, width, seed=seed + 3).abs()
    strength = torch.sigmoid(tokens(2, 2, time, 1, seed=seed + 4)) if delta else None
    parts = [q, k, v, log_decay, strength]
    leaves = [z.requires_grad_() for z in parts if z is not None]
    return Reading(*parts, kernel=kernel), leaves


def looped(reading, table=None):
    """Return outputs and last table of the recurrence, one position at a time."""
    q, k = reading.kernel.features(reading.q), reading.kernel.features(reading.k)
    v, outputs = reading.v, []
    table = torch.zeros_like(k[:, :, 0, :, None] * v[:, :, 0, None]) if table is None else table
    for t in range(v.shape[2]):
        k_t, v_t = k[:, :, t], v[:, :, t]
        if reading.log_decay is not None:
            table = reading.log_decay[:, :, t].exp()[..., None] * table
        if reading.strength is not None:
            v_t = reading.strength[:, :, t] * (v_t - torch.einsum("bhk,bhkv->bhv", k_t, table))
        table = table + k_t[..., None] * v_t[..., None, :]
        outputs.append(torch.einsum("bhk,bhkv->bhv", q[:, :, t], table))
    return torch.stack(outputs, 2), table


decays = st.sampled_from(["none", "scalar", "vector"])


@given(
    decay=decays,
    delta=st.booleans(),
    time=st.integers(1, 13),
    chunk=st.integers(1, 14),
    goes_on=st.booleans(),
    seed=seeds,
)
def test_chunks_of_any_size_are_the_recurrence_wherever_a_sequence_ends(
    decay, delta, time, chunk, goes_on, seed
):
    reading, leaves = fed(decay=decay, delta=delta, time=time, seed=seed)
    table = tokens(2, 2, 3, 2, seed=seed + 9).requires_grad_() if goes_on else None
    leaves = [*leaves, table] if goes_on else leaves
    got, wanted = scan(reading, table, chunk=chunk), looped(reading, table)
    got, wanted = (torch.cat([z.flatten() for z in pair]) for pair in (got, wanted))
    assert_same(got, wanted, leaves)


@given(time=st.integers(1, 9), chunk=st.integers(1, 10), seed=seeds)
def test_chunks_of_taylor_features_are_their_recurrence(time, chunk, seed):
    reading, leaves = fed(decay="none", delta=False, time=time, seed=seed, kernel=TAYLOR)
    assert_same(scan(reading, chunk=chunk)[0], looped(reading)[0], leaves)


@pytest.mark.parametrize("decay", ["scalar", "vector"])
@pytest.mark.parametrize("delta", [False, True])
def test_a_table_that_forgets_almost_all_at_once_stays_finite_and_exact(decay, delta):
    reading, leaves = fed(decay=decay, delta=delta, time=9, fastest=400)
    assert_same(scan(reading, chunk=4)[0], looped(reading)[0], leaves)
    single = Reading(*(None if z is None else z.float() for z in reading[:5]))
    mixed, table = scan(single, chunk=9)
    torch.testing.assert_close(mixed.double(), looped(reading)[0], rtol=1e-4, atol=1e-5)
    assert table.isfinite().all()


# What one mixer is of another


@given(n_heads=st.integers(1, 3), time=st.integers(1, 9), seed=seeds)
def test_retention_that_forgets_nothing_is_linear_attention_without_normaliser(n_heads, time, seed):
    sizes = {"d_model": 2 * n_heads, "context_len": 4, "n_heads": n_heads}
    bare = {"value_factor": 1, "norm": False, "gate": False, "decay": 1.0}
    kept = randomised(build_mixer("retention", **sizes, **bare), seed)
    linear = build_mixer("linear_attention", **sizes, feature_map="identity", normalise=False)
    linear.double().load_state_dict(kept.state_dict())
    x = tokens(2, time, 2 * n_heads, seed=seed).requires_grad_()
    assert_same(kept(x), linear(x), [x])
    for a, b in zip(kept.parameters(), linear.parameters(), strict=True):
        assert a.shape == b.shape
    direction = tokens(2, time, 2 * n_heads, seed=1)
    one, other = (
        torch.autograd.grad((m(x) * direction).sum(), list(m.parameters())) for m in (kept, linear)
    )
    torch.testing.assert_close(one, other)


@given(n_heads=st.integers(1, 3), time=st.integers(1, 9), seed=seeds)
def test_a_gated_delta_net_whose_gate_is_one_is_the_delta_net(n_heads, time, seed):
    sizes = {"d_model": 2 * n_heads, "context_len": 4, "n_heads": n_heads}
    gated = randomised(build_mixer("gated_delta_net", **sizes), seed)
    with torch.no_grad():
        gated.rate.fill_(-torch.inf)
    plain = build_mixer("delta_net", **sizes).double()
    shared = dict(plain.named_parameters())
    plain.load_state_dict({n: w for n, w in gated.state_dict().items() if n in shared})
    x = tokens(2, time, 2 * n_heads, seed=seed).requires_grad_()
    assert_same(gated(x), plain(x), [x])
    direction, of_gated = tokens(2, time, 2 * n_heads, seed=1), dict(gated.named_parameters())
    one = torch.autograd.grad((gated(x) * direction).sum(), [of_gated[n] for n in shared])
    other = torch.autograd.grad((plain(x) * direction).sum(), list(shared.values()))
    torch.testing.assert_close(one, other)
    with torch.no_grad():
        gated.rate.fill_(0.0)
        if time > 1:
            assert not torch.allclose(gated(x), plain(x))


def test_of_a_key_written_twice_the_delta_rule_keeps_the_last_value_and_a_sum_keeps_both():
    k = torch.eye(3).double()[[0, 1, 0, 2]][None, None]
    v = tokens(1, 1, 4, 2)
    ones = torch.ones(1, 1, 4, 1).double()
    table = scan(Reading(k, k, v, strength=ones), chunk=4)[1]
    torch.testing.assert_close(table[0, 0], v[0, 0, [2, 1, 3]])
    table = scan(Reading(k, k, v), chunk=4)[1]
    torch.testing.assert_close(table[0, 0, 0], v[0, 0, 0] + v[0, 0, 2])


def test_rates_of_retention_halve_their_distance_from_one_with_each_head():
    mixer = build_mixer("retention", d_model=3, context_len=4, n_heads=3)
    assert mixer.rates == [1 - 1 / 32, 1 - 1 / 64, 1 - 1 / 128]
    powers = torch.tensor(mixer.rates).double()[:, None, None] ** torch.arange(5).flip(0)[:, None]
    x = tokens(1, 5, 3)
    mixer = mixer.double()
    first, second = mixer.mixing_matrix(x)[0, :, -1], mixer.query(x)[0, -1] * mixer.key(x)[0]
    torch.testing.assert_close(first, second.T * powers[..., 0])


# Features


@given(width=st.integers(1, 5), seed=seeds)
def test_taylor_features_multiply_to_the_start_of_the_exponential(width, seed):
    q, k = tokens(4, width, seed=seed), tokens(6, width, seed=seed + 1)
    s = q @ k.mT
    features = FEATURE_MAPS["taylor"]
    assert features(q).shape == (4, 1 + width + width**2)
    torch.testing.assert_close(features(q) @ features(k).mT, 1 + s + s**2 / 2)
    torch.testing.assert_close(TAYLOR.between(q, k), 1 + s + s**2 / 2)


def test_hedgehog_features_are_shares_of_both_signs():
    z = tokens(5, 4)
    above, below = FEATURE_MAPS["hedgehog"](z).split(4, -1)
    torch.testing.assert_close(above, z.exp() / z.exp().sum(-1, keepdim=True))
    ratio = (above * below) / (above * below)[:, :1]  # of e^z and e^-z
    torch.testing.assert_close(ratio, torch.ones_like(ratio))


@pytest.mark.parametrize("feature_map", ["elu", "relu", "softmax", "hedgehog", "taylor"])
def test_rows_of_linear_attention_are_shares_of_the_past(feature_map):
    mixer = build_mixer("linear_attention", d_model=6, context_len=4, feature_map=feature_map)
    shares = randomised(mixer).mixing_matrix(tokens(2, 7, 6))
    assert (shares >= 0).all()
    total = shares.sum(-1)
    torch.testing.assert_close(total, (total > 0).double())
    assert feature_map == "relu" or (total > 0).all()


def test_where_all_features_are_zero_nothing_is_found():
    mixer = build_mixer("linear_attention", d_model=3, context_len=4, feature_map="relu")
    with torch.no_grad():
        for one in (mixer.query, mixer.key):
            one.weight.copy_(torch.eye(3))
    x = -torch.rand(1, 5, 3)
    x.requires_grad_()
    y = mixer(x)
    assert (y == 0).all()
    y.sum().backward()
    assert x.grad.isfinite().all()


# Numbers, layers, errors


@EVERY_TABLE
def test_half_precision_and_long_sequences_stay_near_double(name):
    torch.manual_seed(0)
    mixer = build_mixer(name, d_model=8, context_len=9, n_heads=2)
    x = tokens(2, 300, 8)
    exact = mixer.double()(x)

    def error(y):
        return float((y - exact).detach().norm() / exact.detach().norm())

    assert error(mixer.float()(x.float())) < 1e-5
    with torch.autocast("cpu", torch.bfloat16):
        assert error(mixer(x.float())) < 0.03
    half = mixer.bfloat16()
    y, state = half.prefill(x.bfloat16()[:, :299])
    last, _ = half.step(x.bfloat16()[:, 299], state)
    assert y.dtype == last.dtype == torch.bfloat16
    assert error(half(x.bfloat16())) < 0.05
    assert error(torch.cat([y, last[:, None]], 1)) < 0.05


def test_layers_of_based_alternate_between_far_and_near():
    based = find_mixer("based")
    assert based.in_layer(0, {"window": 8, "n_heads": 2}) == ("based", {"window": 8, "n_heads": 2})
    assert based.in_layer(1, {"window": 8, "n_heads": 2}) == (
        "attention",
        {"window": 8, "n_heads": 2},
    )
    assert based.in_layer(3, {}) == ("attention", {"window": 16})


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("linear_attention", {"feature_map": "identity"}, "Add normalise=False"),
        ("linear_attention", {"feature_map": "eluu"}, "Did you mean 'elu'"),
        ("retention", {"decay": 0.0}, "above 0 and at most 1"),
        ("delta_net", {"n_heads": 3}, "Try n_heads=2"),
        ("delta_net", {"conv_width": 0}, "conv_width=0 must be 1 or more"),
        ("based", {"window": "x"}, "window='x' must be 1 or more"),
        ("ssd", {"d_state": 2.5}, "d_state=2.5 must be 1 or more"),
    ],
)
def test_wrong_tables_are_explained(name, options, words):
    with pytest.raises(AttnlabError, match=words):
        build_mixer(name, d_model=4, context_len=4, **options)


def test_a_state_of_another_batch_or_mixer_is_refused():
    mixer = build_mixer("gla", d_model=4, context_len=4)
    with pytest.raises(AttnlabError, match="batch of 3; got 2 rows"):
        mixer.prefill(torch.zeros(2, 5, 4), mixer.initial_state(3))
    other = build_mixer("delta_net", d_model=4, context_len=4)
    with pytest.raises(AttnlabError, match="of another mixer"):
        mixer.step(torch.zeros(2, 4), other.initial_state(2))


def test_the_time_steps_that_a_model_starts_with_are_small():
    torch.manual_seed(0)
    mixer = build_mixer("ssd", d_model=64, context_len=4, n_heads=64)
    steps = torch.nn.functional.softplus(mixer.step_bias)
    assert 1e-3 <= steps.min() < 3e-3
    assert 0.03 < steps.max() <= 0.1
    assert mixer.rate.exp().max() <= 16
