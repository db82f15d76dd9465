"""Small language models that come with the workbook, or are trained in seconds where they lack."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attnlab.config import ModelConfig, TrainConfig
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.paths import MODELS
from attnlab.seeding import numpy_generator, torch_generator
from attnlab.sources import tales
from attnlab.tasks import StreamTask
from attnlab.training import load_model, train_model

SIZES = {"context_len": 32, "d_model": 24, "n_layers": 1, "n_heads": 1}


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A trained model and where it comes from, in words."""

    model: LanguageModel
    origin: str

    @property
    def kernels(self) -> list[NDArray[np.float32]]:
        """The lag weights of every layer."""
        return [block.mixer.lag_weight.detach().numpy() for block in self.model.blocks]


def load_or_train(
    mixers: Sequence[str], *, folder: Path = MODELS, n_steps: int = 150, seed: int = 0
) -> dict[str, Trained]:
    """Return one trained language model for each mixer: a stored one, or one trained in seconds.

    Either all come from ``folder`` or a folder in it, trained alike, or all are trained now on
    small tales: kernels of different trainings would not be comparable.
    """
    sets: dict[str, dict[str, Trained]] = defaultdict(dict)  # by experiment, then by mixer
    for file in sorted(Path(folder).rglob("*.safetensors")):
        with suppress(AttnlabError):  # damaged, or no language model: train instead
            model, facts = load_model(file)
            experiment, mixer = str(facts.get("experiment", "")), model.config.mixer
            if mixer in mixers and facts.get("variant", mixer) == mixer:
                origin = f"data/models/{file.relative_to(folder).as_posix()}, {experiment}"
                sets[experiment][mixer] = Trained(model=model, origin=origin)
    whole = [found for _, found in sorted(sets.items()) if len(found) == len(mixers)]
    if whole:
        return {mixer: whole[0][mixer] for mixer in mixers}
    return {mixer: _train_on_tales(mixer, n_steps=n_steps, seed=seed) for mixer in mixers}


def _train_on_tales(mixer: str, *, n_steps: int, seed: int) -> Trained:
    source, recipe = tales("small"), TrainConfig(n_steps=n_steps, lr=6e-3, seed=seed)
    config = ModelConfig(mixer=mixer, vocab_size=source.vocab_size, **SIZES)
    n_tokens = n_steps * config.context_len * recipe.batch_size + 1
    text = source.sample(n_tokens, generator=numpy_generator(seed, "data"))
    task = StreamTask(train=text, held_out=text[None, : config.context_len + 1])
    model = task.build(config, generator=torch_generator(seed, "init"))
    for _ in train_model(task, model, recipe):
        pass
    return Trained(model=model.eval(), origin=f"trained here on small tales, {n_steps} steps")
