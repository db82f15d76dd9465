"""The Extractor family: learned sums over the past, adjusted by the newest token.

Published are the idea in words, the count ``l d^2 + 2 d^2`` and the critical path of the
first Extractor. The equations of SHE follow from these; those of HE, WE and ME are our
reconstructions, and so are the defaults of the options.
"""

from collections.abc import Mapping
from functools import wraps
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attnlab.errors import AttnlabError
from attnlab.mixers.base import Ring, Step, Sum, TokenMixer, mixer, product
from attnlab.mixers.convolution import SpectrumCache, causal_convolution, require_method
from attnlab.mixers.streaming import STREAMING, TiledStream, Tiling, choose_streaming

CHOICES = {
    "extract": ("matrix", "value_diag", "diag", "scalar"),
    "index": ("lag", "absolute"),
    "adjust": ("matrix", "diag", "identity", "none", "position_only"),
    "scale": ("none", "rsqrt_t", "inv_t", "rsqrt_l"),
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
            its own weight, which makes the sum a prefix sum, not shift-equivariant, that ends
            with the context; a sum over lags drops the oldest token instead.
        adjust: The gate g. ``matrix``: ``x_t W_adj``; ``diag``: ``x_t * w``; ``identity``: ``x_t``;
            ``none``: 1; ``position_only``: a vector for each t, blind to the token.
        scale: The factor s_t. ``none``: 1; ``rsqrt_t``, ``inv_t``: 1/sqrt(t), 1/t with t the
            number of summed tokens; ``rsqrt_l``: 1/sqrt(l).
        out_proj: Whether ``W_out`` is there.
        bias: Whether the sum and every map that is there add one; the published count has none.
        init_std: Of the lag weights; ``None`` keeps the sum at the size of its inputs. With a
            factor s_t the weights then start sqrt(l) times larger than without.
        start_decay: Power of the lag with which the weights fall at the start: 0 starts all
            alike, which drowns the newest token among many.
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

    structure, adapts = "Toeplitz", False
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        **CHOICES,
        **dict.fromkeys(("bias", "out_proj"), (True,)),
    }

    value: Any  # linear maps and weights, or None, as the options say
    adjust: Any
    adjust_weight: Any
    out: Any

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
        init_std: float | None = None,
        start_decay: float = 0.0,
        method: str = "auto",
    ) -> None:
        super().__init__(d_model=d_model, context_len=context_len)
        _require_options(rank, extract=extract, index=index, adjust=adjust, scale=scale)
        self.extract, self.index, self.scale = extract, index, scale
        self.rank, self.gate, self.method = rank, adjust, method
        self._add_extraction(bias, init_std, start_decay)
        self.adjust = _linear(d_model, bias) if adjust == "matrix" else None
        size = {"diag": (d_model,), "position_only": (context_len, d_model)}.get(adjust)
        self.adjust_weight = nn.Parameter(torch.ones(size)) if size else None
        self.out = _linear(d_model, bias) if out_proj else None
        self._spectra = SpectrumCache()  # of a model in eval mode
        self._kernels = SpectrumCache(max_entries=1)  # of streams

    def _add_extraction(self, bias: bool, init_std: float | None, start_decay: float) -> None:
        d, n_lags, rank = self.d_model, self.context_len, self.rank or 1
        has_value = self.extract == "value_diag" or self.rank is not None
        self.value = _linear(d, bias, n_maps=rank) if has_value else None
        kind = "value_diag" if has_value else self.extract
        shape = {"matrix": (n_lags, d, d), "scalar": (n_lags,)}.get(kind, (n_lags, rank * d))
        require_method(self.method, ndim=len(shape))
        n_terms = d if kind == "matrix" else rank
        n_summed = n_lags if self.scale == "none" else 1
        balanced = (n_terms * n_summed) ** -0.5
        self.lag_weight = nn.Parameter(torch.empty(shape))
        nn.init.normal_(self.lag_weight, std=balanced if init_std is None else init_std)
        if start_decay:
            fall = torch.arange(1.0, n_lags + 1) ** -start_decay
            fall = fall * (n_lags / fall.square().sum()) ** 0.5  # the sum keeps its size
            self.lag_weight.data.mul_(fall.view(-1, *[1] * (len(shape) - 1)))
        self.extract_bias = nn.Parameter(torch.zeros(d)) if bias else None

    @property
    def longest(self) -> int | None:
        """The longest sequence: with absolute positions the context, else any."""
        return self.context_len if self.index == "absolute" else None

    def mixing_matrix(self, x: Tensor) -> Tensor:
        """Return a Toeplitz matrix for each channel, ``(1, d_model or 1, time, time)``.

        Raises:
            AttnlabError: The lags have matrices: then M has a block of d x d for each pair.
        """
        if self.lag_weight.ndim == 3 or self.rank is not None:
            return super().mixing_matrix(x)
        t = torch.arange(x.shape[1], device=x.device)
        lag = t[:, None] - t
        place = lag if self.index == "lag" else t.expand_as(lag)
        weight = _as_vectors(self.lag_weight).T[:, place.clamp(0, self.context_len - 1)]
        return (weight * ((lag >= 0) & (lag < self.context_len)))[None]

    def values(self, x: Tensor) -> Tensor:
        """Return what is summed over lags by channel, ``(batch, d_model or 1, time, 1 or d)``."""
        source = self._source(x)
        return source[:, None] if self.lag_weight.ndim == 1 else source.mT[..., None]

    def finish(self, mixed: Tensor, x: Tensor) -> Tensor:
        """Scale, adjust and map out."""
        extracted = mixed[:, 0] if self.lag_weight.ndim == 1 else mixed[..., 0].mT
        return self._finish(extracted, x, self._places(x))

    def definition(self, x: Tensor) -> Tensor:
        """Extract, scale, adjust and map out, one position at a time (arXiv:2308.07661)."""
        sums = enumerate(self._defined_sum(x, t) for t in range(x.shape[1]))
        return torch.stack([self._defined_finish(e_t, x[:, t], t) for t, e_t in sums], 1)

    def _defined_sum(self, x: Tensor, t: int) -> Tensor:
        e_t = torch.zeros_like(x[:, t])
        for j in range(min(t + 1, self.context_len)):
            weight = self.lag_weight[j if self.index == "lag" else t - j]
            token = x[:, t - j] if self.value is None else self.value(x[:, t - j])
            if self.rank is not None:  # column r d + c of both is channel c of map r
                e_t = e_t + sum((token * weight).split(self.d_model, dim=-1))
            else:
                e_t = e_t + (token @ weight if self.extract == "matrix" else token * weight)
        return e_t

    def _defined_finish(self, e_t: Tensor, x_t: Tensor, t: int) -> Tensor:
        n = self.context_len if self.scale == "rsqrt_l" else min(t + 1, self.context_len)
        if self.scale != "none":
            e_t = e_t * (1 / n if self.scale == "inv_t" else n**-0.5)
        e_t = e_t if self.extract_bias is None else e_t + self.extract_bias
        g_t = self._defined_gate(x_t, min(t, self.context_len - 1))
        a_t = e_t if g_t is None else e_t * g_t
        return a_t if self.out is None else self.out(a_t)

    def _defined_gate(self, x_t: Tensor, position: int) -> Tensor | None:
        gates = {
            "matrix": lambda: self.adjust(x_t),
            "diag": lambda: x_t * self.adjust_weight,
            "identity": lambda: x_t,
            "position_only": lambda: self.adjust_weight[position].expand_as(x_t),
        }
        return gates.get(self.gate, lambda: None)()

    def train(self, mode: bool = True) -> "Extractor":
        """Change the mode; weights that are trained again need no kept transforms."""
        if mode:
            self._spectra.clear()
            self._kernels.clear()
        return super().train(mode)

    def mix(self, x: Tensor) -> Tensor:
        """Extract from all prefixes at once, adjust, map out."""
        self.require_length(x.shape[1])
        if self.index == "absolute":
            extracted = self._prefix_sum(x)
        else:
            extracted = self._over_ranks(self._lag_sum(self._source(x)), x)
        return self._finish(extracted, x, self._places(x))

    def _lag_sum(self, source: Tensor) -> Tensor:
        spectra = None if self.training else self._spectra
        options = {"method": self.method, "spectra": spectra}
        return causal_convolution(source, self.lag_weight, **options)

    def _prefix_sum(self, x: Tensor, *, first: int = 0) -> Tensor:
        """Return the running sum of ``x_i W_i`` from position ``first`` on."""
        weight = self.lag_weight[first : first + x.shape[1]]
        if weight.ndim == 3:
            terms = torch.bmm(x.transpose(0, 1), weight).transpose(0, 1)
        else:
            terms = self._over_ranks(self._source(x) * _as_vectors(weight), x)
        return terms.cumsum(1)

    def _source(self, x: Tensor) -> Tensor:
        """Return what is summed over lags: the tokens, or their values."""
        return x if self.value is None else self.value(x)

    def _over_ranks(self, extracted: Tensor, x: Tensor) -> Tensor:
        """Add what the maps of a rank gave to the tokens x."""
        return extracted if self.rank is None else extracted.unflatten(-1, (self.rank, -1)).sum(-2)

    def _finish(self, extracted: Tensor, x: Tensor, places: Tensor | int) -> Tensor:
        """Scale, adjust and map out the sums at these places, or at one for all."""
        if self.scale == "rsqrt_l":
            extracted = extracted * self.context_len**-0.5
        elif self.scale != "none":
            n_summed = places + 1
            if isinstance(n_summed, Tensor):
                n_summed = n_summed[..., None].to(extracted.dtype)
            extracted = extracted / (n_summed if self.scale == "inv_t" else n_summed**0.5)
        if self.extract_bias is not None:
            extracted = extracted + self.extract_bias
        if self.gate == "position_only":
            adjusted = extracted * self.adjust_weight[places]
        elif self.gate != "none":
            gate = x if self.adjust is None else self.adjust(x)
            adjusted = extracted * (gate if self.adjust_weight is None else x * self.adjust_weight)
        else:
            adjusted = extracted
        return adjusted if self.out is None else self.out(adjusted)

    def _places(self, x: Tensor, first: int = 0) -> Tensor:
        """Return the positions from ``first`` on; beyond the context they stay at its end."""
        places = torch.arange(first, first + x.shape[1], device=x.device)
        return places.clamp(max=self.context_len - 1)

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
            if streaming == "tiles":
                raise AttnlabError(
                    "streaming='tiles' sums over lags; index='absolute' has none and needs one "
                    "running sum only. Leave streaming='auto'."
                )
            return Ring.empty(batch_size, 1, self.d_model, **self._like)
        width = self.d_model * (self.rank or 1)
        ring = Ring.empty(batch_size, self.context_len, width, **self._like)
        if streaming == "auto":
            streaming = choose_streaming(self.lag_weight, batch_size=batch_size, width=width)
        return ring if streaming == "ring" else TiledStream(ring, Tiling.choose(self.lag_weight))

    def step(self, x_t: Tensor, state: Ring | TiledStream) -> tuple[Tensor, Ring | TiledStream]:
        """Extract from the past and the new token."""
        if self.index == "absolute":
            y, state = self.prefill(x_t[:, None], state)
            return y[:, 0], state
        self.require_step(x_t, state)
        first, source = state.n_seen, self._source(x_t)
        if isinstance(state, TiledStream) and torch.is_grad_enabled():
            state = state.ring  # what is recorded must not be written over
        if isinstance(state, TiledStream):
            extracted = state.push(source, self.lag_weight, self._kernels)
        else:
            state = state.push(source)
            past = state.newest_first()  # (B, J, D)
            weight = self.lag_weight[: past.shape[1]]
            if weight.ndim == 3:
                extracted = past.flatten(1) @ weight.flatten(0, 1)
            else:
                extracted = (past * _as_vectors(weight)).sum(1)
        place = min(first, self.context_len - 1)
        return self._finish(self._over_ranks(extracted, x_t), x_t, place), state

    def prefill(
        self, x: Tensor, state: Ring | TiledStream | None = None
    ) -> tuple[Tensor, Ring | TiledStream]:
        """Mix a whole prefix at once; return its outputs and the state after it."""
        self.require_input(x)
        if state is None:
            state = self.initial_state(x.shape[0])
        self.require_state(state)
        first = state.n_seen
        self.require_length(first + x.shape[1])
        ring = state.ring if isinstance(state, TiledStream) else state
        ring.require_batch(x)
        if self.index == "absolute":
            extracted = self._prefix_sum(x, first=first)
            extracted = extracted + ring.newest(1) if first else extracted
            ring = ring.extend(extracted)
        else:
            past, source = ring.newest(min(ring.n_kept, self.context_len - 1)), self._source(x)
            summed = self._lag_sum(torch.cat([past.flip(1), source], 1))
            extracted = self._over_ranks(summed[:, past.shape[1] :], x)
            ring = ring.extend(source)
        state = TiledStream(ring, state.tiling) if isinstance(state, TiledStream) else ring
        return self._finish(extracted, x, self._places(x, first)), state

    def extra_repr(self) -> str:
        """Show the options that make this member of the family."""
        return f"extract={self.extract}, index={self.index}, adjust={self.gate}, scale={self.scale}"


def _as_vectors(weight: Tensor) -> Tensor:
    return weight[:, None] if weight.ndim == 1 else weight


def _linear(d_model: int, bias: bool, *, n_maps: int = 1) -> nn.Linear:
    linear = nn.Linear(d_model, n_maps * d_model, bias=bias)
    nn.init.normal_(linear.weight, std=d_model**-0.5)
    if bias:
        nn.init.zeros_(linear.bias)
    return linear


def _require_options(rank: int | None, **options: str) -> None:
    for option, value in options.items():
        if value not in CHOICES[option]:
            raise AttnlabError(f"{option}={value!r} is not one of {', '.join(CHOICES[option])}.")
    if rank is not None and rank < 1:
        raise AttnlabError(f"rank={rank} must be 1 or more; None leaves every W_j free.")
    if rank is not None and options["extract"] != "matrix":
        raise AttnlabError(
            f"rank={rank} builds the matrices W_j of extract='matrix'; "
            f"extract={options['extract']!r} has none. Leave one of the two out."
        )


class _Preset(Extractor):
    """An Extractor with other defaults; every option can still be given."""

    @wraps(Extractor.__init__)
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**self.preset, **options})


_GATED = ("mul", 1, "lag_weight × adjust")


@mixer("she", look={"family": "extractor", "label": "SHE", "marker": "s"})
class SHE(Extractor):
    r"""Super high-performance Extractor: a full matrix for every lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} x_{t-j} W_j\Bigr) \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``(context_len + 2) * d_model**2``, as published; with ``rank=R`` it is
    ``(R + 2) * d_model**2 + R * context_len * d_model``. The skeleton is inferred from the
    published count and critical path. Options: see ``Extractor``.
    """

    expected_weights = staticmethod(lambda d, n, h: n * d**2 + 2 * d**2)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: P * d**2 + 2 * T * d**2 + T * d)
    expected_chain = staticmethod(
        lambda d, T, h, total: [
            *product("lag_weight", total(T * d)),
            _GATED,
            *product("out", total(d)),
        ]
    )


@mixer("he", look={"family": "extractor", "label": "HE", "marker": "P"})
class HE(_Preset):
    r"""Higher-performance Extractor (reconstruction): one value map, one vector a lag.

    .. math:: y_t = \Bigl[\Bigl(\sum_{j} (x_{t-j} W_v) \odot w_j\Bigr)
              \odot (x_t W_{adj})\Bigr] W_{out}

    Weights: ``3 * d_model**2 + context_len * d_model``. Equals SHE with ``W_j = W_v diag(w_j)``.
    """

    preset: ClassVar[Mapping[str, Any]] = {"extract": "value_diag"}
    expected_weights = staticmethod(lambda d, n, h: 3 * d**2 + n * d)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: 3 * T * d**2 + P * d + T * d)

    @staticmethod
    def expected_chain(d: int, T: int, h: int, total: Sum) -> list[Step]:
        """The value of the newest token is late; those of the others are cached."""
        late = 1 + total(d)
        summed = total(T, late=late) - late
        value, weighted = product("value", total(d)), product("lag_weight", summed)
        return [*value, *weighted, _GATED, *product("out", total(d))]


@mixer("we", look={"family": "extractor", "label": "WE", "marker": "X"})
class WE(_Preset):
    r"""Worthwhile Extractor (reconstruction): HE without the value and output maps.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t W_{adj})

    Weights: ``d_model**2 + context_len * d_model``.
    """

    preset: ClassVar[Mapping[str, Any]] = {"extract": "diag", "out_proj": False}
    expected_weights = staticmethod(lambda d, n, h: d**2 + n * d)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: T * d**2 + P * d + T * d)

    @staticmethod
    def expected_chain(d: int, T: int, h: int, total: Sum) -> list[Step]:
        """The longer of two products goes first: the sum over lags, or the gate's over channels."""
        longer = ("lag_weight", T) if total(T) >= total(d) else ("adjust", d)
        return [*product(longer[0], total(longer[1])), _GATED]


@mixer("me", look={"family": "extractor", "label": "ME", "marker": "*"})
class ME(_Preset):
    r"""Minimalist Extractor (reconstruction): no matrix at all.

    .. math:: y_t = \Bigl(\sum_{j} x_{t-j} \odot w_j\Bigr) \odot (x_t \odot w_{adj})

    Weights: ``context_len * d_model + d_model``.
    """

    preset: ClassVar[Mapping[str, Any]] = {"extract": "diag", "adjust": "diag", "out_proj": False}
    expected_weights = staticmethod(lambda d, n, h: n * d + d)
    expected_state = staticmethod(lambda d, n, h: n * d)
    expected_multiplications = staticmethod(lambda d, T, P, h: P * d + 2 * T * d)
    expected_chain = staticmethod(
        lambda d, T, h, total: [
            *product("lag_weight", total(T)),
            ("mul", 1, "lag_weight × adjust_weight"),
        ]
    )
