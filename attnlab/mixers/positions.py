"""Attention that knows where it looks: turned by the position, faded by it, or in a window."""

from collections.abc import Mapping
from functools import wraps
from typing import Any, ClassVar

from attnlab.mixers.attention import Attention
from attnlab.mixers.base import mixer

WINDOW = 16  # positions that ``window_attention`` sees unless told


class _Preset(Attention):
    """Attention with other defaults; every option can still be given."""

    expected_chain = None
    choices: ClassVar[Mapping[str, tuple[Any, ...]]] = {"n_heads": (3,)}

    @wraps(Attention.__init__)
    def __init__(self, **options: Any) -> None:
        super().__init__(**{**self.preset, **options})


@mixer(
    "rotary_attention",
    look={"family": "attention", "label": "Attention, rotary positions", "marker": "$R$"},
)
class RotaryAttention(_Preset):
    r"""Attention whose queries and keys are turned by their positions.

    .. math:: A_{ts} = \mathrm{softmax}_s\bigl(q_t R_{t-s} k_s^\top / \sqrt{d_h}\bigr)

    where :math:`R_{t-s}` turns each pair of channels by :math:`(t - s) f_i`: scores know the
    distance without a weight for it. Weights and state are those of attention; turning costs eight
    multiplications for each pair of channels of a token.

    Source:
        arXiv:2104.09864, eq. 34.
    """

    preset: ClassVar[Mapping[str, Any]] = {"position": "rotary"}
    expected_multiplications = staticmethod(
        lambda d, T, P, h: 4 * T * d**2 + 2 * P * d + P * h + 8 * T * h * (d // h // 2)
    )


@mixer(
    "alibi_attention", look={"family": "attention", "label": "Attention, ALiBi", "marker": "$A$"}
)
class AlibiAttention(_Preset):
    r"""Attention that looks at older tokens less, each head at its own rate.

    .. math:: A_{ts} = \mathrm{softmax}_s\bigl(q_t k_s^\top / \sqrt{d_h} - m_i (t - s)\bigr),
              \quad m_i = 2^{-8i/h}

    The softmax of a fading Toeplitz matrix times attention's. Weights, state and multiplications
    are those of attention: :math:`m_i (t - s)` are constants.

    Source:
        arXiv:2108.12409, section 3.
    """

    preset: ClassVar[Mapping[str, Any]] = {"position": "alibi"}


@mixer(
    "window_attention",
    look={"family": "attention", "label": "Attention, window", "marker": "$W$"},
)
class WindowAttention(_Preset):
    r"""Attention to the newest w tokens: a band of a softmax matrix.

    .. math:: A_{ts} = \mathrm{softmax}_{t - w < s \le t}\bigl(q_t k_s^\top / \sqrt{d_h}\bigr)

    State and work stop growing at w = 16 tokens: :math:`2 w d` numbers. Weights are those of
    attention.

    Source:
        arXiv:2004.05150, section 3.1.
    """

    preset: ClassVar[Mapping[str, Any]] = {"window": WINDOW}
    expected_state = staticmethod(lambda d, n, h: 2 * min(n, WINDOW) * d)

    @staticmethod
    def expected_multiplications(d: int, T: int, P: int, h: int) -> int:
        """Those of attention over the pairs within the window."""
        near = min(T, WINDOW)
        pairs = min(P, near * (near + 1) // 2 + (T - near) * near)
        return 4 * T * d**2 + 2 * pairs * d + pairs * h
