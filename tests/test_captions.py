"""Captions say what to see in a few words; numbers and provenance are folded, none is lost."""

import html
import json
import re
from pathlib import Path

import nbformat
import pytest

from attnlab.show import Picture, new_axes
from attnlab.show.words import MOST_SHOWN, caption_html, split_caption

SHOWN = re.compile("<figcaption><em>(.*?)</em>", re.DOTALL)
ROOT = Path(__file__).parents[1]
HASH = re.compile(r"\b(?=[0-9a-f]*[a-f])(?=[0-9a-f]*\d)[0-9a-f]{7,40}\b")
LONG = (
    "Mean gap in nats per token, lowest first: SHE 0.1 (0.0 to 0.2), HE 0.2 (0.1 to 0.3), "
    "WE 0.3 (0.2 to 0.4), ME 0.4 (0.3 to 0.5), attention 0.5 (0.4 to 0.6), mean 0.6 (0.5 to 0.7), "
    "identity 0.9 (0.8 to 1.0), pooling 1.0 (0.9 to 1.1). "
    "No two neighbours overlap. Records language-model/x: 12 runs. Commit 4f2cd89651ec."
)


def captions_of_notebooks():
    for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb")):
        for cell in nbformat.read(path, as_version=4).cells:
            for output in cell.get("outputs", []):
                data = output.get("data", {})
                for shown in SHOWN.findall(data.get("text/html", "")):
                    yield path.stem, html.unescape(re.sub("<[^>]*>", "", shown))


def words_of_figures():
    for path in sorted((ROOT / "figures").glob("*.json")):
        about = json.loads(path.read_text("utf-8"))
        yield path.stem, f"{about['caption']} {about['details']}"
        assert len(about["alt"].split()) <= MOST_SHOWN, path
        assert not HASH.search(about["alt"]), path


def test_every_committed_caption_is_short_and_names_no_commit():
    captions = [*captions_of_notebooks()]
    assert len(captions) > 100
    for name, shown in captions:
        assert 3 <= len(shown.split()) <= MOST_SHOWN, f"{name}: {shown}"
        assert not HASH.search(shown), f"{name}: {shown}"


def test_every_committed_figure_shows_what_to_see_and_loses_nothing():
    for name, words in words_of_figures():
        shown, folded = split_caption(words)
        assert 3 <= len(shown.split()) <= MOST_SHOWN, name
        assert not HASH.search(shown), name
        whole = set(words.split())
        assert whole <= set(f"{shown} {folded}".split()), name  # nothing is lost


def test_a_long_caption_shows_what_to_see_and_folds_the_numbers():
    shown, folded = split_caption(LONG)
    assert shown == "Mean gap in nats per token, lowest first. No two neighbours overlap."
    assert folded.startswith("Mean gap in nats per token, lowest first: SHE 0.1")
    assert folded.endswith("Records language-model/x: 12 runs. Commit 4f2cd89651ec.")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("The loss falls from 3.1 to 2.9. One seed.", "The loss falls from 3.1 to 2.9. One seed."),
        ("It falls. Source: data/x.jsonl, commit 4f2cd89651ec.", "It falls."),
        ("Recorded (speed, paper): AMD, 5 rounds. It falls.", "It falls."),
        ("", ""),
        ("Chances, by setting. as it is: " + "one 0.1, " * 30, "Chances, by setting."),
    ],
)
def test_a_short_caption_is_shown_whole_but_for_where_it_comes_from(words, shown):
    assert split_caption(words)[0] == shown


def test_alt_text_is_the_caption_and_the_rest_is_folded_below():
    one = Picture(new_axes(size=(2, 1)).figure, LONG)
    assert f"<img alt='{one.caption}'" in one.html()
    assert "0.1" not in one.caption
    said = caption_html(one.words)
    assert said.startswith(f"<em>{one.caption}</em><details>")
    assert caption_html("Ca$$h <b>rises</b>.") == (
        "<em>Ca<span>&#36;</span><span>&#36;</span>h &#60;b&#62;rises&#60;/b&#62;.</em>"
    )
