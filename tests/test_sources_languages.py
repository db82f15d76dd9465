"""The toy languages: one right translation, dials that do what they say, streams that are apart."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, UNK
from attnlab.errors import AttnlabError
from attnlab.seeding import numpy_generator
from attnlab.sources import NOUNS, translation_source
from attnlab.sources.languages import (
    ADJECTIVES,
    ARTICLES,
    CONJUNCTIONS,
    NUMERALS,
    PREPOSITIONS,
    VERBS,
    stream_of,
)

DIALS = st.fixed_dictionaries(
    {
        "reordering": st.integers(0, 2),
        "agreement": st.integers(0, 2),
        "counting": st.integers(1, 9),
        "n_clauses": st.integers(1, 3),
        "max_adjectives": st.integers(0, 3),
        "n_nouns": st.integers(2, 24),
        "n_verbs": st.integers(2, 12),
        "n_adjectives": st.integers(1, 12),
        "n_prepositions": st.integers(0, 4),
    }
)
SENTENCE = "the red bird near three tall cat see a dog"


def translated(text, **dials):
    source = translation_source(**dials)
    return source.decode(source.translate(source.encode(text)))


def test_the_example_of_the_docstring_is_true():
    drawn = " ".join(translation_source.__doc__.split())
    assert f"{SENTENCE} {translated(SENTENCE)}" in drawn
    assert translation_source().vocab_size == 92  # with the defaults


@pytest.mark.parametrize(
    ("dials", "text", "expected"),
    [
        ({}, SENTENCE, "elo pelo rubo apu milo milo milo altos una toba vido"),
        ({"reordering": 0}, SENTENCE, "elo rubo pelo apu altos milo milo milo vido una toba"),
        ({"reordering": 1}, SENTENCE, "elo pelo rubo apu milo milo milo altos vido una toba"),
        ({"agreement": 0}, SENTENCE, "ele pelo rube apu milo milo milo alte une toba vide"),
        ({"agreement": 1}, SENTENCE, "elo pelo rubo apu milo milo milo altos una toba vide"),
        # adjectives are mirrored around their noun
        ({"max_adjectives": 2}, "the red old cat see", "elo milo veto rubo vido"),
        # the verb follows its subject and not the nearest noun
        ({}, "two dog near a bird see a cat", "toba toba apu uno pelo uno milo vidas"),
        ({}, "a bird near two dog see a dog", "uno pelo apu toba toba una toba vido"),
    ],
)
def test_each_dial_changes_what_it_is_for(dials, text, expected):
    assert translated(text, **dials) == expected


@given(dials=DIALS, seed=st.integers(0, 99))
def test_a_pair_has_the_right_words_each_aligned_and_as_often_as_the_numeral_says(dials, seed):
    source = translation_source(**dials)
    assert len(set(source.symbols)) == len(source.symbols) == source.vocab_size
    assert [source.symbols[i] for i in (PAD, BOS, EOS, UNK)] == ["<pad>", "<bos>", "<eos>", "<unk>"]
    stems = {**NOUNS, **VERBS, **ADJECTIVES, **ARTICLES, **PREPOSITIONS, **CONJUNCTIONS}
    for words, target in source.sample_pairs(5, seed=seed):
        assert np.array_equal(source.translate(words), target)
        assert len(words) <= source.max_source_len
        assert len(target) <= source.max_target_len
        assert min(words.min(), target.min()) >= N_SPECIAL  # nothing special, nothing unknown
        assert np.array_equal(source.encode(source.decode(words)), words)
        spoken, written = source.decode(words).split(), source.decode(target).split()
        wanted, count = Counter(), 1
        for place, word in enumerate(spoken):
            if word in ARTICLES or word in NUMERALS:
                count = NUMERALS.index(word) + 2 if word in NUMERALS else 1
            if word in stems:
                wanted[place] = count if word in NOUNS else 1
        places = source.alignment(words).tolist()
        assert Counter(places) == wanted
        for place, form in zip(places, written, strict=True):
            assert form.startswith(stems[spoken[place]])


def test_no_sentence_is_in_two_streams():
    source = translation_source()
    seen = {
        stream: {source.decode(words) for words, _ in source.sample_pairs(2000, stream=stream)}
        for stream in ("data", "validation", "test")
    }
    assert len(set.union(*seen.values())) == sum(map(len, seen.values()))
    assert all(stream_of(text.split()) == stream for stream in seen for text in seen[stream])


def test_a_tenth_of_all_sentences_is_held_out_for_each_purpose():
    source = translation_source(n_clauses=2)
    generator = numpy_generator(0, "data")
    shares = Counter(stream_of(source._draw(generator)) for _ in range(4000))
    # 0.1 of 4000, six standard deviations of a binomial: 6 * sqrt(4000 * 0.1 * 0.9) = 114
    assert shares["validation"] == pytest.approx(400, abs=114)
    assert shares["test"] == pytest.approx(400, abs=114)


@pytest.mark.parametrize(
    "dials",
    [{"max_adjectives": 0}, {"n_clauses": 2, "counting": 1}, {"n_prepositions": 0}],
    ids=str,
)
def test_the_longest_sentence_is_as_long_as_promised(dials):
    source = translation_source(**{"max_adjectives": 1, **dials})
    pairs = source.sample_pairs(4000)
    assert max(len(words) for words, _ in pairs) == source.max_source_len
    assert max(len(target) for _, target in pairs) == source.max_target_len


def test_parts_of_a_sentence_are_as_frequent_as_they_should_be():
    source, n = translation_source(n_clauses=3, max_adjectives=2), 3000
    generator = numpy_generator(0, "data")
    sentences = [source._draw(generator) for _ in range(n)]

    def check(share, is_so):
        assert abs(np.mean(list(is_so)) - share) < 5 * np.sqrt(share * (1 - share) / n)

    verbs = [next(i for i, word in enumerate(words) if word in VERBS) for words in sentences]
    befores = [words[:verb] for words, verb in zip(sentences, verbs, strict=True)]
    check(1 / 3, (sum(word in CONJUNCTIONS for word in words) == 2 for words in sentences))
    check(1 / 4, (words[-1] in VERBS for words in sentences))  # the last clause has no object
    check(1 / 2, (any(word in PREPOSITIONS for word in words) for words in befores))
    check(1 / 3, (words[1] in NOUNS for words in sentences))  # no adjective, one, or two
    check(1 / 4, (words[0] == "two" for words in sentences))  # of the, a, two, three


def test_the_same_seed_gives_the_same_pairs_and_a_generator_moves_on():
    source = translation_source()

    def texts(**options):
        return [source.decode(words) for words, _ in source.sample_pairs(7, **options)]

    assert texts(seed=3) == texts(seed=3)
    assert texts(seed=3) != texts(seed=4)
    generator = numpy_generator(0, "any")
    assert texts(generator=generator) != texts(generator=generator)
    assert source.sample_pairs(0) == []


def test_an_unknown_word_becomes_the_unknown_token():
    source = translation_source()
    assert source.encode("the zebra see").tolist()[1] == UNK
    assert source.decode([UNK, PAD, EOS, PAD]) == "<unk>"
    assert source.encode("").tolist() == []


def make(**dials):
    return lambda: translation_source(**dials)


def translate(text, **dials):
    return lambda: translated(text, **dials)


def sample(n_pairs, stream):
    tiny = {"n_nouns": 1, "n_verbs": 1, "max_adjectives": 0, "counting": 1, "n_prepositions": 0}
    return lambda: translation_source(**tiny).sample_pairs(n_pairs, stream=stream)


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (translate(""), "at word 1 the sentence ends, where an article"),
        (translate("the cat"), "at word 3 the sentence ends, where a verb"),
        (translate("the red see"), "at word 3 'see' stands, where a noun"),
        (translate("the zebra see"), "at word 2 '<unk>' stands, where a noun"),
        (translate("the cat see the dog the dog"), "at word 6 'the' stands, where a conjunction"),
        (translate("elo milo vido"), "at word 1 'elo' stands"),
        (lambda: translation_source().translate([[5, 6]]), r"shape \(1, 2\)"),
        (lambda: translation_source().decode([999]), "Token 999 is outside"),
        (make(reordering=3), "reordering=3 is not possible; choose a whole number from 0 to 2"),
        (make(counting=0), "counting=0"),
        (make(n_nouns=25), "from 1 to 24"),
        (make(n_clauses=9), "from 1 to 8"),
        (make(n_verbs=True), "n_verbs=True"),
        (make(n_noun=3), "Did you mean 'n_nouns'"),
        (sample(1, "test"), r"1000 sentences in a row.*Raise n_nouns"),
        (sample(1, "tests"), "stream is called 'tests'"),
        (sample(-1, "test"), "n_pairs=-1"),
    ],
)
def test_what_cannot_be_said_is_refused_with_the_place(ask, words):
    with pytest.raises(AttnlabError, match=words):
        ask()


@pytest.mark.parametrize("agreement", [0, 1, 2])
def test_no_word_of_one_language_is_a_word_of_the_other(agreement):
    most = {"n_nouns": 24, "n_verbs": 12, "n_adjectives": 12, "n_prepositions": 4}
    source = translation_source(agreement=agreement, counting=9, n_clauses=3, **most)
    assert len(set(source.symbols)) == source.vocab_size
