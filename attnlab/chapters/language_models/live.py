"""What writes in chapter 04: trained models with the way from text to tokens and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnlab.analysis.memory import KeyAtlas
from attnlab.corpora import load_tokenizer
from attnlab.models import LanguageModel
from attnlab.paths import MODELS
from attnlab.seeding import torch_generator
from attnlab.show import look
from attnlab.sources import Source, tales
from attnlab.training import load_model

RACERS = {  # what differs from the common configuration, by name
    "attention": {"mixer": "attention"},
    "attention_1_head": {"mixer": "attention", "n_heads": 1},
    **{name: {"mixer": name} for name in ("she", "he", "we", "me", "mean", "identity")},
}
N_ORACLE_WINDOWS = 512
ALL = "all"
BEGINNINGS = {
    "children": (
        "Once upon a time there was",
        '"Come here," said the',
        "The little girl looked at the",
    ),
    "tales": ("Nora was a kind girl.", "It was a windy day.", "They ran to the forest."),
}


@dataclass(frozen=True)
class Writer:
    """A trained model with the way from text to its tokens and back."""

    model: LanguageModel
    encode: Callable[[str], Any]
    decode: Callable[[Any], str]

    def tokens(self, prompt: str, *, n_tokens: int, temperature: float, seed: int) -> np.ndarray:
        """Return the tokens of a prompt and its continuation: ``(n_prompt + n_tokens,)``."""
        start = torch.as_tensor(np.asarray(self.encode(prompt), dtype=np.int64))[None]
        written = self.model.eval().generate(
            start[:, -self.model.config.context_len :],
            n_tokens=n_tokens,
            temperature=temperature,
            generator=torch_generator(seed, "generate"),
        )
        return written[0].numpy()

    def write(self, prompt: str, **settings: Any) -> str:
        """Return prompt and continuation as text; settings as for ``tokens``."""
        return self.decode(self.tokens(prompt, **settings).tolist())


def source_writers(models: Mapping[str, LanguageModel], *, source: Source) -> dict[str, Writer]:
    """Return a writer for each model of a synthetic source."""
    return {
        name: Writer(model, source.encode, lambda ids: source.decode(np.asarray(ids)))
        for name, model in models.items()
    }


def load_writers(corpus: str = "children", *, folder: Path = MODELS) -> dict[str, Writer]:
    """Return the committed models of a corpus by mixer; empty where there are none.

    Args:
        corpus: Folder of the models: ``<mixer>.safetensors`` beside one ``tokenizer.json``.
        folder: Where the corpora's folders lie.
    """
    place = Path(folder) / corpus
    files = {path.stem: path for path in place.glob("*.safetensors")}
    if not files or not (place / "tokenizer.json").exists():
        return {}
    tokenizer = load_tokenizer(place / "tokenizer.json")
    ordered = [*(name for name in RACERS if name in files), *sorted(files.keys() - set(RACERS))]
    return {
        name: Writer(load_model(files[name])[0], tokenizer.encode, tokenizer.decode)
        for name in ordered
    }


def side_by_side(writers: Mapping[str, Writer], *, n_tokens: int = 50) -> Callable[..., dict]:
    """Return what a playground calls: texts by title, from one writer or (``all``) from each.

    All draw from the same stream of chance: where two models agree on the chances, they
    write the same token.
    """

    def write(*, prompt: str, mixer: str, temperature: float, seed: int) -> dict[str, str]:
        settings = {"n_tokens": n_tokens, "temperature": temperature, "seed": seed}
        chosen = writers if mixer == ALL else {mixer: writers[mixer]}
        return {look(name).label: one.write(prompt, **settings) for name, one in chosen.items()}

    return write


def setting_in_words(*, prompt: str, mixer: str, temperature: float, seed: int) -> str:
    """Say who goes on from what, and how."""
    who = "All mixers go" if mixer == ALL else f"{look(mixer).label} goes"
    return f"{who} on from “{prompt}” at temperature {temperature:.1f}, seed {seed}."


@lru_cache(maxsize=8)
def window_oracle_nats(context_len: int) -> float:
    """Return the true source's mean loss on windows of the tales, as models are scored."""
    source = tales()
    windows = source.sample_windows(N_ORACLE_WINDOWS, window_len=context_len + 1, stream="test")
    return float(source.oracle_nats(windows))


def telling_keys(atlas: KeyAtlas, *, n_keys: int = 2) -> list[int]:
    """Return the keys whose loss hurts most, one for each state they hurt, worst first.

    Damage counts by the share of time of the state.
    """
    harm = np.nan_to_num(atlas.damage_nats) * atlas.share[:, None]
    chosen: dict[int, int] = {}
    for key in np.argsort(-harm.max(axis=0), kind="stable"):
        chosen.setdefault(int(harm[:, key].argmax()), int(key))
    return list(chosen.values())[:n_keys]
