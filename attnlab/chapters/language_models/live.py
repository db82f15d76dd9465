"""What writes in chapter 04: trained models with the way from text to tokens and back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attnlab.analysis.memory import KeyAtlas
from attnlab.corpora import Tokenizer, load_tokenizer
from attnlab.models import LanguageModel
from attnlab.paths import MODELS
from attnlab.seeding import torch_generator
from attnlab.show import look
from attnlab.show.words import quote, quoted, read_words
from attnlab.sources import tales
from attnlab.sources.tales import TaleSource
from attnlab.training import load_model

RACERS = {  # what differs from the common configuration, by name
    "attention": {"mixer": "attention"},
    "attention_1_head": {"mixer": "attention", "n_heads": 1},
    **{name: {"mixer": name} for name in ("she", "he", "we", "me", "mean", "identity")},
}
N_ORACLE_WINDOWS = 512
ALL = "all"
BEGINNINGS = {
    "children": ("Once upon a time there was", '"Come here," said the'),
    "tales": ("Nora was a kind girl.", "It was a windy day."),
}


@dataclass(frozen=True)
class Writer:
    """A trained model with the way from text to its tokens and back.

    Args:
        usual: What it goes on from where nothing is typed.
        clean: From what was typed to what can be read, and a sentence on the rest.
    """

    model: LanguageModel
    encode: Callable[[str], Any]
    decode: Callable[[Any], str]
    usual: str = BEGINNINGS["children"][0]
    clean: Callable[[str], tuple[str, str]] = lambda text: (text, "")

    def read(self, prompt: str) -> tuple[np.ndarray, str]:
        """Return the tokens that a typed prompt becomes, and a sentence on what was not read."""
        text, said = self.clean(prompt)
        ids = np.asarray(self.encode(text), dtype=np.int64)
        if not text.strip():
            said = f"{said} Nothing is left to read, so {quote(self.usual)} stands here."
            ids = np.asarray(self.encode(self.usual), dtype=np.int64)
        longest = self.model.config.context_len
        if len(ids) > longest:
            said = f"{said} Only the last {longest} of {len(ids):,} tokens are read."
            whole = self.decode(ids[-longest:].tolist()).lstrip("\ufffd")  # no half character
            ids = np.asarray(self.encode(whole), dtype=np.int64)
        return ids[-longest:], said.strip()

    def tokens(self, prompt: str, *, n_tokens: int, temperature: float, seed: int) -> np.ndarray:
        """Return the tokens of a prompt and its continuation: ``(n_prompt + n_tokens,)``."""
        written = self.model.eval().generate(
            torch.from_numpy(self.read(prompt)[0])[None],
            n_tokens=n_tokens,
            temperature=temperature,
            generator=torch_generator(seed, "generate"),
        )
        return written[0].numpy()

    def write(self, prompt: str, **settings: Any) -> str:
        """Return prompt and continuation as text; settings as for ``tokens``."""
        return self.decode(self.tokens(prompt, **settings).tolist())


def source_writers(models: Mapping[str, LanguageModel], *, source: TaleSource) -> dict[str, Writer]:
    """Return a writer for each model of the tales."""
    usual = BEGINNINGS["tales"][0]

    def clean(text: str) -> tuple[str, str]:
        how = {"find": source.knows, "split": source.split, "usual": usual}
        words, said = read_words(text, most=len(text) + 1, **how)  # tokens are cut later
        return " ".join(words), said

    def decode(ids: Any) -> str:
        return source.decode(np.asarray(ids))

    return {
        name: Writer(model, source.encode, decode, usual, clean) for name, model in models.items()
    }


def spell_strange(text: str, *, tokenizer: Tokenizer) -> tuple[str, str]:
    """Return a text without half characters, and a sentence on signs read byte by byte.

    A tokenizer of bytes reads any text, but a model knows little of a sign that was too rare in
    training to become a token.
    """
    whole = text.encode("utf-8", errors="replace").decode()
    signs = dict.fromkeys(
        c for c in whole if not c.isascii() or not (c.isprintable() or c.isspace())
    )
    rare = [sign for sign in signs if len(tokenizer.encode(sign)) > 1 or sign.isascii()]
    return whole, f"Hardly known, so read byte by byte: {quoted(rare)}." if rare else ""


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
    usual = BEGINNINGS.get(corpus, BEGINNINGS["children"])[0]
    how = (tokenizer.encode, tokenizer.decode, usual, partial(spell_strange, tokenizer=tokenizer))
    return {name: Writer(load_model(files[name])[0], *how) for name in ordered}


def playground(writers: Mapping[str, Writer], *, n_tokens: int = 50) -> dict[str, Callable]:
    """Return ``write`` and ``words`` of a playground: one writer or (``all``) each of them.

    All draw from the same stream of chance: where two models agree on the chances, they
    write the same token.
    """

    def write(*, prompt: str, mixer: str, temperature: float, seed: int) -> dict[str, str]:
        settings = {"n_tokens": n_tokens, "temperature": temperature, "seed": seed}
        chosen = writers if mixer == ALL else {mixer: writers[mixer]}
        return {look(name).label: one.write(prompt, **settings) for name, one in chosen.items()}

    def words(*, prompt: str, mixer: str, temperature: float, seed: int) -> str:
        who = "All mixers go" if mixer == ALL else f"{look(mixer).label} goes"
        one = next(iter(writers.values())) if mixer == ALL else writers[mixer]
        unread = one.read(prompt)[1]
        said = f"{who} on from {quote(prompt)} at temperature {temperature:.1f}, seed {seed}."
        return f"{said} {unread}".strip()

    return {"write": write, "words": words}


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
