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
from tensors import assert_same, tokens
from torch.utils.flop_counter import FlopCounterMode

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers import build_mixer
from attnlab.mixers.convolution import (
    USES,
    SpectrumCache,
    causal_convolution,
    choose,
    list_methods,
    method_flops,
)

SHAPES = {3: lambda k, d, e: (k, d, e), 2: lambda k, d, e: (k, d), 1: lambda k, d, e: (k,)}
METHODS = [(ndim, method) for ndim in SHAPES for method in list_methods(ndim)]
EVERY_METHOD = pytest.mark.parametrize(("ndim", "method"), METHODS)
EXACT = {"rtol": 0, "atol": 1e-10}
MIB = 2**20
sizes = st.tuples(*(st.integers(1, most) for most in (3, 13, 11, 5, 5)))
seeds = st.integers(0, 2**16)


def naive(x, lag_weight):
    rows = []
    for t in range(x.shape[1]):
        lags = range(min(t + 1, lag_weight.shape[0]))
        multiply = torch.matmul if lag_weight.ndim == 3 else torch.mul
        rows.append(sum(multiply(x[:, t - j], lag_weight[j]) for j in lags))
    return torch.stack(rows, 1)


def operands(ndim, sizes, seed=0, dtype=torch.float64):
    batch, time, n_lags, d_in, d_out = sizes
    x = tokens(batch, time, d_in, seed=seed, dtype=dtype)
    w = tokens(*SHAPES[ndim](n_lags, d_in, d_out), seed=seed + 1, dtype=dtype)
    return x.requires_grad_(), w.requires_grad_()


@EVERY_METHOD
@given(sizes=sizes, seed=seeds)
def test_every_method_equals_the_double_loop_and_its_gradients(ndim, method, sizes, seed):
    x, w = operands(ndim, sizes, seed)
    assert_same(causal_convolution(x, w, method=method), naive(x, w), (x, w), **EXACT)


@EVERY_METHOD
@pytest.mark.parametrize("sizes", [(2, 150, 131, 3, 2), (1, 131, 150, 2, 3), (2, 97, 5, 3, 3)])
def test_methods_agree_where_blocks_windows_and_stages_are_many(ndim, method, sizes, monkeypatch):
    monkeypatch.setattr("attnlab.mixers.convolution.direct.WINDOW_BYTES", 2**15)
    x, w = operands(ndim, sizes)
    fast, slow = (causal_convolution(x, w, method=m) for m in (method, "lags"))
    assert_same(fast, slow, (x, w), rtol=1e-12, atol=1e-9)
    with torch.no_grad():
        torch.testing.assert_close(causal_convolution(x, w, method=method), slow, **EXACT)


@EVERY_METHOD
def test_float32_stays_within_its_bound_of_float64_also_under_autocast(ndim, method):
    x, w = operands(ndim, (4, 127, 128, 31, 17), dtype=torch.float32)
    exact = causal_convolution(x.double(), w.double(), method="lags")
    plain = causal_convolution(x, w, method=method)
    assert ((plain - exact).abs().max() / exact.abs().max()).detach() < 3e-6
    with torch.autocast("cpu", torch.bfloat16):
        cast = causal_convolution(x, w, method=method)
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


@EVERY_METHOD
@pytest.mark.parametrize("value", [1e6, torch.nan])
@torch.no_grad()
def test_the_future_reaches_no_output_or_as_rounding_only(ndim, method, value):
    x, w = operands(ndim, (2, 67, 41, 5, 3), dtype=torch.float32)
    later = x.clone()
    later[:, 33:] = value
    before, after = (causal_convolution(v, w, method=method) for v in (x, later))
    if method in ("fft", "planes", "staged"):
        limit = 3e-6 * after.abs().max() if value == value else torch.inf
        assert not (before - after)[:, :33].abs().max() > limit
    elif value == value or method != "toeplitz":  # there zero times NaN is NaN, within a block
        assert torch.equal(after[:, :33], before[:, :33])
    assert not torch.equal(after[:, 33:], before[:, 33:])


def test_weights_too_large_for_the_workspace_are_transformed_in_chunks(monkeypatch):
    x, w = operands(3, (2, 23, 23, 5, 7))
    whole = causal_convolution(x, w, method="staged")
    monkeypatch.setattr("attnlab.mixers.convolution.staged.WORKSPACE_BYTES", 8000)
    parts = causal_convolution(x, w, method="staged")
    assert_same(parts, whole, (x, w), rtol=0, atol=1e-12)


def saved_mib(function, *, besides):
    """Return what autograd keeps for backward, each storage once, some tensors left out."""
    kept, known = {}, {tensor.untyped_storage().data_ptr() for tensor in besides}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        assert function().requires_grad
    return sum(kept.values()) / MIB


def test_the_mixer_of_dense_lags_saves_little_beyond_its_weights():
    mixer = build_mixer("she", d_model=128, context_len=128, method="staged")
    x = torch.zeros(16, 128, 128, requires_grad=True)
    assert saved_mib(lambda: mixer(x), besides=mixer.parameters()) <= 5
    saved = {
        method: saved_mib(
            lambda method=method: causal_convolution(x, mixer.lag_weight, method=method),
            besides=[x, *mixer.parameters()],
        )
        for method in ("staged", "planes")
    }
    assert saved["staged"] == 0
    assert saved["planes"] > 20 * x.numel() * 4 / MIB


@pytest.mark.parametrize("method", ["grouped", "im2col", "staged"])
def test_no_method_written_here_keeps_every_window(method):
    x, w = operands(3, (2, 40, 40, 6, 6))
    windows = 2 * 40 * 40 * 6 * 8 / MIB
    assert saved_mib(lambda: causal_convolution(x, w, method=method), besides=[x, w]) < windows / 40


# Kept transforms


@given(sizes=sizes, seed=seeds)
@torch.no_grad()
def test_kept_spectra_give_the_same_values(sizes, seed):
    (x, w), spectra = operands(3, sizes, seed), SpectrumCache()
    for time in {x.shape[1], 1, (x.shape[1] + 1) // 2}:
        kept = causal_convolution(x[:, :time], w, method="staged", spectra=spectra)
        torch.testing.assert_close(kept, naive(x[:, :time], w), **EXACT)


WRITES = {
    "in place": lambda w: w.mul_(2),
    "through data": lambda w: w.data.mul_(2),
    "copied over": lambda w: w.copy_(torch.ones_like(w)),
    "one lag": lambda w: w[3].add_(1),
    "another storage": lambda w: w.set_(torch.ones_like(w)),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@torch.no_grad()
def test_kept_spectra_are_thrown_away_when_the_weights_change(write):
    (x, w), spectra = operands(3, (2, 9, 9, 3, 3)), SpectrumCache()
    causal_convolution(x, w, method="staged", spectra=spectra)
    write(w)
    kept = causal_convolution(x, w, method="staged", spectra=spectra)
    torch.testing.assert_close(kept, naive(x, w), **EXACT)


def test_kept_spectra_are_made_once_and_few_and_not_copied():
    _, w = operands(3, (1, 1, 9, 3, 3))
    spectra, made = SpectrumCache(max_entries=2), []
    for key in ("a", "a", "b", "a", "c", "a"):
        spectra.get(key, w, lambda weight, key=key: made.append(key) or weight)
    assert made == ["a", "b", "c"]
    assert len(spectra) == 2
    for twin in (copy.deepcopy(spectra), pickle.loads(pickle.dumps(spectra))):
        assert (len(twin), twin.max_entries) == (0, 2)


def test_threads_may_share_kept_spectra():
    _, w = operands(3, (1, 1, 9, 3, 3))
    spectra, together = SpectrumCache(max_entries=1), Barrier(2)

    def transform(weight):
        with suppress(BrokenBarrierError):
            together.wait(timeout=0.3)
        return weight

    with ThreadPoolExecutor(2) as pool:
        kept = [pool.submit(spectra.get, key, w, transform) for key in ("a", "b")]
    assert all(torch.equal(each.result(), w) for each in kept)
    assert together.broken, "two threads changed the cache at the same time"


def test_transforms_are_kept_while_nothing_is_trained():
    (x, w), spectra = operands(3, (2, 9, 9, 3, 3)), SpectrumCache()
    causal_convolution(x, w, method="staged", spectra=spectra).sum().backward()
    assert len(spectra) == 0
    assert w.grad is not None
    layer = build_mixer("she", d_model=3, context_len=7, method="staged").eval()
    with torch.no_grad():
        layer(torch.ones(1, 5, 3))
        layer.step(torch.ones(1, 3), layer.initial_state(1, streaming="tiles"))
    assert (len(layer._spectra), len(layer._kernels)) == (1, 1)
    layer.train()
    assert (len(layer._spectra), len(layer._kernels)) == (0, 0)


# Operations


@pytest.mark.parametrize("sizes", [(2, 37, 20, 5, 3), (1, 64, 64, 4, 4), (3, 17, 40, 3, 7)])
@pytest.mark.parametrize("method", ["lags", "im2col", "toeplitz", "planes", "staged"])
def test_counted_operations_are_those_that_torch_counts(method, sizes):
    of = dict(zip(("batch", "time", "n_lags", "d_in", "d_out"), sizes, strict=True))
    x, w = operands(3, sizes, dtype=torch.float32)
    with FlopCounterMode(display=False) as counter:
        y = causal_convolution(x, w, method=method)
    forward, both = (method_flops(method, ndim=3, **of, training=t) for t in (False, True))
    assert counter.get_total_flops() == forward
    if method in ("im2col", "staged"):  # laid out again; and products added in place are not seen
        return
    with FlopCounterMode(display=False) as counter:
        y.sum().backward()
    assert counter.get_total_flops() == both - forward


@EVERY_METHOD
def test_operations_through_frequencies_grow_slower_than_through_lags(ndim, method):
    of = {"ndim": ndim, "batch": 16, "d_in": 64}
    counts = [method_flops(method, time=n, n_lags=n, **of) for n in (256, 1024)]
    # four times the length squared is 16; blocks and a few lags at the ends make it a little less
    low, high = {"fft": (4, 5), "staged": (4, 8)}.get(method, (11, 16.1))
    assert low < counts[1] / counts[0] < high


# The choice, and what is refused


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
        (3, 16, 32, "frozen", "staged"),
        (3, 16, 32, "forward", "planes"),
        (3, 1, 128, "forward", "grouped"),
        (3, 1, 128, "frozen", "staged"),
        (2, 16, 8, "forward", "lags"),
        (2, 16, 8, "training", "fft"),
        (1, 16, 32, "frozen", "toeplitz"),
        (1, 16, 128, "training", "fft"),
    ],
)
def test_the_choice_is_what_was_fastest(ndim, batch, time, use, method):
    assert choose(ndim, batch=batch, time=time, n_lags=time, d_model=128, use=use) == method


@pytest.mark.parametrize(("ndim", "method"), [*METHODS, *((n, "auto") for n in SHAPES)])
def test_an_empty_batch_stays_empty_and_gives_no_gradient(ndim, method):
    x, w = operands(ndim, (0, 5, 4, 3, 3))
    y = causal_convolution(x, w, method=method)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 5, 3)
    assert not w.grad.any()


@pytest.mark.parametrize(
    ("x", "lag_weight", "words"),
    [
        ((2, 0, 3), (4, 3), "at least one time step; got time=0"),
        ((1, 3, 4), (3, 5, 4), "takes inputs 5 wide; x is 4 wide"),
        ((1, 3, 4), (3, 4, 4, 4), "must be"),
    ],
)
def test_shapes_that_do_not_match_are_explained(x, lag_weight, words):
    with pytest.raises(AttnlabError, match=words):
        causal_convolution(torch.zeros(x), torch.zeros(lag_weight))


def test_an_unknown_method_is_answered_with_those_there_are():
    x, w = operands(3, (1, 3, 3, 2, 2))
    with pytest.raises(UnknownNameError, match="Did you mean 'planes'"):
        causal_convolution(x, w, method="plane")
    with pytest.raises(UnknownNameError, match="Did you mean 'staged'"):
        method_flops("stagd", ndim=3, batch=1, time=1, n_lags=1, d_in=1)
