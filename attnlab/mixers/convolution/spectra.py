"""Keep the transformed weights of a frozen model, and notice when the weights change."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from functools import partial
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
        self.max_entries, self._lock = max_entries, Lock()
        self._seen: tuple[Any, ...] = ()
        self._sample = torch.empty(0)
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(SpectrumCache, max_entries=self.max_entries), ()

    def get(
        self,
        key: Hashable,
        weight: Tensor,
        transform: Callable[[Tensor], Any],
        *,
        dtype: torch.dtype | None = None,
    ) -> Any:
        """Return ``transform(weight)``, made now or kept from an earlier call.

        Args:
            key: What distinguishes transforms of the same weight, for example a length.
            dtype: Type the weight is cast to first; None leaves it.
        """
        key = key, weight.dtype if dtype is None else dtype
        version = None if weight.is_inference() else weight._version
        seen = (weight.data_ptr(), version, weight.shape, weight.dtype, weight.device)
        sample = weight.detach().flatten()[:: max(1, weight.numel() // N_SAMPLES)]
        with self._lock:
            if seen != self._seen or not torch.equal(sample, self._sample):
                self._kept.clear()
                self._seen, self._sample = seen, sample.clone()
            if key not in self._kept:
                with torch.no_grad():
                    self._kept[key] = transform(weight.detach().to(key[1]))
            self._kept.move_to_end(key)
            while len(self._kept) > self.max_entries:
                self._kept.popitem(last=False)
            return self._kept[key]

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._seen = ()
            self._kept.clear()
