"""All ways to evaluate a causal convolution give one result, values and gradients."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers.convolution import causal_convolution, choose_method, list_methods

METHODS = [(ndim, method) for ndim in (3, 2, 1) for method in list_methods(ndim)]
SHAPES = {3: lambda k, d, e: (k, d, e), 2: lambda k, d, e: (k, d), 1: lambda k, d, e: (k,)}


def naive(x, lag_weight):
    rows = []
    for t in range(x.shape[1]):
        lags = range(min(t + 1, lag_weight.shape[0]))
        terms = [_term(x[:, t - j], lag_weight[j]) for j in lags]
        rows.append(sum(terms))
    return torch.stack(rows, 1)


def _term(token, weight):
    return token @ weight if weight.ndim == 2 else token * weight


def operands(ndim, sizes, seed, dtype=torch.float64):
    batch, time, n_lags, d_in, d_out = sizes
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, time, d_in, generator=generator, dtype=dtype)
    w = torch.randn(SHAPES[ndim](n_lags, d_in, d_out), generator=generator, dtype=dtype)
    return x.requires_grad_(), w.requires_grad_()


sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 13), st.integers(1, 11), st.integers(1, 5), st.integers(1, 5)
)


@pytest.mark.parametrize(("ndim", "method"), METHODS)
@given(sizes=sizes, seed=st.integers(0, 2**16))
def test_every_method_equals_the_double_loop_and_its_gradients(ndim, method, sizes, seed):
    x, w = operands(ndim, sizes, seed)
    fast, slow = causal_convolution(x, w, method=method), naive(x, w)
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
    direction = torch.randn(slow.shape, dtype=slow.dtype)
    for a, b in zip(
        torch.autograd.grad((fast * direction).sum(), (x, w)),
        torch.autograd.grad((slow * direction).sum(), (x, w)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-10)


@pytest.mark.parametrize(("ndim", "method"), METHODS)
def test_float32_stays_within_its_bound_of_float64(ndim, method):
    x, w = operands(ndim, (4, 127, 128, 31, 17), 1, dtype=torch.float32)
    exact = causal_convolution(x.double(), w.double(), method="lags")
    error = (causal_convolution(x, w, method=method) - exact).abs().max() / exact.abs().max()
    assert error.detach() < 3e-6


@pytest.mark.parametrize(("ndim", "method"), [m for m in METHODS if m[1] in ("fft", "planes")])
def test_methods_over_frequencies_leak_at_most_rounding_from_the_future(ndim, method):
    x, w = operands(ndim, (1, 64, 64, 8, 8), 2, dtype=torch.float32)
    with torch.no_grad():
        later = x.clone()
        later[:, 32:] += 100
        before, after = (causal_convolution(v, w, method=method) for v in (x, later))
    leak = (before - after)[:, :32].abs().max()
    assert leak < 3e-6 * after.abs().max()


@pytest.mark.parametrize(("ndim", "method"), METHODS)
def test_autocast_does_not_lower_the_precision_of_transforms(ndim, method):
    x, w = operands(ndim, (2, 33, 32, 8, 8), 3, dtype=torch.float32)
    plain = causal_convolution(x, w, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        cast = causal_convolution(x, w, method=method)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@given(sizes=sizes, ndim=st.sampled_from([3, 2, 1]))
def test_the_automatic_choice_is_a_method_that_exists(sizes, ndim):
    x, w = operands(ndim, sizes, 0)
    assert choose_method(x, w) in list_methods(ndim)


def test_an_unknown_method_is_answered_with_those_there_are():
    x, w = operands(3, (1, 3, 3, 2, 2), 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'planes'"):
        causal_convolution(x, w, method="plane")


def test_widths_that_do_not_match_are_explained():
    with pytest.raises(AttnlabError, match="takes inputs 5 wide; x is 4 wide"):
        causal_convolution(torch.zeros(1, 3, 4), torch.zeros(3, 5, 4))
    with pytest.raises(AttnlabError, match="must be"):
        causal_convolution(torch.zeros(1, 3, 4), torch.zeros(3, 4, 4, 4))
