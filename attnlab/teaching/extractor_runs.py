"""Small live trainings of notebook 03: a task that is a product, and kernels worth looking at."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.models import LanguageModel
from attnlab.paths import MODELS
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import tales, variable_length_chain
from attnlab.training import WindowBatches, load_model, train_steps

LAG = 3  # how far back the other factor of the product stands
CONTEXT_LEN = 8
WIDTH = 8
BATCH_SIZE = 128
N_TEST = 4000  # windows
LARGEST_FILE = 20_000_000  # bytes; a larger one is no classroom model


@dataclass(frozen=True, kw_only=True)
class Reader:
    """A bare sublayer under test: what mixes, and whether a channel mixer follows."""

    label: str
    mixer: str = "she"
    options: Mapping[str, Any] = field(default_factory=dict)
    context_len: int = CONTEXT_LEN
    has_mlp: bool = False


READERS = {
    "identity": Reader(label="neither", mixer="identity"),
    "she/adjustment_only": Reader(label="adjustment only", context_len=1),
    "she/extraction_only": Reader(label="extraction only", options={"adjust": "none"}),
    "she": Reader(label="both: SHE"),
    "she/extraction_and_mlp": Reader(
        label="extraction only, then FFN", options={"adjust": "none"}, has_mlp=True
    ),
}


class BareModel(nn.Module):
    """Embedding, one mixer, a linear read-out: no norm, no residual, usually no channel mixer.

    Shapes:
        tokens: ``(batch, time)``; returns logits ``(batch, time, 2)``.
    """

    def __init__(self, reader: Reader) -> None:
        super().__init__()
        self.embedding = nn.Embedding(2, WIDTH)
        self.position = nn.Parameter(torch.randn(CONTEXT_LEN, WIDTH) * WIDTH**-0.5)
        sizes = {"d_model": WIDTH, "context_len": reader.context_len}
        self.mixer = build_mixer(reader.mixer, **sizes, **reader.options)
        wide = (nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))
        self.mlp = nn.Sequential(*wide) if reader.has_mlp else nn.Identity()
        self.head = nn.Linear(WIDTH, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return next-token logits."""
        x = self.embedding(tokens) + self.position[: tokens.shape[1]]
        return self.head(self.mlp(self.mixer(x)))


def product_source(*, p_right: float = 0.9):
    """Return a chain of signs whose next one is, mostly, the product of two earlier ones.

    With signs + and -, ``v_{t+1} = v_t v_{t-3}`` with chance ``p_right``, else the opposite::

        + - - + - + + ...

    No single earlier token within ``CONTEXT_LEN`` says anything about the next one.
    """
    laws = {}
    for context in itertools.product("+-", repeat=LAG + 1):  # oldest first
        product = "+" if context[0] == context[-1] else "-"
        laws["".join(context)] = {"+": (p_right, 1 - p_right), "-": (1 - p_right, p_right)}[product]
    return variable_length_chain(laws, symbols=["+", "-"])


def train_reader(reader: Reader, *, seed: int, n_steps: int = 150) -> tuple[BareModel, float]:
    """Train one bare model on the product source; return it and its held-out loss in nats.

    Loss is measured where the product can be known: from the token after ``LAG + 1`` on.
    """
    source = product_source()
    with torch.random.fork_rng(devices=[]):
        torch.set_rng_state(torch_generator(seed, "init").get_state())
        model = BareModel(reader)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for tokens in _windows(source, n_steps * BATCH_SIZE, seed, "data").split(BATCH_SIZE):
        loss = _loss(model, tokens)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        return model.eval(), _loss(model, _windows(source, N_TEST, 0, "test")).item()


def product_ablation(
    *, seeds: Sequence[int], n_steps: int = 150
) -> tuple[pd.DataFrame, dict[str, BareModel]]:
    """Train every reader with every seed; return losses in tidy rows and the models of one seed."""
    rows, models = [], {}
    for name, reader in READERS.items():
        for seed in seeds:
            models[name], loss_nats = train_reader(reader, seed=seed, n_steps=n_steps)
            rows.append(
                {"variant": name, "label": reader.label, "seed": seed, "loss_nats": loss_nats}
            )
    return pd.DataFrame(rows), models


def product_floors() -> dict[str, float]:
    """Return two exact losses: knowing the product (on the test tokens), and knowing nothing."""
    source = product_source()
    windows = _windows(source, N_TEST, 0, "test").numpy()
    losses = np.asarray(source.oracle_nats(windows, per_token=True))
    return {"true source": float(losses[:, LAG:].mean()), "blind to products, log 2": np.log(2.0)}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and where it comes from, in words."""

    model: LanguageModel
    origin: str

    @property
    def kernels(self) -> list[np.ndarray]:
        """The lag weights of every layer."""
        return [b.mixer.lag_weight.detach().numpy() for b in self.model.blocks]  # type: ignore[union-attr]


def load_or_train(
    mixers: Sequence[str], *, folder: Path = MODELS, n_steps: int = 150, seed: int = 0
) -> dict[str, Trained]:
    """Return one trained language model for each mixer: a stored one, or one trained in seconds.

    Either all come from ``folder`` or a folder in it, trained alike, or all are trained now on
    small tales: kernels of different trainings would not be comparable.
    """
    stored = _stored(mixers, folder)
    if stored:
        return stored
    return {mixer: _train_on_tales(mixer, n_steps=n_steps, seed=seed) for mixer in mixers}


def _stored(mixers: Sequence[str], folder: Path) -> dict[str, Trained]:
    """Return stored models of one experiment that has all mixers; empty if there is none."""
    experiments: dict[str, dict[str, Trained]] = {}
    for file in sorted(Path(folder).rglob("*.safetensors")):
        if file.stat().st_size > LARGEST_FILE:
            continue
        try:
            model, facts = load_model(file)
        except AttnlabError:  # damaged, or no language model: train instead
            continue
        experiment, mixer = str(facts.get("experiment", "")), model.config.mixer
        if mixer in mixers and facts.get("variant", mixer) == mixer:
            place = file.relative_to(folder).as_posix()
            found = Trained(model=model, origin=f"data/models/{place}, {experiment}")
            experiments.setdefault(experiment, {})[mixer] = found
    whole = [found for _, found in sorted(experiments.items()) if len(found) == len(mixers)]
    return {mixer: whole[0][mixer] for mixer in mixers} if whole else {}


def _train_on_tales(mixer: str, *, n_steps: int, seed: int) -> Trained:
    source, context_len, batch_size = tales("small"), 32, 32
    config = ModelConfig(
        mixer=mixer,
        vocab_size=source.vocab_size,
        context_len=context_len,
        d_model=24,
        n_layers=1,
        n_heads=1,
    )
    model = LanguageModel(config, generator=torch_generator(seed, "init"))
    n_tokens = n_steps * context_len * batch_size + 1
    text = source.sample(n_tokens, generator=numpy_generator(seed, "data"))
    batches = WindowBatches([text], context_len=context_len, batch_size=batch_size, seed=seed)
    for _ in train_steps(
        model, batches.starting_at(0), config=TrainConfig(n_steps=n_steps, lr=6e-3, seed=seed)
    ):
        pass
    return Trained(model=model.eval(), origin=f"trained here on small tales, {n_steps} steps")


def _windows(source, n_windows: int, seed: int, stream: str) -> Tensor:
    length = CONTEXT_LEN + 1
    tokens = source.sample(n_windows * length, generator=numpy_generator(seed, stream))
    return torch.from_numpy(tokens).view(n_windows, length)


def _loss(model: BareModel, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])[:, LAG:]
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, LAG + 1 :].flatten())
