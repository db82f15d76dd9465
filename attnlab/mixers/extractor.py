"""The Extractor family: learned sums over the past, adjusted by the newest token.

Published are the idea in words, the count ``l d^2 + 2 d^2`` and the critical path of the
first Extractor. The equations of SHE follow from these; those of HE, WE and ME are our
reconstructions, and so are the defaults of the options.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.errors import AttnlabError
from attnlab.mixers.base import Ring, TokenMixer
from attnlab.mixers.convolution import SpectrumCache, causal_convolution, require_method
from attnlab.mixers.registry import register_mixer
from attnlab.mixers.streaming import (
    STREAMING,
    TiledStream,
    Tiling,
    choose_streaming,
)
from attnlab.shapes import require_features

CHOICES = {
    "extract": ("matrix", "value_diag", "diag", "scalar"),
    "index": ("lag", "absolute"),
    "adjust": ("matrix", "diag", "identity", "none", "position_only"),
    "scale": ("none", "rsqrt_t", "inv_t", "rsqrt_l"),
    "gate_activation": ("none", "sigmoid", "silu"),
    "window": ("truncate", "error"),
}


class Extractor(TokenMixer):
    r"""Sum the past with one learned weight a lag, then gate the sum by the newest token.

    .. math:: e_t = s_t \sum_{j=0}^{\min(t,\ell)-1} x_{t-j} W_j,\qquad
              y_t = \bigl(e_t \odot g(x_t)\bigr) W_{out}

    Shapes:
        x: ``(batch, time, d_model)``; returns the same shape. ``l = context_len``.
    Args:
        extract: ``matrix``: ``W_j`` is a matrix. ``value_diag``: ``W_v diag(w_j)``, one shared
            matrix and a vector a lag. ``diag``: a vector a lag. ``scalar``: a number a lag.
        rank: With ``matrix`` only: make every ``W_j`` of R shared matrices,
            ``W_j = sum_r B_r diag(a_r(j))``. Rank 1 is ``value_diag``; None leaves ``W_j`` free.
        index: ``lag`` counts back from the newest token; ``absolute`` gives every position
            its own weight, which makes the sum a prefix sum, not shift-equivariant.
        adjust: The gate g. ``matrix``: ``x_t W_adj``; ``diag``: ``x_t * w``; ``identity``: ``x_t``;
            ``none``: 1; ``position_only``: a vector for each t, blind to the token.
        scale: The factor s_t. ``none``: 1; ``rsqrt_t``, ``inv_t``: 1/sqrt(t), 1/t with t the
            number of summed tokens; ``rsqrt_l``: 1/sqrt(l).
        out_proj: Whether ``W_out`` is there.
        bias: Whether every map that is there adds one; the published count has none.
        bias_ext, bias_adj, bias_out: The same for the sum, the gate or the output map alone.
        gate_activation: ``none``, ``sigmoid`` or ``silu`` on the gate.
        window: Past ``context_len`` tokens, ``truncate`` drops the oldest, ``error`` refuses;
            before, the missing past counts as zero in both.
        init_std: Of the lag weights; ``None`` keeps the sum at the size of its inputs. With a
            factor s_t the weights then start sqrt(l) times larger than without.
        method: How the sum is evaluated, see ``causal_convolution``; values do not depend on it.
    Weights:
        Of the sum: ``l d^2`` for ``matrix``, ``R d^2 + R l d`` with a rank, ``d^2 + l d`` for
        ``value_diag``, ``l d`` for ``diag``, ``l`` for ``scalar``. With a rank, column
        ``r d + c`` of ``lag_weight``, ``(l, R d)``, is channel c of ``a_r``, and ``value`` has
        the ``B_r`` side by side.
    Source:
        arXiv:2308.07661 and arXiv:2311.12678 (``rsqrt_t`` is our reading of the latter);
        derived in notebook 03.
    """

    def __init__(
        self,
        *,
        d_model: int,
        context_len: int,
        extract: str = "matrix",
        rank: int | None = None,
        index: str = "lag",
        adjust: str = "matrix",
        scale: str = "none",
        out_proj: bool = True,
        bias: bool = False,
        bias_ext: bool = False,
        bias_adj: bool = False,
        bias_out: bool = False,
        gate_activation: str = "none",
        window: str = "truncate",
        init_std: float | None = None,
        method: str = "auto",
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        _require_options(
            extract=extract,
            index=index,
            adjust=adjust,
            scale=scale,
            gate_activation=gate_activation,
            window=window,
        )
        _require_rank(rank, extract)
        self.extract, self.index, self.scale, self.window = extract, index, scale, window
        self.rank = rank
        self.gate, self.gate_activation, self.method = adjust, gate_activation, method
        for option, given, needs, has in (
            ("bias_adj", bias_adj, "adjust='matrix'", adjust == "matrix"),
            ("bias_out", bias_out, "out_proj=True", out_proj),
        ):
            if given and not has:
                raise AttnlabError(f"{option}=True needs {needs}: there is no map to add it to.")
        self._add_extraction(bias_ext or bias, init_std, value_bias=bias)
        self._add_adjustment(bias_adj or bias)
        self.out = _linear(d_model, bias_out or bias) if out_proj else None

    def _add_extraction(self, bias: bool, init_std: float | None, *, value_bias: bool) -> None:
        d, n_lags, rank = self.d_model, self.context_len, self.rank or 1
        has_value = self.extract == "value_diag" or self.rank is not None
        self.value = _linear(d, value_bias, n_maps=rank) if has_value else None
        kind = "value_diag" if has_value else self.extract
        shape = {"matrix": (n_lags, d, d), "scalar": (n_lags,)}.get(kind, (n_lags, rank * d))
        self.lag_weight = nn.Parameter(torch.empty(shape))
        require_method(self.method, ndim=len(shape))
        self._spectra = SpectrumCache()  # of a model in eval mode
        self.extract_bias = nn.Parameter(torch.zeros(d)) if bias else None
        n_terms = d if kind == "matrix" else rank
        n_summed = n_lags if self.scale == "none" else 1
        balanced = (n_terms * n_summed) ** -0.5
        nn.init.normal_(self.lag_weight, std=balanced if init_std is None else init_std)
        self._kernels = SpectrumCache(max_entries=1)  # of streams

    def _add_adjustment(self, bias: bool) -> None:
        d = self.d_model
        self.adjust = _linear(d, bias) if self.gate == "matrix" else None
        size = {"diag": (d,), "position_only": (self.context_len, d)}.get(self.gate)
        self.adjust_weight = nn.Parameter(torch.ones(size)) if size else None

    def train(self, mode: bool = True) -> "Extractor":
        """Change the mode; weights that are trained again need no kept transforms."""
        if mode:
            self._spectra.clear()
            self._kernels.clear()
        return super().train(mode)

    def mix(self, x: Tensor) -> Tensor:
        """Extract from all prefixes at once, adjust, map out."""
        time = x.shape[1]
        self._require_fit(time)
        if self.index == "absolute":
            extracted = self._absolute_sum(x)
        else:
            extracted = self._over_ranks(self._lag_sum(self._source(x)))
        return self._finish(extracted, x, self._places(x, first=0))

    def _lag_sum(self, source: Tensor) -> Tensor:
        spectra = None if self.training else self._spectra
        return causal_convolution(source, self.lag_weight, method=self.method, spectra=spectra)

    def _absolute_sum(self, x: Tensor, *, first: int = 0) -> Tensor:
        return self._weighted(x, slice(first, first + x.shape[1])).cumsum(1)

    def _weighted(self, x: Tensor, positions: slice) -> Tensor:
        """Return ``x_i W_i`` for these positions, the terms of the prefix sum."""
        weight = self.lag_weight[positions]
        if weight.ndim == 3:
            return torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)
        return self._over_ranks(self._source(x) * (weight[:, None] if weight.ndim == 1 else weight))

    def _source(self, x: Tensor) -> Tensor:
        """Return what is summed over lags: the tokens, or their values."""
        return x if self.value is None else self.value(x)

    def _over_ranks(self, extracted: Tensor) -> Tensor:
        return extracted if self.rank is None else extracted.unflatten(-1, (self.rank, -1)).sum(-2)

    def _places(self, x: Tensor, *, first: int) -> Tensor:
        """Return the positions from 0 to ``context_len - 1``, where they stay, one a token."""
        places = torch.arange(first, first + x.shape[1], device=x.device)
        return places.clamp(max=self.context_len - 1)

    def _finish(self, extracted: Tensor, x: Tensor, place: Tensor | int) -> Tensor:
        extracted = self._scaled(extracted, place)
        if self.extract_bias is not None:
            extracted = extracted + self.extract_bias
        adjusted = extracted if self.gate == "none" else extracted * self._gate(x, place)
        return adjusted if self.out is None else self.out(adjusted)

    def _scaled(self, extracted: Tensor, place: Tensor | int) -> Tensor:
        if self.scale == "none":
            return extracted
        if self.scale == "rsqrt_l":
            return extracted * self.context_len**-0.5
        n_summed = place + 1
        if isinstance(n_summed, Tensor):
            n_summed = n_summed[:, None].to(extracted.dtype)
        return extracted / (n_summed if self.scale == "inv_t" else n_summed**0.5)

    def _gate(self, x: Tensor, place: Tensor | int) -> Tensor:
        if self.adjust is not None:
            gate = self.adjust(x)
        elif self.adjust_weight is None:
            gate = x
        elif self.gate == "diag":
            gate = x * self.adjust_weight
        else:
            gate = self.adjust_weight[place].expand_as(x)
        if self.gate_activation == "sigmoid":
            return gate.sigmoid()
        return F.silu(gate) if self.gate_activation == "silu" else gate

    def initial_state(self, batch_size: int, *, streaming: str = "auto") -> Ring | TiledStream:
        """Return the state before the first token.

        Args:
            streaming: ``ring`` sums all kept inputs anew for every token; ``tiles`` gives a
                token's share to later outputs in blocks, so that the cost per token grows
                with log^2 of the context, at the price of a rare dear token; ``auto`` takes
                what is usually faster. With gradients both are the ring. The absolute index
                needs a running sum only.
        """
        if streaming not in STREAMING:
            raise AttnlabError(f"streaming={streaming!r} is not one of {', '.join(STREAMING)}.")
        if self.index == "absolute":
            return self._running_sum(batch_size, streaming)
        width = self.d_model * (self.rank or 1)
        ring = Ring.empty(batch_size, self.context_len, width, **self._like)
        if streaming == "auto":
            streaming = choose_streaming(self.lag_weight, batch_size=batch_size, width=width)
        return ring if streaming == "ring" else TiledStream(ring, Tiling.choose(self.lag_weight))

    def _running_sum(self, batch_size: int, streaming: str) -> Ring:
        if streaming == "tiles":
            raise AttnlabError(
                "streaming='tiles' sums over lags; index='absolute' has none and needs one "
                "running sum only. Leave streaming='auto'."
            )
        return Ring.empty(batch_size, 1, self.d_model, **self._like)

    def step(self, x_t: Tensor, state: Ring | TiledStream) -> tuple[Tensor, Ring | TiledStream]:
        """Extract from the past and the new token."""
        position = state.n_seen
        self._require_fit(position + 1)
        if self.index == "absolute":
            extracted, state = self._absolute_step(x_t[:, None], state)
            extracted = extracted[:, 0]
        else:
            extracted, state = self._lag_step(self._source(x_t), state)
            extracted = self._over_ranks(extracted)
        return self._finish(extracted, x_t, min(position, self.context_len - 1)), state

    def _lag_step(
        self, source: Tensor, state: Ring | TiledStream
    ) -> tuple[Tensor, Ring | TiledStream]:
        if isinstance(state, TiledStream):
            if not torch.is_grad_enabled():
                return state.push(source, self.lag_weight, self._kernels), state
            state = state.ring  # what is recorded must not be written over
        state = state.push(source)
        past = state.newest_first()  # (B, J, D)
        weight = self.lag_weight[: past.shape[1]]
        if weight.ndim == 3:
            return past.flatten(1) @ weight.flatten(0, 1), state
        return (past * (weight[:, None] if weight.ndim == 1 else weight)).sum(1), state

    def _absolute_step(self, x: Tensor, state: Ring) -> tuple[Tensor, Ring]:
        extracted = self._absolute_sum(x, first=state.n_seen)
        if state.n_seen:
            extracted = extracted + state.newest(1)
        return extracted, state.extend(extracted)

    def prefill(
        self, x: Tensor, state: Ring | TiledStream | None = None
    ) -> tuple[Tensor, Ring | TiledStream]:
        """Mix a whole prefix at once; return its outputs and the state after it."""
        require_features(x, d_model=self.d_model, where=type(self).__name__)
        state = self.initial_state(x.shape[0]) if state is None else state
        first, time = state.n_seen, x.shape[1]
        self._require_fit(first + time)
        if self.index == "absolute":
            extracted, state = self._absolute_step(x, state)
        else:
            extracted, state = self._lag_prefill(self._source(x), state)
            extracted = self._over_ranks(extracted)
        return self._finish(extracted, x, self._places(x, first=first)), state

    def _lag_prefill(
        self, source: Tensor, state: Ring | TiledStream
    ) -> tuple[Tensor, Ring | TiledStream]:
        ring = state.ring if isinstance(state, TiledStream) else state
        past = ring.newest(min(ring.n_kept, self.context_len - 1)).flip(1)
        extracted = self._lag_sum(torch.cat([past, source], 1))[:, past.shape[1] :]
        ring = ring.extend(source)
        is_tiled = isinstance(state, TiledStream)
        return extracted, TiledStream(ring, state.tiling) if is_tiled else ring

    def _require_fit(self, time: int) -> None:
        if time <= self.context_len or (self.window == "truncate" and self.index == "lag"):
            return
        cause = "window='error'" if self.index == "lag" else "the absolute index"
        raise AttnlabError(
            f"Position {time} lies beyond context_len={self.context_len}, and {cause} has no "
            "weight for it. Use index='lag' with window='truncate', or a longer context."
        )

    def extra_repr(self) -> str:
        """Show the options that make this member of the family."""
        return f"extract={self.extract}, index={self.index}, adjust={self.gate}, scale={self.scale}"


def _linear(d_model: int, bias: bool, *, n_maps: int = 1) -> nn.Linear:
    linear = nn.Linear(d_model, n_maps * d_model, bias=bias)
    nn.init.normal_(linear.weight, std=d_model**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _require_options(**options: Any) -> None:
    for option, value in options.items():
        if value not in CHOICES[option]:
            raise AttnlabError(f"{option}={value!r} is not one of {', '.join(CHOICES[option])}.")


def _require_rank(rank: int | None, extract: str) -> None:
    if rank is None:
        return
    if rank < 1:
        raise AttnlabError(f"rank={rank} must be 1 or more; None leaves every W_j free.")
    if extract != "matrix":
        raise AttnlabError(
            f"rank={rank} builds the matrices W_j of extract='matrix'; extract={extract!r} has "
            "none. Leave one of the two out."
        )


@register_mixer("she")
class SHE(Extractor):
    r"""Super high-performance Extractor: a full matrix for every lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} x_{t-j} W_j\Bigr) \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``(context_len + 2) * d_model**2``, as published; with ``rank=R`` it is
    ``(R + 2) * d_model**2 + R * context_len * d_model``. The skeleton is inferred from the
    published count and critical path. Options: see ``Extractor``.
    """


class _Preset(Extractor):
    """An Extractor with other defaults; every option can still be given."""

    preset: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, *, d_model: int, context_len: int, **options: Any) -> None:
        super().__init__(d_model=d_model, context_len=context_len, **{**self.preset, **options})


@register_mixer("he")
class HE(_Preset):
    r"""Higher-performance Extractor (reconstruction): one value map, one vector a lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} (x_{t-j} W_v) \odot w_j\Bigr)
              \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``3 * d_model**2 + context_len * d_model``. Equals SHE with ``W_j = W_v diag(w_j)``.
    """

    preset: ClassVar = {"extract": "value_diag"}


@register_mixer("we")
class WE(_Preset):
    r"""Worthwhile Extractor (reconstruction): HE without the value and output maps.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t W_{adj})

    Weights: ``d_model**2 + context_len * d_model``.
    """

    preset: ClassVar = {"extract": "diag", "out_proj": False}


@register_mixer("me")
class ME(_Preset):
    r"""Minimalist Extractor (reconstruction): no matrix at all.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t \odot w_{adj})

    Weights: ``context_len * d_model + d_model``.
    """

    preset: ClassVar = {"extract": "diag", "adjust": "diag", "out_proj": False}
