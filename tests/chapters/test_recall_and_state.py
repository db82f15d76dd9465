"""Notebook 11: memories err as their closed forms say, bounds bound, pictures say what is so."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
from chapter_tests import ChapterTests

from attnlab.chapters.recall_and_state import checks, live, pictures
from attnlab.records import RunRecord
from attnlab.seeding import numpy_generator
from attnlab.show import picture
from attnlab.sources import ChainsInContext
from attnlab.studies import fair

CURVES = pd.DataFrame(
    [("attention", 10, 0.2), ("attention", 20, 0.9), ("she", 10, 0.1), ("she", 20, 0.25)],
    columns=["name", "step", "accuracy"],
)


def recall_runs():
    """Two mixers, two seeds of them; attention also with a worse rate that tests better."""
    rows = [("attention", 0, 3e-3, 0.1, 1.0, 0.98), ("attention", 0, 1e-2, 0.9, 1.0, 1.0),
            ("attention", 1, 3e-3, 0.2, 1.0, 0.96), ("she", 0, 3e-3, 1.4, 0.5, 0.13),
            ("she", 1, 3e-3, 1.5, 0.48, 0.12)]  # fmt: skip
    columns = ["variant", "seed", "lr", "validation_loss_nats"]
    columns += ["load_2_accuracy", "load_8_accuracy"]
    return pd.DataFrame(rows, columns=columns).assign(corpus="recall")


def context_runs():
    rows = [("attention", 0, 0.02), ("attention", 1, 0.04), ("she", 0, 0.10)]
    runs = pd.DataFrame(rows, columns=["variant", "seed", "test_gap_nats"])
    return runs.assign(oracle_nats=1.6, unigram_nats=2.0)


def row_of(kind, load=3, row=0):
    return pictures.question_row(kind=kind, load=load, row=row)


class TestChapter(ChapterTests):
    SLUG = "recall_and_state"
    PICTURES = {  # noqa: RUF012
        "capacity": (
            lambda: pictures.capacity(n_numbers=16, bits=8, n_values=16),
            "hold 128 bits: 32 pairs of 16 values at most. Of twice as many, no more than 71%",
        ),
        "memory_errors": (
            lambda: pictures.memory_errors(d_key=8, kind="random", quantity="error"),
            "Relative error at n = d = 8, random keys: sum 0.9",
        ),
        "memory_errors/found": (
            lambda: pictures.memory_errors(d_key=8, kind="orthogonal", quantity="found"),
            "Share of values found again at n = d = 8, orthogonal keys: sum 1.00",
        ),
        **{
            f"question_row/{kind}": (
                lambda kind=kind: row_of(kind),
                f"{label}, load {12 if kind == 'induction' else 3}: "
                f"{'1 question' if kind == 'induction' else '3 questions'};",
            )
            for label, kind in pictures.KINDS.items()
        },
        "learning": (
            lambda: pictures.learning(CURVES, levels={"one in n": 0.25, "guess": 0.1}),
            "at the end: Attention 90%, SHE 25%. For comparison: one in n 25%, guess 10%.",
        ),
        "recorded_recall": (pictures.recorded_recall, "mixers"),
        "recorded_in_context": (pictures.recorded_in_context, "e"),
        "readers": (
            lambda: pictures.readers(n_symbols=3, order=1, alpha=0.5),
            "Chains of order 1 over 3 symbols, α = 0.5. At the last 16 positions: counts single",
        ),
        "models_and_readers": (
            lambda: pictures.models_and_readers(READ, {"she": READ["oracle"] + 0.25}),
            "In the later half, above the best reader: SHE 0.25 nats.",
        ),
    }
    PANELS = {  # noqa: RUF012
        "capacity": lambda: (pictures.capacity, pictures.STATE_DIALS),
        "memory": lambda: (pictures.memory_errors, pictures.MEMORY_DIALS),
        "rows": lambda: (pictures.question_row, pictures.ROW_DIALS),
        "readers": lambda: (pictures.readers, pictures.READER_DIALS),
    }


READ = pictures.reader_table(ChainsInContext(n_symbols=3, time=12), n_rows=50)


# What a state holds


def test_so_many_pairs_fit_and_one_more_does_not():
    for n_numbers, bits, v in itertools.product((1, 7, 64), (1, 8, 32), (2, 3, 10, 1000)):
        n = live.most_pairs(n_numbers, bits=bits, n_values=v)
        assert v**n <= 2 ** (n_numbers * bits) < v ** (n + 1)


def test_no_state_found_by_trying_exceeds_the_bound():
    for v, n, n_states in ((2, 2, 2), (2, 3, 2), (3, 2, 2)):
        ways = np.array(list(itertools.product(range(v), repeat=n)))
        best = 0.0
        for states in itertools.product(range(n_states), repeat=len(ways)):
            right = sum(
                max(np.bincount(ways[np.array(states) == s][:, place], minlength=v))
                for s in set(states)
                for place in range(n)
            )
            best = max(best, right / ways.size)
        bound = live.best_accuracy(n, n_bits=math.log2(n_states), n_values=v)
        assert 1 / v < best <= bound < 1
    assert live.best_accuracy(3, n_bits=3, n_values=2) == 1
    assert live.best_accuracy(10**6, n_bits=1, n_values=4) == pytest.approx(0.25, abs=0.01)


# One matrix


@pytest.mark.parametrize("kind", live.KEY_KINDS)
@pytest.mark.parametrize("rule", ["sum", "best"])
def test_memories_err_as_their_closed_forms_say(rule, kind):
    counts = (3, 8, 12, 16, 20)
    measured = live.measured_errors(counts, d_key=8, kind=kind, rule=rule, n_draws=300)
    expected = live.expected_error(np.array(counts), d_key=8, rule=rule, kind=kind)
    assert [error for error, _ in measured] == pytest.approx(expected, abs=0.04)


def test_keys_have_length_one_and_orthogonal_ones_do_not_meet():
    for kind in live.KEY_KINDS:
        keys = live.draw_keys(10, 4, kind=kind, generator=numpy_generator(0, "keys"))
        assert np.linalg.norm(keys, axis=1) == pytest.approx(1)
        meets = np.abs(keys[:4] @ keys[:4].T - np.eye(4)).max()
        assert (meets < 1e-9) == (kind == "orthogonal")


def test_the_delta_rule_repairs_up_to_d_keys_and_replaces_what_is_written_again():
    generator = numpy_generator(3, "keys")
    keys = live.draw_keys(5, 8, kind="random", generator=generator)
    values = generator.normal(size=(5, 3))
    errors = [
        live.relative_error(keys @ live.write_delta(keys, values, n_passes=n), values)
        for n in (1, 10, 300)
    ]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-3
    twice = np.stack([keys[0], keys[0]])
    assert keys[0] @ live.write_delta(twice, values[:2]) == pytest.approx(values[1])
    assert keys[0] @ live.write_sum(twice, values[:2]) == pytest.approx(values[0] + values[1])


def test_no_matrix_errs_less_than_the_best_one():
    for n in (3, 8, 20):
        errors = {
            rule: live.measured_errors((n,), d_key=8, kind="random", rule=rule)[0][0]
            for rule in live.RULES
        }
        assert errors["best"] <= min(errors.values()) + 1e-9


# Rows


@pytest.mark.parametrize("kind", pictures.KINDS.values())
def test_every_arrow_ends_where_the_answer_stands(kind):
    source = pictures.recall_source(kind)
    load = 12 if kind == "induction" else 4
    tokens, targets = source.draw(50, load=load, generator=numpy_generator(0, "arrows"))
    n_missing = 0
    for row, target in zip(tokens, targets, strict=True):
        for t in np.flatnonzero(target >= 0):
            place = pictures._said_at(row, target, t, kind)
            n_missing += place is None
            assert place is None or (place < t and row[place] == target[t])
    assert n_missing == 0 or kind == "noisy"


# Records


def drawn(draw, runs):
    return picture(draw)(runs)


def test_recorded_recall_is_drawn_at_the_rate_that_validated_best():
    runs = recall_runs()
    chosen = fair.at_own_rate(runs)
    assert len(chosen) == 4
    assert set(chosen["lr"]) == {3e-3}
    one = drawn(pictures.draw_recall, chosen)
    assert "1 of 2 mixers answer more than 95% at 8 pairs" in one.words
    assert "Attention 97%, SHE 12%" in one.words
    assert "Seeds of a mixer: 2;" in one.words


def test_recorded_gaps_are_drawn_best_first():
    one = drawn(pictures.draw_in_context, context_runs())
    assert "counting single symbols, 0.40" in one.words
    assert one.words.index("Attention") < one.words.index("SHE")


def test_what_is_not_recorded_is_said_with_the_command_that_records_it():
    for draw in (pictures.draw_recall, pictures.draw_in_context):
        one = drawn(draw, pd.DataFrame(columns=["variant", "seed"]))
        assert "No run of the study mixers" in one.words
        assert "attnlab study run mixers --scale classroom" in one.ax.texts[0].get_text()


def test_records_of_another_match_are_left_out(tmp_path):
    how = {"experiment": "mixers/classroom/recall", "seed": 0, "curve": {}, "details": {},
           "seconds": 1.0, "environment": {}}  # fmt: skip
    for match, loss in (("weights", 0.5), ("work", 0.4)):
        config = {"match": match, "train": {"lr": 3e-3}}
        metrics = {"validation_loss_nats": loss}
        record = RunRecord(variant="she", config=config, metrics=metrics, **how)
        record.append_to(tmp_path / "mixers.jsonl")
    for match, loss in (("weights", 0.5), ("work", 0.4)):
        found = live.recorded("recall", match=match, path=tmp_path)
        assert found["validation_loss_nats"].tolist() == [loss]
    assert live.recorded("in_context", path=tmp_path).empty


# Readers


def test_readers_stand_in_their_order_late_in_a_row():
    late = READ[READ["position"] > 6].mean()
    assert late["knowing"] < late["oracle"] < late["unigram"]
    assert late["bigram"] == late["oracle"]
    assert list(READ["position"]) == list(range(1, 13))


def test_the_judges_right_answers_are_those_of_the_library():
    source = ChainsInContext(n_symbols=4, time=20, alpha=0.3)
    rows = source.draw(20, generator=numpy_generator(0, "judges"))
    losses = source.oracle_nats(rows)
    for row, loss in zip(rows, losses, strict=True):
        law = checks.next_law(row[:-1], 4, 0.3)
        assert -math.log(law[row[-1]]) == pytest.approx(loss[-1])
    keys, values = np.eye(3), np.arange(6.0).reshape(3, 2)
    assert checks.answer(keys, values, keys[1]) == pytest.approx(values[1])
    memory = checks.Memory(3, 2)
    for k, v in zip(keys, values, strict=True):
        memory.write(k, v)
    assert memory.matrix == pytest.approx(live.write_delta(keys, values))
