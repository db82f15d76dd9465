"""What notebook 09 tells of the records: captions, price, lengths, ways to learn, verdicts."""

import json

import matplotlib.pyplot as plt
import pandas as pd
import pytest

from attnlab.plots import labels, style
from attnlab.plots import price as price_figures
from attnlab.plots import replacing_records as figures
from attnlab.studies.replaced import AIM, ARMS, WAYS
from attnlab.teaching import figures_replacing
from attnlab.teaching import replacing_price as price
from attnlab.teaching import replacing_records as records
from attnlab.teaching import replacing_runs as runs

EMPTY = {"curve": {}, "seconds": 1.0, "command": "", "environment": {}, "finished_at": ""}


@pytest.fixture(autouse=True)
def _figures_are_closed():
    with style():
        yield
    plt.close("all")


def record(variant, *, bleu=50.0, seed=0, experiment=runs.EXPERIMENT, accuracy=0.8, **more):
    metrics = {"bleu": bleu, "bleu_low": bleu - 2, "bleu_high": bleu + 2, "exact_match": 0.1,
               "test_accuracy": accuracy, "test_loss_nats": 0.5}  # fmt: skip
    weights = {"n_weights": 1000} if variant == "teacher" else {
        "n_stand_in_weights": 4100, "n_replaced_weights": 100}  # fmt: skip
    details = {"bleu": {"n_sentences": 500}, **more.pop("details", {})}
    return {"experiment": experiment, "variant": variant, "seed": seed, "config": {},
            "metrics": metrics | weights | more, "details": details, "commit": "abc",
            **EMPTY}  # fmt: skip


def write(folder, *lines):
    text = "".join(json.dumps(one) + "\n" for one in lines)
    (folder / "attentionless.jsonl").write_text(text, encoding="utf-8")
    return folder


# Names


def test_every_way_to_learn_has_a_place():
    assert {way.strip("/") for way in records.WAYS} == set(WAYS) - {"best_lr"}


def test_all_rows_are_arms_of_the_study():
    rows = set(records.CAPTION_ROWS) | set(records.TAUGHT) | set(price.PRICED) | set(price.LONGER)
    rows |= {f"cross/{arm}" for arms in records.CROSS_ARMS.values() for arm in arms}
    assert rows <= set(ARMS)


# Captions


def test_both_stages_of_a_cross_arm_are_there(tmp_path):
    write(
        tmp_path,
        record("teacher", experiment=records.CAPTIONS, bleu=40.0),
        record("cross/low_rank/l", experiment=records.CAPTIONS, bleu=30.0),
        record("cross/low_rank/l/tuned", experiment=records.CAPTIONS, bleu=39.0),
        record("cross/paper/l", bleu=60.0, accuracy=0.9),
    )
    points = records.cross_points(path=tmp_path)
    assert points["label"].tolist() == ["published net L", "teacher", *["linear attention L"] * 2]
    assert points["is_tuned"].tolist() == [False, False, False, True]
    fig = figures.plot_forced_against_free(points)
    assert [ax.get_title() for ax in fig.axes] == list(records.TITLES.values())
    named = [text.get_text() for text in fig.axes[1].texts if text.get_text()]
    assert named == ["linear attention L, tuned", "teacher"]
    words = figures.describe_forced_against_free(points)
    assert "published net L 90.0%, BLEU 60.0." in words
    assert "linear attention L 80.0%, BLEU 30.0; linear attention L, tuned 80.0%" in words


def test_the_best_decoder_without_softmax_is_named_with_its_share(tmp_path):
    write(
        tmp_path,
        *(record("teacher", bleu=40.0, seed=seed) for seed in (0, 1)),
        *(record("cross/low_rank/l/tuned", bleu=39.0 + seed, seed=seed) for seed in (0, 1)),
        record("all/per_query/l/learned_head", bleu=40.0),
    )
    words = records.best_without_softmax(runs.recorded_arms(path=tmp_path))
    assert "linear attention L, tuned, BLEU 39.0 to 40.0, 97.5 to 100.0%" in words
    assert "(seeds: 2)" in words


def test_nothing_recorded_is_said_everywhere(tmp_path):
    table = runs.recorded_arms(path=tmp_path)
    for words in (
        records.best_without_softmax(table),
        records.leak_words(path=tmp_path),
        records.tuning_words(table),
        records.scratch_words(table),
        records.claims_markdown(path=tmp_path),
        price.price_markdown(price.price_table(path=tmp_path)),
        runs.ranges_markdown(table, records.CAPTION_ROWS, experiment=records.CAPTIONS),
    ):
        assert "not recorded yet" in words
    assert records.cross_points(path=tmp_path).empty
    assert records.ways_points(path=tmp_path)[0].empty
    lengths, _ = price.recorded_lengths(path=tmp_path)
    assert price.length_points(lengths).empty
    assert "not recorded yet" in price.length_losses(lengths)
    command = runs.no_record(records.CAPTIONS)
    assert "--scale paper --corpus multi30k/de-en --seeds 0,1,2`" in command


def test_a_table_names_what_it_lacks_and_shares_of_the_teacher(tmp_path):
    write(tmp_path, record("teacher", bleu=40.0), record("self/alr/m", bleu=30.0))
    table = runs.recorded_arms(path=tmp_path)
    rows = {"teacher": "Teacher", "self/alr/m": "Both", "self/alr/m/tuned": "Both, tuned"}
    words = runs.ranges_markdown(table, rows, shares=("kept", "share"))
    assert "| Both | 4,100 | 80.0% | 30.0 | 0.75 |" in words
    assert "eq. (9.2)" not in words  # no control, so no kept share
    assert words.endswith("Not recorded yet: Both, tuned.")
    assert "One seed; 500 test sentences" in words


# Price


def clock(folder, variant, *, ms, batch=1, threads=1, device="cpu"):
    one = record(variant, experiment=f"{price.CLOCKS[records.CAPTIONS]}/x", median_ms=ms,
                 work_gflop=0.5)  # fmt: skip
    one["config"] = {"work": "greedy", "batch": batch, "threads": threads, "device": device}
    with (folder / "speed.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(one) + "\n")


def test_an_arm_has_the_time_of_its_kind_and_the_bleu_of_its_tuned_self(tmp_path):
    write(
        tmp_path,
        record("teacher", experiment=records.CAPTIONS, bleu=40.0),
        record("cross/low_rank/l", experiment=records.CAPTIONS, bleu=30.0),
        record("cross/low_rank/l/tuned", experiment=records.CAPTIONS, bleu=38.0),
        record("self/alr/m", experiment=records.CAPTIONS, bleu=36.0),
    )
    clock(tmp_path, "teacher", ms=20.0)
    clock(tmp_path, "teacher", ms=2.0, batch=32)
    clock(tmp_path, "teacher", ms=9.0, threads=2)  # another clock
    clock(tmp_path, "cross/low_rank/l", ms=7.0)
    clock(tmp_path, "cross/low_rank/l", ms=10.0)  # measured again
    table = price.price_table(path=tmp_path).set_index("label")
    assert table["n_weights"].to_dict() == {
        "teacher": 1000, "both self sites: ALR M": 5000, "cross: linear attention L, tuned": 5000,
    }  # fmt: skip
    assert table["ms"].dropna().to_dict() == {
        "teacher": 20.0, "cross: linear attention L, tuned": 10.0,
    }  # fmt: skip
    lines = price.price_markdown(table.reset_index()).splitlines()
    assert "| teacher | 1k (1 x) | 0.5 (1 x) | 20 (1 x) | 2 (1 x) | 40.0 | 1.00 |" in lines
    assert lines[-1].startswith("| cross: linear attention L, tuned | 5k (5 x) | 0.5 (1 x) | 10 (")
    assert lines[-1].endswith("| 10 (0.5 x) | not recorded yet | 38.0 | 0.95 |")


def prices(*, ms):
    return pd.DataFrame(
        {
            "label": ["teacher", "net", "net"],
            "look": ["attention", "alr", "alr"],
            "bleu": [40.0, 30.0, 32.0],
            "n_weights": [1000, 5000, 5000],
            "ms": ms,
        }
    )


def test_price_is_drawn_with_and_without_a_clock():
    for ms, said in (([2.0, 4.0, 4.0], False), ([float("nan")] * 3, True)):
        fig = price_figures.plot_price(prices(ms=ms), aim=AIM)
        texts = [text.get_text() for text in fig.axes[1].texts]
        assert ("not recorded yet" in texts) is said
        assert ({"net", "teacher"} <= set(texts)) is not said
        assert fig.axes[0].lines[1].get_ydata()[0] == pytest.approx(AIM * 40)
    words = price_figures.describe_price(prices(ms=[2.0, 4.0, 4.0]), aim=AIM)
    assert "teacher: 1k weights, 2 ms, BLEU 40.0; net: 5k weights, 4 ms, BLEU 30.0 to 32.0" in words


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (0.5, "0.5"),
        (999, "999"),
        (999.9, "1k"),
        (1234, "1.23k"),
        (999_999, "1M"),
        (2e6, "2M"),
        (3e9, "3G"),
    ],
)
def test_large_numbers_are_short(value, said):
    assert price_figures.short(value) == said


# Length


def by_length(variant, *bleus, seed=0, longest=None):
    facts = {} if longest is None else {"data": {"longest_train": longest}}
    lengths = {"shortest": [0, 8], "longest": [7, 9], "bleu": list(bleus)}
    details = {"by_length": lengths, **facts}
    return record(variant, seed=seed, experiment=price.SHORT, details=details)


def test_lengths_are_told_from_the_lessons_to_the_longest(tmp_path):
    write(
        tmp_path,
        by_length("encoder_self/alr/m", 95.0, 40.0),
        by_length("encoder_self/alr/m", 96.0, 42.0, seed=1),
        by_length("encoder_self/alr/m", 97.0, 44.0, seed=1),  # made again
        by_length("teacher", 99.0, 80.0, longest=7),
        by_length("teacher", 99.0, 70.0, longest=7, seed=1),
        by_length("decoder_self/alr/m", 99.0, 70.0),
        by_length("cross/mean", 1.0, 1.0),  # not drawn
    )
    lengths, longest = price.recorded_lengths(path=tmp_path)
    assert longest == 7
    assert lengths["label"].unique().tolist() == [
        "teacher", "encoder self: ALR M", "decoder self: ALR M",
    ]  # fmt: skip
    points = price.length_points(lengths)
    words = price_figures.describe_by_length(points, longest_taught=longest)
    assert "then on the longest (8 to 9 words): teacher 70.0 to 80.0; encoder" in words
    assert words.endswith("ALR M 40.0 to 44.0.")
    ax = price_figures.plot_by_length(points, longest_taught=longest)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["up to 7", "8 to 9"]
    assert list(ax.lines[1].get_ydata()) == [96.0, 42.0]
    said = price.length_losses(lengths)
    assert "ALR M -40.0 to -26.0; decoder self: ALR M -10.0." in said


# Ways to learn


def test_ways_are_told_for_many_and_few_pairs(tmp_path):
    write(
        tmp_path,
        record("teacher", bleu=99.0, details={"data": {"train": 16_000}}),
        record("all/per_query/l/scratch", bleu=98.0),
        record("all/per_query/l/tuned", bleu=97.0),
        record("teacher", bleu=90.0, experiment=records.SMALL, details={"data": {"train": 1500}}),
        record("all/per_query/l/scratch", bleu=45.0, experiment=records.SMALL),
    )
    points, teachers = records.ways_points(path=tmp_path)
    assert teachers == {"16,000 pairs to learn from": 99.0, "1,500 pairs to learn from": 90.0}
    fig = figures.plot_ways(points, teachers=teachers)
    rows = [tick.get_text() for tick in fig.axes[0].get_yticklabels()]
    assert rows == ["From scratch", "Distilled, nets tuned"]
    words = figures.describe_ways(points, teachers=teachers)
    assert "from scratch 98.0, distilled, nets tuned 97.0. 1,500" in words
    said = records.scratch_words(runs.recorded_arms(experiment=records.SMALL, path=tmp_path))
    assert "net per query L, from scratch: 50.0% of attention's BLEU." in said
    assert "against from scratch: not recorded yet" in said


# Figures


def test_the_figures_are_drawn_from_the_committed_records():
    for draw in (
        figures_replacing.draw_replacing_cross,
        figures_replacing.draw_replacing_price,
        figures_replacing.draw_replacing_scratch,
    ):
        fig, words = draw()
        assert fig.axes
        assert words.alt == words.caption
        assert words.records[0].startswith("data/runs/attentionless.jsonl#attentionless/")
        assert "Points are seeds" in words.caption


def test_a_name_stands_beside_its_point_and_none_touches_another():
    ax = plt.subplots()[1]
    ax.set(xlim=(0, 1), ylim=(0, 10))
    points = {"high": (0.5, 8.0), "low": (0.2, 2.0), "near": (0.9, 2.1)}
    labels.name_points(ax, points, colours=dict.fromkeys(points, "black"), gap=0.1)
    heights = {text.get_text(): text.xyann[1] for text in ax.texts}
    assert heights["high"] == pytest.approx(0.8)
    assert heights["near"] - heights["low"] == pytest.approx(0.1)


def test_the_clock_of_another_device_or_more_threads_is_not_read(tmp_path):
    clock(tmp_path, "teacher", ms=4.0)
    clock(tmp_path, "teacher", ms=1.0, device="cuda")
    clock(tmp_path, "teacher", ms=2.0, threads=2)
    found = price.clocked(experiment=records.CAPTIONS, path=tmp_path)
    assert found["teacher"]["ms"] == 4.0


def test_weights_are_not_told_where_more_than_the_maps_went():
    table = runs.recorded_arms().set_index("variant")["n_weights"]
    assert table["encoder_self/elr/m"].isna().all()
    assert table["encoder_self/identity"].isna().all()
    assert table["encoder_self/alr/m"].notna().all()
