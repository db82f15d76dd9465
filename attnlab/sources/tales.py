"""Little children's tales told by a machine that knows exactly how surprising each word is."""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.sources.stories import END, Again, Choose, StoryMachine, Then, one_of

# role -> form -> a word for each value; the values of a role are equally likely
CAST: dict[str, dict[str, tuple[str, ...]]] = {
    "hero": {
        "name": ("Mira", "Tom", "Nora", "Omar", "Lily", "Ben", "Zoe", "Hugo", "Ada", "Leo",
                 "Ines", "Finn"),
        "child": ("girl", "boy") * 6,
        "she": ("she", "he") * 6,
        "her": ("her", "his") * 6,
        "obj": ("her", "him") * 6,
    },
    "friend": {
        "name": ("dog", "cat", "frog", "hen", "mouse", "pony", "goat", "duck"),
        "call": ("woof", "meow", "ribbit", "cluck", "squeak", "neigh", "baa", "quack"),
    },
    "colour": {
        "name": ("red", "blue", "green", "yellow", "white", "brown", "pink", "silver"),
    },
    "thing": {
        "name": ("kite", "ball", "hat", "boat", "drum", "bell", "book", "lamp", "scarf", "shell"),
    },
    "place": {
        "name": ("garden", "forest", "meadow", "hill", "beach", "lake", "river", "market"),
        "prep": ("in", "in", "in", "on", "on", "by", "by", "at"),
    },
    "weather": {
        "name": ("sunny", "windy", "rainy", "foggy", "snowy", "cloudy"),
    },
    "helper": {
        "name": ("baker", "farmer", "miller", "sailor", "teacher", "painter", "doctor", "shepherd"),
    },
}  # fmt: skip

SIZES: dict[str, dict[str, int]] = {
    "small": dict.fromkeys(CAST, 4),
    "standard": {role: len(forms["name"]) for role, forms in CAST.items()},
}

BEGINNING = (
    one_of(
        "once there was a [little|kind|brave|clever] {hero.child} called {hero} .",
        "{hero} was a [little|kind|brave|clever] {hero.child} .",
    ),
    one_of(
        "it was a {weather} [morning|day|afternoon] .",
        "the [morning|day|sky] was {weather} .",
        "one {weather} [morning|day] {hero.she} went out .",
    ),
    one_of(
        "{hero.she} had a {colour} {thing} .",
        "{hero} [liked|loved] a {colour} {thing} .",
        "{hero.her} best toy was a {colour} {thing} .",
    ),
    one_of(
        "{hero.her} friend was a [funny|young|quick] {friend} .",
        "a {friend} lived with {hero.obj} .",
        "{hero} and a {friend} were good friends .",
    ),
)
PLAY = one_of(
    "they [ran|sang|danced|laughed] and [played|jumped|rested] .",
    "the {friend} said {friend.call} .",
    "{hero} [sang|danced|laughed] and the {friend} [played|jumped|rested] .",
)
OUTING = (
    one_of(
        "{hero} took the {thing} to the {place} .",
        "{hero.she} and the {friend} [walked|ran] to the {place} .",
        "they went out to play {place.prep} the {place} .",
    ),
    Choose((Again(PLAY, 0.25), Then(())), (0.4, 0.6)),
)
LOSS = (
    one_of(
        "then the {thing} was gone !",
        "but the {colour} {thing} got lost .",
        "soon {hero.she} could not see the {thing} .",
    ),
    one_of(
        "{hero.she} was [very sad|afraid|sad] .",
        "{hero} began to cry .",
        "oh no , said {hero} .",
        skip=0.6,
    ),
)
LOOK = one_of(
    "they looked [under|behind] a [tree|rock|bush|bench] .",
    "the {friend} looked [under|behind] a [tree|rock|bush|bench] .",
    "{hero.she} saw no {thing} .",
)
SEARCH = (
    Again(LOOK, 0.25),
    one_of(
        "then a [tall|kind|wise] {helper} came by .",
        "{place.prep} the {place} they met a {helper} .",
        "{hero} met a [tall|kind|wise] {helper} .",
    ),
    one_of(
        "where is my {colour} {thing} ?",
        "please help me , said {hero} .",
        "why are you sad , {hero} ?",
        skip=0.6,
    ),
)
FINDING = (
    one_of(
        "{friend.call} , said the {friend} and found the {thing} .",
        "the {helper} [smiled|nodded] and gave {hero.obj} the {colour} {thing} .",
        "the {helper} found the {thing} [under|behind] a [tree|rock|bush|bench] .",
    ),
    one_of(
        "{hero.she} thanked the {helper} .",
        "thank you , said {hero} to the {helper} .",
        "now {hero} and the {friend} were happy .",
        skip=0.6,
    ),
)
ENDING = (
    one_of("it was still {weather} .", "the sky was still {weather} .", skip=0.6),
    one_of(
        "in the end the {colour} {thing} came home with {hero} .",
        "{hero} , the {friend} and the {thing} went home .",
        "{hero} slept with the {colour} {thing} by {hero.her} [bed|side] .",
    ),
)
# who, with what, where; lost, searched for, found
SCRIPT = Then((*BEGINNING, *OUTING, *LOSS, *SEARCH, *FINDING, *ENDING))

PUNCTUATION = (".", ",", "!", "?")


class TaleSource(StoryMachine):
    """Tales of a child who loses a thing and finds it again, with text as people write it.

    One tale: ``Nora was a small girl. It was a windy day. She had a red kite. ... In the
    end the red kite came home with Nora.``
    """

    def decode(self, tokens: ArrayLike) -> str:
        """Write tokens as text: capitals after a full stop, a new line after each tale."""
        text, at_start = "", True
        for token in self.check_sequence(tokens):
            word = self.symbols[token]
            if word == END:
                text += "\n"
            elif word in PUNCTUATION:
                text += word
            else:
                gap = "" if not text or text[-1] == "\n" else " "
                text += gap + (word[0].upper() + word[1:] if at_start else word)
            at_start = word in (END, ".", "!", "?")
        return text

    def encode(self, text: str) -> NDArray[np.int64]:
        """Read text as tokens; the inverse of ``decode``.

        Raises:
            UnknownNameError: For a word that no tale uses.
        """
        return np.array([self._token_id(piece) for piece in self.split(text)], dtype=np.int64)

    @staticmethod
    def split(text: str) -> list[str]:
        """Return the words, marks and line ends of a text."""
        return re.findall(r"\n|[.,!?]|[^\s.,!?]+", text)

    def knows(self, word: str) -> str | None:
        """Return a word or mark that some tale uses, in its form here; None for any other."""
        return next((one for one in (word, word.lower(), word.title()) if one in self._ids), None)

    def _token_id(self, word: str) -> int:
        if word == "\n":
            return self._ids[END]
        # a word that starts a sentence has a capital; a name keeps its own
        return self._ids[word] if word in self._ids else super()._token_id(word.lower())


def tales(
    size: str = "standard",
    *,
    n_names: int | None = None,
    n_friends: int | None = None,
    n_colours: int | None = None,
    n_things: int | None = None,
    n_places: int | None = None,
    n_helpers: int | None = None,
) -> TaleSource:
    """Make a machine that tells children's tales, one word a token.

    A child, an animal, a lost thing, a place and a helper are chosen when a tale starts and
    used until it ends, so a reader with a long memory is surprised less. One tale: ``Nora was
    a small girl. It was a windy day. She had a red kite. ... In the end the red kite came
    home with Nora.``

    Args:
        size: ``small`` (four values a role) or ``standard``.
        n_names: Number of names; girls and boys take turns.
        n_friends: Number of animals.
        n_colours: Number of colours.
        n_things: Number of things to lose.
        n_places: Number of places.
        n_helpers: Number of helpers.

    Raises:
        AttnlabError: For an unknown size, or more values than there are words.
    Source:
        The words are this project's own. Exact entropy and staircase: notebook 01.
    """
    if size not in SIZES:
        raise UnknownNameError("size of tales", size, SIZES, next_step="Try tales().")
    asked = {"hero": n_names, "friend": n_friends, "colour": n_colours, "thing": n_things,
             "place": n_places, "helper": n_helpers}  # fmt: skip
    cast = {}
    for role, standard in SIZES[size].items():
        count = standard if asked.get(role) is None else asked[role]
        most = len(CAST[role]["name"])
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= most:
            raise AttnlabError(
                f"{count!r} values for the {role} are not possible; there are words for 1 to "
                f"{most}. Choose a whole number in that range."
            )
        cast[role] = {form: words[:count] for form, words in CAST[role].items()}
    return TaleSource(SCRIPT, cast)
