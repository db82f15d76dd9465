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
from attnlab.training import collate_pairs

SOURCE = translation_source()
RANGES = {f"{name}{end}": factor for name in ("relative_error", "bleu")
          for end, factor in (("_low", 0.9), ("", 1.0), ("_high", 1.1))}  # fmt: skip


def arms():
    rows = [("encoder_self/alr/s", 10, 0.7, 50.0), ("encoder_self/alr/m", 100, 0.1, 95.0),
            ("decoder_self/alr/s", 10, 0.2, 20.0)]  # fmt: skip
    table = pd.DataFrame(rows, columns=["variant", "n_weights", "relative_error", "bleu"])
    words = table["variant"].str.split("/")
    ends = {name: table[name.removesuffix("_low").removesuffix("_high")] * factor
            for name, factor in RANGES.items()}  # fmt: skip
    return table.assign(site=words.str[0], method=words.str[1], n_seeds=3, **ends)


def floors():
    points = pd.DataFrame([{"width": 2, "label": "ALRR M, no skip", "error": 3.0}])
    least = {"Least, writing the stream": [4.0, 4.0, 1.0, 0.2, 0.0], "Least, so": [1.0, 1.0, 0.5]}
    return pictures.bottleneck(least, points=points)


class TestChapter(ChapterTests):
    SLUG = "distillation"
    PICTURES = {  # noqa: RUF012
        "methods": (pictures.methods, "Only with ALR and ASLR does the stream still pass beside"),
        "weights": (
            lambda: pictures.weights(max_len=50, d_model=128),
            "49,152 weights of the three maps that it replaces. ALR, ALRR, ELR: 6.9 to 3,335 times",
        ),
        "bottleneck": (
            floors, "at h = 2: least, writing the stream 1.000; least, so 0.500. Trained students: "
            "ALRR M, no skip 3.000. What is written has 4 times the spread of its update; against "
            "that, ALRR M, no skip has 0.75.",
        ),
        "sizes": (
            lambda: pictures.sizes(
                arms()[:2], controls={"mean": 5.0, "random": 1.0}, teacher=99.0
            ),
            "mean over 3 seeds; bars are the range: ALR 50.0 (10) to 95.0 (100). Teacher 99.0. "
            "Controls without any learning: mean 5.0, random 1.0.",
        ),
        "error_against_score": (
            lambda: pictures.error_against_score(arms()),
            "decoder_self/alr/s has a relative error of 0.20 and BLEU 20.0; encoder_self/alr/s has "
            "0.70 and 50.0.",
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


def write(folder, variant, *, seed=0, bleu=0.0, error=0.5, lr=0.001, tried=()):
    rates = [{"site": "encoder_self", "lr": lr, "relative_error": e} for lr, e in tried]
    metrics = {"bleu": bleu, "relative_error": error, "n_stand_in_weights": 100}
    RunRecord(experiment=live.EXPERIMENT, variant=variant, seed=seed, metrics=metrics, seconds=1.0,
              config={"fit": {"lr": lr}}, details={"rates": rates} if rates else {},
              ).append_to(folder / "attentionless.jsonl")  # fmt: skip


def test_seeds_become_a_range_and_orders_at_two_rates_are_compared(tmp_path, monkeypatch):
    monkeypatch.setattr("attnlab.records.RUNS", tmp_path)
    tried = ((0.001, 0.5), (0.003, 0.2))
    for method, bleu, at_best in (("alr/m", 90.0, 91.0), ("elr/m", 80.0, 95.0)):
        write(tmp_path, f"encoder_self/{method}", bleu=bleu)
        write(tmp_path, f"encoder_self/{method}/best_lr", bleu=at_best, tried=tried)
    for bleu in (0.0, 92.0):  # run again: the last one counts
        write(tmp_path, "encoder_self/alr/m", seed=1, bleu=bleu, error=0.25)
    found = live.recorded_arms()
    assert found.loc[found["way"] == "best_lr", "lr"].tolist() == [0.003, 0.003]
    rows = live.over_seeds(found[found["way"] == ""], columns=["bleu", "relative_error"])
    row = rows.set_index("variant").loc["encoder_self/alr/m"]
    assert (row["bleu_low"], row["bleu"], row["bleu_high"]) == (90.0, 91.0, 92.0)
    assert (row["site"], row["method"], row["n_seeds"]) == ("encoder_self", "alr", 2)
    assert row["relative_error"] == pytest.approx(0.375)
    assert "seeds 0, 1" in live.source_line(found)
    words = live.best_rates(found, site="encoder_self")
    assert "one rate: alr/m 90.0, elr/m 80.0; each at its best rate: elr/m 95.0, alr/m" in words
    assert "another order. Best rates: alr/m 0.003, elr/m 0.003." in words
