"""Tuning: corrections that begin as nothing, merge to equal outputs, and who may learn."""

import copy

import pytest
import torch
from small_teacher import differ, logits_of, some_batches, teacher_for

from attnlab.distillation import (
    StudentSpec,
    add_corrections,
    build_students,
    free_to_learn,
    load_students,
    merge_corrections,
    save_students,
    substitute,
)
from attnlab.distillation.tuning import CORRECTED, TUNES, Correction
from attnlab.errors import AttnlabError, UnknownNameError

SPECS = [
    StudentSpec(method="linear", window=2),
    StudentSpec(site="decoder_self", method="gated_delta"),
    StudentSpec(site="cross", method="linear", feature_map="relu"),
]
PLACES = 3 + 2 + 2  # layers of the encoder, and twice those of the decoder


def model_with_stand_ins(dtype=torch.float32):
    model = teacher_for(dtype)
    students = {}
    for spec in SPECS:
        students |= build_students(model, spec=spec)
    substitute(model, students)
    return model, students


def learn(model, n_steps=1):
    """Take steps with AdamW, which would move any weight that has a gradient."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(n_steps):
        optimizer.zero_grad()
        model.loss(*some_batches()[0]).backward()
        optimizer.step()


def weights_by_name(model):
    return {name: weight.detach().clone() for name, weight in model.named_parameters()}


@pytest.mark.parametrize("maps", [("value", "out"), CORRECTED])
def test_corrections_begin_as_nothing_and_merge_to_equal_outputs(maps):
    model, _ = model_with_stand_ins(torch.float64)
    before, names = logits_of(model), [name for name, _ in model.named_parameters()]
    n_before = sum(weight.numel() for weight in model.parameters())
    assert add_corrections(model, 2, maps) == len(maps) * PLACES
    n_more = sum(weight.numel() for weight in model.parameters()) - n_before
    assert n_more == len(maps) * PLACES * 2 * 2 * 12
    assert torch.equal(logits_of(model), before)
    free_to_learn(model, "corrections")
    learn(model, n_steps=2)
    tuned = logits_of(model)
    assert (tuned - before).abs().max() > 1e-3
    assert merge_corrections(model) == len(maps) * PLACES
    torch.testing.assert_close(logits_of(model), tuned)
    assert {name for name, _ in model.named_parameters()} == {*names}
    assert merge_corrections(model) == 0


def test_a_correction_is_the_product_of_two_narrow_maps():
    weight = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    correction = Correction(weight, rank=2, generator=torch.Generator().manual_seed(1))
    assert torch.equal(correction(weight), weight)
    correction.up.data.copy_(torch.arange(10.0).view(5, 2))
    added = correction(weight) - weight
    torch.testing.assert_close(added, 8 * correction.up @ correction.down)
    assert torch.linalg.matrix_rank(added) == 2


@pytest.mark.parametrize("what", TUNES)
def test_exactly_the_weights_that_are_meant_learn(what):
    model, _ = model_with_stand_ins()
    add_corrections(model, 3)
    named = free_to_learn(model, what)
    assert set(named) == {n for n, weight in model.named_parameters() if weight.requires_grad}
    before = weights_by_name(model)
    learn(model, n_steps=2)  # in the first, up is zero and down has no gradient
    assert differ(before, weights_by_name(model)) == set(named)
    is_meant = {
        "everything": lambda name: True,
        "students": lambda name: ".student." in name,
        "corrections": lambda name: name.endswith((".up", ".down")),
        "norms": lambda name: "norm." in name,
    }[what]
    assert set(named) == set(filter(is_meant, before))


def test_corrections_of_one_seed_are_the_same_and_those_of_two_maps_are_not():
    starts = []
    for seed in (0, 0, 1):
        model, _ = model_with_stand_ins()
        add_corrections(model, 2, seed=seed)
        starts.append([part.down for part in model.modules() if isinstance(part, Correction)])
    first, again, other = starts
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    each = [tuple(down.flatten().tolist()) for down in (*first, *other)]
    assert len(set(each)) == len(each)


def test_a_corrected_model_can_be_copied_and_goes_token_by_token():
    model, _ = model_with_stand_ins()
    add_corrections(model, 2, CORRECTED)
    learn(model)
    twin = copy.deepcopy(model)
    assert torch.equal(logits_of(twin), logits_of(model))
    written = model.translate(some_batches()[0][0])
    merge_corrections(twin)
    assert torch.equal(twin.translate(some_batches()[0][0]), written)


def test_stand_ins_are_saved_once_their_corrections_are_merged(tmp_path):
    model, students = model_with_stand_ins()
    add_corrections(model, 2)
    learn(model)
    tuned = logits_of(model)
    with pytest.raises(AttnlabError, match="merge_corrections"):
        save_students(tmp_path / "s.safetensors", students=students)
    merge_corrections(model)
    save_students(tmp_path / "s.safetensors", students=students)
    substitute(model, load_students(tmp_path / "s.safetensors")[0])
    torch.testing.assert_close(logits_of(model), tuned)


def test_what_cannot_be_corrected_is_said_in_words():
    model = teacher_for()
    with pytest.raises(AttnlabError, match="no value or out of a stand-in"):
        add_corrections(model, 2)
    model, _ = model_with_stand_ins()
    with pytest.raises(UnknownNameError, match="Did you mean 'value'"):
        add_corrections(model, 2, ("valu",))
    for rank in (0, 13, 1.5):
        with pytest.raises(AttnlabError, match=r"from 1 to 12"):
            add_corrections(model, rank)
    add_corrections(model, 2, ("out",))
    with pytest.raises(AttnlabError, match=r"encoder.0.self_attention.out has a correction"):
        add_corrections(model, 2)


def test_what_is_not_there_cannot_learn():
    model = teacher_for()
    for what in ("students", "corrections"):
        with pytest.raises(AttnlabError, match=f"no {what} that could learn"):
            free_to_learn(model, what)
    with pytest.raises(UnknownNameError, match="Did you mean 'norms'"):
        free_to_learn(model, "norm")
