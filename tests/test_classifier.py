"""A classifier keeps what it promises with every mixer there is, causal and two-sided."""

import pytest
import torch
from tensors import randomised, tokens

from attnlab.config import ClassifierConfig
from attnlab.errors import AttnlabError
from attnlab.mixers import build_mixer, list_mixers
from attnlab.mixers.attention import look_up
from attnlab.models import Classifier, LanguageModel
from attnlab.models.classifier import flip, mix_two_sided

EVERY_MIXER = pytest.mark.parametrize("name", list_mixers())
BOTH_SIDES = pytest.mark.parametrize("is_two_sided", [False, True])
SIZES = {"d_model": 6, "n_heads": 2, "context_len": 9, "n_classes": 3}
CLOSE = {"rtol": 1e-6, "atol": 1e-7}  # methods over frequencies round by the length they see


def classifier(name, **options):
    config = ClassifierConfig(mixer=name, vocab_size=11, **{**SIZES, **options})
    model = Classifier(config, generator=torch.Generator().manual_seed(0)).double().eval()
    with torch.no_grad():  # away from gates and maps that begin at nothing
        for i, weight in enumerate(model.parameters()):
            weight.add_(0.1 * tokens(*weight.shape, seed=i))
    return model


def sentences(*lengths, time, seed=0):
    """Return ids of these lengths, filled up with ``PAD`` to ``time``."""
    ids = torch.randint(1, 11, (len(lengths), time), generator=torch.Generator().manual_seed(seed))
    return ids * (torch.arange(time) < torch.tensor(lengths)[:, None])


@EVERY_MIXER
@BOTH_SIDES
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_padding_never_changes_a_result(name, is_two_sided, pooling):
    model = classifier(name, is_two_sided=is_two_sided, pooling=pooling)
    batch = sentences(7, 1, 4, 2, time=9)
    whole = model(batch)
    for row, length in zip(range(4), (7, 1, 4, 2), strict=True):
        alone = model(batch[row : row + 1, :length])
        torch.testing.assert_close(whole[row : row + 1], alone, **CLOSE)


@EVERY_MIXER
@BOTH_SIDES
def test_padding_never_changes_a_result_of_vectors(name, is_two_sided):
    model = classifier(name, is_two_sided=is_two_sided, n_inputs=2)
    x, lengths = tokens(3, 9, 2), torch.tensor([9, 3, 5])
    whole = model(x, lengths=lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = model(x[row : row + 1, :length])
        torch.testing.assert_close(whole[row : row + 1], alone, **CLOSE)


@EVERY_MIXER
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_pooled_state_of_a_prefix_depends_on_the_prefix_only(name, pooling):
    model = classifier(name, n_inputs=2, pooling=pooling)
    x, lengths = tokens(1, 8, 2), torch.tensor([5])
    other = torch.cat([x[:, :5], tokens(1, 3, 2, seed=1)], 1)
    pooled = model.pooled(x, lengths=lengths)
    torch.testing.assert_close(model.pooled(other, lengths=lengths), pooled, **CLOSE)
    torch.testing.assert_close(model.pooled(x[:, :5]), pooled, **CLOSE)


@EVERY_MIXER
def test_a_first_position_hears_the_last_if_two_sided_and_the_mixer_mixes(name):
    def hears(place, spoken, **options):
        model = classifier(name, n_inputs=2, **options)
        before, after = (x := tokens(1, 8, 2)), x.clone()
        after[:, spoken] += 1
        one, other = (model.features(x)[:, place] for x in (before, after))
        return not torch.allclose(one, other, **CLOSE)

    assert not hears(0, -1)
    assert hears(0, -1, is_two_sided=True) == hears(-1, 0)


@EVERY_MIXER
def test_reading_backwards_turns_a_two_sided_mixture_around(name):
    mixer = randomised(build_mixer(name, d_model=6, context_len=9))
    x, lengths = tokens(3, 8, 6), torch.tensor([8, 5, 1])
    inside = (torch.arange(8) < lengths[:, None])[..., None]
    y = mix_two_sided(mixer, x, lengths) * inside
    turned = mix_two_sided(mixer, flip(x, lengths), lengths) * inside
    torch.testing.assert_close(turned, flip(y, lengths), rtol=1e-6, atol=1e-6)


@EVERY_MIXER
@BOTH_SIDES
def test_gradients_reach_all_weights(name, is_two_sided):
    model = classifier(name, is_two_sided=is_two_sided)
    model.loss(sentences(9, 6, 8, time=9), torch.tensor([0, 2, 1])).backward()
    idle = [n for n, w in model.named_parameters() if w.grad is None or not w.grad.abs().sum()]
    assert idle == []


def test_two_sided_attention_is_the_plain_look_up_without_a_mask():
    mixer = randomised(build_mixer("attention", d_model=6, context_len=9, n_heads=2))
    x, lengths = tokens(2, 7, 6), torch.tensor([7, 4])
    y = mix_two_sided(mixer, x, lengths)
    for row, length in enumerate(lengths.tolist()):
        part = x[row : row + 1, :length]
        q, k, v = (
            one(part).unflatten(-1, (2, 3)).transpose(1, 2)
            for one in (mixer.query, mixer.key, mixer.value)
        )
        wanted = mixer.out(look_up(q, k, v).transpose(1, 2).flatten(2))
        torch.testing.assert_close(y[row : row + 1, :length], wanted)


def test_two_sided_alibi_fades_on_both_sides_and_a_window_is_one_on_both_sides():
    x, lengths = tokens(2, 7, 4), torch.tensor([7, 4])
    for options in ({"position": "alibi"}, {"window": 2}, {"position": "alibi", "window": 3}):
        mixer = randomised(build_mixer("attention", d_model=4, context_len=9, **options))
        y = mix_two_sided(mixer, x, lengths)
        turned = mix_two_sided(mixer, flip(x, lengths), lengths)
        torch.testing.assert_close(turned[0], flip(y, lengths)[0])
        torch.testing.assert_close(y[1:, :4], mix_two_sided(mixer, x[1:, :4], lengths[1:]))
        other = x.clone()
        other[0, 6] += 1
        moved = (mix_two_sided(mixer, other, lengths) != y)[0].any(1).tolist()
        assert moved == [6 - t < options.get("window", 9) for t in range(7)]
        assert y.isfinite().all()


def test_flipping_leaves_what_fills_up_where_it_is():
    x = torch.arange(10.0).reshape(2, 5, 1)
    flipped = flip(x, torch.tensor([3, 5]))[..., 0]
    assert flipped.tolist() == [[2, 1, 0, 3, 4], [9, 8, 7, 6, 5]]
    assert torch.equal(flip(flip(x, torch.tensor([2, 4])), torch.tensor([2, 4])), x)


def test_the_blocks_are_those_of_the_language_model():
    model = classifier("she")
    language_model = LanguageModel(model.config)
    own, other = (
        {n: w.shape for n, w in m.named_parameters() if n.startswith("blocks")}
        for m in (model, language_model)
    )
    assert own == other


def test_a_row_without_tokens_reads_as_one_of_padding():
    model = classifier("he")
    batch = torch.tensor([[0, 0, 0], [3, 0, 0]])
    torch.testing.assert_close(model(batch)[:1], model(torch.tensor([[0]])))
    assert model(batch).isfinite().all()


@pytest.mark.parametrize(
    ("options", "inputs", "message"),
    [
        ({}, torch.full((1, 10), 3), r"10 tokens do not fit context_len=9"),
        ({}, torch.tensor([[11]]), r"Token id 11 is outside the model's vocabulary of 11"),
        ({"n_inputs": 2}, torch.zeros(1, 10, 2), r"10 positions do not fit context_len=9"),
        ({"n_inputs": 2}, torch.zeros(1, 3, 3), r"Classifier was built for d_model=2.* 3 wide"),
    ],
)
def test_inputs_that_cannot_be_read_are_named(options, inputs, message):
    inputs = inputs.double() if inputs.is_floating_point() else inputs
    with pytest.raises(AttnlabError, match=message):
        classifier("mean", **options)(inputs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_classes": 0}, "n_classes=0 must be a whole number, 1 or more"),
        ({"n_inputs": -1}, "n_inputs=-1 cannot be negative; 0 reads token ids"),
        ({"pooling": "max"}, "pooling='max' is not one of mean, last"),
        ({"short_conv": 3}, "short_conv=3 is no part of a classifier. Use 0"),
    ],
)
def test_a_configuration_that_no_classifier_has_is_refused(options, message):
    with pytest.raises(AttnlabError, match=message):
        ClassifierConfig(**options)


def test_a_configuration_comes_back_from_json():
    config = ClassifierConfig(mixer="he", n_classes=5, is_two_sided=True)
    assert ClassifierConfig.from_dict(config.to_dict()) == config
    assert config != ClassifierConfig(mixer="he", n_classes=5)
    with pytest.raises(AttnlabError, match=r"built from a ClassifierConfig; got \{\}"):
        Classifier({})
