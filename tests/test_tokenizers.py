"""Tokenizers: exact both ways, the same every time, and clear about damaged files."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import attnlab.corpora.tokenizers
from attnlab.corpora import collapse_layout, load_tokenizer, train_bpe
from attnlab.corpora.tokenizers import safe_chunks
from attnlab.errors import AttnlabError
from attnlab.paths import MODELS

STORY = [
    "Once upon a time there were three bears. It's said, they'd eat 12 bowls of porridge.\n",
    "The wolf said: “I'll huff, and I'll puff!”\t— naïve café,  two  blanks.\r\n",
]
BPE = train_bpe(STORY, vocab_size=311)
FOLDED = train_bpe([collapse_layout(text) for text in STORY], vocab_size=311)
CHILDREN = MODELS / "children/tokenizer.json"
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(ANY_TEXT)
@example("")
@example("\0")
@example(" ")
@example("\u00a0\u2003\u200b\u2028\x85\x1c ")
@example("e\u0301\u0301 \u1100\u1161 👩‍👩‍👧‍👦 🇩🇪 \U0010ffff\ufffd")
@example("  two  blanks \r\n\n\t and\r an end  ")
@example("<|endoftext|> </s> <unk>")
def test_byte_pairs_bring_back_any_text_byte_by_byte_as_the_library_does(text):
    ids = BPE.encode(text)
    assert BPE.decode(ids) == text == BPE._library.decode(ids, skip_special_tokens=False)
    assert b"".join(map(BPE.token_bytes, ids)) == text.encode()
    assert BPE.token_lengths[ids].sum() == len(text.encode())
    assert FOLDED.decode(FOLDED.encode(text)) == collapse_layout(text)  # no more than layout


@given(st.lists(st.integers(0, 310), max_size=30))
def test_any_ids_decode_to_something(ids):
    assert isinstance(BPE.decode(np.array(ids, dtype=np.uint16)), str)


def test_half_a_character_shows_as_a_mark():
    assert BPE.decode([BPE.encode("ß")[0]]) == "\ufffd"


pieces = st.lists(st.sampled_from(["bears", " ", "  ", "\n", "1", ".", "'s", "é", ", "]))


@given(pieces.map("".join), st.integers(1, 9))
@example("one two " * 9000, attnlab.corpora.tokenizers.CHUNK_CHARACTERS)
def test_cutting_a_long_text_changes_no_token(text, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attnlab.corpora.tokenizers, "CHUNK_CHARACTERS", length)
        chunks = safe_chunks(text)
        assert "".join(chunks) == text
        assert len(chunks) > 1 or len(text) < 9000
        assert BPE.encode(text).tolist() == BPE._library.encode(text).ids


def test_the_vocabulary_has_the_asked_size_and_all_bytes():
    assert BPE.vocab_size == 311
    assert {BPE.token_bytes(token) for token in range(311)} >= {bytes([b]) for b in range(256)}
    too_small_a_text = train_bpe(["abab abab"], vocab_size=999)
    assert 256 < too_small_a_text.vocab_size < 270


def test_training_twice_gives_the_same_tokenizer_and_a_single_text_is_not_its_letters():
    assert train_bpe(STORY, vocab_size=311).digest == BPE.digest
    assert train_bpe(iter(STORY), vocab_size=311).digest == BPE.digest
    assert train_bpe(STORY, vocab_size=310).digest != BPE.digest
    assert train_bpe(STORY[0], vocab_size=280).digest == train_bpe(STORY[:1], vocab_size=280).digest
    assert load_tokenizer(CHILDREN).digest == "de96950a6e8c"  # as in the recorded runs


@pytest.mark.parametrize("parallel", ["true", "false"])
def test_another_process_trains_the_same_tokenizer(parallel):
    code = "from attnlab.corpora import train_bpe; print(train_bpe({}, vocab_size=311).digest)"
    done = subprocess.run(
        [sys.executable, "-c", code.format(ascii(STORY))],
        env={"TOKENIZERS_PARALLELISM": parallel, "PYTHONPATH": str(Path(__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == BPE.digest


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda: train_bpe(STORY, vocab_size=255), r"vocab_size=255 is too small.*256"),
        (lambda: train_bpe(STORY, vocab_size=10**13), "vocab_size=10000000000000 is too large"),
        (lambda: BPE.encode("ab\ud800"), r"Character 2 of the text is a lone surrogate \(U\+D800"),
        (lambda: BPE.decode([5, -1]), "Token id -1 is outside.*0 to 310"),
        (lambda: BPE.decode([5, 311]), "Token id 311 is outside.*0 to 310"),
        (lambda: load_tokenizer("nothing.json"), r"nothing\.json cannot be read"),
    ],
)
def test_what_cannot_be_done_is_explained(ask, message):
    with pytest.raises(AttnlabError, match=message):
        ask()


# text as trained

PAGE = """
    Once upon a time\tthere were
    three  bears.\r\n\r\nThe wolf said: hello.\n"""


@pytest.mark.parametrize("tokenizer", [FOLDED, load_tokenizer(CHILDREN)])
def test_a_page_with_line_ends_is_read_as_the_text_without_layout_that_it_learned(tokenizer):
    assert tokenizer.folds_layout
    ids = tokenizer.encode(PAGE)
    assert ids.tolist() == tokenizer.encode(collapse_layout(PAGE)).tolist()
    assert tokenizer.decode(ids) == collapse_layout(PAGE) != PAGE


def test_one_text_with_layout_among_the_training_texts_keeps_it(tmp_path):
    tokenizer = train_bpe(["no layout here", "a line\n"], vocab_size=270)
    assert tokenizer.decode(tokenizer.encode(PAGE)) == PAGE
    tokenizer.save(tmp_path / "it")
    assert load_tokenizer(tmp_path / "it").decode(tokenizer.encode(PAGE)) == PAGE


@pytest.mark.parametrize(("text", "folds"), [("bear" + " bear" * 9, True), ("bear\n\n" * 9, False)])
def test_a_file_that_does_not_say_it_is_judged_by_its_pieces(tmp_path, text, folds):
    path, tokenizer = tmp_path / "tokenizer.json", train_bpe(text, vocab_size=270)
    tokenizer.save(path)
    assert "folds_layout" not in path.read_text()
    again = load_tokenizer(path)
    assert again.folds_layout == folds
    assert again.digest == tokenizer.digest


# files


@pytest.mark.parametrize("tokenizer", [BPE, FOLDED], ids=repr)
def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    path = tmp_path / "folder" / "tokenizer.json"
    tokenizer.save(path)
    again = load_tokenizer(path)
    assert (again.digest, again.vocab_size) == (tokenizer.digest, tokenizer.vocab_size)
    assert again.encode(STORY[1]).tolist() == tokenizer.encode(STORY[1]).tolist()
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((raw, "cannot be read as a tokenizer") for raw in (b"", b"{", b"\xff", b"[" * 99)),
        *((json.dumps(content).encode(), "not a tokenizer of attnlab") for content in
          ([], {}, {"format": "other"}, {"format": "attnlab-tokenizer-1", "kind": "word"}, None)),
        ({"tokenizer": {}}, "content is damaged"),
        ({"tokenizer": None}, "content is damaged"),
    ],
)  # fmt: skip
def test_a_damaged_file_and_one_of_something_else_are_refused(tmp_path, content, message):
    path = tmp_path / "tokenizer.json"
    BPE.save(path)
    if isinstance(content, dict):  # one part of a good file
        content = json.dumps(json.loads(path.read_text()) | content).encode()
    path.write_bytes(content)
    with pytest.raises(AttnlabError, match=message):
        load_tokenizer(path)
