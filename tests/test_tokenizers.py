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
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(ANY_TEXT)
@example("")
@example("\0")
@example(" ")
@example("\u00a0\u2003\u200b\u2028\x85\x1c ")
@example("e\u0301\u0301 \u1100\u1161 👩‍👩‍👧‍👦 🇩🇪 \U0010ffff\ufffd")
@example("  two  blanks \r\n\n\t and\r an end  ")
@example("<|endoftext|> </s> <unk>")
def test_byte_pairs_bring_back_any_text(text):
    assert BPE.decode(BPE.encode(text)) == text


@given(ANY_TEXT)
def test_the_bytes_of_the_tokens_are_the_bytes_of_the_text(text):
    ids = BPE.encode(text)
    assert b"".join(map(BPE.token_bytes, ids)) == text.encode()
    assert BPE.token_lengths[ids].sum() == len(text.encode())


@given(ANY_TEXT)
def test_our_decoding_is_the_librarys(text):
    ids = BPE.encode(text)
    assert BPE.decode(ids) == BPE._library.decode(ids, skip_special_tokens=False)


@given(st.lists(st.integers(0, 310), max_size=30))
def test_any_ids_decode_to_something(ids):
    assert isinstance(BPE.decode(np.array(ids, dtype=np.uint16)), str)


def test_half_a_character_shows_as_a_mark():
    first_byte = BPE.encode("é" if len(BPE.encode("é")) == 2 else "ß")[0]
    assert BPE.decode([first_byte]) == "\ufffd"


pieces = st.lists(st.sampled_from(["bears", " ", "  ", "\n", "1", ".", "'s", "é", ", "]))


@given(pieces.map("".join), st.integers(1, 9))
def test_cutting_a_long_text_changes_no_token(text, length):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(attnlab.corpora.tokenizers, "CHUNK_CHARACTERS", length)
        chunks = safe_chunks(text)
        assert "".join(chunks) == text
        assert BPE.encode(text).tolist() == BPE._library.encode(text).ids


def test_a_long_text_is_cut():
    text = "one two " * 9000
    assert len(safe_chunks(text)) > 1
    assert BPE.encode(text).tolist() == BPE._library.encode(text).ids


def test_the_vocabulary_has_the_asked_size_and_all_bytes():
    assert BPE.vocab_size == 311
    assert {BPE.token_bytes(token) for token in range(311)} >= {bytes([b]) for b in range(256)}


def test_a_text_too_small_for_the_size_gives_what_it_has():
    assert 256 < train_bpe(["abab abab"], vocab_size=999).vocab_size < 270


def test_a_size_below_the_bytes_is_refused():
    with pytest.raises(AttnlabError, match=r"vocab_size=255 is too small.*256"):
        train_bpe(STORY, vocab_size=255)


def test_training_twice_gives_the_same_tokenizer():
    assert train_bpe(STORY, vocab_size=311).digest == BPE.digest
    assert train_bpe(iter(STORY), vocab_size=311).digest == BPE.digest
    assert train_bpe(STORY, vocab_size=310).digest != BPE.digest


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


def test_a_single_text_is_one_text_not_its_letters():
    assert train_bpe(STORY[0], vocab_size=280).digest == train_bpe(STORY[:1], vocab_size=280).digest


def test_a_lone_surrogate_is_refused_with_its_place():
    with pytest.raises(
        AttnlabError, match=r"Character 2 of the text is a lone surrogate \(U\+D800"
    ):
        BPE.encode("ab\ud800")


@pytest.mark.parametrize("token", [-1, 311])
def test_an_id_of_another_vocabulary_is_refused(token):
    with pytest.raises(AttnlabError, match=f"Token id {token} is outside.*0 to 310"):
        BPE.decode([5, token])


# text as trained

PAGE = """
    Once upon a time\tthere were
    three  bears.\r\n\r\nThe wolf said: hello.\n"""
FOLDED = train_bpe([collapse_layout(text) for text in STORY], vocab_size=311)


@pytest.mark.parametrize("tokenizer", [FOLDED, load_tokenizer(MODELS / "children/tokenizer.json")])
def test_a_page_with_line_ends_is_read_as_the_text_without_layout_that_it_learned(tokenizer):
    assert tokenizer.folds_layout
    ids = tokenizer.encode(PAGE)
    assert ids.tolist() == tokenizer.encode(collapse_layout(PAGE)).tolist()
    assert tokenizer.decode(ids) == collapse_layout(PAGE) != PAGE


@given(ANY_TEXT)
def test_a_tokenizer_changes_no_more_than_layout(text):
    assert FOLDED.decode(FOLDED.encode(text)) == collapse_layout(text)


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


def test_the_digest_is_that_of_the_recorded_runs():
    assert load_tokenizer(MODELS / "children/tokenizer.json").digest == "de96950a6e8c"


# files


@pytest.mark.parametrize("tokenizer", [BPE, FOLDED], ids=repr)
def test_a_saved_tokenizer_comes_back_the_same(tokenizer, tmp_path):
    path = tmp_path / "folder" / "tokenizer.json"
    tokenizer.save(path)
    again = load_tokenizer(path)
    assert (again.digest, again.vocab_size) == (tokenizer.digest, tokenizer.vocab_size)
    assert again.encode(STORY[1]).tolist() == tokenizer.encode(STORY[1]).tolist()
    assert [file.name for file in path.parent.iterdir()] == ["tokenizer.json"]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AttnlabError, match=r"nothing\.json cannot be read"):
        load_tokenizer(tmp_path / "nothing.json")


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 99])
def test_a_damaged_file_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_bytes(content)
    with pytest.raises(AttnlabError, match="cannot be read as a tokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "content",
    [[], {}, {"format": "other"}, {"format": "attnlab-tokenizer-1", "kind": "word"}, "text", None],
)
def test_json_of_something_else_is_refused(tmp_path, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(content))
    with pytest.raises(AttnlabError, match="not a tokenizer of attnlab"):
        load_tokenizer(path)


@pytest.mark.parametrize("change", [{"tokenizer": {}}, {"tokenizer": None}], ids=str)
def test_a_tokenizer_with_damaged_content_is_refused(tmp_path, change):
    path = tmp_path / "tokenizer.json"
    BPE.save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(AttnlabError, match="content is damaged"):
        load_tokenizer(path)
