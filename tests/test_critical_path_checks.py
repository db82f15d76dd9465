"""The judges of notebook 05 pass right answers, name wrong ones, and agree with the tracer."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.analysis import critical_path as tracer
from attnlab.analysis import theory
from attnlab.mixers import build_mixer
from attnlab.teaching import critical_path
from attnlab.teaching.core import CheckFailed, unseen_mistakes
from attnlab.teaching.quiz import quiz_markdown

EXERCISES = {
    "depth": (critical_path.depth, critical_path.depth_cases, critical_path.DEPTH_MISTAKES),
    "tree": (critical_path.tree_depth, critical_path.tree_cases, critical_path.TREE_MISTAKES),
    "crossover": (
        critical_path.crossover,
        critical_path.crossover_cases,
        critical_path.CROSSOVER_MISTAKES,
    ),
}


@pytest.mark.parametrize("name", EXERCISES)
def test_every_mistake_is_seen_and_named(name):
    reference, cases, mistakes = EXERCISES[name]
    assert unseen_mistakes(reference=reference, cases=cases(), mistakes=mistakes) == []


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_knows_three_mistakes(name):
    assert len({mistake.name for mistake in EXERCISES[name][2]}) >= 3


def test_right_answers_pass(capsys):
    critical_path.check_depth(_depth_by_rounds)
    critical_path.check_tree_depth(lambda n: math.ceil(math.log2(n)))
    critical_path.check_crossover(critical_path.crossover)
    assert capsys.readouterr().out.count("Correct") == 3


@pytest.mark.parametrize(
    ("check", "wrong", "word"),
    [
        (critical_path.check_depth, len, "the work"),
        (critical_path.check_tree_depth, lambda n: n - 1, "In a tree"),
        (critical_path.check_crossover, lambda wa, da, wb, db: (wa - wb) / db, "depth of b"),
        (critical_path.check_crossover, lambda wa, da, wb, db: wa / (db - da), "work of a"),
    ],
)
def test_a_wrong_answer_gets_its_sentence(check, wrong, word):
    with pytest.raises(CheckFailed, match=word):
        check(wrong)


def test_the_longest_chain_is_as_long_as_the_depth_and_unbroken():
    for one in critical_path.depth_cases():
        program = one.args[0]
        chain = critical_path.longest_chain(program)
        assert len(chain) == critical_path.depth(program)
        for before, after in pairwise(chain):
            assert before in program[after][1]


@given(n=st.integers(1, 10**6))
@settings(deadline=None, max_examples=25)
def test_a_tree_halves_the_terms_at_each_level(n):
    n_levels, left = 0, n
    while left > 1:
        left, n_levels = (left + 1) // 2, n_levels + 1
    assert critical_path.tree_depth(n) == n_levels


@given(
    works=st.tuples(st.integers(1, 10**6), st.integers(1, 10**6)),
    depths=st.tuples(st.integers(1, 99), st.integers(1, 99)),
    above=st.floats(1.01, 100),
)
@settings(deadline=None, max_examples=25)
def test_above_the_crossover_the_bound_is_the_smaller_one(works, depths, above):
    (work_a, work_b), (depth_a, depth_b) = works, depths
    units = critical_path.crossover(work_a, depth_a, work_b, depth_b)
    if math.isinf(units):
        many = 1e12  # workers: only the depths are left
        assert work_a / many + depth_a >= work_b / many + depth_b - 1e-5
        return
    for P in (units * above, units * above**2):
        assert work_a / P + depth_a < work_b / P + depth_b


@pytest.mark.parametrize("accumulate", ["tree", "sequential"])
@pytest.mark.parametrize("name", ["she", "he", "we", "me"])
def test_the_crossover_is_that_of_the_tracer(name, accumulate):
    one, other = (
        tracer.trace_step(build_mixer(each, d_model=3, context_len=5))
        for each in (name, "attention")
    )
    ends = [
        end
        for each in (one, other)
        for end in (each.n_operations, each.depth(accumulate=accumulate))
    ]
    expected = tracer.crossover_units(one, other, accumulate=accumulate)
    assert critical_path.crossover(*ends) == (math.inf if expected is None else expected)


def test_the_numbers_in_the_answers_of_the_page():
    # softmax: largest of 128, difference, exponential, sum of 128, division
    assert critical_path.tree_depth(128) + 1 + 1 + critical_path.tree_depth(128) + 1 == 17
    sizes = {"d_model": 128, "context_len": 128}
    guarded = theory.expected_depth("attention", n_heads=4, **sizes)
    # without the largest score and its difference, and with the sum of exponentials off the path
    assert guarded - (7 + 1) - 7 == 33
    assert theory.expected_depth("attention", n_heads=1, **sizes) - (7 + 1) - 7 == 35


def test_questions_have_reasons_and_right_answers():
    text = quiz_markdown(critical_path.QUESTIONS)
    assert all(question.text in text for question in critical_path.QUESTIONS)
    # the second question: 10,000 / 1,000 + 20 steps at most against 100,000 / 1,000 at least
    assert 10_000 / 1_000 + 20 < 100_000 / 1_000


def _depth_by_rounds(program):
    """Do in each round what has all it waits for; count the rounds."""
    done, rounds = set(), 0
    while len(done) < len(program):
        ready = {
            name
            for name, (_, operands) in program.items()
            if name not in done and all(o in done or o not in program for o in operands)
        }
        done, rounds = done | ready, rounds + 1
    return rounds
