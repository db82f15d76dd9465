"""What must hold for every token mixer and option, whatever its size and weights."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.analysis.theory import expected_mixer_weights
from attnlab.errors import AttnlabError, UnknownMixerError
from attnlab.mixers import build_mixer, find_mixer, list_mixers, mixer_options, naive
from attnlab.mixers.extractor import CHOICES
from attnlab.show import look

MIXERS = list_mixers()
EXTRACTORS = list_mixers(family="extractor")
DIRECT = {"method": "lags"}  # methods over frequencies are causal up to rounding only

shapes = st.tuples(st.integers(1, 3), st.integers(1, 9), st.sampled_from([1, 2, 3, 5, 6, 7]))
seeds = st.integers(0, 2**16)


def tokens(batch, time, d_model, seed, *, requires_grad=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, d_model, generator=generator, dtype=torch.float64)
    return x.requires_grad_(requires_grad)


def randomised(mixer, seed):
    """Return the mixer in float64 with every weight random, biases and gates included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in mixer.double().parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64))
    return mixer


def streamed(mixer, x):
    state = mixer.initial_state(x.shape[0])
    outputs = []
    for x_t in x.unbind(1):
        y_t, state = mixer.step(x_t, state)
        outputs.append(y_t)
    return torch.stack(outputs, 1)


def gradients(y, x, mixer):
    wanted = [x, *mixer.parameters()]
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    return torch.autograd.grad((y * direction).sum(), wanted, allow_unused=True)


def assert_same_function(one, other, x, mixer):
    y, z = one(x), other(x)
    torch.testing.assert_close(y, z, rtol=1e-9, atol=1e-10)
    for a, b in zip(gradients(y, x, mixer), gradients(z, x, mixer), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def every_option():
    """Each option of the family on its own, over the presets it applies to."""
    for name, (option, values) in itertools.product(EXTRACTORS, CHOICES.items()):
        for value in values:
            yield name, {option: value}
        yield name, {"bias": True}
        yield name, {"out_proj": True}
    yield "she", {"extract": "value_diag", "index": "absolute", "scale": "inv_t", "bias": True}
    for index in CHOICES["index"]:
        yield "she", {"rank": 2, "index": index, "bias": True}
    yield "attention", {"n_heads": 1, "bias": True}


OPTIONS = list(every_option())


@pytest.mark.parametrize("name", MIXERS)
@given(shape=shapes, context_len=st.integers(1, 7), seed=seeds)
def test_parallel_pass_equals_the_naive_loop_and_its_gradients(name, shape, context_len, seed):
    mixer = randomised(build_mixer(name, d_model=shape[2], context_len=context_len), seed)
    x = tokens(*shape, seed, requires_grad=True)
    assert_same_function(mixer, lambda x: naive.definition(name)(mixer, x), x, mixer)


@pytest.mark.parametrize("name", MIXERS)
@given(shape=shapes, context_len=st.integers(1, 7), seed=seeds)
def test_streaming_equals_the_parallel_pass_at_any_length(name, shape, context_len, seed):
    mixer = randomised(build_mixer(name, d_model=shape[2], context_len=context_len), seed)
    x = tokens(*shape, seed, requires_grad=True)
    assert_same_function(mixer, lambda x: streamed(mixer, x), x, mixer)


@pytest.mark.parametrize("name", MIXERS)
def test_streaming_in_place_without_gradients_gives_the_same(name):
    mixer = randomised(build_mixer(name, d_model=6, context_len=5), 3)
    x = tokens(2, 13, 6, 4)
    with torch.no_grad():
        torch.testing.assert_close(streamed(mixer, x), mixer(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda v: str(v))
def test_every_option_agrees_in_parallel_streaming_and_naive(name, options):
    time = 5 if options.get("index") == "absolute" else 8
    mixer = randomised(build_mixer(name, d_model=3, context_len=5, **options), 11)
    x = tokens(2, time, 3, 12, requires_grad=True)
    assert_same_function(mixer, lambda x: naive.definition(name)(mixer, x), x, mixer)
    assert_same_function(mixer, lambda x: streamed(mixer, x), x, mixer)


@pytest.mark.parametrize("n_heads", [1, 2, 3, 6])
def test_attention_agrees_for_any_number_of_heads(n_heads):
    mixer = randomised(build_mixer("attention", d_model=6, context_len=4, n_heads=n_heads), 1)
    x = tokens(2, 7, 6, 2, requires_grad=True)
    assert_same_function(mixer, lambda x: naive.attention(mixer, x), x, mixer)


@pytest.mark.parametrize("name", MIXERS)
@given(shape=shapes, context_len=st.integers(1, 7), seed=seeds, data=st.data())
def test_no_output_depends_on_a_later_token(name, shape, context_len, seed, data):
    options = DIRECT if name in EXTRACTORS else {}
    mixer = randomised(
        build_mixer(name, d_model=shape[2], context_len=context_len, **options), seed
    )
    before = tokens(*shape, seed)
    cut = data.draw(st.integers(0, shape[1] - 1), label="cut")
    after = before.clone()
    after[:, cut + 1 :] = 1e6 * tokens(*shape, seed + 1)[:, cut + 1 :]
    same = slice(None, cut + 1)
    torch.testing.assert_close(mixer(before)[:, same], mixer(after)[:, same], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), OPTIONS, ids=lambda v: str(v))
def test_no_option_lets_the_future_in(name, options):
    options = {**options, **DIRECT} if name in EXTRACTORS else options
    mixer = randomised(build_mixer(name, d_model=3, context_len=5, **options), 5)
    x = tokens(1, 5, 3, 6, requires_grad=True)
    for t in range(5):
        seen = torch.autograd.grad(mixer(x)[:, t].sum(), x)[0].abs().sum(-1)[0]
        assert (seen[t + 1 :] == 0).all()


@pytest.mark.parametrize("name", [m for m in MIXERS if m != "identity"])
def test_a_token_within_the_context_is_seen_and_one_beyond_is_not(name):
    mixer = randomised(build_mixer(name, d_model=4, context_len=3, **_direct(name)), 7)
    x = tokens(1, 8, 4, 8, requires_grad=True)
    seen = torch.autograd.grad(mixer(x)[:, -1].square().sum(), x)[0].abs().sum(-1)[0]
    assert (seen[-3:] > 0).all()
    assert (seen[:-3] == 0).all()


def _direct(name):
    return DIRECT if name in EXTRACTORS else {}


@pytest.mark.parametrize("name", MIXERS)
@given(d_model=st.integers(1, 12), context_len=st.integers(1, 12))
def test_counted_weights_equal_the_closed_form(name, d_model, context_len):
    mixer = build_mixer(name, d_model=d_model, context_len=context_len)
    counted = sum(p.numel() for p in mixer.parameters())
    assert counted == expected_mixer_weights(name, d_model=d_model, context_len=context_len)


@given(d_model=st.integers(1, 6), context_len=st.integers(1, 6), seed=seeds)
def test_she_with_a_shared_matrix_and_a_diagonal_per_lag_is_he(d_model, context_len, seed):
    he = randomised(build_mixer("he", d_model=d_model, context_len=context_len), seed)
    she = randomised(build_mixer("she", d_model=d_model, context_len=context_len), seed + 1)
    with torch.no_grad():
        shared = he.value.weight.mT  # x @ shared is the value map
        she.lag_weight.copy_(shared * he.lag_weight[:, None, :])
        she.adjust.weight.copy_(he.adjust.weight)
        she.out.weight.copy_(he.out.weight)
    x = tokens(2, 7, d_model, seed)
    torch.testing.assert_close(she(x), he(x), rtol=1e-9, atol=1e-10)


@given(d_model=st.integers(1, 6), context_len=st.integers(1, 6), seed=seeds, bias=st.booleans())
def test_she_of_rank_one_is_he(d_model, context_len, seed, bias):
    sizes = {"d_model": d_model, "context_len": context_len, "bias": bias}
    she = randomised(build_mixer("she", **sizes, rank=1), seed)
    he = build_mixer("he", **sizes).double()
    he.load_state_dict(she.state_dict())
    x = tokens(2, 7, d_model, seed)
    torch.testing.assert_close(she(x), he(x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("rank", [1, 2, 5])
@pytest.mark.parametrize("index", CHOICES["index"])
@given(d_model=st.integers(1, 5), context_len=st.integers(1, 6), seed=seeds)
def test_she_of_any_rank_is_she_with_matrices_built_of_shared_ones(
    rank, index, d_model, context_len, seed
):
    sizes = {"d_model": d_model, "context_len": context_len, "index": index}
    short = randomised(build_mixer("she", **sizes, rank=rank), seed)
    full = build_mixer("she", **sizes).double()
    x = tokens(2, context_len, d_model, seed, requires_grad=True)

    def with_full_matrices(x):
        shared = short.value.weight.unflatten(0, (rank, d_model)).mT  # B_r: (R, D, D)
        factors = short.lag_weight.unflatten(1, (rank, d_model))  # a_r(j): (l, R, D)
        matrices = torch.einsum("rde,jre->jde", shared, factors)
        maps = {"adjust.weight": short.adjust.weight, "out.weight": short.out.weight}
        return torch.func.functional_call(full, {"lag_weight": matrices, **maps}, (x,))

    assert_same_function(short, with_full_matrices, x, short)


@given(d_model=st.integers(1, 6), context_len=st.integers(1, 6), rank=st.integers(1, 4))
def test_a_rank_costs_as_many_weights_as_its_docstring_says(d_model, context_len, rank):
    mixer = build_mixer("she", d_model=d_model, context_len=context_len, rank=rank)
    counted = sum(p.numel() for p in mixer.parameters())
    of_the_sum = rank * d_model**2 + rank * context_len * d_model
    assert counted == of_the_sum + 2 * d_model**2


@given(d_model=st.integers(1, 6), context_len=st.integers(1, 6), seed=seeds)
def test_he_with_value_map_one_and_no_output_map_is_we(d_model, context_len, seed):
    sizes = {"d_model": d_model, "context_len": context_len}
    we = randomised(build_mixer("we", **sizes), seed)
    he = randomised(build_mixer("he", **sizes, out_proj=False), seed + 1)
    with torch.no_grad():
        he.value.weight.copy_(torch.eye(d_model))
        he.lag_weight.copy_(we.lag_weight)
        he.adjust.weight.copy_(we.adjust.weight)
    x = tokens(2, 7, d_model, seed)
    torch.testing.assert_close(he(x), we(x), rtol=1e-9, atol=1e-10)


@given(d_model=st.integers(1, 6), seed=seeds)
def test_a_context_of_one_is_the_bilinear_gate(d_model, seed):
    she = randomised(build_mixer("she", d_model=d_model, context_len=1), seed)
    x = tokens(2, 5, d_model, seed)
    gate = ((x @ she.lag_weight[0]) * she.adjust(x)) @ she.out.weight.mT
    torch.testing.assert_close(she(x), gate, rtol=1e-9, atol=1e-10)


@given(seed=seeds, shift=st.integers(1, 4))
def test_the_lag_index_is_shift_equivariant_and_the_absolute_index_is_not(seed, shift):
    x = tokens(1, 8, 3, seed)
    shifted = torch.cat([torch.zeros(1, shift, 3, dtype=x.dtype), x], 1)[:, :8]
    for index in ("lag", "absolute"):
        mixer = randomised(
            build_mixer("she", d_model=3, context_len=8, index=index, **DIRECT), seed
        )
        moved = torch.cat([torch.zeros(1, shift, 3, dtype=x.dtype), mixer(x)], 1)[:, :8]
        follows = torch.allclose(mixer(shifted), moved, rtol=1e-9, atol=1e-9)
        assert follows == (index == "lag")


@given(shape=shapes, seed=seeds)
def test_attention_weights_are_rows_of_chances(shape, seed):
    mixer = randomised(build_mixer("attention", d_model=shape[2], context_len=4), seed)
    weights = mixer.attention_weights(tokens(*shape, seed))
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))


def test_attention_weights_are_those_the_mixer_uses():
    mixer = randomised(build_mixer("attention", d_model=6, context_len=4, n_heads=2), 1)
    x = tokens(2, 7, 6, 2)
    values = mixer.value(x).unflatten(-1, (2, 3)).transpose(1, 2)
    mixed = (mixer.attention_weights(x) @ values).transpose(1, 2).flatten(2)
    torch.testing.assert_close(mixer.out(mixed), mixer(x))


def test_attention_without_positions_forgets_the_order_of_the_past():
    mixer = randomised(build_mixer("attention", d_model=6, context_len=9, n_heads=3), 1)
    x = tokens(1, 9, 6, 2)
    mixed_up = torch.cat(
        [x[:, torch.randperm(8, generator=torch.Generator().manual_seed(3))], x[:, 8:]], 1
    )
    torch.testing.assert_close(mixer(mixed_up)[:, -1], mixer(x)[:, -1])


@pytest.mark.parametrize("scale", CHOICES["scale"])
@pytest.mark.parametrize("rank", [None, 1, 4])
def test_the_sum_of_many_tokens_keeps_its_size_at_the_start(scale, rank):
    torch.manual_seed(0)
    mixer = build_mixer(
        "she", d_model=32, context_len=64, scale=scale, rank=rank, adjust="none", out_proj=False
    )
    sizes = mixer(torch.randn(64, 64, 32))[:, -1].detach().std()
    limit = 0.125 if scale == "inv_t" else 1.0  # 1/t shrinks a sum of t terms below 1/sqrt(t)
    assert 0.8 * limit < float(sizes) < 1.25 * limit


@pytest.mark.parametrize("name", MIXERS)
def test_pictures_show_a_mixer_as_its_class_says(name):
    said = find_mixer(name).look
    assert said == {key: getattr(look(name), key) for key in ("family", "label", "marker")}


def test_an_unknown_mixer_is_answered_with_the_nearest_name():
    with pytest.raises(UnknownMixerError, match="Did you mean 'attention'") as error:
        build_mixer("atention", d_model=4, context_len=4)
    assert "she" in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("she", {"adjst": "none"}, "has no option 'adjst'"),
        ("she", {"adjust": "nothing"}, "adjust='nothing' is not one of"),
        ("attention", {"n_heads": 3}, "n_heads=3 equal heads. Try n_heads=2"),
        ("attention", {"n_heads": 0}, "Try n_heads=1"),
        ("mean", {"n_heads": 2}, "It has: none"),
        ("we", {"method": "staged"}, "No convolution method is called 'staged'"),
    ],
)
def test_wrong_options_are_explained(name, options, words):
    with pytest.raises(AttnlabError, match=words):
        build_mixer(name, d_model=4, context_len=4, **options)


@pytest.mark.parametrize("name", MIXERS)
@pytest.mark.parametrize(
    ("shape", "words"),
    [((3, 4), "2 axes"), ((1, 2, 5), "built for d_model=4"), ((1, 0, 4), "at least one time step")],
)
def test_wrong_shapes_are_explained(name, shape, words):
    with pytest.raises(AttnlabError, match=words):
        build_mixer(name, d_model=4, context_len=4)(torch.zeros(shape))


def test_positions_without_a_weight_are_refused():
    mixer = build_mixer("she", d_model=2, context_len=3, index="absolute")
    with pytest.raises(AttnlabError, match="beyond context_len=3"):
        mixer(torch.zeros(1, 4, 2))
    state = mixer.initial_state(1)
    with torch.no_grad():
        for _ in range(3):
            _, state = mixer.step(torch.zeros(1, 2), state)
    with pytest.raises(AttnlabError, match="Position 4"):
        mixer.step(torch.zeros(1, 2), state)


def test_options_are_listed_with_their_defaults():
    assert mixer_options("attention")["n_heads"] == 1
    assert set(CHOICES) <= set(mixer_options("she"))
    assert set(CHOICES) <= set(mixer_options("he"))
