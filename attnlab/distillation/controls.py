"""Replacements that have learnt nothing, or everything: what a student's score is worth.

A student is only as good as what it beats. Each control is called as the site it replaces, and
like a student it stands for the head outputs, before the last projection.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from attnlab.distillation.capture import Activations
from attnlab.distillation.nets import mask_out
from attnlab.distillation.sites import Key, StudentSpec, chosen_layers, find_site
from attnlab.distillation.students import build_students
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.models import Translator

CONTROLS = ("identity", "mean", "zero", "uniform", "gaussian", "random")


class Identity(nn.Module):
    """The teacher's own look-up: nothing may change."""

    def __init__(self, site: nn.Module) -> None:
        super().__init__()
        self.site = site

    def forward(self, *inputs: Tensor, **masks: Tensor | None) -> Tensor:
        """Return the site's head outputs."""
        return cast(Any, self.site).heads(*inputs, **masks)

    def initial_state(self, *inputs: Any, **masks: Tensor | None) -> Any:
        """Return the site's own state."""
        return cast(Any, self.site).initial_state(*inputs, **masks)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return the site's head outputs at one more token."""
        return cast(Any, self.site).step_heads(x_t, state)


class Constant(nn.Module):
    """The same vector everywhere, whatever the sentence.

    Args:
        value: ``(d_model,)``.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value.detach().clone())

    def forward(self, x: Tensor, *_: Tensor, **masks: Tensor | None) -> Tensor:
        """Return the vector at each position of ``x``."""
        return self.value.expand_as(x)

    def initial_state(self, *inputs: Any, **masks: Tensor | None) -> tuple[()]:
        """Return nothing: there is nothing to remember."""
        return ()

    def step(self, x_t: Tensor, state: tuple[()]) -> tuple[Tensor, tuple[()]]:
        """Return the vector once more."""
        return self.value.expand_as(x_t), state


class FixedState(NamedTuple):
    """The values that have been read, which of them are padding, and the next position."""

    values: Tensor  # (batch, time, d_model)
    padding: Tensor | None
    position: int


class FixedAttention(nn.Module):
    r"""Attention whose weights depend on positions alone; values are the teacher's.

    .. math:: h_t = \sum_s a_{ts}\, x_s W_V,\quad
              a_{ts} \propto \exp\bigl(-(s - r t - o_h)^2 / 2 \sigma^2\bigr)

    over the positions that may be seen. Without a width the weights are all equal.

    Args:
        site: The teacher's; its ``value`` stays in use.
        is_causal: Whether position t sees the positions up to t only.
        width: :math:`\sigma` in positions; None for equal weights.
        ratio: Source positions a target position moves ahead by, r.
        offsets: Of the centre, :math:`o_h`, dealt out to the heads in turn.

    Source:
        arXiv:2005.00742, section 3: hard-coded Gaussian attention.
    """

    def __init__(
        self,
        site: nn.Module,
        *,
        is_causal: bool,
        width: float | None = None,
        ratio: float = 1.0,
        offsets: Sequence[int] = (0,),
    ) -> None:
        super().__init__()
        self.value, self.n_heads = cast(Any, site).value, cast(Any, site).n_heads
        self.is_causal, self.width, self.ratio = is_causal, width, ratio
        self.offsets = [offsets[h % len(offsets)] for h in range(self.n_heads)]

    def forward(
        self,
        x: Tensor,
        memory: Tensor | None = None,
        *,
        source_padding: Tensor | None = None,
        target_padding: Tensor | None = None,
    ) -> Tensor:
        """Return the head outputs: fixed averages of the values of ``memory``, or of ``x``."""
        padding = target_padding if self.is_causal else source_padding
        values = mask_out(self.value(x if memory is None else memory), padding)
        return self._average(FixedState(values, padding, 0), n_positions=x.shape[1])

    def initial_state(
        self, memory: Tensor | int, *, source_padding: Tensor | None = None
    ) -> FixedState:
        """Return the values of the source; in self-attention, given a batch size, none yet."""
        if isinstance(memory, int):
            nothing = self.value.weight.new_zeros(memory, 0, self.value.out_features)
            return FixedState(nothing, None, 0)
        return FixedState(mask_out(self.value(memory), source_padding), source_padding, 0)

    def step(self, x_t: Tensor, state: FixedState) -> tuple[Tensor, FixedState]:
        """Return the head outputs at one more token ``(batch, d_model)`` and the next state."""
        if self.is_causal:
            newest = self.value(x_t)[:, None]
            state = state._replace(values=torch.cat([state.values, newest], 1))
        y_t = self._average(state, n_positions=1)[:, 0]
        return y_t, state._replace(position=state.position + 1)

    def weights(self, state: FixedState, *, n_positions: int) -> Tensor:
        """Return ``(batch or 1, heads, n_positions, time)``; rows sum to one.

        A row that may see nothing has equal weights.
        """
        device = state.values.device
        times = torch.arange(state.position, state.position + n_positions, device=device)[:, None]
        places = torch.arange(state.values.shape[1], device=device)
        scores = torch.zeros(1, self.n_heads, n_positions, len(places), device=device)
        if self.width is not None:
            offsets = torch.tensor(self.offsets, device=device)[:, None, None]
            distance = places - self.ratio * times - offsets
            scores = scores - 0.5 * (distance / self.width).square()
        never = torch.finfo(scores.dtype).min
        if self.is_causal:
            scores = scores.masked_fill(places > times, never)
        if state.padding is not None:
            scores = scores.masked_fill(state.padding[:, None, None], never)
        return scores.softmax(-1)

    def _average(self, state: FixedState, *, n_positions: int) -> Tensor:
        values = state.values.unflatten(-1, (self.n_heads, -1)).transpose(1, 2)  # (B, H, S, K)
        weights = self.weights(state, n_positions=n_positions).to(values)
        return (weights @ values).transpose(1, 2).flatten(2)


def build_controls(
    name: str,
    *,
    teacher: Translator,
    site: str,
    layers: Sequence[int] | None = None,
    activations: Activations | None = None,
    spec: StudentSpec | None = None,
    width: float = 1.0,
    ratio: float = 1.0,
    seed: int = 0,
) -> dict[Key, nn.Module]:
    """Return one control for each layer of a site, as ``substitute`` takes them.

    Args:
        name: ``identity`` (the teacher itself), ``mean`` (of the captured head outputs), ``zero``,
            ``uniform`` (average over all positions that may be seen), ``gaussian`` (average around
            a fixed position), ``random`` (a student before its training).
        activations: What ``mean`` is the mean of, from ``collect_activations``.
        spec: Of the untrained student of ``random``.
        width: Standard deviation of ``gaussian``, in positions.
        ratio: Source over target length, for ``gaussian`` at cross-attention; see ``length_ratio``.
        seed: Of ``random``.

    Raises:
        AttnlabError: No control is called that, or it needs something it was not given.
    """
    if name not in CONTROLS:
        raise UnknownNameError("control", name, CONTROLS, next_step="Choose one of these.")
    layers = chosen_layers(teacher, site=site, layers=layers)
    if name == "random":
        spec = spec or StudentSpec(site=site)
        return dict(build_students(teacher, spec=spec, seed=seed, layers=layers))
    if name in ("mean", "zero"):
        nothing = teacher.head.weight.new_zeros(teacher.config.d_model)
        values = _means(activations, site) if name == "mean" else dict.fromkeys(layers, nothing)
        return {(site, layer): Constant(values[layer]) for layer in layers}
    look_ups = {(site, layer): find_site(teacher, site=site, layer=layer) for layer in layers}
    if name == "identity":
        return {key: Identity(look_up) for key, look_up in look_ups.items()}
    how: dict[str, Any] = {"is_causal": site == "decoder_self"}
    if name == "gaussian":
        offsets = {"encoder_self": (-1, 0, 1), "decoder_self": (-1, 0), "cross": (0,)}[site]
        how |= {"width": width, "offsets": offsets, "ratio": ratio if site == "cross" else 1.0}
    return {key: FixedAttention(look_up, **how) for key, look_up in look_ups.items()}


def length_ratio(pairs: Sequence[tuple[Any, Any]]) -> float:
    """Return how many source tokens there are for one of the target."""
    return sum(len(source) for source, _ in pairs) / max(1, sum(len(target) for _, target in pairs))


def _means(activations: Activations | None, site: str) -> dict[int, Tensor]:
    if activations is None or activations.spec.site != site or not activations.spec.replaces_heads:
        raise AttnlabError(
            f"The mean control at {site} needs captured head outputs. Give activations="
            f"collect_activations(teacher, batches, spec=StudentSpec(site={site!r}))."
        )
    return dict(zip(activations.layers, activations.targets.mean(1), strict=True))
