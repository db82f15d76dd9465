"""What must hold for every token mixer and option, whatever its size and weights."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tensors import (
    Multiplications,
    assert_same,
    assert_same_mixing,
    fitting,
    randomised,
    stepped,
    tokens,
)

from attnlab.errors import AttnlabError, UnknownMixerError
from attnlab.mixers import build_mixer, find_mixer, list_mixers, mixer_options, mixer_summary, naive
from attnlab.mixers.attention import look_up, look_up_weights
from attnlab.mixers.base import STRUCTURES, state_numbers
from attnlab.mixers.extractor import CHOICES
from attnlab.show import look

MIXERS = list_mixers()
EXTRACTORS = list_mixers(family="extractor")
EVERY_MIXER = pytest.mark.parametrize("name", MIXERS)
TINY = {"rtol": 1e-9, "atol": 1e-10}

shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 2, 3, 5, 6, 7]))
lengths = st.integers(1, 7)
widths = st.integers(1, 6)
seeds = st.integers(0, 2**16)


def direct(name):
    """Methods over frequencies are causal up to rounding only."""
    return {"method": "lags"} if "method" in mixer_options(name) else {}


def random_mixer(name, d_model, context_len, *, seed=0, **options):
    return randomised(build_mixer(name, d_model=d_model, context_len=context_len, **options), seed)


def every_option():
    """Each value that a class names of an option, on its own."""
    for name in MIXERS:
        for option, values in find_mixer(name).choices.items():
            yield from ((name, {option: value}) for value in values)
    yield "she", {"extract": "value_diag", "index": "absolute", "scale": "inv_t", "bias": True}
    yield from (("she", {"rank": 2, "index": index, "bias": True}) for index in CHOICES["index"])


EVERY_OPTION = pytest.mark.parametrize(("name", "options"), list(every_option()), ids=str)


@EVERY_MIXER
@given(shape=shapes, context_len=lengths, seed=seeds)
def test_parallel_pass_and_streaming_equal_the_naive_loop(name, shape, context_len, seed):
    mixer = random_mixer(name, shape[2], context_len, seed=seed)
    x = fitting(mixer, tokens(*shape, seed=seed))
    assert_same_mixing(mixer, lambda x: getattr(naive, name)(mixer, x), x)
    assert_same_mixing(mixer, lambda x: stepped(mixer, x)[0], x)
    with torch.no_grad():  # states are then written in place
        torch.testing.assert_close(stepped(mixer, x)[0], mixer(x), **TINY)


@EVERY_OPTION
def test_every_option_agrees_in_all_forms_and_lets_no_future_in(name, options):
    mixer = random_mixer(name, 6, 5, **options)
    x = fitting(mixer, tokens(2, 8, 6))
    assert_same_mixing(mixer, lambda x: naive.definition(name)(mixer, x), x)
    assert_same_mixing(mixer, lambda x: stepped(mixer, x)[0], x)
    mixer = random_mixer(name, 6, 5, **options, **direct(name))
    for t in range(5):
        seen = torch.autograd.grad(mixer(x[:, :5])[:, t].sum(), x)[0].abs().sum((0, 2))
        assert (seen[t + 1 :] == 0).all()


@EVERY_MIXER
@given(shape=shapes, context_len=lengths, seed=seeds)
def test_what_has_a_mixing_matrix_is_that_matrix_times_its_values(name, shape, context_len, seed):
    mixer = random_mixer(name, shape[2], context_len, seed=seed)
    x = fitting(mixer, tokens(*shape, seed=seed))
    try:
        matrix = mixer.mixing_matrix(x)
    except AttnlabError as problem:
        assert "no mixing_matrix" in str(problem)  # noqa: PT017
        return
    assert matrix.shape[0] in (1, len(x))
    assert (matrix.triu(1) == 0).all()
    if not mixer.adapts:
        assert torch.equal(matrix, mixer.mixing_matrix(x + 1))
    assert_same_mixing(
        mixer, lambda x: mixer.finish(mixer.mixing_matrix(x) @ mixer.values(x), x), x
    )


@EVERY_MIXER
@given(shape=shapes, context_len=lengths, seed=seeds, data=st.data())
def test_no_output_depends_on_a_later_token(name, shape, context_len, seed, data):
    mixer = random_mixer(name, shape[2], context_len, seed=seed, **direct(name))
    cut = data.draw(st.integers(0, shape[1] - 1), label="cut")
    before, after = (fitting(mixer, tokens(*shape, seed=seed)) for _ in range(2))
    after[:, cut + 1 :] = 1e6 * fitting(mixer, tokens(*shape, seed=seed + 1))[:, cut + 1 :]
    same = slice(None, cut + 1)
    torch.testing.assert_close(mixer(before)[:, same], mixer(after)[:, same], rtol=0, atol=1e-9)


@EVERY_MIXER
def test_a_token_within_reach_is_seen_and_one_beyond_is_not(name):
    mixer = random_mixer(name, 4, 3, **direct(name))
    x = fitting(mixer, tokens(1, 12, 4)).requires_grad_()
    seen = torch.autograd.grad(mixer(x)[:, -1].square().sum(), x)[0].abs().sum(-1)[0]
    n_seen = len(seen) if mixer.reach is None else mixer.reach
    assert (seen[-n_seen:] > 0).all()
    assert (seen[:-n_seen] == 0).all()


@EVERY_MIXER
@given(d_head=st.integers(1, 6), context_len=st.integers(1, 12), n_heads=st.integers(1, 3))
def test_counted_weights_and_state_equal_the_closed_forms(name, d_head, context_len, n_heads):
    n_heads = n_heads if "n_heads" in mixer_options(name) else 1
    d, heads = d_head * n_heads, {"n_heads": n_heads} if n_heads > 1 else {}
    mixer = build_mixer(name, d_model=d, context_len=context_len, **heads)
    counted = sum(p.numel() for p in mixer.parameters())
    assert counted == mixer.expected_weights(d, context_len, n_heads)
    with torch.no_grad():
        _, state = stepped(mixer, torch.zeros(2, context_len, d))
    assert state_numbers(state) == 2 * mixer.expected_state(d, context_len, n_heads)


UNTRACED = [name for name in MIXERS if find_mixer(name).expected_chain is None]


@pytest.mark.parametrize("name", UNTRACED)
def test_the_definition_multiplies_as_often_as_the_closed_form_says(name):
    for d, time, n_heads in ((4, 5, 1), (6, 3, 1), (6, 7, 2)):
        heads = {"n_heads": n_heads} if "n_heads" in mixer_options(name) else {}
        mixer = build_mixer(name, d_model=d, context_len=time, **heads)
        with torch.no_grad(), Multiplications() as counted:
            mixer.definition(torch.ones(1, time, d))
        pairs, h = time * (time + 1) // 2, heads.get("n_heads", 1)
        assert counted.n == mixer.expected_multiplications(d, time, pairs, h)


# The family


@given(d_model=widths, context_len=lengths, seed=seeds, bias=st.booleans())
def test_she_with_a_shared_matrix_or_of_rank_one_is_he(d_model, context_len, seed, bias):
    x = tokens(2, 7, d_model, seed=seed)
    he, she = (random_mixer(n, d_model, context_len, seed=seed) for n in ("he", "she"))
    with torch.no_grad():
        shared = he.value.weight.mT  # x @ shared is the value map
        she.lag_weight.copy_(shared * he.lag_weight[:, None, :])
        she.adjust.weight.copy_(he.adjust.weight)
        she.out.weight.copy_(he.out.weight)
    torch.testing.assert_close(she(x), he(x), **TINY)
    he, she = (
        random_mixer(n, d_model, context_len, seed=seed, bias=bias, **o)
        for n, o in (("he", {}), ("she", {"rank": 1}))
    )
    he.load_state_dict(she.state_dict())
    torch.testing.assert_close(she(x), he(x), **TINY)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("index", CHOICES["index"])
@given(d_model=widths, context_len=lengths, seed=seeds)
def test_she_of_any_rank_is_she_with_matrices_built_of_shared_ones(
    rank, index, d_model, context_len, seed
):
    short = random_mixer("she", d_model, context_len, seed=seed, index=index, rank=rank)
    full = random_mixer("she", d_model, context_len, index=index)
    counted = sum(p.numel() for p in short.parameters())
    assert counted == (rank + 2) * d_model**2 + rank * context_len * d_model  # its docstring

    def with_full_matrices(x):
        shared = short.value.weight.unflatten(0, (rank, d_model)).mT  # B_r: (R, D, D)
        factors = short.lag_weight.unflatten(1, (rank, d_model))  # a_r(j): (l, R, D)
        matrices = torch.einsum("rde,jre->jde", shared, factors)
        maps = {"adjust.weight": short.adjust.weight, "out.weight": short.out.weight}
        return torch.func.functional_call(full, {"lag_weight": matrices, **maps}, (x,))

    assert_same_mixing(short, with_full_matrices, tokens(2, context_len, d_model, seed=seed))


@given(d_model=widths, context_len=lengths, seed=seeds)
def test_he_with_value_map_one_and_no_output_map_is_we(d_model, context_len, seed):
    we = random_mixer("we", d_model, context_len, seed=seed)
    he = random_mixer("he", d_model, context_len, seed=seed + 1, out_proj=False)
    with torch.no_grad():
        he.value.weight.copy_(torch.eye(d_model))
        he.lag_weight.copy_(we.lag_weight)
        he.adjust.weight.copy_(we.adjust.weight)
    x = tokens(2, 7, d_model, seed=seed)
    torch.testing.assert_close(he(x), we(x), **TINY)


@given(d_model=widths, seed=seeds)
def test_a_context_of_one_is_the_bilinear_gate(d_model, seed):
    she, x = random_mixer("she", d_model, 1, seed=seed), tokens(2, 5, d_model, seed=seed)
    gate = ((x @ she.lag_weight[0]) * she.adjust(x)) @ she.out.weight.mT
    torch.testing.assert_close(she(x), gate, **TINY)


@given(seed=seeds, shift=st.integers(1, 4))
def test_the_lag_index_is_shift_equivariant_and_the_absolute_index_is_not(seed, shift):
    def shifted(x):
        return torch.cat([torch.zeros(1, shift, 3, dtype=x.dtype), x], 1)[:, :8]

    x = tokens(1, 8, 3, seed=seed)
    for index in CHOICES["index"]:
        mixer = random_mixer("she", 3, 8, seed=seed, index=index, method="lags")
        follows = torch.allclose(mixer(shifted(x)), shifted(mixer(x)), rtol=1e-9, atol=1e-9)
        assert follows == (index == "lag")


@pytest.mark.parametrize(
    ("scale", "rank"), [*itertools.product(CHOICES["scale"], (None, 1, 4)), ("small", None)]
)
def test_the_sum_of_many_tokens_keeps_its_size_at_the_start(scale, rank):
    options = {"init_std": 1 / 128} if scale == "small" else {"scale": scale, "rank": rank}
    torch.manual_seed(0)
    mixer = build_mixer("she", d_model=32, context_len=64, adjust="none", out_proj=False, **options)
    size = float(mixer(torch.randn(64, 64, 32))[:, -1].detach().std())
    # 1/t shrinks a sum of t terms below 1/sqrt(t); 2048 terms of the given size
    limit = {"inv_t": 0.125, "small": 2048**0.5 / 128}.get(scale, 1.0)
    assert 0.8 * limit < size < 1.25 * limit


# Attention


@given(shape=shapes, seed=seeds)
def test_attention_weights_are_rows_of_chances_that_the_mixer_uses(shape, seed):
    mixer = random_mixer("attention", 2 * shape[2], 4, n_heads=2, seed=seed)
    x = tokens(*shape[:2], 2 * shape[2], seed=seed)
    weights = mixer.attention_weights(x)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    values = mixer.value(x).unflatten(-1, (2, -1)).transpose(1, 2)
    mixed = (weights @ values).transpose(1, 2).flatten(2)
    assert_same(mixer.out(mixed), mixer(x), mixer.parameters())


@given(
    sizes=st.tuples(*(st.integers(1, most) for most in (3, 3, 5, 7, 3))),
    is_causal=st.booleans(),
    window=st.none() | st.integers(1, 5),
    seed=seeds,
)
def test_a_look_up_averages_what_may_be_seen_and_finds_nothing_where_all_is_padding(
    sizes, is_causal, window, seed
):
    n_rows, n_heads, n_queries, n_keys, width = sizes
    n_queries = min(n_queries, n_keys) if is_causal else n_queries
    q = tokens(n_rows, n_heads, n_queries, width, seed=seed)
    k, v = (tokens(n_rows, n_heads, n_keys, width, seed=seed + i) for i in (1, 2))
    for padding in (None, tokens(n_rows, n_keys, seed=seed) > 0):
        sight = {"is_causal": is_causal, "window": window, "padding": padding}
        weights = look_up_weights(q, k, **sight)
        for row, t, s in itertools.product(range(n_rows), range(n_queries), range(n_keys)):
            lag = n_keys - n_queries + t - s
            is_seen = not is_causal or 0 <= lag < (window or n_keys)
            is_seen = is_seen and not (padding is not None and padding[row, s])
            score = (q[row, :, t] * k[row, :, s]).sum(-1) / width**0.5
            assert ((weights[row, :, t, s] > 0) == is_seen).all()
            if is_seen:
                ratio = weights[row, :, t, s] / weights[row, :, t].amax(-1)
                best = (q[row, :, t, None] * k[row]).sum(-1) / width**0.5
                best = best.masked_fill(weights[row, :, t] == 0, -torch.inf).amax(-1)
                torch.testing.assert_close(ratio, (score - best).exp(), **TINY)
        total = weights.sum(-1)
        torch.testing.assert_close(total, (total > 0).double())
        if padding is None or not is_causal:
            torch.testing.assert_close(look_up(q, k, v, **sight), weights @ v, **TINY)


def test_attention_without_positions_forgets_the_order_of_the_past():
    mixer, x = random_mixer("attention", 6, 9, n_heads=3), tokens(1, 9, 6)
    order = torch.randperm(8, generator=torch.Generator().manual_seed(3))
    mixed_up = torch.cat([x[:, order], x[:, 8:]], 1)
    torch.testing.assert_close(mixer(mixed_up)[:, -1], mixer(x)[:, -1])


def test_dropout_falls_on_weights_in_training_alone():
    mixer, x = random_mixer("attention", 4, 9, dropout=0.5), tokens(1, 9, 4)
    assert not torch.equal(mixer(x), mixer(x))
    plain = random_mixer("attention", 4, 9)
    torch.testing.assert_close(mixer.prefill(x)[0], plain(x), **TINY)
    assert torch.equal(mixer.eval()(x), plain(x))


# The registry


@EVERY_MIXER
def test_a_class_says_how_pictures_show_it_and_what_it_is(name):
    builder = find_mixer(name)
    assert builder.look == {key: getattr(look(name), key) for key in ("family", "label", "marker")}
    assert mixer_summary(name) == builder.__doc__.splitlines()[0]
    assert name in list_mixers(family=builder.look["family"])
    assert builder.preset.items() <= mixer_options(name).items()
    assert builder.structure in STRUCTURES
    assert name in list_mixers(structure=builder.structure)
    assert set(builder.choices) <= set(mixer_options(name))


def test_options_are_listed_with_their_defaults():
    assert mixer_options("attention")["n_heads"] == 1
    assert mixer_options("mean") == {}
    for name in EXTRACTORS:
        assert set(CHOICES) <= set(mixer_options(name))
    assert (mixer_options("she")["extract"], mixer_options("we")["extract"]) == ("matrix", "diag")


def test_an_unknown_mixer_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownMixerError, match="Did you mean 'attention'") as error:
        build_mixer("atention", d_model=4, context_len=4)
    assert "she" in str(error.value)
    with pytest.raises(AttributeError, match="no attribute 'atention'"):
        naive.atention  # noqa: B018


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("she", {"adjst": "none"}, "has no option 'adjst'"),
        ("she", {"adjust": "nothing"}, "adjust='nothing' is not one of"),
        ("she", {"rank": 0}, "rank=0 must be 1 or more"),
        ("we", {"rank": 2}, "extract='diag' has none"),
        ("attention", {"n_heads": 3}, "n_heads=3 equal heads. Try n_heads=2"),
        ("attention", {"n_heads": 0}, "Try n_heads=1"),
        ("mean", {"n_heads": 2}, "It has: none"),
        ("we", {"method": "staged"}, "No convolution method is called 'staged'"),
        ("he", {"d_model": 0}, "d_model=0 must be 1 or more"),
        ("hyena", {"order": 2.5}, r"order=2\.5 has no long convolution"),
        ("s4d", {"n_state": "6"}, "n_state='6' is no even number"),
        ("aft", {"window": 2.5}, r"window=2\.5 must be 1 or more tokens, a whole number"),
        ("window_attention", {"window": 2.5}, r"window=2\.5 must be 1 or more, a whole number"),
        ("spade", {"window": 2.5}, r"window=2\.5 sees nothing"),
        ("alibi_attention", {"slope": "steep"}, "slope='steep' must be a number"),
        ("retention", {"decay": "slow"}, "decay='slow' must be above 0"),
    ],
)
def test_wrong_options_are_explained(name, options, words):
    with pytest.raises(AttnlabError, match=words):
        build_mixer(name, **{"d_model": 4, "context_len": 4, **options})


@EVERY_MIXER
@pytest.mark.parametrize(
    ("shape", "words"),
    [((3, 4), "2 axes"), ((1, 2, 5), "built for d_model=4"), ((1, 0, 4), "at least one time step")],
)
def test_wrong_shapes_are_explained(name, shape, words):
    mixer = build_mixer(name, d_model=4, context_len=4)
    for run in (mixer, mixer.prefill):
        with pytest.raises(AttnlabError, match=words):
            run(torch.zeros(shape))


@EVERY_MIXER
def test_a_prefix_goes_on_with_a_state_of_its_own_batch_only(name):
    mixer = build_mixer(name, d_model=4, context_len=4)
    state = mixer.initial_state(1)
    if state_numbers(mixer.step(torch.zeros(1, 4), mixer.initial_state(1))[1]) == 0:
        assert name == "identity"  # keeps nothing, of no batch
        return
    with pytest.raises(AttnlabError, match=r"for a batch of 1; got 3 rows"):
        mixer.prefill(torch.zeros(3, 2, 4), state)


@EVERY_MIXER
def test_the_definition_computes_where_the_weights_are(name):
    mixer = build_mixer(name, d_model=4, context_len=4).to("meta")
    assert mixer.definition(torch.zeros(2, 3, 4, device="meta")).device.type == "meta"


@EVERY_MIXER
def test_a_sequence_beyond_the_longest_is_refused_in_all_forms(name):
    mixer = build_mixer(name, d_model=4, context_len=3)
    if mixer.longest is None:
        assert mixer(torch.zeros(1, 9, 4)).shape == (1, 9, 4)
        return
    state = stepped(mixer, torch.zeros(1, mixer.longest, 4))[1]
    for call in (
        lambda: mixer(torch.zeros(1, mixer.longest + 1, 4)),
        lambda: mixer.step(torch.zeros(1, 4), state),
        lambda: mixer.prefill(torch.zeros(1, 1, 4), state),
    ):
        with pytest.raises(AttnlabError, match="lies beyond context_len=3"):
            call()


def test_positions_without_a_weight_are_refused():
    mixer = build_mixer("she", d_model=2, context_len=3, index="absolute")
    with pytest.raises(AttnlabError, match="beyond context_len=3"):
        mixer(torch.zeros(1, 4, 2))
    _, state = stepped(mixer, torch.zeros(1, 3, 2))
    with pytest.raises(AttnlabError, match="Position 4"):
        mixer.step(torch.zeros(1, 2), state)
    with pytest.raises(AttnlabError, match="Position 5"):
        mixer.prefill(torch.zeros(1, 2, 2), stepped(mixer, torch.zeros(1, 3, 2))[1])
