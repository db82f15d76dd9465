"""Surgery and controls: in, out, back again; and what a replacement that knows nothing does."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from attnlab.config import BOS, EOS, N_SPECIAL, PAD, UNK, TranslatorConfig
from attnlab.distillation import (
    CONTROLS,
    METHODS_AT,
    SITES,
    StudentSpec,
    build_controls,
    build_students,
    collect_activations,
    find_site,
    length_ratio,
    load_students,
    save_students,
    substitute,
)
from attnlab.errors import AttnlabError, CheckpointError, UnknownNameError
from attnlab.models import Translator
from attnlab.seeding import torch_generator
from attnlab.training import collate_pairs, evaluate_forced, save_model, translate_all
from attnlab.training.checkpoint import read_tensors, write_tensors

CONFIG = TranslatorConfig(
    source_vocab_size=13,
    target_vocab_size=11,
    d_model=12,
    n_heads=3,
    n_encoder_layers=2,
    n_decoder_layers=3,
    d_ff=17,
    dropout=0.0,
    max_len=9,
)
EVERYWHERE = [
    *[StudentSpec(method=method, size="s") for method in METHODS_AT["encoder_self"]],
    StudentSpec(site="decoder_self", size="s"),
    StudentSpec(site="cross", size="s"),
    StudentSpec(site="cross", size="s", layout="prefix"),
    StudentSpec(site="cross", size="s", layout="per_query", learned_head=True),
    StudentSpec(site="cross", size="s", layout="low_rank"),
    StudentSpec(site="cross", size="s", layout="extractor"),
]


def teacher_for(seed=0, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    return Translator(config, generator=torch_generator(seed, "init")).eval()


def some_pairs(n=6, seed=0):
    random = np.random.default_rng(seed)

    def sentence(vocab_size, longest):
        return random.integers(N_SPECIAL, vocab_size, random.integers(1, longest + 1)).tolist()

    return [(sentence(13, 9), sentence(11, 8)) for _ in range(n)]


def some_lessons(teacher, site):
    batches = [collate_pairs(some_pairs(9, seed)) for seed in range(3)]
    return collect_activations(teacher, batches, spec=StudentSpec(site=site))


def logits_of(model, pairs=None):
    source, target = collate_pairs(pairs or some_pairs())
    with torch.no_grad():
        return model(source, target[:, :-1])


def controls_for(teacher, name, site):
    return build_controls(name, teacher=teacher, site=site, activations=some_lessons(teacher, site))


def stepwise_logits(model, source, target):
    state = model.initial_state(model.encode(source), source_padding=source == PAD)
    columns = []
    for token in target.unbind(1):
        logits, state = model.step(token, state)
        columns.append(logits)
    return torch.stack(columns, 1)


# in and out


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("spec", EVERYWHERE, ids=lambda spec: spec.label)
def test_undo_gives_back_the_same_bits(spec, norm):
    model = teacher_for(norm=norm)
    before, names = logits_of(model), [name for name, _ in model.named_parameters()]
    swap = substitute(model, build_students(model, spec=spec))
    assert not torch.equal(logits_of(model), before)
    swap.undo()
    assert torch.equal(logits_of(model), before)
    assert [name for name, _ in model.named_parameters()] == names
    swap.undo()
    assert torch.equal(logits_of(model), before)


def test_a_context_puts_everything_back_after_an_error():
    model = teacher_for()
    before = logits_of(model)
    students = build_students(model, spec=StudentSpec())
    with pytest.raises(RuntimeError, match="halfway"), substitute(model, students):
        raise RuntimeError("halfway")
    assert torch.equal(logits_of(model), before)


def test_any_subset_of_layers_and_sites_can_be_replaced():
    model = teacher_for()
    encoder = build_students(model, spec=StudentSpec(size="s"))
    decoder = build_students(model, spec=StudentSpec(site="decoder_self", size="s"), layers=[2])
    cross = build_students(model, spec=StudentSpec(site="cross", size="s"))
    with substitute(model, {**decoder, ("cross", 0): cross["cross", 0]}):
        assert find_site(model, site="decoder_self", layer=1).__class__.__name__ == "SelfAttention"
        assert find_site(model, site="decoder_self", layer=2).student is decoder["decoder_self", 2]
        assert find_site(model, site="cross", layer=0).student is cross["cross", 0]
        assert find_site(model, site="cross", layer=1).__class__.__name__ == "CrossAttention"
        some_part = logits_of(model)
        with substitute(model, {"encoder_self": list(encoder.values())}):
            assert find_site(model, site="encoder_self", layer=1).student is encoder[SITES[0], 1]
        assert torch.equal(logits_of(model), some_part)


@pytest.mark.parametrize("given", ["pairs", "sequence", "by layer", "by place"])
def test_students_may_be_given_in_any_handy_way(given):
    model = teacher_for()
    students = build_students(model, spec=StudentSpec(site="cross", size="s"))
    ways = {
        "pairs": students,
        "sequence": {"cross": list(students.values())},
        "by layer": {"cross": {layer: student for (_, layer), student in students.items()}},
        "by place": {"cross": students},
    }
    with substitute(model, ways[given]) as swap:
        assert swap.students == students


def test_what_is_kept_is_the_teachers_own():
    model = teacher_for()
    out, mlp = model.encoder[0].self_attention.out, model.encoder[0].mlp
    with substitute(model, build_students(model, spec=StudentSpec(size="s"))):
        assert model.encoder[0].self_attention.out is out
        assert "encoder.0.self_attention.query.weight" not in dict(model.named_parameters())
    with substitute(model, build_students(model, spec=StudentSpec(method="alrr", size="s"))):
        assert model.encoder[0].mlp is mlp
    with substitute(model, build_students(model, spec=StudentSpec(method="elr", size="s"))) as swap:
        assert model.encoder[0] is swap.students["encoder_self", 0]


@pytest.mark.parametrize("spec", EVERYWHERE[:5], ids=lambda spec: spec.label)
def test_students_in_place_can_be_trained_end_to_end(spec):
    model = teacher_for()
    students = build_students(model, spec=spec)
    with substitute(model, students):
        model.loss(*collate_pairs(some_pairs())).backward()
    for student in students.values():
        assert any((weight.grad != 0).any() for weight in student.parameters())


def test_undoing_in_the_wrong_order_is_refused():
    model = teacher_for()
    first = substitute(model, build_students(model, spec=StudentSpec(size="s")))
    second = substitute(model, build_students(model, spec=StudentSpec(size="xs")))
    with pytest.raises(AttnlabError, match="Undo what was put in last first"):
        first.undo()
    second.undo()
    first.undo()


def test_places_that_do_not_exist_are_refused():
    model = teacher_for()
    students = build_students(model, spec=StudentSpec(size="s"))
    student = students["encoder_self", 0]
    with pytest.raises(UnknownNameError, match="Did you mean 'encoder_self'"):
        substitute(model, {"encoder_slef": [student]})
    with pytest.raises(
        AttnlabError, match="no layer 2 at encoder_self; this model has layers 0 to 1"
    ):
        substitute(model, {("encoder_self", 2): student})
    with pytest.raises(AttnlabError, match="One student cannot stand at all layers"):
        substitute(model, {"encoder_self": student})
    with pytest.raises(AttnlabError, match="two students for"):
        substitute(model, {"encoder_self": [student], ("encoder_self", 0): student})
    with pytest.raises(AttnlabError, match="student for encoder_self cannot stand at"):
        substitute(model, {("decoder_self", 0): student})
    with pytest.raises(AttnlabError, match=r"built for d_model=12.*this model has 24"):
        substitute(teacher_for(d_model=24), students)
    whole = build_students(model, spec=StudentSpec(method="elr", size="s"))
    with substitute(model, whole), pytest.raises(AttnlabError, match="has been replaced"):
        substitute(model, students)
    alrr = build_students(model, spec=StudentSpec(method="alrr", size="s"))
    with substitute(model, whole), pytest.raises(AttnlabError, match="has been replaced already"):
        substitute(model, alrr)
    assert torch.equal(logits_of(model), logits_of(teacher_for()))


# what a model with students does


@pytest.mark.parametrize("spec", EVERYWHERE, ids=lambda spec: spec.label)
def test_a_translator_with_students_is_causal_exactly_where_its_students_are(spec):
    model = teacher_for()
    students = build_students(model, spec=spec)
    source = torch.tensor([[5, 6, 7, 8]])
    target = torch.tensor([[BOS, 5, 6, 7, 8]])
    edited = torch.tensor([[BOS, 5, 6, 7, 9]])
    with substitute(model, students), torch.no_grad():
        moved = (model(source, target) - model(source, edited)).abs().amax(-1)[0, :-1]
        gap = stepwise_logits(model, source, target) - model(source, target)
    is_leaking = spec.site == "cross" and spec.layout == "paper"
    assert bool((moved > 1e-6).all()) == is_leaking
    assert bool((gap.abs().amax(-1)[0, :-1] > 1e-5).all()) == is_leaking


@pytest.mark.parametrize("spec", EVERYWHERE, ids=lambda spec: spec.label)
def test_other_sentences_of_the_batch_change_no_score(spec):
    model = teacher_for()
    pairs = [([5, 6, 7], [4, 5]), ([8], [6, 7, 8, 9, 10]), ([5, 12, 5, 6, 7, 8, 9], [7])]
    with substitute(model, build_students(model, spec=spec)):
        together = evaluate_forced(model, pairs, max_tokens=1000)
        alone = evaluate_forced(model, pairs, max_tokens=1)
    assert together.loss_nats == pytest.approx(alone.loss_nats, rel=1e-5)
    assert together.accuracy == alone.accuracy


@pytest.mark.parametrize("spec", EVERYWHERE, ids=lambda spec: spec.label)
def test_hard_sentences_are_translated_all_the_same(spec):
    model = teacher_for()
    sources = [[], [5], [UNK, UNK, UNK], [5, 6, 7, 8, 9, 10, 11, 12, 5]]
    with substitute(model, build_students(model, spec=spec)):
        found = translate_all(model, sources)
        beams = translate_all(model, sources, beam_size=3)
    assert found[0].tolist() == beams[0].tolist() == []
    assert all(len(tokens) <= CONFIG.max_len for tokens in found)
    assert not any(np.isin([PAD, BOS, EOS], tokens).any() for tokens in [*found, *beams])


def test_students_built_for_shorter_sentences_say_so():
    model, short = teacher_for(), teacher_for(max_len=5)
    students = build_students(short, spec=StudentSpec(size="s"))
    with substitute(model, students), pytest.raises(AttnlabError, match="with 5 slots"):
        model.translate(torch.tensor([[5, 6, 7, 8, 9, 10]]))


# controls


@pytest.mark.parametrize("site", SITES)
def test_a_perfect_student_gives_identical_translations(site):
    model = teacher_for()
    sources = [source for source, _ in some_pairs(8)]
    before = logits_of(model)
    greedy, beams = translate_all(model, sources), translate_all(model, sources, beam_size=3)
    with substitute(model, build_controls("identity", teacher=model, site=site)):
        assert torch.equal(logits_of(model), before)
        for a, b in zip(greedy, translate_all(model, sources), strict=True):
            assert a.tolist() == b.tolist()
        for a, b in zip(beams, translate_all(model, sources, beam_size=3), strict=True):
            assert a.tolist() == b.tolist()


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_works_at_every_site_all_at_once_and_step_by_step(name, site):
    model = teacher_for()
    before = logits_of(model)
    source, target = torch.tensor([[5, 6, 7, PAD], [8, 9, 10, 11]]), torch.tensor([[BOS, 5, 6]] * 2)
    controls = controls_for(model, name, site)
    if name == "random" and site == "cross":
        spec = StudentSpec(site=site, layout="per_query", size="s")
        controls = build_controls(name, teacher=model, site=site, spec=spec)
    with substitute(model, controls), torch.no_grad():
        torch.testing.assert_close(
            stepwise_logits(model, source, target), model(source, target), rtol=1e-4, atol=1e-5
        )
        assert len(model.translate(source, beam_size=2)) == 2
        assert torch.equal(logits_of(model), before) == (name == "identity")
    assert torch.equal(logits_of(model), before)


@pytest.mark.parametrize("site", SITES)
def test_the_mean_control_is_the_mean_of_the_head_outputs(site):
    model = teacher_for()
    lessons = some_lessons(model, site)
    controls = build_controls("mean", teacher=model, site=site, activations=lessons)
    for i, control in enumerate(controls.values()):
        torch.testing.assert_close(control.value.data, lessons.targets[i].mean(0))
    assert all((c.value == 0).all() for c in controls_for(model, "zero", site).values())


def test_the_uniform_control_averages_the_values_that_may_be_seen():
    model = teacher_for()
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    mask = torch.tensor([[False, False, True, True, True], [False] * 5])
    decoder, cross = (controls_for(model, "uniform", site) for site in ("decoder_self", "cross"))
    values = model.decoder[0].self_attention.value(x)
    running = values.cumsum(1) / torch.arange(1, 5)[:, None]
    torch.testing.assert_close(decoder["decoder_self", 0](x), running)
    values = model.decoder[1].cross_attention.value(memory)
    means = torch.stack([values[0, :2].mean(0), values[1].mean(0)])
    found = cross["cross", 1](x, memory, source_padding=mask)
    torch.testing.assert_close(found, means[:, None].expand(-1, 4, -1))


def test_the_gaussian_control_looks_where_it_is_told_to():
    model = teacher_for()
    cross = build_controls("gaussian", teacher=model, site="cross", width=0.01, ratio=2.0)
    memory, x = torch.randn(1, 7, 12), torch.randn(1, 4, 12)
    values = model.decoder[0].cross_attention.value(memory)
    torch.testing.assert_close(cross["cross", 0](x, memory), values[:, [0, 2, 4, 6]])
    inner = build_controls("gaussian", teacher=model, site="encoder_self", width=0.01)
    own = model.encoder[0].self_attention.value(x).unflatten(-1, (3, 4))
    found = inner["encoder_self", 0](x).unflatten(-1, (3, 4))  # heads look at t-1, t, t+1
    torch.testing.assert_close(found[:, 1:, 0], own[:, :-1, 0])
    torch.testing.assert_close(found[:, :, 1], own[:, :, 1])
    torch.testing.assert_close(found[:, :-1, 2], own[:, 1:, 2])
    far = build_controls("gaussian", teacher=model, site="cross", ratio=100.0)
    torch.testing.assert_close(far["cross", 0](x, memory)[:, 1:], values[:, [6, 6, 6]])


def test_a_wide_gaussian_is_the_uniform_control():
    model = teacher_for()
    x = torch.randn(2, 4, 12)
    wide = build_controls("gaussian", teacher=model, site="decoder_self", width=1e4)
    flat = build_controls("uniform", teacher=model, site="decoder_self")
    torch.testing.assert_close(wide["decoder_self", 0](x), flat["decoder_self", 0](x))


def test_the_length_ratio_counts_source_tokens_for_one_of_the_target():
    assert length_ratio([([1, 2, 3], [1, 2]), ([1], [1, 2])]) == 1.0
    assert length_ratio([([], [])]) == 0.0


def test_controls_that_lack_something_say_what():
    model = teacher_for()
    with pytest.raises(UnknownNameError, match="Did you mean 'gaussian'"):
        build_controls("gausian", teacher=model, site="cross")
    with pytest.raises(AttnlabError, match="needs captured head outputs"):
        build_controls("mean", teacher=model, site="cross")
    lessons = some_lessons(model, "cross")
    with pytest.raises(AttnlabError, match="needs captured head outputs"):
        build_controls("mean", teacher=model, site="encoder_self", activations=lessons)
    with pytest.raises(AttnlabError, match="no layer 3 at cross"):
        build_controls("zero", teacher=model, site="cross", layers=[3])


# files


def test_saved_students_come_back_as_they_were(tmp_path):
    model, path = teacher_for(), tmp_path / "students.safetensors"
    students = {}
    for spec in (StudentSpec(size="s"), EVERYWHERE[4], EVERYWHERE[7]):
        students |= build_students(model, spec=spec)
    save_students(path, students=students, teacher="toy")
    loaded, facts = load_students(path)
    assert facts == {"teacher": "toy"}
    assert list(loaded) == list(students)
    assert [s.spec for s in loaded.values()] == [s.spec for s in students.values()]
    with substitute(model, students):
        before = logits_of(model)
    with substitute(model, loaded):
        assert torch.equal(logits_of(model), before)


def test_students_in_half_the_bytes_come_back_in_float32(tmp_path):
    path = tmp_path / "students.safetensors"
    students = build_students(teacher_for(), spec=StudentSpec(size="s"))
    save_students(path, students=students, dtype=torch.bfloat16)
    assert {tensor.dtype for tensor in read_tensors(path)[0].values()} == {torch.bfloat16}
    for weight in load_students(path)[0]["encoder_self", 1].parameters():
        assert weight.dtype == torch.float32


def test_a_file_without_students_is_refused(tmp_path):
    model, path = teacher_for(), tmp_path / "model.safetensors"
    save_model(path, model=model)
    with pytest.raises(CheckpointError, match="holds no students"):
        load_students(path)
    with pytest.raises(CheckpointError, match="There is no file"):
        load_students(tmp_path / "nothing")
    with pytest.raises(AttnlabError, match="is a Constant, which has nothing to save"):
        save_students(path, students=build_controls("zero", teacher=model, site="cross"))
    save_students(path, students=build_students(model, spec=StudentSpec(size="s")))
    tensors, facts = read_tensors(path)
    write_tensors(path, dict(list(tensors.items())[1:]), facts=json.loads(json.dumps(facts)))
    with pytest.raises(CheckpointError, match="the file has nothing"):
        load_students(path)
