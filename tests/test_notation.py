"""The tables of notebook 00: one row a symbol with names the code has; minutes that are true."""

import re
from pathlib import Path

import pytest

from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer
from attnlab.sources import markov_chain
from attnlab.teach import notation_markdown, show_notation
from attnlab.teach.notation import HEADINGS, symbols
from notebooks import list_sources

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"


@pytest.mark.parametrize("key", symbols().index)
def test_every_row_fills_its_columns_and_breaks_no_table(key):
    assert symbols().index.is_unique
    cells = notation_markdown(key).splitlines()[2].strip("| ").split(" | ")
    assert len(cells) == len(HEADINGS)
    assert all(cell and cell.count("$") % 2 == 0 for cell in cells)


def test_rows_are_called_as_the_code_calls_them():
    she = build_mixer("she", d_model=3, context_len=2)
    attention = build_mixer("attention", d_model=3, context_len=2, n_heads=1)
    owned = {
        ModelConfig(): ("d_model", "n_heads", "d_ff", "n_layers", "context_len", "vocab_size"),
        she: ("lag_weight", "adjust", "out"),
        attention: ("query", "key", "value", "out", "attention_weights"),
        markov_chain("weather"): ("vocab_size", "transition", "stationary", "entropy_rate_nats",
                                  "oracle_nats", "best_loss_nats"),
    }  # fmt: skip
    for owner, names in owned.items():
        assert [name for name in names if not hasattr(owner, name)] == []
        assert set(names) <= set(symbols().index)
    papers = symbols()["paper"]  # the letters of the count l d^2 + 2 d^2
    assert dict(papers[papers != ""]) == {"d_model": "d", "context_len": "l"}


def test_a_choice_of_symbols_comes_in_the_order_of_the_workbook(shown):
    lines = notation_markdown(["stationary", "d_model"]).splitlines()
    assert len(lines) == 4
    assert "`d_model`" in lines[2]
    assert r"$\pi_i$" in lines[3]
    assert len(notation_markdown().splitlines()) == len(symbols()) + 2
    assert notation_markdown("lr") == notation_markdown(["lr"])
    show_notation(["d_model"])
    assert [item.data for item, _ in shown] == [notation_markdown(["d_model"])]


def test_a_misspelt_symbol_and_an_empty_choice_are_refused():
    for keys, message in ((["stationery"], "stationary"), ([], "No symbol")):
        with pytest.raises(AttnlabError, match=message):
            notation_markdown(keys)


@pytest.mark.parametrize("source", list_sources(NOTEBOOKS), ids=lambda source: source.stem)
def test_the_map_in_notebook_00_gives_the_minutes_of_each_notebook(source):
    text = (NOTEBOOKS / "src" / "00_start_here.py").read_text(encoding="utf-8")
    minutes = re.search(r"banner\(minutes=(\d+)", source.read_text(encoding="utf-8"))[1]
    number = source.stem.split("_")[0]
    row = next(line for line in text.splitlines() if re.match(rf"# \| \[?{number} ", line))
    assert number == "00" or f"({source.stem}.ipynb)" in row
    assert row.endswith(f"| {minutes} |")
