"""What the bench of students and of translation compares does the same work, and is counted."""

import itertools

import pytest
import torch

from attnlab.config import BOS, EOS, PAD
from attnlab.errors import AttnlabError
from attnlab.studies.speed import SpeedPlan, distillation, lessons, translation
from attnlab.studies.speed.work import build_translator, counted_flops, require_equal

PLAN = SpeedPlan(part="distillation", scale="smoke", routes=("default",))
SIZES = lessons.Sizes(d_model=6, max_len=5, n_layers=3, n_heads=2, vocab_size=11, batch=4)
SHORT = translation.Sizes(budget=translation.SMOKE, vocab_size=13, n_tokens=5, batch=3)


# students


def test_students_together_take_the_steps_that_each_takes_alone():
    whole, parts = (distillation.SharedStudents(PLAN, SIZES, size="m") for _ in range(2))
    before = {name: weight.clone() for name, weight in whole.stack.state_dict().items()}
    together = whole.cut(slice(None))
    alone = [parts.cut(slice(i, i + 1)) for i in range(SIZES.n_layers)]
    for _ in range(3):
        together.step()
        for one in alone:
            one.step()
    for name, weight in whole.stack.state_dict().items():
        assert not torch.equal(weight, before[name])
        torch.testing.assert_close(parts.stack.state_dict()[name], weight, rtol=0, atol=1e-6)
        torch.testing.assert_close(parts.moments[name], whole.moments[name], rtol=1e-4, atol=1e-8)


def test_however_students_are_split_there_is_one_copy_of_them():
    shared = distillation.SharedStudents(PLAN, SIZES, size="s")
    one = shared.cut(slice(1, 2))
    shared.cut(slice(None)).step()
    for name, weight in one.stack.named_parameters():
        own = shared.stack.get_parameter(name)[1:2]
        assert weight.data_ptr() == own.data_ptr()
        moment = one.optimizer.state[weight]["exp_avg"]
        assert moment.data_ptr() == shared.moments[name][0][1:2].data_ptr()
        assert moment.abs().sum() > 0


def test_losses_that_depend_on_the_split_are_not_timed(monkeypatch):
    real = distillation.relative_losses

    def wrong(stack, lesson, **options):
        return stack.n_students * real(stack, lesson, **options)

    monkeypatch.setattr(distillation, "relative_losses", wrong)
    shared = distillation.SharedStudents(PLAN, SIZES, size="s")
    with pytest.raises(AttnlabError, match="together and of each alone differ"):
        shared.entrant([slice(i, i + 1) for i in range(SIZES.n_layers)])


def test_a_loop_with_other_values_is_not_timed(monkeypatch):
    monkeypatch.setattr(distillation, "decoder_naive", lambda student, x: 1.01 * student(x))
    race = distillation.decoder_race(PLAN, SIZES, size="m")
    with pytest.raises(AttnlabError, match="Prefix sums and the masked loop differ"):
        race.entrants["masked_loop"]()


@pytest.mark.parametrize("wrong", [2.0, float("nan")])
def test_numbers_that_differ_are_told_apart(wrong):
    require_equal(torch.tensor([1.0, 1e-9]), torch.tensor([1.0, 0.0]), what="Both")
    with pytest.raises(AttnlabError, match="Both differ by"):
        require_equal(torch.tensor([1.0, wrong]), torch.tensor([1.0, 0.0]), what="Both")


# lessons


def test_lengths_go_from_one_token_to_the_longest():
    assert SIZES.lengths == [1, 2, 3, 5]
    assert distillation.GRIDS["paper"].lengths[-1] == distillation.GRIDS["paper"].max_len


def test_files_give_the_lessons_that_the_teacher_gives(tmp_path):
    live = lessons.live_entrant(PLAN, SIZES)
    kinds = {"kept": False, "anew": True}
    disks = [
        lessons.disk_entrant(PLAN, SIZES, folder=tmp_path / name, is_anew=is_anew)
        for name, is_anew in kinds.items()
    ]
    for _ in range(lessons.N_BATCHES + 1):
        expected = live.call()
        for disk in disks:
            for a, b in zip(disk.call()[:3], expected[:3], strict=True):
                assert torch.equal(a, b)


def test_a_file_is_forced_out_to_the_disk_when_it_is_written_and_only_then(tmp_path, monkeypatch):
    forced = []
    monkeypatch.setattr(lessons.os, "fsync", forced.append)
    for name, is_anew in (("kept", False), ("anew", True)):
        disk = lessons.disk_entrant(PLAN, SIZES, folder=tmp_path / name, is_anew=is_anew)
        assert len(forced) == lessons.N_BATCHES == len(list((tmp_path / name).iterdir()))
        disk.call()
        assert len(forced) == lessons.N_BATCHES + is_anew
        forced.clear()


def test_lessons_from_memory_are_of_all_sentences():
    memory = lessons.memory_entrant(PLAN, SIZES)
    n_tokens = [int((~memory.call().padding).sum()) for _ in range(lessons.N_BATCHES)]
    assert sum(n_tokens) == lessons.N_BATCHES * sum(SIZES.lengths)


def test_the_files_are_gone_when_the_part_is_over():
    races = distillation.distillation_races(PLAN)
    for race in races:
        last = race
    with pytest.raises(FileNotFoundError):
        last.entrants["disk (warm cache)"]()


# translation


@pytest.mark.parametrize("variant", translation.VARIANTS)
def test_token_by_token_is_the_teacher_forced_pass_and_never_ends(variant):
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    stand_ins = translation.build_stand_ins(variant, model, seed=0)
    with translation.substitute(model, stand_ins):
        source, _ = translation.random_pairs(PLAN, SHORT)
        written = translation.greedy_translation(model, source, n_tokens=SHORT.n_tokens)()
        assert written.shape == (SHORT.batch, SHORT.n_tokens)
        read = torch.cat([torch.full((SHORT.batch, 1), BOS), written[:, :-1]], 1)
        with torch.no_grad():
            logits = model(source, read)
    logits[..., [PAD, BOS, EOS]] = -torch.inf
    assert torch.equal(logits.argmax(-1), written)


def test_a_sentence_is_written_to_its_full_length_though_its_end_is_likeliest():
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    source, _ = translation.random_pairs(PLAN, SHORT)

    def ends_at_once(token, state):
        logits = torch.zeros(len(token), SHORT.vocab_size)
        logits[:, EOS] = 1.0
        return logits, state

    model.step = ends_at_once
    written = translation.greedy_translation(model, source, n_tokens=4)()
    assert written.shape == (SHORT.batch, 4)
    assert not (written == EOS).any()


def test_operations_of_the_teacher_are_those_of_the_closed_form():
    model = build_translator(**SHORT.model, seed=0, device="cpu")
    batch, time = SHORT.batch, SHORT.n_tokens
    d, d_ff, n = (SHORT.model[name] for name in ("d_model", "d_ff", "n_layers"))
    maps = n * (4 * d * d + 2 * d * d_ff) + n * (8 * d * d + 2 * d * d_ff)
    products = time * (maps + d * SHORT.vocab_size) + 3 * n * 2 * time * time * d
    call = translation.forced_pass(model, *translation.random_pairs(PLAN, SHORT))
    assert counted_flops(call) == 2 * batch * products


def test_backward_takes_two_products_for_each_of_the_forward_pass():
    weight, x = torch.ones(5, 7, requires_grad=True), torch.ones(3, 5, requires_grad=True)
    forward = counted_flops(lambda: x @ weight)
    assert forward == 2 * 3 * 5 * 7
    assert counted_flops(lambda: (x @ weight).sum().backward()) == 3 * forward


def test_what_is_translated_is_as_large_as_in_the_study():
    sizes = translation.sizes_of("paper").model
    assert sizes == {
        "vocab_size": 6004,
        "d_model": 128,
        "n_heads": 8,
        "n_layers": 3,
        "d_ff": 512,
        "max_len": 32,
    }
    pairs = itertools.pairwise(map(translation.sizes_of, ("smoke", "classroom", "paper")))
    assert all(small.model["d_model"] < large.model["d_model"] for small, large in pairs)
