"""All ways to evaluate a causal convolution give one result, values and gradients."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Barrier, BrokenBarrierError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.mixers.convolution import (
    USES,
    SpectrumCache,
    causal_convolution,
    choose,
    is_exactly_causal,
    list_methods,
    method_flops,
)

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


@pytest.mark.parametrize(("ndim", "method"), [m for m in METHODS if not is_exactly_causal(m[1])])
def test_methods_over_frequencies_leak_at_most_rounding_from_the_future(ndim, method):
    x, w = operands(ndim, (1, 64, 64, 8, 8), 2, dtype=torch.float32)
    with torch.no_grad():
        later = x.clone()
        later[:, 32:] += 100
        before, after = (causal_convolution(v, w, method=method) for v in (x, later))
    leak = (before - after)[:, :32].abs().max()
    assert leak < 3e-6 * after.abs().max()


EXACT = [m for m in METHODS if is_exactly_causal(m[1])]


@pytest.mark.parametrize(("ndim", "method"), EXACT)
@pytest.mark.parametrize("value", [1e6, torch.nan])
def test_the_other_methods_let_nothing_through(ndim, method, value):
    if method == "toeplitz" and value != value:
        return  # zero times NaN is NaN: within a block of time these forms do not stop it
    x, w = operands(ndim, (2, 67, 41, 5, 3), 2, dtype=torch.float32)
    with torch.no_grad():
        later = x.clone()
        later[:, 33:] = value
        before, after = (causal_convolution(v, w, method=method) for v in (x, later))
    torch.testing.assert_close(after[:, :33], before[:, :33], rtol=0, atol=0)
    assert not torch.equal(after[:, 33:], before[:, 33:])


@pytest.mark.parametrize(("ndim", "method"), METHODS)
def test_methods_agree_where_blocks_segments_and_stages_are_many(ndim, method):
    for sizes in ((2, 150, 131, 3, 2), (1, 131, 150, 2, 3), (2, 97, 5, 3, 3)):
        x, w = operands(ndim, sizes, 5)
        fast = causal_convolution(x, w, method=method)
        slow = causal_convolution(x, w, method="lags")
        torch.testing.assert_close(fast, slow, rtol=0, atol=1e-10)
        for a, b in zip(
            torch.autograd.grad(fast.square().sum(), (x, w)),
            torch.autograd.grad(slow.square().sum(), (x, w)),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-9)


def test_weights_too_large_for_the_workspace_are_transformed_in_chunks(monkeypatch):
    x, w = operands(3, (2, 23, 23, 5, 7), 6)
    whole = causal_convolution(x, w, method="staged")
    gradients = torch.autograd.grad(whole.sin().sum(), (x, w))
    monkeypatch.setattr("attnlab.mixers.convolution.staged.WORKSPACE_BYTES", 8000)
    parts = causal_convolution(x, w, method="staged")
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    for a, b in zip(torch.autograd.grad(parts.sin().sum(), (x, w)), gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def saved_mib(function, *, besides):
    """Return what autograd keeps for backward, each storage once, some tensors left out."""
    kept = {}
    known = {tensor.untyped_storage().data_ptr() for tensor in besides}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function()
    assert result.requires_grad
    return sum(kept.values()) / 2**20


def test_the_mixer_of_dense_lags_saves_little_beyond_its_weights():
    mixer = build_mixer("she", d_model=128, context_len=128, method="staged")
    x = torch.zeros(16, 128, 128, requires_grad=True)
    assert saved_mib(lambda: mixer(x), besides=mixer.parameters()) <= 5
    one_copy = x.numel() * 4 / 2**20
    core = saved_mib(
        lambda: causal_convolution(x, mixer.lag_weight, method="staged"),
        besides=[x, *mixer.parameters()],
    )
    assert core == 0
    by_lags = saved_mib(
        lambda: causal_convolution(x, mixer.lag_weight, method="planes"),
        besides=[x, *mixer.parameters()],
    )
    assert by_lags > 20 * one_copy


@pytest.mark.parametrize("method", ["grouped", "im2col", "staged"])
def test_no_method_written_here_keeps_every_window(method):
    x, w = operands(3, (2, 40, 40, 6, 6), 0)
    windows = 2 * 40 * 40 * 6 * 8 / 2**20
    kept = saved_mib(lambda: causal_convolution(x, w, method=method), besides=[x, w])
    assert kept < windows / 40


@given(sizes=sizes, seed=st.integers(0, 2**16))
def test_kept_spectra_give_the_same_values(sizes, seed):
    x, w = operands(3, sizes, seed)
    spectra = SpectrumCache()
    with torch.no_grad():
        for time in {x.shape[1], 1, (x.shape[1] + 1) // 2}:
            kept = causal_convolution(x[:, :time], w, method="staged", spectra=spectra)
            torch.testing.assert_close(kept, naive(x[:, :time], w), rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.mul_(2),
        lambda w: w.data.mul_(2),
        lambda w: w.copy_(torch.ones_like(w)),
        lambda w: w[3].add_(1),
        lambda w: w.set_(torch.ones_like(w)),
    ],
)
def test_kept_spectra_are_thrown_away_when_the_weights_change(write):
    x, w = operands(3, (2, 9, 9, 3, 3), 0)
    spectra = SpectrumCache()
    with torch.no_grad():
        causal_convolution(x, w, method="staged", spectra=spectra)
        write(w)
        kept = causal_convolution(x, w, method="staged", spectra=spectra)
        torch.testing.assert_close(kept, naive(x, w), rtol=0, atol=1e-10)


def test_kept_spectra_are_made_once_and_few():
    _, w = operands(3, (1, 1, 9, 3, 3), 0)
    spectra, made = SpectrumCache(max_entries=2), []
    for key in ("a", "a", "b", "a", "c", "a"):
        spectra.get(key, w, lambda weight, key=key: made.append(key) or weight)
    assert made == ["a", "b", "c"]
    assert len(spectra) == 2
    assert len(copy.deepcopy(spectra)) == len(pickle.loads(pickle.dumps(spectra))) == 0


def test_threads_may_share_kept_spectra():
    _, w = operands(3, (1, 1, 9, 3, 3), 0)
    spectra, together = SpectrumCache(max_entries=1), Barrier(2)

    def transform(weight):
        with suppress(BrokenBarrierError):
            together.wait(timeout=0.3)
        return weight

    with ThreadPoolExecutor(2) as pool:
        kept = [pool.submit(spectra.get, key, w, transform) for key in ("a", "b")]
    assert all(torch.equal(each.result(), w) for each in kept)
    assert together.broken, "two threads changed the cache at the same time"


def test_a_layer_that_is_trained_again_keeps_no_transforms():
    layer = build_mixer("she", d_model=3, context_len=7, method="staged").eval()
    with torch.no_grad():
        layer(torch.ones(1, 5, 3))
        layer.step(torch.ones(1, 3), layer.initial_state(1, streaming="tiles"))
    assert (len(layer._spectra), len(layer._kernels)) == (1, 1)
    layer.train()
    assert (len(layer._spectra), len(layer._kernels)) == (0, 0)


@pytest.mark.parametrize(("ndim", "method"), [*METHODS, *((n, "auto") for n in SHAPES)])
def test_an_empty_batch_stays_empty_and_gives_no_gradient(ndim, method):
    x, w = operands(ndim, (0, 5, 4, 3, 3), 0)
    y = causal_convolution(x, w, method=method)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 5, 3)
    assert not w.grad.any()


def test_no_time_at_all_is_refused():
    with pytest.raises(AttnlabError, match="at least one time step; got time=0"):
        causal_convolution(torch.ones(2, 0, 3), torch.ones(4, 3))


def test_kept_spectra_are_not_read_while_gradients_are_asked_for():
    x, w = operands(3, (2, 9, 9, 3, 3), 0)
    spectra = SpectrumCache()
    causal_convolution(x, w, method="staged", spectra=spectra).sum().backward()
    assert len(spectra) == 0
    assert w.grad is not None


@pytest.mark.parametrize("sizes", [(2, 37, 20, 5, 3), (1, 64, 64, 4, 4), (3, 17, 40, 3, 7)])
@pytest.mark.parametrize("method", ["lags", "im2col", "toeplitz", "planes", "staged"])
def test_counted_operations_are_those_that_torch_counts(method, sizes):
    batch, time, n_lags, d_in, d_out = sizes
    x, w = operands(3, sizes, 0, dtype=torch.float32)
    of = {"batch": batch, "time": time, "n_lags": n_lags, "d_in": d_in, "d_out": d_out, "ndim": 3}
    with FlopCounterMode(display=False) as counter:
        y = causal_convolution(x, w, method=method)
    assert counter.get_total_flops() == method_flops(method, **of)
    if method in ("im2col", "staged"):  # the counter does not see products added in place
        return
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    both = method_flops(method, **of, training=True)
    assert counter.get_total_flops() == both - method_flops(method, **of)


def test_operations_through_frequencies_grow_slower_than_through_lags():
    counts = {
        method: [
            method_flops(method, ndim=3, batch=16, time=time, n_lags=time, d_in=64)
            for time in (256, 1024)
        ]
        for method in ("grouped", "fft", "staged")
    }
    growth = {method: late / early for method, (early, late) in counts.items()}
    assert growth["grouped"] > 15  # four times the length squared is 16
    assert growth["fft"] < 5
    assert growth["staged"] < 8


def test_operations_of_an_unknown_method_are_not_guessed():
    with pytest.raises(UnknownNameError, match="Did you mean 'staged'"):
        method_flops("stagd", ndim=3, batch=1, time=1, n_lags=1, d_in=1)


@pytest.mark.parametrize(("ndim", "method"), METHODS)
def test_autocast_does_not_lower_the_precision_of_transforms(ndim, method):
    x, w = operands(ndim, (2, 33, 32, 8, 8), 3, dtype=torch.float32)
    plain = causal_convolution(x, w, method=method)
    with torch.autocast("cpu", torch.bfloat16):
        cast = causal_convolution(x, w, method=method)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@pytest.mark.parametrize("use", USES)
@given(sizes=st.tuples(*[st.sampled_from([1, 4, 16, 64, 256, 2048])] * 4))
def test_the_automatic_choice_is_a_method_that_exists(use, sizes):
    of = dict(zip(("batch", "time", "n_lags", "d_model"), sizes, strict=True))
    assert all(choose(ndim, **of, use=use) in list_methods(ndim) for ndim in SHAPES)
    # a short kernel under a long text is a batch of short texts
    many = of | {"batch": sizes[0] * max(1, sizes[1] // sizes[2]), "time": min(sizes[1:3])}
    assert all(choose(n, **of, use=use) == choose(n, **many, use=use) for n in SHAPES)


@pytest.mark.parametrize(
    ("ndim", "batch", "time", "use", "method"),
    [
        (3, 16, 2048, "training", "staged"),
        (3, 1, 128, "forward", "grouped"),
        (3, 16, 32, "forward", "planes"),
        (2, 16, 128, "training", "fft"),
        (1, 1, 32, "frozen", "toeplitz"),
    ],
)
def test_the_choice_is_what_was_fastest(ndim, batch, time, use, method):
    assert choose(ndim, batch=batch, time=time, n_lags=time, d_model=128, use=use) == method


def test_an_unknown_method_is_answered_with_those_there_are():
    x, w = operands(3, (1, 3, 3, 2, 2), 0)
    with pytest.raises(UnknownNameError, match="Did you mean 'planes'"):
        causal_convolution(x, w, method="plane")


def test_widths_that_do_not_match_are_explained():
    with pytest.raises(AttnlabError, match="takes inputs 5 wide; x is 4 wide"):
        causal_convolution(torch.zeros(1, 3, 4), torch.zeros(3, 5, 4))
    with pytest.raises(AttnlabError, match="must be"):
        causal_convolution(torch.zeros(1, 3, 4), torch.zeros(3, 4, 4, 4))
