"""What readers type: the part that cannot be read is named, the rest goes on, nothing runs."""

import html
import re
import warnings
from functools import cache, partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.text import Text

from attnlab.chapters.attention import pictures as attention
from attnlab.chapters.fast_extractors import live as fast
from attnlab.chapters.language_models import live as writing
from attnlab.chapters.language_models import pictures as memory
from attnlab.chapters.markov_framing import pictures as markov
from attnlab.chapters.replacing_attention import live as replacing
from attnlab.chapters.replacing_attention.pictures import moved_outputs
from attnlab.chapters.translation_teacher import live as teaching
from attnlab.chapters.translation_teacher import pictures as translation
from attnlab.config import ModelConfig
from attnlab.corpora import train_bpe
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.show import Explorer, picture, play
from attnlab.show.panels import dial
from attnlab.show.words import drawable, fenced, plain, quote, read_words, visible
from attnlab.sources import tales, translation_source

FAMILY = "\U0001f468\u200d\U0001f469\u200d\U0001f467"
NASTY = {
    "nothing": "",
    "blanks": " \t  ",
    "too long": "the cat see " * 834,
    "one long word": "x" * 10_000,
    "emoji": f"the {FAMILY} see \U0001f642",
    "Chinese": "漢字 かな 한국어",
    "combining marks": "e\u0301" + "\u0301" * 40,
    "HTML": "<script>alert(1)</script> <img src=x onerror=alert(1)> &amp; </pre></p>",
    "maths": "ca$$h $x$ \\$5 \\(y\\) $$z$$",
    "line ends": "the\ncat\r\nsee\u2028a dog",
    "control characters": "a\x00b \x1b[31m \x07",
    "from right to left": "\u202ethe cat\u202c שלום مرحبا",
    "half a character": "\ud83d cat",
    "numbers": "1e400 nan inf -1 0x10 1_000 ١ 1e-320",
    "Markdown": "~~~ ``` *a* _b_ [c](d) # e | ~~~~~\n~~~",
    "format fields": "{0} {sentence} %s %(x)s {",
}
EVERY_ONE = pytest.mark.parametrize("text", NASTY.values(), ids=NASTY)


@pytest.fixture(autouse=True)
def _strict():
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that the font lacks warns
        yield


def model_of(vocab_size, **sizes):
    config = ModelConfig(**{"mixer": "mean", "vocab_size": vocab_size, "context_len": 12,
                            "d_model": 8, "n_layers": 1, **sizes})  # fmt: skip
    return LanguageModel(config, generator=torch.Generator().manual_seed(0)).eval()


@cache
def languages():
    source = translation_source()
    sizes = {"source_vocab_size": source.vocab_size, "target_vocab_size": source.vocab_size}
    return source, teaching.small_translator(d_model=8, n_heads=2, d_ff=8, **sizes).eval()


@cache
def panels():
    """Return, by place, what a panel draws or writes from a text, and what it says."""
    source, teacher = languages()
    watch, _ = translation.watcher(teacher, source)
    bench = replacing.Workbench(teacher, source, source.sample_pairs(1), {})
    tokenizer = train_bpe(["the cat saw a dog. "] * 9, vocab_size=264)
    story = tales("small")
    by_bytes = writing.Writer(
        model_of(tokenizer.vocab_size), tokenizer.encode, tokenizer.decode,
        clean=partial(writing.spell_strange, tokenizer=tokenizer),
    )  # fmt: skip
    writers = {
        "bytes": {"mean": by_bytes},
        "tales": writing.source_writers({"mean": model_of(story.vocab_size)}, source=story),
    }
    long = {"mean": model_of(story.vocab_size, context_len=24)}
    past = fast.length_playground(long, source=story, trained_len=12, prompt="Nora ran.")
    found = {
        "02 head": lambda t: attention.head(head="who?", sentence=t, temperature=1.0),
        "07 watcher": lambda t: watch(sentence=t, layer=0, head=-1),
        "09 translations": lambda t: (bench.translations({"Teacher": {}}, sentence=t),
                                      bench.say(sentence=t)),
        "06 length": lambda t: (past["write"](model="mean", prompt=t, seed=0),
                                past["words"](model="mean", prompt=t, seed=0)),
    }  # fmt: skip
    for name, some in writers.items():
        parts, how = writing.playground(some, n_tokens=2), {"temperature": 1.0, "seed": 0}
        found[f"04 {name}"] = lambda t, parts=parts, how=how: tuple(
            part(prompt=t, mixer="mean", **how) for part in (parts["write"], parts["words"])
        )
    return found


@EVERY_ONE
@pytest.mark.parametrize("place", ["02 head", "07 watcher", "09 translations", "06 length",
                                   "04 bytes", "04 tales"])  # fmt: skip
def test_every_panel_goes_on_with_every_text(place, text):
    shown = panels()[place](text)
    if hasattr(shown, "png"):
        assert shown.png()
        said = shown.words
    else:
        texts, said = shown
        assert all(isinstance(one, str) for one in texts.values())
    assert not any(c in said for c in "\x00\x1b\u202e\n")
    assert len(said) < 1500
    if not text.strip():
        assert "stands here" in said


@EVERY_ONE
def test_a_matrix_is_read_or_refused_with_its_place(text):
    with pytest.raises(AttnlabError, match=r"(?s)Row \d|row \d|no number in the box|too many"):
        markov.own_chain(rows=text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0.5 0.5\n1 x", "'x' in row 1, column 1"),
        ("0.5 0.5\n-1 2", "'-1' in row 1, column 0"),
        ("nan 1\n0 1", "'nan' in row 0, column 0"),
        ("1 0\n0 inf", "'inf' in row 1, column 1"),
        ("1e400", "'1e400' in row 0, column 0"),
        ("1/0", "'1/0' in row 0"),
        ("0.5 0.5", "Row 0 has 2 entries, and there are 1 rows"),
        ("1 0\n0 1\n1", "Row 0 has 2 entries, and there are 3 rows"),
        ("0 0\n0 1", "Row 0 holds zeros only"),
        ("1\n" * 13, "13 rows are too many"),
        ("<b>1</b>", "'<b>1</b>' in row 0"),
    ],
)
def test_what_is_no_transition_matrix_is_refused_with_the_entry(text, said):
    with pytest.raises(AttnlabError) as refusal:
        markov.read_matrix(text)
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    "text", ["0.5 0.5\n1/4 3/4", "[[0.5, 0.5], [0.25, 0.75]]", "0.5, 0.5; 0.25, 0.75;",
             "2 2\n1 3", "1e308 1e308\n1e-320 3e-320"],
)  # fmt: skip
def test_rows_come_in_the_usual_ways_and_are_scaled_aloud(text):
    matrix, said = markov.read_matrix(text)
    np.testing.assert_allclose(matrix, [[0.5, 0.5], [0.25, 0.75]], rtol=1e-3)
    assert ("was divided: row 0 by" in said) == text.startswith(("2", "1e"))


def test_a_chain_of_parts_says_that_its_shares_depend_on_the_start():
    words = markov.own_chain(rows="1 0\n0 1").words
    assert "not unique" in words
    assert "2 closed classes" in words
    assert "entropy rate 0.000" in markov.own_chain(rows="0 1\n1 0").words


def test_what_is_left_out_or_cut_is_named():
    source, _ = languages()
    words, said = read_words("The zebra, see a <b> cat.", most=3, usual="a cat", find=source.knows)
    assert words == ["the", "see", "a"]
    assert said == (
        "Left out, for no such word is known: 'zebra,', '<b>'. Only the first 3 of 4 words are "
        "read."
    )
    assert read_words(" ", most=3, usual="a cat")[0] == ["a", "cat"]
    nine = read_words(" ".join("abcdefghi"), most=9, usual="-", find=lambda word: None)[1]
    assert "'e' and 4 more" in nine


def test_words_that_are_no_sentence_are_translated_without_a_verdict():
    words = panels()["07 watcher"]("cat cat").words
    assert "no sentence of the source language: at word 1 'cat' stands" in words
    assert "framed" not in words
    assert "no sentence" in panels()["09 translations"]("see see")[0]["Right"]


def test_a_writer_says_what_it_cut_and_what_it_hardly_knows():
    texts, said = panels()["04 bytes"]("the cat " * 99 + "\U0001f642")
    assert "Only the last 12 of" in said
    assert "read byte by byte: '\U0001f642'" in said
    assert not next(iter(texts.values())).startswith("\ufffd")
    _, said = panels()["04 tales"]("Once zebra there was")
    assert "Left out, for no such word is known: 'zebra'" in said
    _, said = panels()["06 length"]("boy boy boy")
    assert "no tale begins like this" in said


@EVERY_ONE
def test_text_is_shown_and_never_run(text, shown):
    play(lambda *, text: {text: text}, presets=[{}], words=lambda *, text: quote(text),
         text=("Text", text, "Anything"))  # fmt: skip
    first = shown[0][0]
    still = first["text/markdown"] if isinstance(first, dict) else first.data
    fence = re.search("^(~+)text$", still, re.MULTILINE)[1]
    title, body = still.split(f"{fence}text\n")
    assert body.partition(f"\n{fence}")[0] == text  # nothing ends the block before
    outside = title.replace("<span>&#36;</span>", "")
    assert not set("<>$`~[]") & set(outside)
    explorer = Explorer(lambda *, text: (html.escape(text), text), {"text": ("Text", text, "")})
    assert "<script" not in explorer.status.value
    explorer.controls["text"].value = "<img src=x>"
    assert "<img" not in explorer.status.value


@picture
def named(*, text):
    from attnlab.show import matrix

    one = matrix(np.eye(2), label="Weight", x_label="to", y_label="from", x_ticks=[text, "b"],
                 y_ticks=["a", text])  # fmt: skip
    return one.ax, quote(text)


@EVERY_ONE
def test_a_picture_draws_any_word_without_maths_or_boxes(text):
    assert named(text=text).png()


WORDS = ["ca$$h", "漢字", f"a{FAMILY}", "<b>\x00"]
SQUARE = np.tril(np.full((4, 4), 0.2)) + 0.1
ATLAS = SimpleNamespace(states=WORDS, symbols=WORDS, activity=SQUARE, writes=SQUARE,
                        damage_nats=SQUARE)  # fmt: skip
BOOKS = pd.DataFrame({"book": WORDS, "variant": "she", "seed": 0, "loss_nats": [1.0, 2, 3, 4]})
KL = pd.DataFrame({"name": "she", "state": WORDS, "share": 0.25, "kl_nats": [0.1, 0.2, 0.3, 0.4]})
WORDED = {
    "attention weights": lambda: attention.attention_weights(SQUARE, words=WORDS),
    "sight": lambda: translation.sight(WORDS, WORDS),
    "alignment": lambda: translation.alignment(WORDS, WORDS, places=[0, 1, 2, 2]),
    "cross-attention": lambda: translation.cross_attention(SQUARE, source=WORDS, target=WORDS),
    "moved outputs": lambda: moved_outputs(SQUARE, words=WORDS, what="A net"),
    "key map": lambda: memory.key_map(SQUARE, states=WORDS),
    "one key": lambda: memory.one_key(ATLAS, key=1),
    "states": lambda: memory.state_losses({"she": (SQUARE[0], SQUARE[3])}, share=[0.25] * 4,
                                          states=WORDS),
    "chances": lambda: memory.token_chances({"as it is": [0.25] * 4}, tokens=WORDS),
    "books": lambda: memory.losses_by_book(BOOKS),
    "next token": lambda: markov.next_token("a", rows={"oracle": {"a": [0.25] * 4}},
                                            shares={"a": 1.0}, symbols=WORDS),
    "transition": lambda: markov.transition(SQUARE, names=WORDS, shares=np.full(4, 0.25)),
    "states by share": lambda: markov.kl_by_state(KL, named=WORDS),
}  # fmt: skip


@pytest.mark.parametrize("draw", WORDED.values(), ids=WORDED)
def test_every_picture_of_words_draws_them_as_they_stand(draw):
    one = draw()
    assert one.png()  # a missing glyph warns, and a warning is an error here
    drawn = [text.get_text() for text in one.fig.findobj(Text)]
    assert any(r"ca\$\$h" in text for text in drawn)
    assert not any("ca$$h" in text for text in drawn)


def test_signs_that_the_font_lacks_are_named_by_their_code_points():
    assert drawable("漢字") == "‹U+6F22 +1›"
    assert drawable(FAMILY) == "‹U+1F468 +4›"
    assert drawable("a\x00b") == "a‹U+0000›b"
    assert drawable("ca$$h") == r"ca\$\$h"
    assert drawable("naïve Ω") == "naïve Ω"
    assert len(drawable("x" * 999)) == 40
    assert visible("a\u202eb\nc") == "a‹U+202E›b c"


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=60))
def test_any_text_can_be_drawn_quoted_and_shown(text):
    assert "$" not in drawable(text).replace(r"\$", "")
    shown = plain(text)
    assert not set("<>*_`$") & set(shown.replace("<span>&#36;</span>", ""))
    assert html.unescape(re.sub("</?span>", "", shown)) == text
    assert fenced(text).endswith("~~~")
    assert len(quote(text)) <= 42


def test_a_text_stands_for_a_box_of_one_line_or_several():
    one, many = dial("a", ("Prompt", "Once", "How")), dial("b", ("Rows", "1 0\n0 1"))
    assert (type(one).__name__, one.value) == ("Text", "Once")
    assert (type(many).__name__, many.value) == ("Textarea", "1 0\n0 1")
    assert one.tooltip == "How. Enter or Tab reads it."
    assert many.tooltip == "Rows. Tab reads it."
