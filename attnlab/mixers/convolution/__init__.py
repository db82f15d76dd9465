r"""Ways to evaluate one equation, the causal convolution that every Extractor rests on.

.. math:: e_t = \sum_{j=0}^{\min(t, K-1)} x_{t-j} W_j

``W_j`` is a matrix (SHE), a vector (HE, WE, ME) or a number (the scalar variant) for each
lag. Every method gives the same values and gradients; they differ in time and memory.
Methods over frequencies are causal up to rounding (about 1e-6 of the largest input in
float32) and let a NaN anywhere reach everywhere; the others are causal exactly. (Toeplitz
forms multiply what lies ahead by zero, which stops every number but not a NaN.)

``direct`` goes through the lags or blocks of them, ``fourier`` through frequencies with the
library's transform or one large matrix, ``staged`` through frequencies in small matrix products.
"""

import torch
from torch import Tensor

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.mixers.convolution import direct, fourier, staged
from attnlab.mixers.convolution.flops import method_flops
from attnlab.mixers.convolution.spectra import SpectrumCache

__all__ = [
    "USES",
    "SpectrumCache",
    "causal_convolution",
    "choose",
    "choose_method",
    "list_methods",
    "method_flops",
    "require_method",
]

_METHODS = {
    3: {
        "lags": direct.lags,
        "grouped": direct.grouped_lags,
        "im2col": direct.im2col,
        "toeplitz": direct.block_toeplitz,
        "fft": fourier.fft,
        "planes": fourier.planes,
        "staged": staged.staged,
    },
    2: {"lags": direct.lags, "toeplitz": direct.vector_toeplitz, "fft": fourier.vector_fft},
    1: {"lags": direct.lags, "toeplitz": direct.scalar_toeplitz, "fft": fourier.scalar_fft},
}
USES = ("forward", "training", "frozen")


def causal_convolution(
    x: Tensor, lag_weight: Tensor, *, method: str = "auto", spectra: SpectrumCache | None = None
) -> Tensor:
    """Sum the past of every position, each lag through its own weight.

    Shapes:
        x: ``(batch, time, d_in)``.
        lag_weight: ``(n_lags, d_in, d_out)`` for a matrix a lag, ``(n_lags, d_in)`` for a
        vector, ``(n_lags,)`` for a number; index 0 is the newest token.
        Returns ``(batch, time, d_out)``.
    Args:
        method: A name from ``list_methods(lag_weight.ndim)``, or ``auto``.
        spectra: Where the transformed weights of a frozen model are kept between calls;
            read only when no gradient is asked for and the method goes over frequencies.
    Source:
        arXiv:2308.07661, extraction; derived in notebooks 03 and 06.
    """
    _require_shapes(x, lag_weight)
    require_method(method, ndim=lag_weight.ndim)
    is_frozen = spectra is not None and not torch.is_grad_enabled()
    if not x.shape[0]:
        method = "lags"  # transforms and tables of sizes have no place for an empty batch
    if method == "auto":
        method = choose_method(x, lag_weight, is_frozen=is_frozen)
    with torch.autocast(x.device.type, enabled=False):  # transforms need float32 at least
        given = torch.promote_types(x.dtype, lag_weight.dtype)
        dtype = torch.promote_types(given, torch.float32)
        if is_frozen and method == "staged":
            return staged.with_kept_spectrum(x.to(dtype), lag_weight, spectra).to(given)
        weight = lag_weight[: x.shape[1]].to(dtype)
        return _METHODS[lag_weight.ndim][method](x.to(dtype), weight).to(given)


def list_methods(ndim: int) -> tuple[str, ...]:
    """Return the methods for lag weights with this many axes: 3, 2 or 1."""
    return tuple(_METHODS[ndim])


def require_method(method: str, *, ndim: int) -> None:
    """Raise UnknownNameError unless ``method`` works for lag weights with this many axes."""
    if method != "auto" and method not in _METHODS[ndim]:
        step = "Leave method='auto' to let the size decide."
        raise UnknownNameError("convolution method", method, _METHODS[ndim], next_step=step)


def choose_method(x: Tensor, lag_weight: Tensor, *, is_frozen: bool = False) -> str:
    """Return the method that is usually fastest at these sizes, see ``choose``.

    Args:
        is_frozen: The weights stay as they are, so that their transform is kept.
    """
    needs_gradient = torch.is_grad_enabled() and (x.requires_grad or lag_weight.requires_grad)
    return choose(
        lag_weight.ndim,
        batch=x.shape[0],
        time=x.shape[1],
        n_lags=lag_weight.shape[0],
        d_model=x.shape[-1],
        use="training" if needs_gradient else "frozen" if is_frozen else "forward",
    )


def choose(ndim: int, *, batch: int, time: int, n_lags: int, d_model: int, use: str) -> str:
    """Return the method that is usually fastest, by measurements on one core in float32.

    At widths 64 and 128, batches 1 and 16, and 8 to 2048 tokens with as many lags the rule names
    the fastest of all methods 147 times out of 154, and one that is nearly as fast else. A long
    sequence under a short kernel counts as that many more sequences of the kernel's length.

    Args:
        ndim: Axes of the lag weights: 3, 2 or 1.
        use: ``forward`` alone, ``training`` with backward, ``frozen`` with kept weights.
    """
    batch *= max(1, time // n_lags)
    time = min(time, n_lags)
    if ndim == 2:
        return "lags" if batch >= 4 and time <= 16 and use != "training" else "fft"
    if ndim == 1:
        return "toeplitz" if time <= (64 if use == "training" else 256) else "fft"
    if batch >= 4:
        return "planes" if time <= (16 if use == "frozen" else 64) else "staged"
    is_narrow = d_model < 90
    if is_narrow and use == "training" and time <= 16:
        return "planes"
    direct_until = {"forward": 1024, "training": 256 if is_narrow else 1024}
    return "grouped" if time <= direct_until.get(use, 16 if is_narrow else 64) else "staged"


def _require_shapes(x: Tensor, lag_weight: Tensor) -> None:
    if lag_weight.ndim not in _METHODS:
        raise AttnlabError(
            f"lag_weight has shape {tuple(lag_weight.shape)}; it must be (n_lags, d_in, d_out), "
            "(n_lags, d_in) or (n_lags,)."
        )
    if not x.shape[1]:
        raise AttnlabError("causal_convolution needs at least one time step; got time=0.")
    if lag_weight.ndim > 1 and lag_weight.shape[1] != x.shape[-1]:
        raise AttnlabError(
            f"lag_weight takes inputs {lag_weight.shape[1]} wide; x is {x.shape[-1]} wide."
        )
