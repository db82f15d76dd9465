"""The README's results are those of the records, to the digit."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from attnlab.errors import AttnlabError
from attnlab.studies import fair
from attnlab.studies.lengths import length_table
from attnlab.studies.replaced_verdicts import CAPTIONS, replacement_verdicts, rule_of
from attnlab.studies.report import (
    BEGIN,
    CLOCK,
    END,
    LEAKY,
    STEP,
    clock_ratio,
    ground_sentence,
    leak_sentence,
    length_sentence,
    linear_sentence,
    mean_and_range,
    replace_block,
    replacement_table,
    results_block,
    results_table,
    stand_in_table,
    structure_sentence,
    time_power,
)
from attnlab.training.scores import pack_counts

CLOCKED_ON = {"route": "default", "precision": "fp32", "device": "cpu", "threads": 1}
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
    config = {**CLOCKED_ON, **CLOCK[STEP], **other}
    ends = {f"ratio_to_attention{end}": ratio for end in ("", "_low", "_high")}
    return [
        {"variant": mixer, "seed": seed, **ends, **{f"config.{k}": v for k, v in config.items()}}
        for mixer in ("she", "he")
    ]


def test_the_clock_is_the_newest_series_on_one_thread():
    series = clock_runs(ratio=0.1, seed=0) + clock_runs(ratio=0.5, seed=1)
    newer = clock_runs(ratio=0.9, seed=1, threads=2) + clock_runs(ratio=0.9, seed=2, threads=2)
    runs = pd.DataFrame(series + newer)
    assert clock_ratio(runs, STEP, "she") == "0.5 (0.5 to 0.5)"


def test_a_clock_that_was_not_measured_says_how_to():
    runs = pd.DataFrame(clock_runs(ratio=0.5, seed=0, threads=2))
    with pytest.raises(AttnlabError, match="attnlab bench"):
        clock_ratio(runs, STEP, "she")
    with pytest.raises(AttnlabError, match="attnlab bench"):
        clock_ratio(pd.DataFrame(clock_runs(ratio=0.5, seed=0)), STEP, "me")


def test_the_power_of_the_growth_is_the_slope_on_log_scales():
    powers = {"attention": 2.0, "she": 1.25}
    points = pd.DataFrame(
        {"variant": mixer, "median_ms": 0.01 * max(time, 100) ** power, "config.time": time}
        for mixer, power in powers.items()
        for time in (32, 128, 512, 2048)  # below 128 tokens calls hide the growth
    )
    assert time_power(points, "attention") == pytest.approx(2.0)
    assert time_power(points, "she") == pytest.approx(1.25)


def test_the_ground_is_said_with_its_verdicts(monkeypatch):
    rows = [(passes, quantity, claim.says, passes / 10 * sign, verdict)
            for passes in (1.0, 40.0) for claim in fair.CLAIMS
            for quantity, sign, verdict in (("training cost", -1, "holds here"),
                                            ("held-out loss", 1, "fails here"))]  # fmt: skip
    columns = ["passes", "quantity", "says", "mean", "verdict"]
    judged = pd.DataFrame(rows, columns=columns).assign(rate="each one's best")
    judged = judged.assign(low=judged["mean"] - 0.05, high=judged["mean"] + 0.05)
    monkeypatch.setattr(fair, "ground_verdicts", lambda path: judged)
    words = ground_sentence()
    assert words.startswith("After 40 passes over a small text SHE's training cost is 4.00 (3.95 "
                            "to 4.05) nats below that of attention of its width")  # fmt: skip
    assert "unseen books is 4.00 (3.95 to 4.05) nats above attention's" in words
    judged["verdict"] = "one run"
    assert ground_sentence().endswith(
        "HE is 0.10 (**one run**) nats above attention on unseen books"
    )


def test_what_linear_attention_keeps_is_the_verdict_on_captions():
    words = linear_sentence()
    judged = replacement_verdicts()
    captions = judged["data"].str.startswith("captions")
    rows = judged[judged["says"].str.contains("without a") & captions]
    said = [f"keeps {100 * row['share']:.1f}" in words and f"(**{row['verdict']}**;" in words
            for row in rows.to_dict("records")]  # fmt: skip
    assert any(said)


def test_what_is_kept_of_new_structures_is_the_verdict_on_cogs(monkeypatch):
    rows = [("nets can replace all attention at once", "COGS, new structure", 0.1, np.nan),
            ("nets can replace all attention at once", "COGS", 0.9, 0.8),
            ("stand-ins with a window of softmax can replace all attention at once",
             "COGS, new structure", 0.7, 0.6)]  # fmt: skip
    judged = pd.DataFrame(rows, columns=["says", "data", "share", "share_low"])
    judged = judged.assign(share_high=judged["share_low"] + 0.2, verdict="fails here")
    judged = judged.assign(baseline="teacher, trained on as long")
    given = [judged, judged[:2], judged[:0]]
    monkeypatch.setattr("attnlab.studies.report.task_verdicts", lambda **_: given.pop(0))
    assert structure_sentence() == (
        "Of what the teacher, trained on as long, gets right in sentences of new structure (COGS), "
        "linear attention at all sites keeps 70.0 (60.0 to 80.0) % (**fails here**)."
    )
    assert structure_sentence() == structure_sentence() == ""


def test_stand_ins_are_a_table_of_what_is_recorded_and_without_records_there_is_none(monkeypatch):
    runs = pd.DataFrame(columns=rule_of(CAPTIONS).columns)
    monkeypatch.setattr("attnlab.studies.report.load_runs", lambda *_, **__: runs)
    assert stand_in_table() == ""
    counts = np.tile([16, 15, 14, 13, 20, 19, 18, 17, 20, 20], (50, 1))
    rows = [
        {"variant": variant, "seed": seed, "bleu": 40.0 + seed, "validation_bleu": 40.0,
         "details.bleu.sentences": pack_counts(counts), "details.bleu.n_sentences": 990,
         "details.data.test_too_long": 10}
        for variant in ("all/linear", "all/linear/untaught", "all/identity/tuned_all", "teacher",
                        "all/uniform", "all/linear/elu")
        for seed in ((0,) if "elu" in variant else (0, 1, 2))
    ]  # fmt: skip
    runs = pd.DataFrame(rows).reindex(columns=rule_of(CAPTIONS).columns)
    table = stand_in_table().splitlines()
    assert "greedy BLEU, 990 of 1,000 sentences" in table[0]
    assert table[2] == "| teacher | 41.0 (40.0 to 42.0) |  | 3 |"
    assert [row.split(" | ")[0] for row in table[3:5]] == [
        "| all sites: linear attention (hedgehog, window 4)",
        "| teacher, trained on as long as students are tuned",
    ]  # nor another recipe, an untuned control, or a single run
    assert "| 100.0 (100.0 to 100.0) | 3 |" in table[3]
    assert len([row for row in table if row.startswith("|")]) == 5


def test_long_sentences_are_said_with_time_and_memory_and_bear_the_heading_out(monkeypatch):
    rows = [("teacher", 200, 1.0, 100.0), ("ssd", 50, 1.1, 1.0), ("ssd", 200, 0.5, 25.0),
            ("window", 50, 1.3, 1.0), ("window", 200, 0.7, 30.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["variant", "time", "times", "state_kib"])
    table = table.assign(work="greedy", times_low=0.4, times_high=table["times"] + 0.1)
    given = {"table": pd.concat([table.assign(batch=1), table.assign(batch=32)])}
    says = ["without a softmax over positions", "with a window of softmax", "c"]
    judged = pd.DataFrame({"says": says,
                           "variant": ["all/ssd", "all/linear", "teacher"],
                           "experiment": CAPTIONS})  # fmt: skip
    monkeypatch.setattr("attnlab.studies.report.length_table", lambda **_: given["table"])
    monkeypatch.setattr("attnlab.studies.report.replacement_verdicts", lambda **_: judged)
    assert length_sentence() == (
        "A sentence of 50 words takes the two of captions 1.10 (0.40 to 1.20) and 1.30 "
        "(0.40 to 1.40) times as long as attention; 32 of 200 words at once 0.50 (0.40 to 0.60) "
        "and 0.70 (0.40 to 0.80) "
        "times, and the decoder keeps 0.25 and 0.30 of the numbers"
    )
    given["table"] = table[:0]
    assert length_sentence() == "Their times are not recorded yet"
    monkeypatch.undo()
    recorded = length_table().query("work == 'greedy' and variant != 'teacher'")
    longest = recorded[recorded["time"] == recorded["time"].max()].query("batch > 1")
    assert longest["times_high"].max() < 1 < recorded.query("batch == 1")["times_low"].min()


def test_the_leak_is_said_with_both_numbers():
    rows = [(variant, seed, bleu, 0.98) for variant, bleu in ((LEAKY, 60.0), ("teacher", 99.0))
            for seed in (0, 1)]  # fmt: skip
    runs = pd.DataFrame(rows, columns=["variant", "seed", "bleu", "test_accuracy"])
    words = leak_sentence(runs)
    assert words.startswith("98.0 (98.0 to 98.0) % of the next words")
    assert "BLEU 60.0 (60.0 to 60.0) when it writes; the teacher has 99.0" in words


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
