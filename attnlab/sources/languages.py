"""A small pair of languages in which every sentence has exactly one right translation."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.config import BOS, EOS, PAD, UNK
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.seeding import numpy_generator
from attnlab.sources.base import Symbols, check_count

SPECIAL_WORDS = ("<pad>", "<bos>", "<eos>", "<unk>")  # ids PAD, BOS, EOS, UNK

# source word -> target stem; a noun's gender is the ending it always has
NOUNS = {
    "cat": "milo", "dog": "toba", "bird": "pelo", "horse": "kava", "mouse": "zito",
    "fish": "luna", "tree": "garo", "stone": "dura", "house": "havo", "boat": "naba",
    "river": "fluvo", "star": "stela", "king": "rego", "queen": "dama", "baker": "pano",
    "sailor": "mara", "child": "nino", "friend": "kara", "flower": "bloro", "garden": "vela",
    "lamp": "lumo", "bell": "sona", "bridge": "ponto", "cloud": "nuba",
}  # fmt: skip
VERBS = {
    "see": "vid", "hear": "aud", "follow": "sekv", "love": "am", "find": "trov", "paint": "pint",
    "carry": "port", "call": "vok", "help": "jut", "know": "kon", "push": "pus", "draw": "des",
}  # fmt: skip
ADJECTIVES = {
    "red": "rub", "small": "mik", "old": "vet", "young": "jun", "good": "bon", "tall": "alt",
    "quick": "rap", "wise": "sag", "blue": "blav", "quiet": "silt", "brave": "kurag",
    "cold": "frid",
}  # fmt: skip
PREPOSITIONS = {"near": "apu", "behind": "ret", "under": "sub", "above": "sur"}
CONJUNCTIONS = {"and": "ed", "but": "sed", "while": "dum"}
ARTICLES = {"the": "el", "a": "un"}
NUMERALS = ("two", "three", "four", "five", "six", "seven", "eight", "nine")
FIRSTS = {**ARTICLES, **dict.fromkeys(NUMERALS, "")}  # a numeral is gone

NEUTRAL = "e"  # the ending of a word that agrees with nothing
PLURAL = "s"
STREAMS = ("data", "validation", "test")
HELD_OUT = {0: "validation", 1: "test"}  # by a sentence's checksum modulo N_SHARES
N_SHARES = 10
MAX_MISSES = 1000  # sentences thrown away in a row before a stream counts as empty
DIALS = {  # by name: default, lowest and highest value
    "reordering": (2, 0, 2),
    "agreement": (2, 0, 2),
    "counting": (3, 1, len(NUMERALS) + 1),
    "n_clauses": (1, 1, 8),
    "max_adjectives": (1, 0, 4),
    "n_nouns": (8, 1, len(NOUNS)),
    "n_verbs": (6, 1, len(VERBS)),
    "n_adjectives": (6, 1, len(ADJECTIVES)),
    "n_prepositions": (2, 0, len(PREPOSITIONS)),
}


class Word(NamedTuple):
    """A word and the place in the source sentence that it comes from."""

    text: str
    place: int


class TranslationSource(Symbols):
    """Pairs of sentences written from one derivation; ``translation_source`` makes one.

    Source and target share one list of ``symbols``, the four special tokens first, so token ids
    feed a translator as they are. No sentence of one stream occurs in another.
    """

    def __init__(self, **dials: int) -> None:
        """Collect the words that these dials use; see ``translation_source``."""
        for name, value in dials.items():
            if name not in DIALS:
                raise UnknownNameError("dial", name, DIALS, next_step="Turn one of these.")
            _, low, high = DIALS[name]
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise AttnlabError(
                    f"{name}={value!r} is not possible; choose a whole number from {low} to {high}."
                )
        defaults = {name: default for name, (default, _, _) in DIALS.items()}
        self.dials = turned = SimpleNamespace(**defaults | dials)
        self._nouns, self._verbs = list(NOUNS)[: turned.n_nouns], list(VERBS)[: turned.n_verbs]
        self._adjectives = list(ADJECTIVES)[: turned.n_adjectives] if turned.max_adjectives else []
        self._prepositions = list(PREPOSITIONS)[: turned.n_prepositions]
        self._conjunctions = list(CONJUNCTIONS) if turned.n_clauses > 1 else []
        self._firsts = [*ARTICLES, *NUMERALS[: turned.counting - 1]]
        words = [*self._firsts, *self._adjectives, *self._nouns, *self._prepositions]
        words += [*self._verbs, *self._conjunctions]
        self._read_words = set(words)
        super().__init__([*SPECIAL_WORDS, *words, *self._target_words()])

    @property
    def max_source_len(self) -> int:
        """Most tokens a source sentence can have."""
        return self._longest(2 + self.dials.max_adjectives)

    @property
    def max_target_len(self) -> int:
        """Most tokens a target sentence can have, without ``BOS`` and ``EOS``."""
        return self._longest(max(2, self.dials.counting) + self.dials.max_adjectives)

    def sample_pairs(
        self,
        n_pairs: int,
        *,
        seed: int = 0,
        generator: np.random.Generator | None = None,
        stream: str = "data",
    ) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Draw sentences with their translations, without ``BOS`` and ``EOS``.

        The checksum of a source sentence decides which stream it belongs to, so the streams are
        disjoint whatever the seeds: 80, 10 and 10 % of all sentences.

        Args:
            n_pairs: Number of pairs; a short sentence may come more than once.
            seed: Ignored where a generator is given.
            generator: Source of chance; it moves on, so a second call gives other pairs.
            stream: ``data`` (training), ``validation`` or ``test``.

        Returns:
            Pairs of token ids, each ``(time,)``.
        Raises:
            AttnlabError: The dials leave so few sentences that the stream has none.
        """
        check_count("n_pairs", n_pairs, at_least=0)
        if stream not in STREAMS:
            raise UnknownNameError("stream", stream, STREAMS, next_step="Use one of these three.")
        generator = generator or numpy_generator(seed, f"translation/{stream}")
        sentences = self._sentences(generator, stream)
        drawn = (self._to_ids(next(sentences)) for _ in range(n_pairs))
        return [(tokens, self.translate(tokens)) for tokens in drawn]

    def translate(self, tokens: ArrayLike) -> NDArray[np.int64]:
        """Return the one right translation of a source sentence.

        Raises:
            AttnlabError: The tokens are no sentence of the source language; says where.
        """
        return self._to_ids([word.text for word in self._read(tokens)])

    def alignment(self, tokens: ArrayLike) -> NDArray[np.int64]:
        """Return, for each token of the translation, the place of the word it comes from."""
        return np.array([word.place for word in self._read(tokens)], np.int64)

    def encode(self, text: str) -> NDArray[np.int64]:
        """Read words of either language as token ids; an unknown word becomes ``UNK``."""
        return self._to_ids(text.split())

    def knows(self, word: str) -> str | None:
        """Return the source word that someone typed: in small letters, without marks, or None."""
        words = (word, word.lower(), word.lower().strip(".,;:!?\"'"))
        return next((one for one in words if one in self._read_words), None)

    def right(self, words: Sequence[str]) -> tuple[list[str], str]:
        """Return the words of the right translation, or none and a sentence that says why."""
        try:
            return [word.text for word in _Translator(words, self.dials).sentence()], ""
        except AttnlabError as error:
            return [], str(error).partition(" Sentences come")[0]

    def decode(self, tokens: ArrayLike) -> str:
        """Write tokens as words with blanks between, up to ``EOS``; padding is left out."""
        words = []
        for token in self.check_sequence(tokens):
            if token == EOS:
                break
            if token not in (PAD, BOS):
                words.append(self.symbols[token])
        return " ".join(words)

    def _longest(self, phrase_len: int) -> int:
        n_phrases = 3 if self._prepositions else 2
        clause = n_phrases * phrase_len + 1 + bool(self._prepositions)
        return self.dials.n_clauses * (clause + 1) - 1

    def _to_ids(self, words: Sequence[str]) -> NDArray[np.int64]:
        return np.array([self._ids.get(word, UNK) for word in words], dtype=np.int64)

    def _target_words(self) -> list[str]:
        """Return every form that the target language can need, each once."""
        dials = self.dials
        endings = [g + n for n in ("", PLURAL)[: 1 + (dials.counting > 1)] for g in "oa"]
        agreeing = endings if dials.agreement >= 1 else [NEUTRAL]
        verbal = endings if dials.agreement >= 2 else [NEUTRAL]
        singular = [ending for ending in agreeing if not ending.endswith(PLURAL)]
        forms = [stem + ending for stem in ARTICLES.values() for ending in singular]
        forms += [NOUNS[noun] for noun in self._nouns]
        forms += [ADJECTIVES[word] + ending for word in self._adjectives for ending in agreeing]
        forms += [VERBS[word] + ending for word in self._verbs for ending in verbal]
        forms += [PREPOSITIONS[word] for word in self._prepositions]
        return forms + [CONJUNCTIONS[word] for word in self._conjunctions]

    def _sentences(self, generator: np.random.Generator, stream: str) -> Iterator[list[str]]:
        """Yield the source sentences of a stream, without end."""
        n_misses = 0
        while n_misses < MAX_MISSES:
            words = self._draw(generator)
            n_misses += 1
            if stream_of(words) == stream:
                n_misses = 0
                yield words
        raise AttnlabError(
            f"{MAX_MISSES} sentences in a row belong to other streams than {stream!r}: these "
            "dials make too few different sentences. Raise n_nouns, n_verbs or n_adjectives."
        )

    def _draw(self, generator: np.random.Generator) -> list[str]:
        """Draw one source sentence."""
        draws = iter(generator.random(self.max_source_len * 2 + 4 * self.dials.n_clauses).tolist())

        def pick(options: Sequence[str]) -> str:
            return options[int(next(draws) * len(options))]

        def phrase() -> list[str]:
            n_adjectives = int(next(draws) * (self.dials.max_adjectives + 1))
            adjectives = [pick(self._adjectives) for _ in range(n_adjectives)]
            return [pick(self._firsts), *adjectives, pick(self._nouns)]

        words: list[str] = []
        for number in range(1 + int(next(draws) * self.dials.n_clauses)):
            words += [pick(self._conjunctions)] if number else []
            words += phrase()
            if self._prepositions and next(draws) < 0.5:
                words += [pick(self._prepositions), *phrase()]
            words.append(pick(self._verbs))
            words += phrase() if next(draws) < 0.75 else []
        return words

    def _read(self, tokens: ArrayLike) -> list[Word]:
        words = [self.symbols[token] for token in self.check_sequence(tokens)]
        return _Translator(words, self.dials).sentence()


def translation_source(**dials: int) -> TranslationSource:
    """Make two small languages, with a dial for each thing that translation can demand.

    With the defaults one sentence and its translation are::

        the red bird near three tall cat see a dog
        elo pelo rubo apu milo milo milo altos una toba vido

    The noun comes before its adjective and the verb last (reordering); article, adjective and
    verb end like their noun, ``vido`` like the far-off ``pelo`` (agreement); ``three`` is gone
    and its noun stands three times (counting). Source words never change their form.

    Args:
        reordering: 0 keeps the order of the words, 1 puts adjectives after their noun in
            mirrored order, 2 also the verb at the end of its clause.
        agreement: 0 none (neutral ``e``), 1 articles and adjectives take gender and number of
            their noun, 2 also verbs those of their subject, across whatever stands between.
        counting: Largest number; 1 leaves numerals out.
        n_clauses: Most clauses in a sentence, joined by conjunctions.
        max_adjectives: Most adjectives of a noun.
        n_nouns: Number of nouns, half of each gender.
        n_verbs: Number of verbs.
        n_adjectives: Number of adjectives.
        n_prepositions: Number of prepositions; with 0 nothing stands between subject and verb.

    Raises:
        AttnlabError: More words than there are, or a dial beyond its range.
    Source:
        The words and rules are this project's own.
    """
    return TranslationSource(**dials)


def stream_of(words: Sequence[str]) -> str:
    """Return the stream that a source sentence belongs to."""
    return HELD_OUT.get(zlib.crc32(" ".join(words).encode()) % N_SHARES, "data")


class _Translator:
    """Reads a source sentence from left to right, where the next word always decides; writes it.

    Each word that is written keeps the place of the one it comes from.
    """

    def __init__(self, words: Sequence[str], dials: SimpleNamespace) -> None:
        self.words, self.dials, self.place = words, dials, 0

    def sees(self, dictionary: Mapping[str, str]) -> bool:
        return self.place < len(self.words) and self.words[self.place] in dictionary

    def take(self, dictionary: Mapping[str, str], what: str) -> Word:
        """Read one word of a kind; return its translation, without an ending."""
        if not self.sees(dictionary):
            is_over = self.place == len(self.words)
            found = "the sentence ends" if is_over else f"{self.words[self.place]!r} stands"
            raise AttnlabError(
                f"This is no sentence of the source language: at word {self.place + 1} {found}, "
                f"where {what} must be. Sentences come from .sample_pairs()."
            )
        self.place += 1
        return Word(dictionary[self.words[self.place - 1]], self.place - 1)

    def sentence(self) -> list[Word]:
        written = self.clause()
        while self.place < len(self.words):
            written += [self.take(CONJUNCTIONS, "a conjunction"), *self.clause()]
        return written

    def clause(self) -> list[Word]:
        before, ending = self.phrase()
        if self.sees(PREPOSITIONS):
            before += [self.take(PREPOSITIONS, "a preposition"), *self.phrase()[0]]
        stem = self.take(VERBS, "a verb")
        verb = [_ended(stem, ending if self.dials.agreement >= 2 else NEUTRAL)]
        after = self.phrase()[0] if self.sees(FIRSTS) else []
        return before + after + verb if self.dials.reordering >= 2 else before + verb + after

    def phrase(self) -> tuple[list[Word], str]:
        """Read a noun with what stands before it; return the ending of what agrees, too."""
        first = self.take(FIRSTS, "an article or a numeral")
        numeral = self.words[first.place]
        count = NUMERALS.index(numeral) + 2 if numeral in NUMERALS else 1
        adjectives = []
        while self.sees(ADJECTIVES):
            adjectives.append(self.take(ADJECTIVES, "an adjective"))
        noun = self.take(NOUNS, "a noun")
        ending = noun.text[-1] + (PLURAL if count > 1 else "")  # gender and number
        own = ending if self.dials.agreement >= 1 else NEUTRAL
        articles = [_ended(first, own)] if first.text else []
        adjectives, nouns = [_ended(word, own) for word in adjectives], [noun] * count
        if self.dials.reordering >= 1:
            return [*articles, *nouns, *reversed(adjectives)], ending
        return [*articles, *adjectives, *nouns], ending


def _ended(word: Word, ending: str) -> Word:
    return Word(word.text + ending, word.place)
