"""Surgery and controls: in, out, back again; and what a replacement that knows nothing does."""

import json

import numpy as np
import pytest
import torch
from small_teacher import (
    CROSS,
    DECODER,
    ENCODER,
    EVERYWHERE,
    MAX_LEN,
    PAPER,
    RICH,
    differ,
    label,
    lessons_for,
    logits_of,
    some_batches,
    some_pairs,
    stepwise_logits,
    teacher_for,
    weights_of,
)

from attnlab.config import BOS, EOS, PAD, UNK
from attnlab.distillation import (
    CONTROLS,
    SITES,
    StudentSpec,
    build_controls,
    build_students,
    find_site,
    length_ratio,
    load_students,
    save_students,
    substitute,
)
from attnlab.errors import AttnlabError, CheckpointError
from attnlab.training import evaluate_forced, save_model, translate_all
from attnlab.training.checkpoint import read_tensors, write_tensors

everywhere = pytest.mark.parametrize("spec", EVERYWHERE, ids=label)
sites = pytest.mark.parametrize("site", SITES)


def controls_for(teacher, name, site):
    lessons = lessons_for(teacher, StudentSpec(site=site))
    spec = StudentSpec(site=site, size="s", layout="per_query" if site == "cross" else "paper")
    return build_controls(name, teacher=teacher, site=site, activations=lessons, spec=spec)


# in and out


@pytest.mark.parametrize("norm", ["pre", "post"])
@everywhere
def test_undo_gives_back_the_same_bits(spec, norm):
    model = teacher_for(norm=norm)
    before, names = logits_of(model), [name for name, _ in model.named_parameters()]
    swap = substitute(model, build_students(model, spec=spec))
    assert not torch.equal(logits_of(model), before)
    for _ in range(2):  # a second call does nothing
        swap.undo()
        assert torch.equal(logits_of(model), before)
        assert [name for name, _ in model.named_parameters()] == names


def test_a_context_puts_everything_back_after_an_error():
    model = teacher_for()
    before = logits_of(model)
    students = build_students(model, spec=StudentSpec())
    with pytest.raises(RuntimeError, match="halfway"), substitute(model, students):
        raise RuntimeError("halfway")
    assert torch.equal(logits_of(model), before)


def test_any_subset_of_layers_and_sites_can_be_replaced():
    model = teacher_for()
    own = {key: find_site(model, site=key[0], layer=key[1])
           for key in [("decoder_self", 0), ("cross", 1)]}  # fmt: skip
    encoder, cross = (build_students(model, spec=spec) for spec in (ENCODER[0], PAPER))
    decoder = build_students(model, spec=DECODER, layers=[1])
    with substitute(model, {**decoder, ("cross", 0): cross["cross", 0]}):
        for (site, layer), look_up in own.items():
            assert find_site(model, site=site, layer=layer) is look_up
        assert find_site(model, site="decoder_self", layer=1).student is decoder["decoder_self", 1]
        assert find_site(model, site="cross", layer=0).student is cross["cross", 0]
        some_part = logits_of(model)
        with substitute(model, {"encoder_self": list(encoder.values())}):
            for (site, layer), student in encoder.items():
                assert find_site(model, site=site, layer=layer).student is student
        assert torch.equal(logits_of(model), some_part)


def test_students_may_be_given_in_any_handy_way():
    model = teacher_for()
    students = build_students(model, spec=PAPER)
    by_layer = {layer: student for (_, layer), student in students.items()}
    for way in ({"cross": list(students.values())}, {"cross": by_layer}, {"cross": students}):
        with substitute(model, way) as swap:
            assert swap.students == students


def test_what_is_kept_is_the_teachers_own():
    model = teacher_for()
    out, mlp = model.encoder[0].self_attention.out, model.encoder[0].mlp
    with substitute(model, build_students(model, spec=ENCODER[0])):
        assert model.encoder[0].self_attention.out is out
        assert "encoder.0.self_attention.query.weight" not in dict(model.named_parameters())
    with substitute(model, build_students(model, spec=ENCODER[2])):
        assert model.encoder[0].mlp is mlp
    with substitute(model, build_students(model, spec=ENCODER[3])) as swap:
        assert model.encoder[0] is swap.students["encoder_self", 0]


@everywhere
def test_students_in_place_can_be_trained_end_to_end(spec):
    model = teacher_for()
    students = build_students(model, spec=spec)
    with substitute(model, students):
        model.loss(*some_batches()[0]).backward()
    for student in students.values():
        assert any((weight.grad != 0).any() for weight in student.parameters())


def test_undoing_in_the_wrong_order_is_refused():
    model = teacher_for()
    first, second = (substitute(model, build_students(model, spec=ENCODER[0])) for _ in range(2))
    with pytest.raises(AttnlabError, match="Undo what was put in last first"):
        first.undo()
    second.undo()
    first.undo()


def test_places_that_do_not_exist_are_refused():
    model = teacher_for()
    heads, stream, whole = (build_students(model, spec=ENCODER[i]) for i in (0, 2, 3))
    student = heads["encoder_self", 0]
    for students, says in (
        ({"encoder_slef": [student]}, "Did you mean 'encoder_self'"),
        (
            {("encoder_self", 3): student},
            "no layer 3 at encoder_self.*layers 0 to 2",
        ),
        ({"encoder_self": student}, "One student cannot stand at all layers"),
        ({"encoder_self": [student], ("encoder_self", 0): student}, "two students for"),
        ({("decoder_self", 0): student}, "student for encoder_self cannot stand at"),
    ):
        with pytest.raises(AttnlabError, match=says):
            substitute(model, students)
    with pytest.raises(AttnlabError, match=r"built for d_model=12.*this model has 24"):
        substitute(teacher_for(d_model=24), heads)
    for students, says in ((heads, "has been replaced"), (stream, "has been replaced already")):
        with substitute(model, whole), pytest.raises(AttnlabError, match=says):
            substitute(model, students)
    assert torch.equal(logits_of(model), logits_of(teacher_for()))


# what a model with students does


@everywhere
def test_a_translator_with_students_is_causal_exactly_where_its_students_are(spec):
    model = teacher_for()
    source = torch.tensor([[5, 6, 7, 8]])
    target, edited = torch.tensor([[BOS, 5, 6, 7, 8]]), torch.tensor([[BOS, 5, 6, 7, 9]])
    with substitute(model, build_students(model, spec=spec)), torch.no_grad():
        moved = (model(source, target) - model(source, edited)).abs().amax(-1)[0, :-1]
        gap = stepwise_logits(model, source, target) - model(source, target)
    is_leaking = spec == PAPER
    assert bool((moved > 1e-6).all()) == is_leaking
    assert bool((gap.abs().amax(-1)[0, :-1] > 1e-5).all()) == is_leaking


@everywhere
def test_other_sentences_of_the_batch_change_no_score(spec):
    model = teacher_for()
    pairs = [([5, 6, 7], [4, 5]), ([8], [6, 7, 8, 9, 10]), ([5, 12, 5, 6, 7, 8, 9], [7])]
    with substitute(model, build_students(model, spec=spec)):
        together, alone = (evaluate_forced(model, pairs, max_tokens=n) for n in (1000, 1))
    assert together.loss_nats == pytest.approx(alone.loss_nats, rel=1e-5)
    assert together.accuracy == alone.accuracy


@everywhere
def test_hard_sentences_are_translated_all_the_same(spec):
    model = teacher_for()
    sources = [[], [5], [UNK, UNK, UNK], [5, 6, 7, 8, 9, 10, 11, 12, 5]]
    with substitute(model, build_students(model, spec=spec)):
        greedy, beams = (translate_all(model, sources, beam_size=size) for size in (1, 3))
    assert greedy[0].tolist() == beams[0].tolist() == []
    assert all(len(tokens) <= MAX_LEN for tokens in greedy)
    assert not any(np.isin([PAD, BOS, EOS], tokens).any() for tokens in [*greedy, *beams])


def test_students_built_for_shorter_sentences_say_so():
    model = teacher_for()
    students = build_students(teacher_for(max_len=5), spec=ENCODER[0])
    with substitute(model, students), pytest.raises(AttnlabError, match="with 5 slots"):
        model.translate(torch.tensor([[5, 6, 7, 8, 9, 10]]))


# controls


@sites
def test_a_perfect_student_gives_identical_translations(site):
    model = teacher_for()
    sources = [source for source, _ in some_pairs(8)]

    def written():
        found = [translate_all(model, sources, beam_size=size) for size in (1, 3)]
        return [[tokens.tolist() for tokens in way] for way in found]

    before, said = logits_of(model), written()
    with substitute(model, build_controls("identity", teacher=model, site=site)):
        assert torch.equal(logits_of(model), before)
        assert written() == said


@sites
@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_works_at_every_site_all_at_once_and_step_by_step(name, site):
    model = teacher_for()
    before = logits_of(model)
    source, target = torch.tensor([[5, 6, 7, PAD], [8, 9, 10, 11]]), torch.tensor([[BOS, 5, 6]] * 2)
    with substitute(model, controls_for(model, name, site)), torch.no_grad():
        torch.testing.assert_close(
            stepwise_logits(model, source, target), model(source, target), rtol=1e-4, atol=1e-5
        )
        assert len(model.translate(source, beam_size=2)) == 2
        assert torch.equal(logits_of(model), before) == (name == "identity")
    assert torch.equal(logits_of(model), before)


@sites
def test_the_mean_control_is_the_mean_of_the_head_outputs(site):
    model = teacher_for()
    lessons = lessons_for(model, StudentSpec(site=site))
    for i, control in enumerate(controls_for(model, "mean", site).values()):
        torch.testing.assert_close(control.value.data, lessons.targets[i].mean(0))
    assert all((c.value == 0).all() for c in controls_for(model, "zero", site).values())


def test_the_uniform_control_averages_the_values_that_may_be_seen():
    model = teacher_for()
    x, memory = torch.randn(2, 4, 12), torch.randn(2, 5, 12)
    padding = torch.tensor([[False, False, True, True, True], [False] * 5])
    decoder, cross = (controls_for(model, "uniform", site) for site in ("decoder_self", "cross"))
    values = model.decoder[0].self_attention.value(x)
    running = values.cumsum(1) / torch.arange(1, 5)[:, None]
    torch.testing.assert_close(decoder["decoder_self", 0](x), running)
    values = model.decoder[1].cross_attention.value(memory)
    means = torch.stack([values[0, :2].mean(0), values[1].mean(0)])
    found = cross["cross", 1](x, memory, source_padding=padding)
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
    wide = build_controls("gaussian", teacher=model, site="decoder_self", width=1e4)
    flat = build_controls("uniform", teacher=model, site="decoder_self")
    torch.testing.assert_close(wide["decoder_self", 0](x), flat["decoder_self", 0](x))


def test_the_random_control_is_a_student_before_its_training():
    how = {"teacher": teacher_for(), "site": "decoder_self", "spec": DECODER}
    for seed in (0, 1):
        students = build_students(how["teacher"], spec=DECODER, seed=seed)
        controls = build_controls("random", seed=seed, **how)
        assert not differ(weights_of(controls), weights_of(students))


def test_the_length_ratio_counts_source_tokens_for_one_of_the_target():
    assert length_ratio([([1, 2, 3], [1, 2]), ([1], [1, 2])]) == 1.0
    assert length_ratio([([], [])]) == 0.0


def test_controls_that_lack_something_say_what():
    model = teacher_for()
    lessons = lessons_for(model, StudentSpec(site="cross"))
    for name, options, says in (
        ("gausian", {"site": "cross"}, "Did you mean 'gaussian'"),
        ("mean", {"site": "cross"}, "needs captured head outputs"),
        ("mean", {"site": "encoder_self", "activations": lessons}, "needs captured head outputs"),
        ("zero", {"site": "cross", "layers": [3]}, "no layer 3 at cross"),
    ):
        with pytest.raises(AttnlabError, match=says):
            build_controls(name, teacher=model, **options)


# files


def test_saved_students_come_back_as_they_were(tmp_path):
    model, path = teacher_for(), tmp_path / "students.safetensors"
    students = {}
    for spec in (ENCODER[1], DECODER, RICH[-1]):
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


@pytest.mark.parametrize("spec", [ENCODER[0], CROSS[3]], ids=label)
def test_a_file_with_an_axis_over_one_student_loads_as_well(spec, tmp_path):
    students, path = build_students(teacher_for(), spec=spec), tmp_path / "students.safetensors"
    save_students(path, students=students)
    tensors, facts = read_tensors(path)
    write_tensors(path, {name: tensor[None] for name, tensor in tensors.items()}, facts=facts)
    for key, student in load_students(path)[0].items():
        for name, weight in student.named_parameters():
            assert torch.equal(weight, students[key].get_parameter(name))


def test_students_in_half_the_bytes_come_back_in_float32(tmp_path):
    path = tmp_path / "students.safetensors"
    save_students(
        path, students=build_students(teacher_for(), spec=ENCODER[0]), dtype=torch.bfloat16
    )
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
    save_students(path, students=build_students(model, spec=ENCODER[0]))
    tensors, facts = read_tensors(path)
    write_tensors(path, dict(list(tensors.items())[1:]), facts=json.loads(json.dumps(facts)))
    with pytest.raises(CheckpointError, match="the file has nothing"):
        load_students(path)
