"""Windows of text in an order that depends on the seed alone, never on the model."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator


class WindowBatches:
    """Cut documents into windows and serve them shuffled, one pass after another.

    A pass reads every window once. Batch i is a function of ``seed`` and i, so all mixers
    see the same batches and a resumed run goes on where it stopped::

        document  t0 t1 t2 t3 t4 t5 t6 t7 ...      context_len 3
        window 0  [t0 t1 t2] -> [t1 t2 t3]
        window 1           [t3 t4 t5] -> [t4 t5 t6]

    Each pass shifts the cuts of every document by a random offset.

    Args:
        documents: Token ids ``(n_tokens,)``, one array a document; windows never cross them.
        context_len: Tokens a window feeds to the model.
        batch_size: Windows a batch.
        seed: Picks the order and the offsets (stream ``order``).
        device: Where the batches go; their order does not depend on it.
    Raises:
        AttnlabError: The documents are too short for a single batch.
    """

    def __init__(
        self,
        documents: Sequence[np.ndarray],
        *,
        context_len: int,
        batch_size: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.documents = [np.asarray(d) for d in documents]
        self.context_len, self.batch_size = context_len, batch_size
        self.seed, self.device = seed, device
        n_windows = sum(_n_windows(len(d), context_len) for d in self.documents)
        self.n_batches = n_windows // batch_size  # a pass
        if self.n_batches == 0:
            n_tokens = sum(len(d) for d in self.documents)
            raise AttnlabError(
                f"{n_tokens} tokens make {n_windows} windows of context_len={context_len}; a batch "
                f"takes {batch_size}. Use a smaller batch_size or context_len, or more text."
            )
        self._pass: tuple[int, np.ndarray] = (-1, np.empty(0))

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return inputs and targets ``(batch, context_len)`` of batch ``index``, 0 upward."""
        n_pass, place = divmod(index, self.n_batches)
        if self._pass[0] != n_pass:
            self._pass = (n_pass, self._order(n_pass))
        starts = self._pass[1][place * self.batch_size : (place + 1) * self.batch_size]
        length = self.context_len + 1
        windows = np.stack([self.documents[d][s : s + length] for d, s in starts])
        tokens = torch.from_numpy(windows.astype(np.int64)).to(self.device)
        return tokens[:, :-1], tokens[:, 1:]

    def starting_at(self, index: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches from ``index`` on, without end."""
        while True:
            yield self[index]
            index += 1

    def _order(self, n_pass: int) -> np.ndarray:
        """Return ``(n_windows, 2)``: document and start of every window of a pass, shuffled."""
        random = numpy_generator(self.seed, f"order/{n_pass}")
        starts = []
        for number, document in enumerate(self.documents):
            n_windows = _n_windows(len(document), self.context_len)
            spare = len(document) - 1 - n_windows * self.context_len
            offset = int(random.integers(0, spare + 1)) if n_windows else 0
            first = offset + self.context_len * np.arange(n_windows)
            starts.append(np.stack([np.full(n_windows, number), first], axis=1))
        order = np.concatenate(starts)
        return order[random.permutation(len(order))]


def _n_windows(n_tokens: int, context_len: int) -> int:
    return max(0, (n_tokens - 1) // context_len)
