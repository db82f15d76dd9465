"""The tables of notebook 00: one row a symbol with names the code has; minutes that are true."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.teach import notation_markdown, show_notation
from attnlab.teach.notation import HEADINGS, symbols
from notebooks import list_sources

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


def test_every_key_occurs_once():
    assert symbols().index.is_unique


@pytest.mark.parametrize("key", symbols().index)
def test_every_row_fills_its_columns_and_breaks_no_table(key):
    cells = notation_markdown(key).splitlines()[2].strip("| ").split(" | ")
    assert len(cells) == len(HEADINGS)
    assert all(cell and cell.count("$") % 2 == 0 for cell in cells)


def test_sizes_are_called_as_the_configuration_calls_them():
    sizes = {"d_model", "n_heads", "d_ff", "n_layers", "context_len", "vocab_size"}
    assert sizes <= {field.name for field in fields(ModelConfig)} & set(symbols().index)


def test_weights_are_called_as_the_mixers_call_them():
    from attnlab.mixers import build_mixer

    she = build_mixer("she", d_model=3, context_len=2)
    attention = build_mixer("attention", d_model=3, context_len=2, n_heads=1)
    owned = {
        she: ("lag_weight", "adjust", "out"),
        attention: ("query", "key", "value", "out", "attention_weights"),
    }
    for mixer, names in owned.items():
        assert all(hasattr(mixer, name) and name in symbols().index for name in names)


def test_sources_have_the_quantities_of_the_table():
    from attnlab.sources import markov_chain

    source = markov_chain("weather")
    names = ("vocab_size", "transition", "stationary", "entropy_rate_nats", "oracle_nats",
             "best_loss_nats")  # fmt: skip
    assert all(hasattr(source, name) and name in symbols().index for name in names)


def test_a_choice_of_symbols_comes_in_the_order_of_the_workbook():
    lines = notation_markdown(["stationary", "d_model"]).splitlines()
    assert len(lines) == 4
    assert "`d_model`" in lines[2]
    assert r"$\pi_i$" in lines[3]


def test_without_an_argument_every_row_is_there():
    assert len(notation_markdown().splitlines()) == len(symbols()) + 2


def test_one_key_may_stand_alone():
    assert notation_markdown("lr") == notation_markdown(["lr"])


def test_a_misspelt_symbol_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="stationary"):
        notation_markdown(["stationery"])


def test_an_empty_choice_is_refused():
    with pytest.raises(AttnlabError, match="No symbol"):
        notation_markdown([])


def test_showing_displays_one_table(shown):
    show_notation(["d_model"])
    assert [item.data for item, _ in shown] == [notation_markdown(["d_model"])]


def test_the_letters_of_the_paper_are_given_where_known():
    papers = symbols()["paper"]
    assert dict(papers[papers != ""]) == {
        "d_model": "d",
        "context_len": "l",
    }  # the count l d^2 + 2 d^2


@pytest.mark.parametrize("source", list_sources(NOTEBOOKS), ids=lambda source: source.stem)
def test_the_map_in_notebook_00_gives_the_minutes_of_each_notebook(source):
    text = (NOTEBOOKS / "src" / "00_start_here.py").read_text(encoding="utf-8")
    minutes = re.search(r"banner\(minutes=(\d+)", source.read_text(encoding="utf-8"))[1]
    number = source.stem.split("_")[0]
    row = next(line for line in text.splitlines() if re.match(rf"# \| \[?{number} ", line))
    assert number == "00" or f"({source.stem}.ipynb)" in row
    assert row.endswith(f"| {minutes} |")
