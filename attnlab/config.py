"""Configuration records: frozen, validated, hashable, and free of torch."""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Self

from attnlab.errors import AttnlabError, shorten

NORMS = ("pre", "post")
POSITIONS = ("learned", "sinusoidal", "none")
PRECISIONS = ("fp32", "fp32_onednn", "bf16")  # onednn: as exact, faster on some CPUs
SCHEDULES = ("cosine", "inverse_sqrt")
POOLINGS = ("mean", "last")

# Token ids with a meaning of their own, the same in every vocabulary of a translator.
PAD, BOS, EOS, UNK = 0, 1, 2, 3  # filling, beginning of a sentence, its end, an unknown word
N_SPECIAL = 4


LARGEST = 2**31 - 1  # of a count
DEEPEST = 4096  # layers
GIB = 2**30


def digest_of(values: Mapping[str, Any]) -> str:
    """Return twelve hex digits that name these JSON values, whatever their order."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


class _Record:
    """What every configuration can do: name itself and come back from JSON."""

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this exact configuration in file names."""
        return digest_of(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types that ``from_dict`` reads back."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Build a configuration from JSON; a field this version lacks is an error."""
        if not isinstance(values, Mapping):
            raise AttnlabError(f"{shorten(values)} is no {cls.__name__}: it has fields by name.")
        known = {f.name for f in fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(map(str, set(values) - known))
        if unknown:
            raise AttnlabError(
                f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}. "
                "The file was probably written by another version of attnlab."
            )
        return cls(**values)

    def _unless_usual(self, *names: str) -> dict[str, Any]:
        """Return ``to_dict`` without those of the named fields that have their default.

        So the digest of what uses none of them does not depend on their being there.
        """
        usual = {f.name: f.default for f in fields(self) if f.name in names}  # type: ignore[arg-type]
        plain = asdict(self)  # type: ignore[call-overload]
        return {n: v for n, v in plain.items() if n not in usual or v != usual[n]}

    def _check_types(self) -> None:
        """Refuse what no field of this type can be; numbers have to be finite."""
        for each in fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, each.name), each.type
            if kind is str and not isinstance(value, str):
                raise AttnlabError(f"{each.name}={shorten(value)} must be a name, in quotes.")
            if kind is bool and not isinstance(value, bool):
                raise AttnlabError(f"{each.name}={shorten(value)} must be true or false.")
            if kind in (int, float) and not is_number(value, kind):
                what = "a whole number" if kind is int else "a finite number"
                raise AttnlabError(f"{each.name}={shorten(value)} must be {what}.")

    def _check_counts(self, *names: str) -> None:
        for name in names:
            value, most = getattr(self, name), DEEPEST if name.endswith("layers") else LARGEST
            if not is_number(value, int) or not 1 <= value <= most:
                raise AttnlabError(
                    f"{name}={shorten(value)} must be a whole number, 1 or more"
                    + (f", {most} at most." if is_number(value, int) and value > most else ".")
                )

    def _check_choices(self, **choices: tuple[str, ...]) -> None:
        for name, known in choices.items():
            if (value := getattr(self, name)) not in known:
                raise AttnlabError(f"{name}={value!r} is not one of {', '.join(known)}.")

    def _check_share(self, name: str) -> None:
        if not 0 <= (value := getattr(self, name)) < 1:
            raise AttnlabError(f"{name}={value} is not a probability below 1; try 0.1.")


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelConfig(_Record):
    """Shape of a decoder-only language model. Sizes are counts, not bytes."""

    mixer: str = "attention"
    mixer_options: Mapping[str, Any] = field(default_factory=dict)
    vocab_size: int = 32
    context_len: int = 16  # longest prefix the model may read, in tokens
    d_model: int = 64
    n_layers: int = 2
    n_heads: int = 4  # read by mixers that have heads
    d_ff: int | None = None  # hidden width of the channel mixer; None means 4 d_model
    dropout: float = 0.0  # probability, 0 to 1
    norm: str = "pre"
    position: str = "learned"
    tie_embeddings: bool = True
    short_conv: int = 0  # tokens that a convolution before the first layer joins; 0: there is none

    def __post_init__(self) -> None:
        """Refuse sizes no model can have, and say what to use instead."""
        if not isinstance(self.mixer_options, Mapping):
            raise AttnlabError(f"mixer_options={shorten(self.mixer_options)} must be a dictionary.")
        object.__setattr__(self, "mixer_options", dict(self.mixer_options))
        self._check_types()
        self._check_counts("vocab_size", "context_len", "d_model", "n_layers", "n_heads")
        if self.d_ff is not None:
            self._check_counts("d_ff")
        self._check_choices(norm=NORMS, position=POSITIONS)
        self._check_share("dropout")
        if not 0 <= self.short_conv <= self.context_len:
            raise AttnlabError(
                f"short_conv={self.short_conv} must be 0, for none, or a few tokens, "
                f"context_len={self.context_len} at most; 3 is usual."
            )
        if self.mixer == "attention":
            require_even_heads(self.d_model, self.mixer_options.get("n_heads", self.n_heads))

    def __eq__(self, other: object) -> bool:
        """Two configurations are equal if they build the same model."""
        return isinstance(other, ModelConfig) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        """Equal configurations hash equally, options included."""
        return hash(self.digest)

    @property
    def mlp_width(self) -> int:
        """Hidden width of the channel mixer: ``d_ff``, or 4 ``d_model`` where it is None."""
        return 4 * self.d_model if self.d_ff is None else self.d_ff

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types, with ``d_ff`` as the number in use."""
        return {**self._unless_usual("short_conv"), "d_ff": self.mlp_width}


@dataclass(frozen=True, kw_only=True, eq=False)
class ClassifierConfig(ModelConfig):
    """Shape of a classifier: the blocks of a language model, one pooled vector, one of n classes.

    ``n_inputs`` is the width of the vectors it reads; with 0 it reads token ids below
    ``vocab_size``, of which ``PAD`` fills up.
    """

    n_classes: int = 2
    n_inputs: int = 0
    is_two_sided: bool = False  # whether a position also hears the later ones
    pooling: str = "mean"  # of all positions, or the last one alone

    def __post_init__(self) -> None:
        """Refuse sizes no classifier can have, and say what to use instead."""
        super().__post_init__()
        self._check_counts("n_classes")
        self._check_choices(pooling=POOLINGS)
        if self.short_conv:
            raise AttnlabError(f"short_conv={self.short_conv} is no part of a classifier. Use 0.")
        if self.n_inputs < 0:
            raise AttnlabError(f"n_inputs={self.n_inputs} cannot be negative; 0 reads token ids.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(_Record):
    """How a model is trained. Steps and batch sizes are counts; ``lr`` is per step."""

    n_steps: int = 200
    batch_size: int = 32  # windows a forward pass reads
    lr: float = 2e-3  # peak of the schedule
    schedule: str = "cosine"  # what follows the rise; inverse_sqrt needs no last step
    warmup_steps: int = 20  # linear rise from 0 to lr
    min_lr_fraction: float = 0.1  # the cosine ends at this share of lr
    label_smoothing: float = 0.0  # share of the target spread over the vocabulary; translators
    weight_decay: float = 0.01  # on matrices only; norms, biases and embeddings are spared
    beta_1: float = 0.9
    beta_2: float = 0.98
    max_grad_norm: float = 1.0  # Euclidean norm over all weights
    accumulation_steps: int = 1  # forward passes summed into one optimiser step
    n_averaged: int = 0  # the last points of the curve whose weights are averaged at the end
    precision: str = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot train, and say what to use instead."""
        self._check_types()
        self._check_counts("n_steps", "batch_size", "accumulation_steps")
        self._check_choices(precision=PRECISIONS, schedule=SCHEDULES)
        for name in ("label_smoothing", "beta_1", "beta_2"):
            self._check_share(name)
        for name in ("lr", "max_grad_norm"):
            if (value := getattr(self, name)) <= 0:
                raise AttnlabError(f"{name}={value} must be a positive number; try the default.")
        for name in ("warmup_steps", "seed", "weight_decay", "min_lr_fraction", "n_averaged"):
            if getattr(self, name) < 0:
                raise AttnlabError(f"{name}={getattr(self, name)} cannot be negative; use 0.")

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; these three only where they are not the default."""
        return self._unless_usual("schedule", "label_smoothing", "n_averaged")


@dataclass(frozen=True, kw_only=True)
class TranslatorConfig(_Record):
    """Shape of an encoder-decoder. Sizes are counts; the defaults are the replacement paper's.

    ``max_len`` is the number of positions on each side: a source sentence has at most
    ``max_len`` tokens, a target sentence one less, because ``BOS`` takes the first position.

    Source:
        arXiv:2311.10642, by its released code: width 128, 8 heads, 6 + 6 layers, 50 tokens.
    """

    source_vocab_size: int = 32  # with the four special tokens
    target_vocab_size: int = 32
    d_model: int = 128
    n_heads: int = 8
    n_encoder_layers: int = 6
    n_decoder_layers: int = 6
    d_ff: int = 512  # hidden width of the channel mixer
    dropout: float = 0.1  # probability, 0 to 1
    max_len: int = 50  # positions on each side
    norm: str = "pre"
    position: str = "sinusoidal"
    tie_embeddings: bool = True  # target table and output layer share their weights
    attention_bias: bool = False  # whether the four projections of a site add one
    share_embeddings: bool = False  # whether the source reads the target's table, too
    attention_dropout: float | None = None  # of attention's weights; None: as all else

    def __post_init__(self) -> None:
        """Refuse sizes no translator can have, and say what to use instead."""
        self._check_types()
        vocabularies = ("source_vocab_size", "target_vocab_size")
        layers = ("n_encoder_layers", "n_decoder_layers")
        self._check_counts("d_model", "n_heads", *layers, "d_ff", "max_len", *vocabularies)
        for name in vocabularies:
            if getattr(self, name) <= N_SPECIAL:
                raise AttnlabError(
                    f"{name}={getattr(self, name)} leaves no room for words: the first "
                    f"{N_SPECIAL} ids are special. Use the vocab_size of a vocabulary."
                )
        if self.share_embeddings and self.source_vocab_size != self.target_vocab_size:
            raise AttnlabError(
                f"share_embeddings needs one vocabulary for both languages; these have "
                f"{self.source_vocab_size} and {self.target_vocab_size} tokens. Learn one on both "
                "languages, or leave the tables apart."
            )
        self._check_choices(norm=NORMS, position=POSITIONS)
        self._check_share("dropout")
        if self.attention_dropout is not None:
            if not is_number(self.attention_dropout, float):
                raise AttnlabError(
                    f"attention_dropout={shorten(self.attention_dropout)} must be a number, or "
                    "None for that of all else."
                )
            self._check_share("attention_dropout")
        require_even_heads(self.d_model, self.n_heads)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the last two only where they are not the default."""
        return self._unless_usual("share_embeddings", "attention_dropout")


def require_even_heads(d_model: int, n_heads: int) -> None:
    """Raise unless ``d_model`` splits into ``n_heads`` equal heads."""
    if not is_number(n_heads, int):
        raise AttnlabError(f"n_heads={shorten(n_heads)} must be a whole number, 1 or more.")
    if n_heads < 1 or d_model % n_heads:
        small = [n for n in range(1, math.isqrt(d_model) + 1) if d_model % n == 0]
        divisors = [*small, *(d_model // n for n in small)]
        works = max(n for n in divisors if n <= max(1, n_heads))
        raise AttnlabError(
            f"d_model={d_model} does not divide into n_heads={n_heads} equal heads. "
            f"Try n_heads={works}."
        )


def is_number(value: Any, kind: type) -> bool:
    """Say whether a value is a whole (``int``) or any finite (``float``) number, and no truth."""
    if isinstance(value, bool) or not isinstance(value, int if kind is int else (int, float)):
        return False
    try:
        return kind is int or math.isfinite(value)
    except OverflowError:  # a whole number beyond all floats
        return False


@cache
def machine_bytes() -> int | None:
    """Return the memory that this process may use at most, or None where one cannot ask."""
    found = []
    with suppress(OSError, ValueError, AttributeError):
        found.append(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    with suppress(OSError, ValueError):  # of a container
        found.append(int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="utf-8")))
    return min(found, default=None)


def require_memory(n_bytes: int, what: str) -> None:
    """Raise AttnlabError if so many bytes are more than this machine has."""
    limit = machine_bytes()
    if limit is not None and n_bytes > limit:
        raise AttnlabError(
            f"{what} needs about {n_bytes // GIB:,} GiB of memory, and this machine has "
            f"{limit / GIB:,.1f} GiB. Take smaller sizes."
        )
