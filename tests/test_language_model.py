"""The language model: one shell for every mixer, in parallel and token by token."""

import dataclasses

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from attnlab.analysis.theory import expected_language_model_weights
from attnlab.config import ModelConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import list_mixers
from attnlab.models import ChannelMixer, LanguageModel
from attnlab.models.blocks import ShortConv
from attnlab.models.loss import linear_cross_entropy
from attnlab.models.search import sample_token, token_chances
from attnlab.seeding import torch_generator

CONFIG = ModelConfig(vocab_size=11, context_len=7, d_model=12, n_layers=2, n_heads=3)
VARIATIONS = [
    {"mixer": "attention"},
    {"mixer": "she", "mixer_options": {"method": "lags"}},
    {"mixer": "he"},
    {"mixer": "we", "position": "sinusoidal"},
    {"mixer": "me", "position": "none"},
    {"mixer": "mean", "tie_embeddings": False},
    {"mixer": "identity", "d_ff": 5},
    {"mixer": "he", "short_conv": 3},
    {"mixer": "attention", "short_conv": 1, "position": "none"},
]


def build(seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return LanguageModel(config, generator=torch_generator(seed, "init")).double().eval()


def some_tokens(batch=2, time=7, seed=0, vocab_size=11):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (batch, time), generator=generator)


@pytest.mark.parametrize("changes", VARIATIONS, ids=str)
@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_single_tokens_and_prompts_give_the_logits_of_the_parallel_pass_without_dropout(
    changes, norm
):
    model, tokens = build(**changes, norm=norm, dropout=0.5), some_tokens()
    expected = model.eval()(tokens)
    for cut in (0, 1, 6):
        state = model.train().initial_state(2)
        if cut:
            logits, state = model.prefill(tokens[:, :cut])
            torch.testing.assert_close(logits, expected[:, cut - 1], rtol=1e-9, atol=1e-9)
        for t in range(cut, 7):
            assert state.position == t
            logits, state = model.step(tokens[:, t], state)
            torch.testing.assert_close(logits, expected[:, t], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("changes", [*VARIATIONS, {"norm": "post"}], ids=str)
def test_editing_a_later_token_changes_no_earlier_logit(changes):
    model, before = build(**changes), some_tokens()
    for cut in range(7):
        after = before.clone()
        after[:, cut + 1 :] = (after[:, cut + 1 :] + 1) % 11
        same = slice(None, cut + 1)
        torch.testing.assert_close(
            model(before)[:, same], model(after)[:, same], rtol=0, atol=1e-10
        )


@pytest.mark.parametrize("mixer", list_mixers())
@pytest.mark.parametrize(
    "changes", [{}, {"tie_embeddings": False}, {"position": "none", "short_conv": 2}]
)
def test_counted_weights_equal_the_closed_form(mixer, changes):
    config = dataclasses.replace(CONFIG, mixer=mixer, **changes)
    counted = sum(p.numel() for p in LanguageModel(config).parameters())
    assert counted == expected_language_model_weights(config)


def test_initial_weights_are_a_function_of_the_seed_and_leave_global_chance_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    one, same, other = build(seed=1), build(seed=1), build(seed=2)
    torch.testing.assert_close(torch.rand(3), expected, rtol=0, atol=0)
    for a, b in zip(one.parameters(), same.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(one.token_embedding.weight, other.token_embedding.weight)


@pytest.mark.parametrize("mixer", ["attention", "she", "he"])
def test_maps_into_the_stream_start_smaller_in_a_deeper_model(mixer):
    sizes = {"mixer": mixer, "d_model": 48, "n_heads": 1}
    for n_layers in (1, 4):
        model = build(**sizes, n_layers=n_layers)
        for block in model.blocks:
            for linear, n_in in ((block.mixer.out, 48), (block.mlp.values, 4 * 48)):
                expected = (n_in * 2 * n_layers) ** -0.5
                assert float(linear.weight.detach().std()) == pytest.approx(expected, rel=0.06)


@pytest.mark.parametrize("rows_at_once", [1, 3, 100])
def test_chunked_cross_entropy_equals_torch_and_its_gradients(rows_at_once):
    generator = torch.Generator().manual_seed(0)
    f = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    w = torch.randn(9, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    y = torch.randint(0, 9, (2, 5), generator=generator)
    ours = 3 * linear_cross_entropy(f, w, y, rows_at_once=rows_at_once)
    theirs = 3 * F.cross_entropy((f @ w.mT).flatten(0, 1), y.flatten())
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(
        torch.autograd.grad(ours, (f, w)), torch.autograd.grad(theirs, (f, w)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_chunked_cross_entropy_survives_large_logits():
    f = torch.tensor([[1e4, -1e4]], requires_grad=True)
    loss = linear_cross_entropy(f, torch.eye(2), torch.tensor([0]))
    assert loss.detach() == 0
    assert torch.autograd.grad(loss, f)[0].isfinite().all()


def test_loss_by_token_averages_to_the_loss():
    model, tokens = build(), some_tokens()
    targets = some_tokens(seed=1)
    by_token = model.loss(tokens, targets, reduction="none")
    assert by_token.shape == tokens.shape
    torch.testing.assert_close(by_token.mean(), model.loss(tokens, targets).detach())


def test_the_channel_mixer_is_a_table_of_keys_and_values():
    mixer = ChannelMixer(d_model=3, d_ff=5).double()
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    fires = mixer.activations(x)
    table = sum(fires[:, [i]] * mixer.values.weight[:, i] for i in range(5)) + mixer.values.bias
    torch.testing.assert_close(mixer(x), table)


@pytest.mark.parametrize("mixer", list_mixers())
def test_greedy_text_is_what_the_parallel_pass_would_choose(mixer):
    model, prompt = build(mixer=mixer), some_tokens(time=2)
    tokens = model.generate(prompt, n_tokens=5, temperature=0)
    with torch.no_grad():
        chosen = model(tokens[:, :-1]).argmax(-1)
    assert torch.equal(tokens[:, 2:], chosen[:, 1:])


def test_generation_goes_on_past_the_context_by_reading_its_newest_half_again():
    model, prompt = build(), some_tokens(time=3)
    tokens = model.generate(prompt, n_tokens=12, temperature=0)
    assert tokens.shape == (2, 15)
    with torch.no_grad():
        again = model(tokens[:, 5:8]).argmax(-1)[:, -1]  # 7 are full; 3 of the newest 8 come again
    assert torch.equal(tokens[:, 8], again)


def test_generation_is_a_function_of_its_generator():
    model, prompt = build(), some_tokens(time=3)
    texts = [
        model.generate(prompt, n_tokens=20, generator=torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(texts[0], texts[1])
    assert not torch.equal(texts[0], texts[2])


def test_generation_leaves_the_training_mode_as_it_was():
    model = build(dropout=0.5).train()
    one, two = (model.generate(some_tokens(time=2), n_tokens=3, temperature=0) for _ in range(2))
    assert model.training
    assert torch.equal(one, two)


logits = st.lists(st.floats(-5, 5), min_size=2, max_size=9).map(lambda v: torch.tensor([v]))


@given(logits=logits, top_p=st.floats(0.01, 1.0))
def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_p(logits, top_p):
    kept = token_chances(logits, top_p=top_p)[0] > 0
    plain = logits.double().softmax(-1)[0]
    share = plain[kept].sum()
    assert share >= top_p - 1e-5
    assert share - plain[kept].min() < top_p + 1e-5
    if not kept.all():
        assert plain[kept].min() >= plain[~kept].max() - 1e-6


@given(logits=logits, top_k=st.integers(1, 9))
def test_top_k_keeps_k_tokens(logits, top_k):
    chances = token_chances(logits, top_k=top_k)
    assert int((chances > 0).sum()) == min(top_k, logits.shape[1])
    torch.testing.assert_close(chances.sum(), torch.tensor(1.0))


def test_temperature_divides_the_logits():
    chances = token_chances(torch.tensor([[1.0, 2.0]]), temperature=0.5)
    torch.testing.assert_close(chances, torch.tensor([[2.0, 4.0]]).softmax(-1))
    assert sample_token(torch.tensor([[1.0, 2.0]]), temperature=0).tolist() == [1]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": -1}, "temperature=-1"),
        ({"top_k": 0}, "top_k=0 keeps no token"),
        ({"top_p": 0.0}, "top_p=0.0 must lie"),
        ({"top_p": 1.5}, "top_p=1.5"),
    ],
)
def test_sampling_options_out_of_range_are_explained(options, words):
    with pytest.raises(AttnlabError, match=words):
        build().generate(some_tokens(time=2), n_tokens=1, **options)


@pytest.mark.parametrize(
    ("tokens", "words"),
    [
        (torch.zeros(1, 8, dtype=torch.long), r"8 tokens do not fit context_len=7.*-7:"),
        (torch.full((1, 3), 11), "Token id 11 is outside the model's vocabulary of 11"),
        (torch.full((1, 3), -1), "Token id -1"),
        (torch.zeros(1, 0, dtype=torch.long), "prompt is empty"),
        (torch.zeros(3, dtype=torch.long), "takes token ids"),
        (torch.zeros(1, 3), "integer type"),
    ],
)
def test_tokens_a_model_cannot_read_are_explained(tokens, words):
    model = build()
    with pytest.raises(AttnlabError, match=words):
        model(tokens)
    with pytest.raises(AttnlabError, match=words):
        model.generate(tokens, n_tokens=1)


def test_a_stream_longer_than_the_context_is_refused():
    model = build()
    state = model.initial_state(1)
    for _ in range(7):
        _, state = model.step(torch.tensor([1]), state)
    with pytest.raises(AttnlabError, match=r"read all 7 tokens .* use generate"):
        model.step(torch.tensor([1]), state)


def test_targets_that_were_not_shifted_are_refused():
    model, tokens = build(), some_tokens()
    with pytest.raises(AttnlabError, match=r"\(2, 6\) tokens and targets for \(2, 7\)"):
        model.loss(tokens[:, :-1], tokens)
    with pytest.raises(AttnlabError, match="Target id 11 is outside"):
        model.loss(tokens[:, :-1], tokens[:, 1:] * 0 + 11)


@pytest.mark.parametrize("mixer", list_mixers())
def test_a_bfloat16_model_computes_what_the_float32_one_does(mixer):
    model, tokens = build(mixer=mixer).float(), some_tokens()
    with torch.no_grad():
        exact, low = model(tokens), model.bfloat16()(tokens)
    assert low.dtype == torch.bfloat16
    torch.testing.assert_close(low.float(), exact, rtol=0.1, atol=0.1)


def test_a_model_that_generated_in_inference_mode_can_train_afterwards():
    model, tokens = build(mixer="she", mixer_options={"method": "planes"}), some_tokens()
    with torch.inference_mode():
        model(tokens)
    model.loss(tokens, tokens).backward()


def test_a_state_of_another_batch_size_is_refused():
    model = build()
    with pytest.raises(AttnlabError, match=r"batch of 3; got 2 rows"):
        model.step(torch.tensor([1, 2]), model.initial_state(3))


def test_a_short_convolution_joins_each_token_with_those_before_it_as_a_loop_would():
    conv, x = ShortConv(d_model=3, width=3).double(), torch.randn(2, 5, 3, dtype=torch.float64)
    loop = [sum(x[:, t - j] * conv.weight[j] for j in range(min(3, t + 1))) for t in range(5)]
    torch.testing.assert_close(conv(x), torch.stack(loop, 1))
    with pytest.raises(AttnlabError, match="short_conv=8 must be 0, for none"):
        build(short_conv=8)
