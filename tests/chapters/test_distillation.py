"""Chapter 08: students taught while the notebook runs, their floors, and the records."""

import numpy as np
import pandas as pd
import pytest
import torch
from chapter_tests import ChapterTests
from hypothesis import given
from hypothesis import strategies as st

from attnlab.chapters.distillation import checks, live, pictures
from attnlab.distillation import StudentSpec, build_student, capture
from attnlab.distillation.naive import encoder_naive
from attnlab.records import RunRecord
from attnlab.seeding import torch_generator
from attnlab.sources import translation_source
from attnlab.studies.arms import arm_columns
from attnlab.training import collate_pairs

SOURCE = translation_source()
SIZES_RECORDED = {  # arm: weights, relative error, BLEU
    "teacher": (0, np.nan, 99.0),
    "encoder_self/mean": (0, 1.0, 5.0),
    "encoder_self/uniform": (0, 1.0, 3.0),
    "encoder_self/random": (0, 2.0, 1.0),
    "encoder_self/alr/s": (10, 0.7, 4.0),
    "encoder_self/alr/m": (100, 0.1, 95.0),
    "encoder_self/alrr/m": (100, 0.6, 50.0),
    "encoder_self/alr/m/tuned": (100, 0.1, 96.0),
    "decoder_self/alr/s": (10, 0.2, 20.0),
}


def arms():
    """Return three seeds of each arm, as ``live.recorded_arms`` does."""
    rows = [
        {"variant": name, "seed": seed, "commit": "abc", "n_stand_in_weights": n,
         "relative_error": error * factor, "bleu": bleu * factor}
        for name, (n, error, bleu) in SIZES_RECORDED.items()
        for seed, factor in enumerate((0.9, 1.0, 1.1))
    ]  # fmt: skip
    return arm_columns(pd.DataFrame(rows))


def floors():
    least = {"writing the stream": [4.0, 1.0, 0.2, 0.0], "with the identity": [1.0, 0.5]}
    return pictures.bottleneck(least, errors={"ALRR M, no skip": 3.0}, width=2)


class TestChapter(ChapterTests):
    SLUG = "distillation"
    PICTURES = {  # noqa: RUF012
        "methods": (pictures.methods, "Only with ALR and ASLR does the stream still pass beside"),
        "weights": (
            lambda: pictures.weights(max_len=50, d_model=128),
            "With 50 slots of width 128 a student has 3.6 to 10,002 times the 49,152 weights of "
            "the three maps that it replaces. As multiples, XS to XL: ALR, ALRR, ELR 6.9 to 3,335;",
        ),
        "bottleneck": (
            floors, "2 hidden units leave an error of at least 1.000 (writing the stream) or 0.500 "
            "(with the identity). Trained students have ALRR M, no skip 3.000. What is written has "
            "4 times the spread of its update; against that, ALRR M, no skip has 0.75.",
        ),
        "sizes": (
            lambda: pictures.sizes(arms()),
            "1 of 2 sizes of ALR translate better than the best control (mean, BLEU 5.0); the "
            "teacher has 99.0. Bars are the range over 3 seeds. BLEU (and weights) of the smallest "
            "and the largest: ALR 4.0 (10) to 95.0 (100); ALRR 50.0 (100)",
        ),
        "error_against_score": (
            lambda: pictures.error_against_score(arms()),
            "With an error of 0.20 one (decoder self: ALR S) has BLEU 20.0, with 0.60 another "
            "(encoder self: ALRR M) has 50.0. Source: data/runs/attentionless.jsonl, seeds 0, 1, 2",
        ),
    }  # fmt: skip
    PANELS = {"weights": lambda: (pictures.weights, pictures.WEIGHTS_DIALS)}  # noqa: RUF012


def test_the_diagram_has_a_net_for_each_method_and_four_for_aslr():
    hatched = [sum(patch.get_hatch() == "///" for patch in ax.patches)
               for ax in pictures.methods().fig.axes]  # fmt: skip
    assert hatched == [0, 1, 4, 1, 1]


# Exercises ---------------------------------------------------------------------------------------


def test_the_reference_net_is_the_package_s_and_the_page_s():
    page = checks.alr_net(torch.tensor([[3.0], [1.0]]).double(), 2, checks.hand_weights())
    np.testing.assert_allclose(page.flatten(), [1, -2], atol=1e-3)
    sizes = {"max_len": 5, "d_model": 3, "n_heads": 1}
    generator = torch_generator(0, "init")
    student = build_student(StudentSpec(width=4), **sizes, generator=generator).double()
    slots = student.net
    weights = {
        "gain": slots.norm_gain.flatten(), "shift": slots.norm_shift.flatten(),
        "w_1": slots.first_weight.flatten(0, 1), "b_1": slots.first_bias[0],
        "hidden_gain": slots.hidden_gain[0], "hidden_shift": slots.hidden_shift[0],
        "w_2": slots.second_weight.flatten(1), "b_2": slots.second_bias.flatten(),
    }  # fmt: skip
    x = torch.randn(5, 3, generator=torch_generator(0, "data"), dtype=torch.float64)
    padding = torch.arange(5) >= 3
    want = encoder_naive(student, x[None], source_padding=padding[None])[0]
    torch.testing.assert_close(checks.alr_net(x, 3, weights), want)


@given(time=st.integers(1, 7), width=st.integers(2, 5), seed=st.integers(0, 99))
def test_running_sums_and_the_rest_are_a_decoder_student(time, width, seed):
    spec = StudentSpec(site="decoder_self", width=width)
    sizes = {"max_len": 7, "d_model": 3, "n_heads": 1}
    net = build_student(spec, **sizes, generator=torch_generator(seed, "init")).double()
    x = torch.randn(time, 3, generator=torch_generator(seed, "data"), dtype=torch.float64)
    first = checks.prefix_hidden(x, *checks.first_layer(net))
    torch.testing.assert_close(checks.rest_of_net(net, first), net(x[None])[0])


# Taught while it runs ----------------------------------------------------------------------------


def test_counts_are_the_published_formulas():
    counts, W, d = live.count_table(), 50 * 128, 128
    assert counts.loc["ALR, ALRR, ELR", "XS"] == 2 * W * 25 + 3 * W + 3 * 25 == 339_275
    assert counts.loc["ASLR, all heads", "XS"] == 8 * (W * 200 + 200 * 800 + 2 * W + 600 + 800)
    assert counts.loc["Decoder self, ALR", "L"] == W * 3200 + 3200 * d + 2 * W + 9600 + d
    assert counts.loc["Cross, ALR", "M"] == 3 * W * 1600 + 5 * W + 4800


@given(width=st.integers(2, 6), seed=st.integers(0, 99))
def test_no_student_is_better_than_its_floor(width, seed):
    """Eq. (8.11): even with the best second map, h units leave what the best plane misses."""
    x, y = torch.randn(2, 30, 3, 4, generator=torch_generator(seed, "data"), dtype=torch.float64)
    z = (y - y.mean(0)).flatten(1)
    least = torch.linalg.svdvals(z).square()[width - 1 :].sum()
    spec, sizes = StudentSpec(method="alrr", width=width), {"max_len": 3, "d_model": 4}
    student = build_student(spec, **sizes, n_heads=1, generator=torch_generator(seed, "init"))
    net = student.double().net
    with torch.no_grad():  # the best second map for these hidden units: least squares
        h = net.hidden(net.read(x), net.fold())
        h = torch.cat([h.flatten(1), torch.ones(len(h), 1, dtype=h.dtype)], 1)
        best = h @ torch.linalg.lstsq(h, y.flatten(1), driver="gelsd").solution
    assert float((best - y.flatten(1)).square().sum()) >= float(least) - 1e-9


def test_one_length_holds_the_sentences_of_that_length():
    pairs = SOURCE.sample_pairs(40)
    batches = [collate_pairs(pairs[:20]), collate_pairs(pairs[20:])]
    model, _ = live.toy_teacher(n_steps=1)
    lessons = [capture(model, batch)["encoder_self", 0] for batch in batches]
    length = len(pairs[0][0])
    x, y = live.same_length(lessons, length=length)
    n_sentences = sum(len(read) == length for read, _ in pairs)
    assert x.shape == y.shape == (n_sentences, length, 32)
    assert torch.equal(y[0], lessons[0].targets[0, :length])


# Records -----------------------------------------------------------------------------------------


def write(folder, variant, *, seed=0, bleu=0.0, error=0.5):
    metrics = {"bleu": bleu, "relative_error": error, "n_stand_in_weights": 100}
    RunRecord(experiment=live.EXPERIMENT, variant=variant, seed=seed, metrics=metrics, seconds=1.0,
              config={}).append_to(folder / "attentionless.jsonl")  # fmt: skip


def test_seeds_become_a_range_and_the_last_run_of_each_counts(tmp_path, monkeypatch):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path)
    write(tmp_path, "encoder_self/alr/m", bleu=90.0)
    for bleu in (0.0, 92.0):  # run again
        write(tmp_path, "encoder_self/alr/m", seed=1, bleu=bleu, error=0.25)
    write(tmp_path, "encoder_self/alr/m/best_lr", bleu=91.0)
    found = live.recorded_arms()
    rows = live.over_seeds(found[found["way"] == ""], columns=["bleu", "relative_error"])
    row = rows.set_index("variant").loc["encoder_self/alr/m"]
    assert (row["bleu_low"], row["bleu"], row["bleu_high"]) == (90.0, 91.0, 92.0)
    assert (row["site"], row["method"], row["n_seeds"]) == ("encoder_self", "alr", 2)
    assert row["relative_error"] == pytest.approx(0.375)
    assert "seeds 0, 1" in live.source_line(found)


def test_the_recorded_order_at_best_rates_is_as_notebook_08_says():
    runs = live.recorded_arms().set_index(["variant", "seed"])["bleu"]
    best = runs[runs.index.get_level_values(0).str.endswith("/best_lr")]
    best = best.rename(index=lambda name: str(name).removesuffix("/best_lr"), level=0)
    both = pd.DataFrame({"best": best, "usual": runs}).dropna().droplevel("seed")
    assert both.index.is_unique, "one seed each"
    encoder, cross = (both[both.index.str.startswith(f"{site}/")].rank()
                      for site in ("encoder_self", "cross"))  # fmt: skip
    assert len(encoder) == len(cross) == 4
    assert encoder["best"].equals(encoder["usual"])
    assert cross["usual"].idxmax() == "cross/per_query/l"
    assert cross["best"].idxmax() == "cross/low_rank/l"
