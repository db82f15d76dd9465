"""The channel mixer read as a memory."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from attnlab.analysis import memory
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel
from attnlab.seeding import torch_generator
from attnlab.sources import EXAMPLE_TREES, kl_per_state, variable_length_chain

TREE = EXAMPLE_TREES["one_long_branch"]


@pytest.fixture(scope="module")
def chain():
    return variable_length_chain("one_long_branch")


@pytest.fixture(scope="module")
def model():
    config = ModelConfig(
        mixer="he", vocab_size=3, context_len=9, d_model=6, n_layers=2, n_heads=1, d_ff=7
    )
    return LanguageModel(config, generator=torch_generator(0, "init")).eval()


@pytest.fixture(scope="module")
def windows(chain):
    return chain.sample_windows(11, window_len=9, seed=0)


def test_activity_is_what_the_mixer_multiplies_its_values_by(model, windows):
    activity = memory.key_activity(model, windows)
    assert activity.shape == (11, 9, 7)
    mixer, seen = model.blocks[1].mlp, []
    handle = mixer.register_forward_hook(lambda _, inputs, output: seen.append((inputs, output)))
    with torch.no_grad():
        model(torch.from_numpy(windows))
    handle.remove()
    output = seen[0][1].numpy()
    again = activity @ mixer.values.weight.detach().numpy().T + mixer.values.bias.detach().numpy()
    np.testing.assert_allclose(again, output, atol=1e-5)


def test_silencing_every_key_leaves_only_the_bias(model, windows):
    mixer = model.blocks[-1].mlp
    x = torch.randn(2, 3, 6, generator=torch.Generator().manual_seed(0))
    with memory.without_keys(model, range(7)):
        torch.testing.assert_close(mixer(x), mixer.values.bias.expand(2, 3, 6))


def test_silence_ends_with_the_block_even_after_an_error(model, windows):
    before = memory.next_token_law(model, windows)
    with memory.without_keys(model, [0, 1, 2]):
        assert not np.allclose(memory.next_token_law(model, windows), before)
    with pytest.raises(ZeroDivisionError), memory.without_keys(model, [0, 1, 2]):
        _ = 1 / 0
    np.testing.assert_array_equal(memory.next_token_law(model, windows), before)


def test_a_key_that_is_not_there_is_named(model):
    with pytest.raises(AttnlabError, match="Key 7"), memory.without_keys(model, [7]):
        pass


def test_silencing_one_key_moves_the_logits_by_its_value_through_the_head(model):
    # with the final norm taken away, the direct path of the last layer is exact
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    mixer = model.blocks[-1].mlp
    fires = mixer.activations(x)[:, 2].detach().double().numpy()
    with torch.no_grad():
        whole = mixer(x)
        with memory.without_keys(model, [2]):
            part = mixer(x)
        moved = ((whole - part) * model.norm.weight) @ model.head.weight.T
    moved = (moved - moved.mean(-1, keepdim=True)).double().numpy()
    expected = fires[:, None] * memory.value_logits(model)[2]
    np.testing.assert_allclose(moved, expected, atol=1e-5)


def test_states_are_the_contexts_that_the_prefix_ends_with(chain, windows):
    contexts = [tuple(chain.encode(c)) for c in TREE]
    states = memory.label_states(windows, contexts=contexts)
    for row, end in np.ndindex(windows.shape):
        prefix = tuple(windows[row, : end + 1])
        fits = [i for i, c in enumerate(contexts) if prefix[-len(c) :] == c]
        assert states[row, end] == (max(fits, key=lambda i: len(contexts[i])) if fits else -1)


def test_a_model_that_knows_only_the_state_has_the_kl_of_its_rows_and_nan_where_it_never_is():
    config = ModelConfig(mixer="identity", vocab_size=4, context_len=9, d_model=4, n_layers=1,
                         position="none")  # fmt: skip
    blind = LanguageModel(config, generator=torch_generator(1, "init")).eval()
    truth = np.array([[0.2, 0.3, 0.5, 0], [1, 0, 0, 0], [0.6, 0.3, 0.1, 0], [0.1, 0.2, 0.3, 0.4]])
    contexts = [(0,), (1,), (2,), (3,)]
    tokens = np.array([[0, 1, 2, 2, 0], [1, 1, 0, 2, 1]])
    rows = memory.next_token_law(blind, np.array([[0], [1], [2]]))[:, 0]
    atlas = memory.map_keys(blind, tokens, contexts=contexts, truth=truth, symbols="abcd")
    np.testing.assert_allclose(atlas.kl_nats[:3], kl_per_state(truth[:3], rows), rtol=1e-5)
    assert np.isnan(atlas.kl_nats[3])
    assert np.isnan(atlas.activity[3]).all()
    activity = memory.key_activity(blind, tokens)
    np.testing.assert_allclose(atlas.activity[1], activity[tokens == 1].mean(0))
    np.testing.assert_allclose(atlas.share, [0.3, 0.4, 0.3, 0.0])


def test_the_atlas_has_one_column_a_key_and_measures_damage_against_the_whole(
    model, chain, windows
):
    contexts = [chain.encode(c) for c in TREE]
    truth = np.array(list(TREE.values()))
    atlas = memory.map_keys(model, windows, contexts=contexts, truth=truth, symbols=chain.symbols)
    assert atlas.states == tuple(TREE)
    assert atlas.n_keys == 7
    assert atlas.activity.shape == atlas.damage_nats.shape == (9, 7)
    states = memory.label_states(windows, contexts=contexts)
    with memory.without_keys(model, [4]):
        law = memory.next_token_law(model, windows)
        without = kl_per_state(truth, law, states=states)
    np.testing.assert_allclose(atlas.damage_nats[:, 4], without - atlas.kl_nats)
    assert atlas.share.sum() == pytest.approx(1.0)


@given(seed=st.integers(0, 999), n_tokens=st.integers(1, 3))
def test_triggers_are_different_and_fall_in_strength(seed, n_tokens):
    random = np.random.default_rng(seed)
    tokens, activity = random.integers(0, 3, (3, 7)), random.normal(size=(3, 7, 2))
    found = memory.top_triggers(activity, tokens, key=1, n_triggers=3, n_tokens=n_tokens)
    strengths = [strength for strength, _ in found]
    assert strengths == sorted(strengths, reverse=True)
    contexts = np.lib.stride_tricks.sliding_window_view(tokens, n_tokens, axis=1)
    n_different = len(np.unique(contexts.reshape(-1, n_tokens), axis=0))
    assert len({context for _, context in found}) == len(found) == min(3, n_different)
    assert strengths[0] == activity[:, n_tokens - 1 :, 1].max()


def test_the_glossary_names_the_words_that_a_key_pushes_most(model, windows):
    rows = memory.key_glossary(model, windows, symbols=list("abc"), n_keys=2, n_examples=2)
    assert len(rows) == 2
    activity, writes = memory.key_activity(model, windows), memory.value_logits(model)
    push = activity.max((0, 1)) * np.sort(writes, 1)[:, -2:].mean(1)
    assert rows[0]["key"] == push.argmax()
    for row in rows:
        assert row["writes"] == ["abc"[i] for i in np.argsort(-writes[row["key"]])[:2]]
        assert [len(context.split()) for context in row["fires_after"]] == [3, 3]
