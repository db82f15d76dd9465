"""Story machines against brute force over all hidden states; tales that are exact and read well."""

import re
import time
from functools import cache
from itertools import product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attnlab.errors import AttnlabError
from attnlab.sources import entropy_nats, stories, tales
from attnlab.sources.stories import END, Again, Choose, StoryMachine, Then, determine, line, one_of

property_test = settings(deadline=None, max_examples=25, derandomize=True)
seeds = st.integers(0, 2**16)

ROLES = {
    "who": {"name": ("Ann", "Bob", "Cid"), "they": ("she", "he", "he")},
    "pet": {"name": ("dog", "cat"), "call": ("woof", "meow")},
}
SCRIPT = Then(
    (
        one_of("{who.they} is {who} .", "{who} has a {pet} ."),
        Choose((Again(one_of("{who.they} runs .", "the {pet} runs ."), 0.3), Then(())), (0.6, 0.4)),
        line("{who} [and|or] {pet} {pet.call}"),
    )
)


# her may follow "saw" as a form of either kind, his and him may not: two values, none alike
PRONOUNS = {"who": {"name": ("Ann", "Bob"), "her": ("her", "his"), "him": ("her", "him")}}
PRONOUN_SCRIPT = Then(
    (
        one_of("{who} saw {who.him} .", "we [saw|met] {who.her} dog .", "we met Ann ."),
        Choose((Again(line("{who.him} we saw"), 0.2), Then(())), (0.5, 0.5)),
        line("{who}"),
    )
)


def small_machine(script=SCRIPT, roles=ROLES):
    machine = StoryMachine(script, roles)
    machine.script = script
    return machine


def hidden_states(machine):
    """All states and, for each, its ways on: token, next state, chance; written anew."""
    names = list(machine.roles)
    sizes = [len(next(iter(forms.values()))) for forms in machine.roles.values()]
    casts = list(product(*map(range, sizes)))
    places = determine(machine.script, end=END)
    ways = {}
    for place, cast in product(range(len(places)), casts):
        ways[place, cast] = []
        for arc in places[place]:
            if isinstance(arc.label, tuple):
                role, form = arc.label
                word = machine.roles[role][form][cast[names.index(role)]]
            else:
                word = arc.label
            for new in [cast] if arc.to else casts:
                chance = arc.chance if arc.to else arc.chance / prod(sizes)
                ways[place, cast].append((machine.symbols.index(word), (arc.to, new), chance))
    return ways


def stationary_belief(machine, ways):
    """Balance equations over all hidden states."""
    index = {state: i for i, state in enumerate(ways)}
    matrix = np.zeros((len(ways), len(ways)))
    for state, leaving in ways.items():
        for _, to, chance in leaving:
            matrix[index[to], index[state]] += chance
    equations = np.vstack([matrix - np.eye(len(ways)), np.ones(len(ways))])
    right = np.append(np.zeros(len(ways)), 1.0)
    share = np.linalg.lstsq(equations, right, rcond=None)[0]
    return dict(zip(ways, share, strict=True))


def laws_along(machine, tokens):
    """The law of each next token after each prefix, by the plain forward algorithm."""
    ways = hidden_states(machine)
    belief = stationary_belief(machine, ways)
    laws = []
    for token in [*tokens, None]:
        law, moved = np.zeros(machine.vocab_size), {}
        for state, chance in belief.items():
            for said, to, p in ways[state]:
                law[said] += chance * p
                if said == token:
                    moved[to] = moved.get(to, 0.0) + chance * p
        laws.append(law)
        total = sum(moved.values())
        belief = {state: chance / total for state, chance in moved.items()}
    return np.array(laws)


each_machine = pytest.mark.parametrize(
    "machine", [small_machine(), small_machine(PRONOUN_SCRIPT, PRONOUNS)], ids=["small", "pronouns"]
)


@each_machine
@given(seed=seeds, length=st.integers(2, 23))
@property_test
def test_filtering_equals_brute_force_over_hidden_states(machine, seed, length):
    tokens = machine.sample(length, seed=seed)
    laws = laws_along(machine, tokens)
    expected = -np.log(laws[np.arange(1, length), tokens[1:]])
    losses = machine.oracle_nats(tokens, per_token=True)
    np.testing.assert_allclose(losses, expected, atol=1e-9)
    for seen in (0, 1, length):
        np.testing.assert_allclose(machine.predict(tokens[:seen]), laws[seen], atol=1e-9)


@each_machine
def test_the_staircase_is_that_of_the_predictions_after_all_windows(machine):
    windows = {(): 1.0}
    for context_len in range(6):
        laws = {window: machine.predict(window) for window in windows}
        loss = sum(chance * entropy_nats(laws[window]) for window, chance in windows.items())
        assert machine.best_loss_nats(context_len=context_len) == pytest.approx(loss, abs=1e-8)
        windows = {
            (*window, token): chance * laws[window][token]
            for window, chance in windows.items()
            for token in np.flatnonzero(laws[window])
        }


def test_the_staircase_ends_at_the_entropy_rate():
    machine = small_machine()
    # the chance that 80 tokens hold no end falls like 0.3 a lap; what is left is far below 1e-9
    last = machine.best_loss_nats(context_len=80)
    assert last == pytest.approx(machine.entropy_rate_nats, abs=1e-9)


def test_every_text_of_a_tale_comes_from_one_run_of_choices():
    """Entropy of the listed texts = entropy of the choices, so no choice is hidden."""
    script = Then((one_of("{who} ran", "{who.they} sat by {who}"), line("[on|off] the {pet}")))
    machine = StoryMachine(script, ROLES)
    end, tales = machine.symbols.index(END), {}
    tokens = machine.sample(4000)
    told = np.split(tokens, np.flatnonzero(tokens == end) + 1)[1:-1]
    for tale in told:
        after_end = np.concatenate([machine.encode(END), tale])
        tales[machine.decode(tale)] = np.exp(-machine.oracle_nats(after_end, per_token=True).sum())
    n_texts = 2 * 3 * 2 * 2
    assert len(tales) == n_texts
    np.testing.assert_allclose(list(tales.values()), 1 / n_texts)
    assert machine.tale_entropy_nats == pytest.approx(np.log(n_texts))
    assert machine.mean_tale_len == pytest.approx((2 + 4) / 2 + 3 + 1)


def test_lines_that_begin_alike_share_places_until_they_part():
    places = determine(one_of("a b c", "a b d", "a e", skip=0.1), end=END)

    chances = {arc.label: arc.chance for arc in places[0]}
    assert chances == pytest.approx({"a": 0.9, END: 0.1})
    after_a = places[next(arc.to for arc in places[0] if arc.label == "a")]
    assert {arc.label: arc.chance for arc in after_a} == pytest.approx({"b": 2 / 3, "e": 1 / 3})
    for leaving in places:
        assert sum(arc.chance for arc in leaving) == pytest.approx(1.0)
    (even, *_) = determine(one_of("[a|b] c", "d"), end=END)
    assert {arc.label: arc.chance for arc in even} == pytest.approx(
        {"a": 0.25, "b": 0.25, "d": 0.5}
    )


TWO = {"who": {"name": ("Ann", "Bob")}}


@pytest.mark.parametrize(
    ("script", "roles", "entropy", "mean_len"),
    [
        (one_of("hi {who}", "hi {who}"), TWO, np.log(2), 3),  # two lines alike are one
        (Again(line("tick"), 0.3), {}, -(0.3 * np.log(0.3) + 0.7 * np.log(0.7)) / 0.7, 1 / 0.7 + 1),
    ],
)
def test_a_tale_has_the_entropy_and_the_length_of_its_choices(script, roles, entropy, mean_len):
    machine = StoryMachine(script, roles)
    assert machine.tale_entropy_nats == pytest.approx(entropy)
    assert machine.mean_tale_len == pytest.approx(mean_len)


def test_impossible_text_costs_infinitely_much_to_the_end_of_its_tale():
    machine = small_machine()
    tokens = machine.encode(f"{END} Ann has a dog . Bob and dog woof {END} he is Bob .")
    losses = machine.oracle_nats(tokens, per_token=True)
    is_lost = np.isinf(losses)
    assert is_lost.tolist() == [False] * 5 + [True] * 5 + [False] * 4
    with pytest.raises(AttnlabError, match="cannot have written token 5"):
        machine.predict(tokens[:8])


def story(script, roles=TWO):
    return lambda: StoryMachine(script, roles)


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (story(line("hi {whom}")), "Did you mean 'who.name'"),
        (story(one_of("hi {who}", skip=0.5)), "without telling"),
        (story(line("{who} [{pet}|{who}] {pet}"), TWO | {"pet": {"name": ("Bob",)}}),
         "'Bob' may come from two parts"),
        (story(line("{who}"), {"who": {"name": ("a", "b"), "they": ("it",)}}),
         "one word for each value"),
        (lambda: Again(one_of("a", skip=0.1), 0.5), "must say at least one word"),
        (lambda: Again(line("a"), 1.0), "below 1"),
        (lambda: tales("smal"), "Did you mean 'small'"),
        (lambda: tales(n_names=99), "99 values for the hero are not possible"),
        (lambda: tales("small").encode("The dogg ran."), "Did you mean 'dog'"),
    ],
)  # fmt: skip
def test_a_story_that_hides_a_choice_and_a_wrong_word_are_explained(ask, message):
    with pytest.raises(AttnlabError, match=message):
        ask()


def test_a_staircase_that_grows_too_large_says_how_far_it_is_exact(monkeypatch):
    monkeypatch.setattr(stories, "MAX_BELIEFS", 50)
    machine = small_machine()
    with pytest.raises(AttnlabError, match=r"exact up to context_len=(\d+)") as caught:
        machine.best_loss_nats(context_len=30)
    limit = int(str(caught.value).split("context_len=")[1].split(" ")[0])
    assert machine.best_loss_nats(context_len=limit) > 0
    assert "estimate_best_loss_nats" in str(caught.value)


# tales


@cache
def source_of(size):
    return tales(size)


def one_tale(source, seed):
    """The first whole tale of a long sample, its end token included."""
    tokens = source.sample(600, seed=seed)
    ends = np.flatnonzero(tokens == source.symbols.index(END))
    return tokens[ends[0] + 1 : ends[1] + 1]


def test_the_text_of_a_tale_has_the_entropy_of_its_hidden_choices():
    source = source_of("standard")
    tokens = source.sample(300_000, seed=1)
    ends = np.flatnonzero(tokens == source.symbols.index(END))
    losses = source.oracle_nats(tokens[ends[0] : ends[-1] + 1], per_token=True)
    per_tale = np.add.reduceat(losses, ends[:-1] - ends[0])
    error = per_tale.std(ddof=1) / np.sqrt(len(per_tale))
    assert abs(per_tale.mean() - source.tale_entropy_nats) < 4 * error
    lengths = np.diff(ends)
    assert abs(lengths.mean() - source.mean_tale_len) < 4 * lengths.std() / np.sqrt(len(lengths))


@given(seed=seeds)
@property_test
def test_a_tale_names_each_role_stays_true_to_it_and_reads_well(seed):
    source = source_of("standard")
    tale = one_tale(source, seed)
    words, text = {source.symbols[token] for token in tale}, source.decode(tale)
    for forms in source.roles.values():
        told = [i for i, name in enumerate(forms["name"]) if name in words]
        assert len(told) == 1
        for form in set(forms) - {"name", "prep"}:
            assert words & set(forms[form]) <= {forms[form][told[0]]}
    assert re.fullmatch(r"([A-Z][A-Za-z]*([ ,][ A-Za-z]+)*[.!?] ?)+\n", text)
    assert not re.search(r"  | \.|\ba [aeiou]", text)


def test_forty_tokens_of_memory_are_worth_a_tenth_of_a_nat_more_than_four():
    source = source_of("standard")
    forty, error = source.estimate_best_loss_nats(context_len=40, n_windows=8000)
    assert source.best_loss_nats(context_len=4) - (forty + 4 * error) > 0.1


def test_tales_have_the_promised_size():
    source = source_of("standard")
    assert 120 <= source.vocab_size <= 250
    words = [len(tale.split()) for tale in source.decode(source.sample(50_000)).split("\n")[1:-1]]
    assert 40 <= np.quantile(words, 0.05) < np.quantile(words, 0.95) <= 90


def test_fewer_values_mean_fewer_nats():
    fewer, standard = tales(n_names=2), source_of("standard")
    assert fewer.tale_entropy_nats == pytest.approx(standard.tale_entropy_nats - np.log(12 / 2))
    assert len(tales("small", n_things=7).roles["thing"]["name"]) == 7
    assert tales(n_names=1, n_places=1).entropy_rate_nats < fewer.entropy_rate_nats


def test_tales_are_quick_to_make_to_tell_and_to_judge():
    """Limits are several times what an idle core needs; they catch loops over tokens."""
    clock = [time.process_time()]
    source = tales()
    clock.append(time.process_time())
    tokens = source.sample(300_000)
    clock.append(time.process_time())
    source.oracle_nats(tokens[: 64 * 128].reshape(64, 128))
    clock.append(time.process_time())
    assert (np.diff(clock) < [1, 3, 1]).all()
