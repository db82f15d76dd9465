"""Keep the transformed weights of a frozen model, and notice when the weights change."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Any

import torch
from torch import Tensor

N_SAMPLES = 64  # entries compared to notice a write that torch does not count


class SpectrumCache:
    """A few results of ``transform(weight)``, thrown away as soon as the weight changes.

    Torch counts every write in place except those through ``.data`` or in inference mode;
    for these, a sample of the entries is compared too. Copies and pickles of a module that
    holds a cache start with an empty one. Threads may share one.

    Args:
        max_entries: How many transforms of one weight are kept, the newest ones.
    """

    def __init__(self, *, max_entries: int = 2) -> None:
        self.max_entries = max_entries
        self._seen: tuple[Any, ...] | None = None
        self._sample: Tensor | None = None
        self._kept: OrderedDict[Hashable, Tensor] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(
        self,
        key: Hashable,
        weight: Tensor,
        transform: Callable[[Tensor], Tensor],
        *,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return ``transform(weight)``, made now or kept from an earlier call.

        Args:
            key: What distinguishes transforms of the same weight, for example a length.
            dtype: Type the weight is cast to first; None leaves it.
        """
        dtype = weight.dtype if dtype is None else dtype
        with self._lock:
            self._forget_if_changed(weight)
            if (key, dtype) not in self._kept:
                with torch.no_grad():
                    self._kept[key, dtype] = transform(weight.detach().to(dtype))
            self._kept.move_to_end((key, dtype))
            while len(self._kept) > self.max_entries:
                self._kept.popitem(last=False)
            return self._kept[key, dtype]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._seen = self._sample = None
            self._kept.clear()

    def _forget_if_changed(self, weight: Tensor) -> None:
        version = None if weight.is_inference() else weight._version
        seen = (weight.data_ptr(), version, weight.shape, weight.dtype, weight.device)
        stride = max(1, weight.numel() // N_SAMPLES)
        sample = weight.detach().flatten()[::stride]
        if self._sample is None or seen != self._seen or not torch.equal(sample, self._sample):
            self._kept.clear()
            self._seen, self._sample = seen, sample.clone()

    def __deepcopy__(self, memo: dict[int, Any]) -> "SpectrumCache":
        return SpectrumCache(max_entries=self.max_entries)

    def __reduce__(self) -> tuple[Any, ...]:
        return _empty_cache, (self.max_entries,)


def _empty_cache(max_entries: int) -> SpectrumCache:
    return SpectrumCache(max_entries=max_entries)
