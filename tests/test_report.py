"""The README's results are those of the records, to the digit."""

from pathlib import Path

import pandas as pd
import pytest

from attnlab.errors import AttnlabError
from attnlab.studies.report import (
    BEGIN,
    CLOCK,
    CLOCKED_ON,
    END,
    GROWTH,
    clock_table,
    growth_sentence,
    mean_and_range,
    replace_block,
    replacement_table,
    results_block,
    results_table,
)

README = Path(__file__).parents[1] / "README.md"


def test_the_readme_shows_what_the_records_say():
    text = README.read_text(encoding="utf-8")
    assert replace_block(text, results_block()) == text, "run: attnlab study report README.md"


def test_a_table_is_ordered_by_its_first_column_and_counts_its_seeds():
    runs = pd.DataFrame(
        {
            "variant": ["she", "attention", "she", "she"],
            "seed": [0, 0, 1, 1],  # seed 1 was run twice: the last one counts
            "n_weights": [2_000_000, 500_000, 2_000_000, 2_000_000],
            "loss": [3.0, 1.5, 9.0, 2.0],
        }
    )
    lines = results_table(runs, columns={"loss": "loss (nats)"}).splitlines()
    assert lines[2] == "| attention, 4 heads | 0.50 M | 1.500 | 1 |"
    assert lines[3] == "| SHE | 2.00 M | 2.500 (2.000 to 3.000) | 2 |"


def clock_runs(*, ratio, seed, **other):
    rows = []
    for sizes in CLOCK.values():
        config = {**CLOCKED_ON, **sizes, **other}
        for mixer in ("she", "he", "we", "me"):
            row = {"variant": mixer, "seed": seed}
            row |= {f"ratio_to_attention{end}": ratio for end in ("", "_low", "_high")}
            rows.append(row | {f"config.{name}": value for name, value in config.items()})
    return rows


def test_the_clock_is_the_newest_series_on_one_thread():
    series = clock_runs(ratio=0.1, seed=0) + clock_runs(ratio=0.5, seed=1)
    newer = clock_runs(ratio=0.9, seed=1, threads=2) + clock_runs(ratio=0.9, seed=2, threads=2)
    lines = clock_table(pd.DataFrame(series + newer)).splitlines()
    assert len(lines) == 2 + len(CLOCK)
    assert all(line.count("0.5 (0.5 to 0.5)") == 4 for line in lines[2:])


def test_a_clock_that_was_not_measured_says_how_to():
    runs = pd.DataFrame(clock_runs(ratio=0.5, seed=0, threads=2))
    with pytest.raises(AttnlabError, match="attnlab bench training"):
        clock_table(runs)


def test_the_power_of_the_growth_is_the_slope_on_log_scales():
    powers = {"attention": 2.0, "she": 1.25, "he": 1.0, "we": 1.1, "me": 0.9}
    rows = [
        {
            "variant": mixer,
            "seed": 0,
            "median_ms": 0.01 * time**power,
            "config.time": time,
            **{f"config.{name}": value for name, value in {**CLOCKED_ON, **GROWTH}.items()},
        }
        for mixer, power in powers.items()
        for time in (32, 128, 512, 2048)
    ]
    words = growth_sentence(pd.DataFrame(rows))
    assert "attention, 4 heads $T^{2.00}$, SHE $T^{1.25}$, HE $T^{1.00}$" in words
    assert "From 128 to 2048 tokens" in words
    assert "over 3 lengths" in words


def replaced(variant, bleu, *, seed=0):
    scored = {"details.bleu.n_sentences": 978, "details.data.test_too_long": 22}
    return {"variant": variant, "seed": seed, "bleu": bleu, "test_accuracy": 0.5, **scored}


def test_arms_that_are_not_recorded_are_left_out_of_the_table():
    rows = [replaced("cross/paper/l", 20.0), replaced("cross/paper/l", 22.0, seed=1)]
    variants = ("teacher", "cross/paper/l", "cross/truncated/l/tuned")
    lines = replacement_table(pd.DataFrame(rows), variants=variants).splitlines()
    assert "greedy BLEU, 978 of 1,000 sentences" in lines[0]
    assert lines[2:] == ["| cross: published net L | 21.0 (20.0 to 22.0) | 0.500 (0.500 to 0.500) "
                         "| 2 |"]  # fmt: skip


def test_one_value_stands_without_a_range():
    assert mean_and_range([1.0]) == "1.000"
    assert mean_and_range([1.0, 2.0]) == "1.500 (1.000 to 2.000)"
    assert mean_and_range([1.0, 2.0], digits=1) == "1.5 (1.0 to 2.0)"


def test_only_the_block_of_a_document_is_replaced():
    document = f"before\n{BEGIN}\nold\n{END}\nafter"
    assert replace_block(document, f"{BEGIN}\nnew\n{END}") == f"before\n{BEGIN}\nnew\n{END}\nafter"
    with pytest.raises(AttnlabError, match="has no line"):
        replace_block("nothing here", "new")
