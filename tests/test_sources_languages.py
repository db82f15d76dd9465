"""The toy languages: one right translation, dials that do what they say, streams that are apart."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, UNK
from attnlab.errors import AttnlabError, UnknownNameError
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
    assert translated(SENTENCE) == "elo pelo rubo apu milo milo milo altos una toba vido"
    drawn = " ".join(translation_source.__doc__.split())
    assert f"{SENTENCE} {translated(SENTENCE)}" in drawn


@pytest.mark.parametrize(
    ("dials", "expected"),
    [
        ({"reordering": 0}, "elo rubo pelo apu altos milo milo milo vido una toba"),
        ({"reordering": 1}, "elo pelo rubo apu milo milo milo altos vido una toba"),
        ({"agreement": 0}, "ele pelo rube apu milo milo milo alte une toba vide"),
        ({"agreement": 1}, "elo pelo rubo apu milo milo milo altos una toba vide"),
    ],
)
def test_each_dial_changes_what_it_is_for(dials, expected):
    assert translated(SENTENCE, **dials) == expected


def test_the_verb_follows_its_subject_and_not_the_nearest_noun():
    # dog (-a) is the subject; between it and the last word stand three nouns in -o
    assert translated("two dog near a bird see a cat").endswith(" vidas")
    assert translated("a bird near two dog see a dog").endswith(" vido")


def test_adjectives_are_mirrored_around_their_noun():
    assert translated("the red old cat see", max_adjectives=2) == "elo milo veto rubo vido"


@given(dials=DIALS, seed=st.integers(0, 99))
def test_a_pair_has_the_right_words_of_both_languages(dials, seed):
    source = translation_source(**dials)
    for words, target in source.sample_pairs(5, seed=seed):
        assert np.array_equal(source.translate(words), target)
        assert len(words) <= source.max_source_len
        assert len(target) <= source.max_target_len
        assert min(words.min(), target.min()) >= N_SPECIAL  # nothing special, nothing unknown
        assert np.array_equal(source.encode(source.decode(words)), words)


@given(dials=DIALS, seed=st.integers(0, 99))
def test_nouns_are_repeated_as_often_as_the_numeral_says(dials, seed):
    source = translation_source(**dials)
    for words, target in source.sample_pairs(5, seed=seed):
        wanted, count = Counter(), 1
        for word in source.decode(words).split():
            if word in ARTICLES or word in NUMERALS:
                count = NUMERALS.index(word) + 2 if word in NUMERALS else 1
            elif word in NOUNS:
                wanted[NOUNS[word]] += count
        written = Counter(source.decode(target).split())
        assert {noun: written[noun] for noun in wanted} == wanted


@given(dials=DIALS, seed=st.integers(0, 99))
def test_every_word_but_a_numeral_is_aligned_to_its_translation(dials, seed):
    source = translation_source(**dials)
    stems = {**NOUNS, **VERBS, **ADJECTIVES, **ARTICLES, **PREPOSITIONS}
    for words, target in source.sample_pairs(5, seed=seed):
        places = source.alignment(words)
        assert len(places) == len(target)
        spoken = source.decode(words).split()
        for place, form in zip(places, source.decode(target).split(), strict=True):
            if spoken[place] in stems:
                assert form.startswith(stems[spoken[place]])
        aligned = {i for i, word in enumerate(spoken) if word not in NUMERALS}
        assert set(places.tolist()) == aligned


@given(dials=DIALS)
def test_every_symbol_is_there_once(dials):
    source = translation_source(**dials)
    assert len(set(source.symbols)) == len(source.symbols) == source.vocab_size
    assert [source.symbols[i] for i in (PAD, BOS, EOS, UNK)] == ["<pad>", "<bos>", "<eos>", "<unk>"]


def test_no_sentence_is_in_two_streams():
    source = translation_source()
    seen = {
        stream: {source.decode(words) for words, _ in source.sample_pairs(2000, stream=stream)}
        for stream in ("data", "validation", "test")
    }
    assert not seen["data"] & seen["validation"]
    assert not seen["data"] & seen["test"]
    assert not seen["validation"] & seen["test"]
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


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "at word 1 the sentence ends, where an article"),
        ("the cat", "at word 3 the sentence ends, where a verb"),
        ("the red see", "at word 3 'see' stands, where a noun"),
        ("the zebra see", "at word 2 '<unk>' stands, where a noun"),
        ("the cat see the dog the dog", "at word 6 'the' stands, where a conjunction"),
        ("elo milo vido", "at word 1 'elo' stands"),
    ],
)
def test_what_is_no_sentence_is_refused_with_the_place(text, words):
    source = translation_source()
    with pytest.raises(AttnlabError, match=words):
        source.translate(source.encode(text))


def test_a_batch_or_a_foreign_token_is_refused():
    source = translation_source()
    with pytest.raises(AttnlabError, match=r"shape \(1, 2\)"):
        source.translate([[5, 6]])
    with pytest.raises(AttnlabError, match=f"Token {source.vocab_size} is outside"):
        source.decode([source.vocab_size])


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"reordering": 3}, "reordering=3 is not possible; choose a whole number from 0 to 2"),
        ({"counting": 0}, "counting=0"),
        ({"n_nouns": 25}, "from 1 to 24"),
        ({"n_verbs": True}, "n_verbs=True"),
        ({"n_noun": 3}, "Did you mean 'n_nouns'"),
    ],
)
def test_a_dial_beyond_its_range_is_refused(dials, words):
    with pytest.raises(AttnlabError, match=words):
        translation_source(**dials)


def test_streams_that_cannot_be_filled_are_refused():
    tiny = translation_source(n_nouns=1, n_verbs=1, max_adjectives=0, counting=1, n_prepositions=0)
    with pytest.raises(AttnlabError, match=r"1000 sentences in a row.*Raise n_nouns"):
        tiny.sample_pairs(1, stream="test")
    with pytest.raises(UnknownNameError, match="stream is called 'tests'"):
        tiny.sample_pairs(1, stream="tests")
    with pytest.raises(AttnlabError, match="n_pairs=-1"):
        tiny.sample_pairs(-1)


@pytest.mark.parametrize("agreement", [0, 1, 2])
def test_no_word_of_one_language_is_a_word_of_the_other(agreement):
    most = {"n_nouns": 24, "n_verbs": 12, "n_adjectives": 12, "n_prepositions": 4}
    source = translation_source(agreement=agreement, counting=9, n_clauses=3, **most)
    assert len(set(source.symbols)) == source.vocab_size
