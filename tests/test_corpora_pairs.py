"""Pairs that are no translations: read from pinned files, split once, repeats counted."""

import json
from collections import Counter
from dataclasses import replace

import labelled_sets
import pytest

from attnlab.corpora import ParallelCorpus, SentencePair, load_corpus
from attnlab.corpora import fetch as fetching
from attnlab.corpora.fetch import describe_corpus, stored_bytes
from attnlab.corpora.labelled import HELD_OUT, cut_off
from attnlab.corpora.pairs import N_GENERALISATIONS, PAIR_READERS, SIDES
from attnlab.errors import CorpusNotFoundError, IntegrityError


@pytest.fixture
def load(monkeypatch, tmp_path):
    """Store one file a split, or what is said of all, as a corpus, and load it."""

    def load(name, **texts):
        files = {f"{split}.gz": (split, text.encode()) for split, text in texts.items()}
        labelled_sets.store(monkeypatch, tmp_path, name, files, kind="pairs")
        return load_corpus(name)

    return load


def scan(*commands):
    return "".join(
        f"IN: {c} OUT: {' '.join(f'I_{w.upper()}' for w in c.split())}\n" for c in commands
    )


def dialogue(*turns):
    said = [[speaker, text] for speaker, text in zip(("USER", "SYSTEM") * 9, turns, strict=False)]
    return json.dumps({"dialogue_id": "1", "services": [], "turns": said}) + "\n"


def test_every_reader_says_what_its_source_and_target_are():
    assert PAIR_READERS.keys() == SIDES.keys()
    assert all(len(set(sides)) == 2 for sides in SIDES.values())


def test_headlines_are_of_the_items_of_the_news_and_lose_their_markup(load, monkeypatch):
    monkeypatch.setitem(HELD_OUT, "ag_news", {"validation": 2, "test": 3})
    lines = [f"1\tTitle #39;s {i}\tBody  {i} at &lt;b&gt;once&lt;/b&gt;\\now" for i in range(20)]
    corpus = load("headlines", all="\n".join([*lines, lines[0]]) + "\n")
    assert isinstance(corpus, ParallelCorpus)
    assert (corpus.source_language, corpus.target_language) == ("description", "headline")
    order, pairs = cut_off("ag_news", 21), [*range(20), 0]
    for split, places in order.items():
        wanted = [SentencePair(f"Body {n} at once now", f"Title's {n}")
                  for n in (pairs[i] for i in places)]  # fmt: skip
        assert list(corpus.split(split)) == [
            p for p in wanted if split != "train" or p not in {*corpus.validation, *corpus.test}
        ]
    assert "1 training items whose description" in corpus.notes or len(corpus.train) == 16
    assert corpus.notes.endswith("No held-out pair stands in training, too.")


def test_a_reply_is_asked_for_by_the_two_turns_before_it(load):
    talk = dialogue("hi  there", "yes?", "a film", "which?", "this", "good")
    corpus = load("dialogue", train=talk, validation=dialogue("hi there", "yes?"), test=talk * 3)
    assert corpus.train == (
        SentencePair("USER: hi there", "yes?"),
        SentencePair("SYSTEM: yes? USER: a film", "which?"),
        SentencePair("SYSTEM: which? USER: this", "good"),
    )
    assert corpus.validation == corpus.train[:1]
    assert len(corpus.test) == 6  # two of each dialogue
    assert load_corpus("dialogue").test == corpus.test
    assert "1 of 1 validation pairs and 6 of 6 test pairs stand in training" in corpus.notes


def test_code_comes_in_its_published_split_and_repeats_are_counted(load):
    lines = [json.dumps({"nl": f" give back {i} ", "code": f"return {i}"}) for i in range(6)]
    train, validation, test = ("\n".join(lines[a:b]) + "\n" for a, b in ((0, 4), (4, 5), (3, 6)))
    corpus = load("code", train=train, validation=validation, test=test)
    assert corpus.test[0] == SentencePair("give back 3", "return 3")
    assert [len(corpus.split(split)) for split in ("train", "validation", "test")] == [4, 1, 3]
    assert "0 of 1 validation pairs and 1 of 3 test pairs stand in training, too" in corpus.notes


def test_commands_for_validation_are_chosen_among_those_that_stand_there_once(load):
    once = [f"walk {n} times" for n in range(60)]
    corpus = load("scan/jump", train=scan(*once, *["jump"] * 40), test=scan("jump twice"))
    assert len(corpus.validation) == 5
    assert len(corpus.train) == 95
    assert Counter(pair.source for pair in corpus.train)["jump"] == 40
    assert not {*corpus.validation} & {*corpus.train}
    assert corpus.test == (SentencePair("jump twice", "I_JUMP I_TWICE"),)
    assert load_corpus("scan/jump").validation == corpus.validation
    with pytest.raises(IntegrityError, match="a line that is no command: 'walk'"):
        load("scan/simple", train="walk\n", test=scan("run"))


def test_generalisations_are_a_fixed_choice_in_their_order(load):
    def forms(n, start=0):
        return "".join(f"Eva saw {i} .\tsee ( {i} )\tkind\n" for i in range(start, start + n))

    splits = {"train": forms(5), "validation": forms(2, 100)}
    corpus = load("cogs", **splits, test=forms(3000, 1000))
    assert (len(corpus.test), corpus.test[0]) == (
        3000,
        SentencePair("Eva saw 1000 .", "see ( 1000 )"),
    )
    chosen = load("cogs/gen", **splits, test=forms(3000, 1000)).test
    assert len(chosen) == N_GENERALISATIONS
    numbers = [int(pair.source.split()[2]) for pair in chosen]
    assert numbers == sorted(set(numbers))
    assert numbers != [*range(1000, 3000)]


def test_what_nobody_offers_says_so_where_it_is_not(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNLAB_DATA", str(tmp_path))
    monkeypatch.setattr(fetching, "cache_folder", lambda: tmp_path)
    for name in ("headlines", "dialogue", "code"):
        with pytest.raises(CorpusNotFoundError, match="Nobody offers all of it for download: set"):
            load_corpus(name)
        assert describe_corpus(name).n_download_bytes == 0
    with pytest.raises(
        CorpusNotFoundError, match=r"Run `attnlab data fetch scan/jump` \(4\.1 MB\)"
    ):
        load_corpus("scan/jump")


def test_lines_are_kept_or_left_out_by_their_checksum(monkeypatch):
    lines = [f"line {i}".encode() for i in range(9)]
    pins = [fetching._pin(line)[:8] for line in lines]
    tables = {"kept": [0, 3, 8], "out": [8, 2, 1]}  # what is left out has no order
    rows = {name: [{"sha256": pins[i]} for i in places] for name, places in tables.items()}
    monkeypatch.setattr(fetching, "read_table", lambda name: rows[name])
    monkeypatch.setattr(fetching, "_check_sha256", lambda *_, **__: None)
    data = b"\n".join(lines) + b"\n"
    file = labelled_sets.pinned("x.gz", "test", data)
    found = {
        step: stored_bytes(data, replace(file, step=step)).decode().split()[1::2]
        for step in ("kept_lines:kept", "without_lines:out")
    }
    assert found == {"kept_lines:kept": ["0", "3", "8"], "without_lines:out": list("034567")}
