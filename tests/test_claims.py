"""The ledger says what the records say, of every claim, and nothing else."""

import ast
import itertools
import json
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from book import states

from attnlab import claims
from attnlab.chapters.what_we_found import pictures
from attnlab.claims import (
    VERDICTS,
    Evidence,
    digest,
    ledger,
    ledger_markdown,
    nets,
    read_words,
    verdicts_markdown,
)
from attnlab.claims import evidence as found
from attnlab.cli import main
from attnlab.errors import UnknownNameError
from attnlab.records import RunRecord, load_runs
from attnlab.seeding import numpy_generator
from attnlab.studies import replaced_verdicts
from attnlab.studies.replaced_verdicts import CLAIMS
from attnlab.training.scores import pack_counts
from attnlab.training.texts import pack_scores

ROOT = Path(__file__).parents[1]
IDS = [*(f"E{n}" for n in range(1, 15)), *(f"R{n}" for n in range(1, 13)), "T1"]
RECORDED = {"E7", "E8", "E9", "E11", "E12", "E14", "R5", "R6", "R7", "R9", "R10", "R11"}


@pytest.fixture(scope="module")
def lines():
    return ledger()


def plant(folder, experiment, variant, seed, metrics, *, config=None, details=None):
    record = RunRecord(
        experiment=experiment, variant=variant, seed=seed, config=config or {}, metrics=metrics,
        details=details or {}, seconds=1.0, command="", commit="", environment={}, finished_at="",
    )  # fmt: skip
    record.append_to(folder / f"{experiment.split('/')[0]}.jsonl")


def plant_losses(folder, losses, *, experiment="language-model/classroom/tales", name="loss"):
    for variant, values in losses.items():
        config = {"model": {"mixer": variant, "d_model": 8}, "train": {"lr": 1.0}}
        for seed, value in enumerate(values):
            metrics = {f"train_{name}_nats": value, f"test_{name}_nats": value}
            plant(folder, experiment, variant, seed, metrics, config=config)


def verdicts(folder, claim):
    return ledger(path=folder, ids=[claim])["verdict"].tolist()


def test_every_claim_is_there_once_and_in_order(lines):
    assert list(read_words()) == IDS
    assert list(dict.fromkeys(lines["id"])) == IDS


def test_every_line_has_a_verdict_words_and_a_doubt(lines):
    assert set(lines["verdict"]) <= set(VERDICTS)
    for name in ("claim", "quantity", "section", "doubt"):
        assert lines[name].str.len().gt(5).all(), name
    is_judged = lines["verdict"].isin([*VERDICTS[:3], *found.NO_VERDICTS])
    assert lines.loc[is_judged, "number"].str.contains(r"\d").all()


def test_fewer_than_three_seeds_are_never_a_verdict(lines):
    few = lines["seeds"].isin([1, 2]) & ~lines["verdict"].isin(["built", "not recorded yet"])
    assert set(lines.loc[few, "verdict"]) <= set(found.NO_VERDICTS)


def test_every_record_that_is_named_exists(lines):
    named = {name for record in lines["record"] for name in record.split(", ") if "/" in name}
    known = set(load_runs()["experiment"])
    assert not [n for n in named if n not in known and not (
        n.endswith("/") and any(k.startswith(n) for k in known))]  # fmt: skip
    assert set(lines.loc[~lines["record"].str.contains("/"), "record"]) <= {"computed here", ""}


def test_every_place_is_a_section_of_a_notebook(lines):
    for words in read_words().values():
        notebook, number = words.place.split()
        text = (ROOT / "notebooks" / "src" / f"{notebook}.py").read_text("utf-8")
        assert re.search(rf"^# ## {number}  \S", text, re.MULTILINE), words.place
        assert words.section == f"[{notebook[:2]}, section {number}]({notebook}.ipynb)"


def test_an_empty_folder_answers_for_everything(tmp_path):
    lines = ledger(path=tmp_path)
    assert list(dict.fromkeys(lines["id"])) == IDS
    recorded = lines[lines["id"].isin(RECORDED)]
    assert set(recorded["verdict"]) == {"not recorded yet"}
    assert (recorded["number"] == "").all()


def test_a_changed_record_changes_the_verdict(tmp_path):
    base = [3.0, 3.1, 3.3]
    for place, (shift, verdict) in enumerate(
        ((-0.2, "holds here"), (0.2, "fails here"), (0.0, "not distinguishable at this budget"))
    ):
        folder, jitter = tmp_path / str(place), (0.01, -0.01, 0.002)
        she = [b + shift + j for b, j in zip(base, jitter, strict=True)]
        plant_losses(folder, {"attention": base, "she": she})
        line = ledger(path=folder, ids=["E7"]).iloc[0]
        assert (line["verdict"], line["seeds"]) == (verdict, 3)
        assert line["value"] == pytest.approx(shift + 0.002 / 3)
        assert line["number"].startswith(f"{line['value']:+.3f} (")


def test_two_seeds_are_two_runs(tmp_path):
    plant_losses(tmp_path, {"attention": [3.0, 3.1], "she": [2.0, 2.1]})
    assert set(verdicts(tmp_path, "E7")) == {"two runs"}


def test_an_open_question_is_answered_by_its_records(tmp_path):
    assert verdicts(tmp_path, "E11") == verdicts(tmp_path, "E12") == ["not recorded yet"]
    plant_losses(tmp_path, {"she": [2.0, 2.1, 2.3], "hyena": [3.0, 3.12, 3.29]})
    assert verdicts(tmp_path, "E11") == ["holds here"]
    for variant, right in (("attention", (0.9, 0.8, 0.85)), ("he", (0.5, 0.41, 0.44))):
        for seed, value in enumerate(right):
            plant(tmp_path, "pixels/smoke/digits", variant, seed, {"test_accuracy": 1 - value})
    assert verdicts(tmp_path, "E12") == ["not recorded yet"]
    for variant, right in (("attention", (0.9, 0.8, 0.85)), ("he", (0.5, 0.41, 0.44))):
        for seed, value in enumerate(right):
            plant(tmp_path, "pixels/classroom/digits", variant, seed, {"test_accuracy": value})
    assert verdicts(tmp_path, "E12") == ["fails here"]


def test_other_mixers_are_judged_at_equal_weights_and_each_one_s_own_rate(tmp_path):
    losses = {"she": 2.0, "hyena": 3.0, "spade": 1.0, "gla": 2.5, "ssd": 2.4, "attention": 1.5}
    for (variant, loss), seed in itertools.product(losses.items(), range(3)):
        for lr, worse in ((0.1, 0.0), (0.9, 0.7 if variant != "she" else 0.2)):
            luck = worse + 0.01 * ((seed + len(variant)) % 3)
            metrics = {"test_loss_nats": loss + luck, "validation_loss_nats": loss + luck}
            for match in ("weights", "work"):
                config = {"match": match, "train": {"lr": lr}, "model": {"d_model": 8}}
                for text in ("recall", "children"):
                    plant(
                        tmp_path, f"mixers/classroom/{text}", variant, seed, metrics, config=config
                    )
    lines = ledger(path=tmp_path, ids=["E11"])
    assert lines["claim"].tolist() == 2 * [
        "SHE beats Hyena", "SHE beats SPADE", "SHE beats the best other mixer, ssd"]  # fmt: skip
    assert lines["verdict"].tolist() == 2 * ["holds here", "fails here", "holds here"]
    assert set(lines["seeds"]) == {3}
    assert lines["value"].iloc[0] == pytest.approx(-1.0, abs=0.02)
    line = ledger(path=tmp_path, ids=["E14"]).iloc[0]  # recall is no text
    assert (line["verdict"], line["number"]) == (
        "not recorded yet", "1 of 3 texts (children: fails here)")  # fmt: skip


def plant_bleu(folder, experiment, variant, seed, share):
    """Plant a run that gets about this share of the n-grams of sixty sentences right."""
    written = np.tile(20 - np.arange(4), (60, 1))
    luck = np.linspace(-0.1, 0.1, 60)[:: 1 if variant == "teacher" else -1, None]
    counts = np.hstack([np.rint((share + luck) * written), written, np.full((60, 2), 20)])
    sentences = pack_counts(counts.astype(int))
    bleu = {"n_sentences": 60, "signature": "some", "beam_size": 1, "sentences": sentences}
    metrics = {"bleu": 100 * share, "validation_bleu": 100 * share}
    plant(folder, experiment, variant, seed, metrics, details={"bleu": bleu})
    return {"bleu": bleu}


TASKS = [words for words, _ in replaced_verdicts.OTHER_TASKS.values()]


def plant_texts(folder, experiment, variant, seed, values):
    """Plant a run whose texts have these scores out of 100, by ROUGE-L."""
    bleu = {"n_sentences": len(values), "signature": "some", "beam_size": 1}
    texts = {"rouge_l": {"by": "rouge", "texts": pack_scores(values)}}
    metrics = {"bleu": 50.0, "validation_bleu": 50.0, "rouge_l": values.mean()}
    plant(folder, experiment, variant, seed, metrics, details={"bleu": bleu, "texts": texts})


def test_a_task_that_is_no_translation_is_judged_and_the_others_are_said_to_be_missing(tmp_path):
    own = np.linspace(20.0, 80.0, 50)
    for seed, variant in itertools.product(
        range(3), ("teacher", "all/identity/tuned_all", "all/ssd")
    ):
        values = own if variant != "all/ssd" else 0.99 * own
        plant_texts(tmp_path, "replaced/paper/headlines", variant, seed, values)
        plant_bleu(tmp_path, "attentionless/classroom/toy", variant, seed, 0.8)
    lines = ledger(path=tmp_path, ids=["R11"])
    assert lines["verdict"].tolist() == ["holds here", *["not recorded yet"] * (len(TASKS) - 1)]
    line = lines.iloc[0]
    assert line["number"].startswith("99.0 (")
    assert line["number"].endswith("% of ROUGE-L")
    assert "50 of 50 sentences" in line["budget"]
    assert all(words in said for words, said in zip(TASKS[1:], lines["claim"][1:], strict=True))


def test_claims_on_captions_say_what_the_later_study_lacks(tmp_path):
    older, later = "attentionless/paper/multi30k/de-en", replaced_verdicts.CAPTIONS
    for seed, variant in itertools.product(range(3), ("teacher", "encoder_self/alr/m")):
        plant_bleu(tmp_path, older, variant, seed, 0.8)
    lines = ledger(path=tmp_path, ids=["R5"])
    assert lines["record"].tolist() == [older] + [""] * (len(lines) - 1)
    assert lines["verdict"].tolist() == ["holds here"] + ["not recorded yet"] * (len(lines) - 1)
    assert sum(lines["claim"].str.startswith("a net can replace encoder")) == 2
    for seed, variant in itertools.product(
        range(3), ("teacher", "all/identity/tuned_all", "all/linear/no_window")
    ):
        plant_bleu(tmp_path, later, variant, seed, 0.8)
    lines = ledger(path=tmp_path, ids=["R10"]).set_index("claim")
    line = lines.loc[
        "stand-ins without a softmax over positions can replace all attention at once "
        "(the paper: open)"
    ]
    assert (line["verdict"], line["record"], line["seeds"]) == ("holds here", later, 3)
    assert "60 of 60 sentences" in line["budget"]


def test_a_pair_is_judged_over_seeds_and_sentences(tmp_path):
    later, names = replaced_verdicts.CAPTIONS, ("all/linear", "all/linear/no_window")
    for seed, (variant, right) in itertools.product(range(3), zip(names, (0.8, 0.7), strict=True)):
        plant_bleu(tmp_path, later, variant, seed, right)
    lines = ledger(path=tmp_path, ids=["R10"]).set_index("claim")
    line = lines.loc["a window of softmax helps"]
    _, *found = replaced_verdicts.bleu_difference(load_runs(later, path=tmp_path), *names)
    assert line[["value", "low", "high"]].tolist() == found
    assert (line["verdict"], line["seeds"], line["low"] > 0) == ("holds here", 3, True)
    assert "on the same sentences" in line["quantity"]


def test_a_teacher_is_held_against_what_a_good_one_has(tmp_path):
    says = "a teacher of 38 BLEU on captions, greedy"
    goal = lambda: ledger(path=tmp_path, ids=["R1"]).set_index("claim").loc[says]  # noqa: E731
    assert goal()["verdict"] == "not recorded yet"
    details = {"bleu": {"n_sentences": 60, "signature": "some"}}
    config = {"model": {"n_encoder_layers": 4}}
    for seed, verdict in enumerate(("one run", "two runs", "holds here")):
        metrics = {"bleu": 38.5, "bleu_low": 37.0, "bleu_high": 40.0}
        plant(tmp_path, replaced_verdicts.CAPTIONS, "teacher", seed, metrics, config=config,
              details=details)  # fmt: skip
        assert goal()["verdict"] == verdict
    assert goal()["number"] == "38.5 (37.0 to 40.0) BLEU"


def test_the_weights_of_stand_ins_are_said_by_study(tmp_path):
    weights = {"n_stand_in_weights": 110, "n_replaced_weights": 100}
    for variant, more in (("all/linear", 0), ("all/ssd", -20), ("cross/per_query/l", 900)):
        n = weights | {"n_stand_in_weights": 110 + more}
        plant(tmp_path, replaced_verdicts.CAPTIONS, variant, 0, n)
    lines = ledger(path=tmp_path, ids=["R8"]).set_index("quantity")
    own = lines[lines["claim"].str.startswith("linear attention has more weights")].iloc[0]
    assert own["verdict"] == "not distinguishable at this budget"
    assert own["number"] == "1 (0.9 to 1.1) times"
    assert lines["verdict"].iloc[:2].tolist() == ["not recorded yet", "holds here"]


def test_the_price_of_todays_stand_ins_is_said_by_length(tmp_path):
    for (time, ratio, kib), variant in itertools.product(
        ((50, 1.2, 9), (100, 1.0, 9), (200, 0.8, 9)), ("teacher", "linear", "ssd")
    ):
        is_own = variant == "teacher"
        worth = 1.0 if is_own else ratio + 0.3 * (variant == "ssd")
        ends = {
            f"ratio_to_teacher{e}": worth + d for e, d in (("", 0), ("_low", -0.1), ("_high", 0.1))
        }
        metrics = {"median_ms": 1.0, "state_bytes": 1024 * (time / 10 if is_own else kib), **ends}
        config = {"work": "greedy", "batch": 1, "time": time}
        plant(tmp_path, f"speed/paper/lengths/t{time}", variant, 0, metrics, config=config)
    lines = ledger(path=tmp_path, ids=["R8"])
    own = lines[lines["claim"].str.startswith(("linear attention is", "linear attention keeps"))]
    assert own["verdict"].tolist() == ["fails here", "holds here"] * 2
    assert own["number"].tolist()[:2] == [
        "1.2 (1.1 to 1.3) times as long", "0.8 (0.7 to 0.9) times as long"]  # fmt: skip
    assert "200 tokens, the fastest: linear" in own["quantity"].iloc[1]


def test_the_longest_sentences_are_those_of_each_study(tmp_path):
    lengths = {"shortest": [0, 30], "longest": [29, 99]}
    for seed, (variant, bleu) in itertools.product(
        range(3),
        (
            ("teacher", 40.0),
            ("all/identity/tuned_all", 40.0),
            ("all/linear", 30.0),
            ("all/ssd", 1.0),
        ),
    ):
        counts = plant_bleu(tmp_path, replaced_verdicts.CAPTIONS, variant, seed, 0.8)
        counts["by_length"] = {**lengths, "bleu": [bleu, bleu - seed / 10]}
        plant(tmp_path, replaced_verdicts.CAPTIONS, variant, seed,
              {"bleu": bleu, "validation_bleu": bleu}, details=counts)  # fmt: skip
    lines = ledger(path=tmp_path, ids=["R12"])
    own = lines[lines["record"] == replaced_verdicts.CAPTIONS].iloc[0]
    assert (
        own["claim"]
        == "all sites: linear attention (hedgehog, window 4): it falls below its teacher"
    )
    assert own["verdict"] == "not distinguishable at this budget" or own["low"] < own["high"] <= 0
    assert "captions: BLEU on sentences of 30 words or more" in own["quantity"]
    assert "short ones to learn from" in lines.loc[lines["record"] == "", "quantity"].iloc[0]


def test_three_texts_that_agree_answer_for_other_texts(tmp_path):
    losses = {"attention": [3.0, 3.1, 3.3], "she": [3.5, 3.59, 3.8]}
    for n, text in enumerate(("children", "news", "code"), start=1):
        plant_losses(tmp_path, losses, experiment=f"language-model/classroom/{text}")
        wanted = "fails here" if n == 3 else "not recorded yet"
        assert verdicts(tmp_path, "E14") == [wanted]
    assert ledger(path=tmp_path, ids=["E14"])["number"].iloc[0].startswith("3 of 3 texts")


def test_three_widths_give_a_power(tmp_path):
    for n, (d, loss) in enumerate(((8, 4.0), (16, 2.0), (32, 1.0)), start=1):
        for seed in range(3):
            sizes = {"n_weights": d**2, "test_loss_nats": loss}
            config = {"model": {"d_model": d, "mixer": "she"}}
            experiment = f"language-model/size_{n}/news"
            plant(tmp_path, experiment, "she", seed, sizes, config=config)
        line = ledger(path=tmp_path, ids=["E13"]).iloc[-1]
        wanted = ("holds here", "weights to the power -0.500 to -0.500")
        assert n < 3 or (line["verdict"], line["number"]) == wanted
        assert n > 2 or (line["verdict"], line["number"]) == (
            "not recorded yet", f"{n} of 3 widths")  # fmt: skip


def plant_scaling(
    folder, *, n_seeds, noise=0.005, floor=0.5, variant="he", experiment="scaling/classroom/tree"
):
    luck = numpy_generator(0, "planted").normal
    for d, n, seed in itertools.product((8, 16, 32, 64), (200, 500, 1250), range(n_seeds)):
        gap = (60 * (24 * d * d) ** -0.6 + 900 * (512 * n) ** -0.65) * np.exp(noise * luck())
        metrics = {"n_block_weights": 24 * d * d, "tokens_seen": 512 * n,
                   "test_loss_nats": floor + gap, "oracle_nats": floor}  # fmt: skip
        config = {"model": {"d_model": d}, "train": {"n_steps": n}}
        plant(folder, experiment, variant, seed, metrics, config=config)


def test_powers_above_the_floor_are_read_from_the_runs_of_the_study(tmp_path):
    plant_scaling(tmp_path, n_seeds=3)
    plant_scaling(tmp_path, n_seeds=2, variant="attention")
    plant_scaling(tmp_path, n_seeds=3, experiment="scaling/smoke/tree")
    lines = ledger(path=tmp_path, ids=["E13"]).set_index("quantity")
    assert lines["verdict"].tolist() == ["holds here", "two runs"]
    own = lines.iloc[0]
    assert re.match(r"N\^-0\.\d\d \(0\.\d\d to 0\.\d\d\), D\^-0\.\d\d \(", own["number"])
    assert own.name.startswith("HE on tree, residual 1%")
    assert -0.05 < own["low"] < 0 < own["high"] < 0.05
    assert own["seeds"] == 3


def test_a_wide_interval_of_the_constant_decides_nothing(tmp_path):
    plant_scaling(tmp_path, n_seeds=3, noise=0.1)
    assert verdicts(tmp_path, "E13") == ["not distinguishable at this budget"]


def test_a_constant_that_misses_the_floor_fails(tmp_path):
    plant_scaling(tmp_path, n_seeds=3)
    text = (tmp_path / "scaling.jsonl").read_text("utf-8")
    moved = [json.loads(line) for line in text.splitlines()]
    (tmp_path / "scaling.jsonl").unlink()
    for each in moved:
        each["metrics"]["oracle_nats"] = 0.2
        plant(tmp_path, each["experiment"], each["variant"], each["seed"], each["metrics"],
              config=each["config"])  # fmt: skip
    assert verdicts(tmp_path, "E13") == ["fails here"]


def test_too_few_sizes_are_not_recorded_yet(tmp_path):
    plant_scaling(tmp_path, n_seeds=3)
    lines = (tmp_path / "scaling.jsonl").read_text("utf-8").splitlines()
    (tmp_path / "scaling.jsonl").write_text("\n".join(lines[:9]) + "\n")
    assert verdicts(tmp_path, "E13") == ["not recorded yet"]


def test_a_power_of_time_is_judged_against_attentions(tmp_path):
    for variant, power in {"attention": 1.6, "she": 1.2, "he": 2.0}.items():
        for time in (128, 512, 2048):
            samples = [time**power * luck for luck in (0.9, 1.0, 1.1)]
            config = {"along": "length", "time": time, "d_model": 64}
            point, details = f"speed/paper/growth/length-t{time}-d64", {"samples_ms": samples}
            plant(tmp_path, point, variant, 0, {"median_ms": 1.0}, config=config, details=details)
    lines = ledger(path=tmp_path, ids=["E13"])
    assert lines["verdict"].tolist() == ["holds here", "fails here", "not recorded yet"]
    assert lines["number"].iloc[0].startswith("T^1.20 (")
    assert lines["quantity"].iloc[0].startswith("SHE: power of a layer's time")


def test_a_time_is_judged_by_its_interval(tmp_path):
    sizes = {"part": "training", "work": "step", "batch": 64, "time": 128, "d_model": 128}
    how = {"route": "default", "precision": "fp32", "device": "cpu", "threads": 1, "repeats": 5}
    for mixer, low, high in (("she", 1.1, 1.3), ("he", 0.7, 0.9), ("we", 0.9, 1.1)):
        ends = {"ratio_to_attention": (low + high) / 2, "median_ms": 1.0,
                "ratio_to_attention_low": low, "ratio_to_attention_high": high}  # fmt: skip
        plant(tmp_path, "speed/paper/training/step", mixer, 0, ends, config={**sizes, **how})
    undecided = "not distinguishable at this budget"
    assert verdicts(tmp_path, "E8") == ["fails here", "holds here", undecided]
    assert verdicts(tmp_path, "E10") == ["holds here"]  # no gain in time is a sign of failure


def strings_outside_formats(node):
    """Yield the text of an expression that is written out, format specifications left out."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    for child in ast.iter_child_nodes(node):
        if not (isinstance(node, ast.FormattedValue) and child is node.format_spec):
            yield from strings_outside_formats(child)


def test_no_digit_of_a_number_is_typed():
    trees, written = [ast.parse(Path(m.__file__).read_text("utf-8")) for m in (found, nets)], []
    for node in (node for tree in trees for node in ast.walk(tree)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Evidence":
            parts = [*node.args[1:2], *(k.value for k in node.keywords if k.arg == "number")]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            target = getattr(node, "target", None) or node.targets[0]
            is_number = getattr(target, "id", "") in ("number", "said", "steps")
            parts = [node.value] if is_number else []
        else:
            continue
        written += [text for part in parts for text in strings_outside_formats(part)]
    assert len(written) > 20
    written = [re.sub(r"\{[^}]*\}", "", text) for text in written]  # without formats
    assert not [text for text in written if re.search(r"\d", text)]


def test_a_digest_counts_verdicts_and_a_table_says_nothing_twice(lines):
    rows = digest(lines)
    row = rows[rows["claim"] == "SHE is faster than attention"].iloc[0]
    part = lines[lines["claim"] == "SHE is faster than attention"]
    assert sum(map(int, re.findall(r"\((\d+)\)", row["verdict"]))) == len(part)
    text = ledger_markdown(lines, folder="notebooks/")
    assert re.findall(r"<details id='claim-(\w+)'><summary>", text) == IDS
    for part in text.split("</details>")[:-1]:
        table = [row for row in part.splitlines() if row.startswith("|")]
        claim = re.search(r"claim-(\w+)", part)[1]
        assert len(table) == 2 + (lines["id"] == claim).sum()
        assert len({row.count(" | ") for row in table}) == 1
    assert text.count("(notebooks/03_extractor.ipynb)") == 3  # E3, E5 and E9, once each
    doubt = read_words()["E9"].doubt
    assert text.count(doubt) == 1
    alone = ledger_markdown(lines[lines["id"] == "E7"])
    assert alone.startswith("<details id='claim-E7' open>")
    for row in lines[lines["id"] == "E7"].itertuples():
        assert all(said in alone for said in (row.claim, row.number, row.quantity, row.record))
    assert alone.count(f"**{row.claim}**") < (lines["claim"] == row.claim).sum()
    assert not re.search(r"^\| +\|", text, re.MULTILINE)


def test_every_word_of_a_verdict_has_its_meaning():
    rows = [row.split(" | ") for row in verdicts_markdown().splitlines()[2:]]
    assert [row[0] for row in rows] == [f"| **{word}**" for word in VERDICTS]
    assert all(len(row[1]) > 20 for row in rows)


def test_the_book_has_every_page_of_every_claim(lines, tmp_path, monkeypatch):
    own = {claim: lines[lines["id"] == claim].reset_index(drop=True) for claim in IDS}
    last = {claim: -(-len(part) // pictures.A_PAGE) for claim, part in own.items()}
    monkeypatch.setattr(pictures, "lines_of", own.__getitem__)
    monkeypatch.setattr(states, "webp", cache(states.webp))  # a page beyond the last is the last
    draw_page = cache(pictures.evidence)
    recorder = states.Recorder(tmp_path, most_bytes=states.PAGE_BYTES)
    panel = recorder.panel(
        lambda claim, page: draw_page(claim, min(page, last[claim])),
        [{"claim": "E9"}, {"claim": "R6"}],
        pictures.DIALS,
        None,
    )
    assert panel is not None
    assert [dial["labels"] for dial in panel["dials"]] == [IDS, [str(n) for n in range(1, 9)]]
    assert len(panel["states"]) == 8 * len(IDS)
    assert max(last.values()) <= 8
    for n, (file, said) in enumerate(panel["states"]):
        assert (tmp_path / file).is_file()
        assert f"{IDS[n // 8]}" in said


def test_a_number_shows_its_interval_where_it_has_one():
    told = found.measured(1.0, 0.5, 1.5, "{:.1f}", "nats")
    assert told["number"] == "1.0 (0.5 to 1.5) nats"
    assert found.measured(1.0, float("nan"), float("nan"), "{:.1f}", "nats")["number"] == "1.0 nats"
    told = found.measured(0.6, 0.005, 1.1, "{:+.1f}", "BLEU")  # an end that would read as zero
    assert told["number"] == "+0.60 (+0.01 to +1.10) BLEU"


def test_an_unknown_claim_suggests_the_nearest():
    with pytest.raises(UnknownNameError, match="Did you mean 'E7'"):
        ledger(ids=["E77"])


def test_the_command_shows_all_one_and_none(lines, capsys, monkeypatch):
    again, module = [], sys.modules["attnlab.claims.ledger"]  # the package has a function so called
    monkeypatch.setattr(module, "ledger", lambda **how: again.append(ledger(**how)) or again[-1])
    assert main(["claims"]) == 0
    pd.testing.assert_frame_equal(again[0], lines)  # the ledger says the same twice
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 100
    assert {line.split()[0] for line in shown[1:]} == set(IDS)
    assert main(["claims", "E9"]) == 0
    shown = capsys.readouterr().out
    assert "Doubt:" in shown
    assert "notebooks/03_extractor.ipynb" in shown
    assert max(map(len, shown.splitlines())) <= 100
    assert main(["claims", "X1"]) == 1
    assert "No claim is called 'X1'" in capsys.readouterr().err


def test_every_claim_has_evidence_that_is_asked_for():
    for name in IDS:
        is_computed = name in found.EVIDENCE
        is_judged = name in {claim.claim for claim in CLAIMS}
        is_listed = is_judged or name in found.PAIRS.read_text("utf-8")
        assert is_computed or is_listed, name
    assert isinstance(claims.Evidence("exact"), Evidence)
