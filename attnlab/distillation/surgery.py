"""Take attention out of a translator, put something else in, and put everything back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from attnlab.config import TranslatorConfig, is_number
from attnlab.distillation.nets import Student
from attnlab.distillation.sites import (
    SITES,
    Key,
    StudentSpec,
    chosen_layers,
    find_site,
    layers_of,
    site_name,
)
from attnlab.distillation.students import build_student
from attnlab.errors import AttnlabError, CheckpointError, UnknownNameError, shorten
from attnlab.models import Translator
from attnlab.training.checkpoint import (
    build_as_saved,
    load_weights,
    read_tensors,
    save_model,
    write_tensors,
)

Replacements = Mapping[Any, Any]


class ReplacedSite(nn.Module):
    """A site whose look-up is a student's, and whose last projection is still the teacher's.

    Shapes:
        As the site: ``(batch, time, d_model)`` to the same; ``step`` ``(batch, d_model)``.
    """

    def __init__(self, student: nn.Module, out: nn.Module) -> None:
        super().__init__()
        self.student, self.out = student, out

    def forward(self, *inputs: Tensor, **masks: Tensor | None) -> Tensor:
        """Return what is added to the residual stream."""
        return self.out(self.student(*inputs, **masks))

    def initial_state(self, *inputs: Any, **masks: Tensor | None) -> Any:
        """Return the student's state before the first token."""
        return cast(Any, self.student).initial_state(*inputs, **masks)

    def step(self, x_t: Tensor, state: Any) -> tuple[Tensor, Any]:
        """Return what is added to the residual stream at one more token, and the next state."""
        heads, state = cast(Any, self.student).step(x_t, state)
        return self.out(heads), state


class ReplacedSublayer(nn.Module):
    """An encoder layer whose first sublayer, norm and residual sum included, is a student's."""

    def __init__(self, student: nn.Module, layer: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.is_pre_norm = cast(Any, layer).is_pre_norm
        self.mlp_norm, self.mlp = cast(Any, layer).mlp_norm, cast(Any, layer).mlp
        self.dropout = cast(Any, layer).dropout

    def forward(self, x: Tensor, *, source_padding: Tensor | None = None) -> Tensor:
        """Return the stream after the student and the channel mixer."""
        x = self.student(x, source_padding=source_padding)
        if self.is_pre_norm:
            return x + self.dropout(self.mlp(self.mlp_norm(x)))
        return self.mlp_norm(x + self.dropout(self.mlp(x)))


class Substitution:
    """What was put where; ``undo`` puts the former modules back. Also a context manager."""

    def __init__(self, model: Translator, students: Mapping[Key, nn.Module]) -> None:
        self.model, self.students = model, dict(students)
        self._swaps = [_swap(model, key, student) for key, student in self.students.items()]
        for swap in self._swaps:
            setattr(swap.holder, swap.name, swap.after)
        model.to(model.device)  # students come to where the model is
        self.is_done = True

    def undo(self) -> None:
        """Put back what stood there before; a second call does nothing.

        Raises:
            AttnlabError: Something else was put in the same place since.
        """
        if not self.is_done:
            return
        for swap in self._swaps:
            if getattr(swap.holder, swap.name) is not swap.after:
                raise AttnlabError(
                    f"Something else stands at {swap.key} by now. Undo what was put in last first."
                )
        for swap in self._swaps:
            setattr(swap.holder, swap.name, swap.before)
        self.is_done = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def substitute(model: Translator, students: Replacements) -> Substitution:
    """Put students or controls in the place of a model's attention, at once.

    Undo with ``.undo()``, or write ``with substitute(model, students): ...``. The former modules
    are put back as they were, so the model's outputs are the same bits as before; the modules
    around them are shared, so training them in between changes them for good.

    Args:
        model: Changed in place.
        students: By ``(site, layer)``; or by site, with a student a layer: a sequence in the
            order of the layers, or a mapping from layer to student.

    Raises:
        AttnlabError: No such place, two students for one place, or one of another width.
    """
    return Substitution(model, by_place(students))


def by_place(students: Replacements) -> dict[Key, nn.Module]:
    """Return students by ``(site, layer)``, whichever way they were given."""
    found: dict[Key, nn.Module] = {}
    for key, value in students.items():
        site = key if isinstance(key, str) else key[0]
        if site not in SITES:
            raise UnknownNameError("site", str(site), SITES, next_step="Or give (site, layer).")
        if not isinstance(key, str):
            value = {key[1]: value}
        elif isinstance(value, nn.Module):
            raise AttnlabError(
                f"One student cannot stand at all layers of {site}. Give a sequence, one a layer, "
                f"or a key such as ({site!r}, 0)."
            )
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for place, student in pairs:  # a layer, or (site, layer) once more
            layer = place if isinstance(place, int) else place[1]
            if (site, layer) in found:
                raise AttnlabError(f"There are two students for {(site, layer)}; give one.")
            found[site, layer] = student
    return found


def save_students(
    path: Path,
    *,
    students: Replacements,
    dtype: torch.dtype = torch.float32,
    **facts: Any,
) -> None:
    """Write students and how they are built to one safetensors file, for ``load_students``.

    Args:
        students: As ``substitute`` takes them.
        dtype: What the file keeps; two bytes a weight with ``torch.bfloat16``.
        facts: Plain JSON that comes back with them.
    """
    tensors = {}
    for (site, layer), student in by_place(students).items():
        for name, weight in student.named_parameters():
            tensors[f"{site}.{layer}.{name}"] = weight.to(dtype)
    write_tensors(path, tensors, facts={"students": _descriptions(students), **facts})


def save_replaced(
    path: Path,
    *,
    model: Translator,
    students: Replacements,
    dtype: torch.dtype = torch.float32,
    **facts: Any,
) -> None:
    """Write a translator with the students that stand in it to one file, for ``load_replaced``.

    Args:
        model: After ``substitute(model, students)``; what was trained with them is kept.
        students, dtype, facts: As in ``save_students``.
    """
    save_model(path, model=model, dtype=dtype, students=_descriptions(students), **facts)


def load_replaced(path: Path) -> tuple[Translator, dict[str, Any]]:
    """Return a translator with its students in place, in float32, and the facts saved with it.

    ``facts["students"]`` says what stands where; of a plain translator it is missing.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no translator.
    """
    tensors, facts = read_tensors(path)
    if not isinstance(facts.get("config"), dict):
        raise CheckpointError(f"{path} holds no translator; see save_replaced.")

    def build() -> Translator:
        model = Translator(TranslatorConfig.from_dict(facts["config"]), generator=torch.Generator())
        substitute(model, dict(_described(about) for about in facts.get("students", ())))
        return model

    model = build_as_saved(path, tensors, build)
    load_weights(model, tensors, path)
    return model.eval(), facts


def students_in(model: Translator) -> dict[Key, nn.Module]:
    """Return what stands in the place of a model's look-ups, by ``(site, layer)``."""
    found = {
        (site, layer): getattr(whole, site_name(site), None)
        for site in SITES
        for layer, whole in enumerate(layers_of(model, site=site))
    }
    return {k: site.student for k, site in found.items() if isinstance(site, ReplacedSite)}


def _descriptions(students: Replacements) -> list[dict[str, Any]]:
    """Return what a file says of students: where each stands, and how it is built."""
    built = []
    for (site, layer), student in by_place(students).items():
        if not isinstance(student, Student):
            raise AttnlabError(
                f"What stands for ({site!r}, {layer}) is a {type(student).__name__}, which has "
                "nothing to save: controls are built again with build_controls."
            )
        if any(map(parametrize.is_parametrized, student.modules())):
            raise AttnlabError(
                f"The student for ({site!r}, {layer}) has corrections beside its weights. Write "
                "them into the weights with merge_corrections(model) first."
            )
        about = {"spec": student.spec.to_dict(), "sizes": student.sizes}
        built.append({"site": site, "layer": layer, **about})
    return built


def _described(about: Mapping[str, Any]) -> tuple[Key, Student]:
    """Return the place of a student that a file describes, and one like it, untrained."""
    spec = StudentSpec(**about["spec"])
    student = build_student(spec, **about["sizes"], generator=torch.Generator())
    return (about["site"], about["layer"]), student


def load_students(path: Path) -> tuple[dict[Key, Student], dict[str, Any]]:
    """Return students in float32 by ``(site, layer)``, and the facts saved with them.

    Raises:
        CheckpointError: The file is missing, damaged, or holds no students.
    """
    tensors, facts = read_tensors(path)
    if not isinstance(facts.get("students"), list):
        raise CheckpointError(f"{path} holds no students; see save_students.")
    students = {}
    for built in facts.pop("students"):
        if not isinstance(built, dict) or not built.keys() >= {"site", "layer", "spec", "sizes"}:
            raise CheckpointError(f"{path} is damaged: {shorten(built)} describes no student.")
        site, layer = built["site"], built["layer"]
        if site not in SITES or not is_number(layer, int):
            raise CheckpointError(f"{path} is damaged: there is no place {shorten((site, layer))}.")

        def build(about: dict[str, Any] = built) -> Student:
            return _described(about)[1]

        prefix = f"{site}.{layer}."
        own = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
        student = build_as_saved(path, own, build)
        for name, weight in student.named_parameters():  # in some files more axes of size 1
            if name in own and own[name].squeeze().shape == weight.squeeze().shape:
                own[name] = own[name].view_as(weight)
        load_weights(student, own, path)
        students[site, layer] = student.eval()
    return students, facts


class _Swap(NamedTuple):
    """One place in a model, what stood there, and what shall stand there."""

    key: Key
    holder: nn.Module
    name: str  # what the holder calls it
    before: nn.Module
    after: nn.Module


def _swap(model: Translator, key: Key, student: nn.Module) -> _Swap:
    site, layer = key
    chosen_layers(model, site=site, layers=[layer])
    _require_fit(model, key, student)
    layers = layers_of(model, site=site)
    whole, spec = layers[layer], student.spec if isinstance(student, Student) else StudentSpec()
    if spec.replaces_heads:
        look_up = find_site(model, site=site, layer=layer)
        return _Swap(key, whole, site_name(site), look_up, ReplacedSite(student, look_up.out))
    if spec.method == "elr":
        return _Swap(key, layers, str(layer), whole, student)
    if not hasattr(whole, "mlp"):
        raise AttnlabError(f"All of the layer at {key} has been replaced already. Undo that first.")
    return _Swap(key, layers, str(layer), whole, ReplacedSublayer(student, whole))


def _require_fit(model: Translator, key: Key, student: nn.Module) -> None:
    if not isinstance(student, Student):
        return
    d_model, n_heads = model.config.d_model, model.config.n_heads
    if student.spec.site != key[0]:
        raise AttnlabError(
            f"A student for {student.spec.site} cannot stand at {key}: it is called differently."
        )
    if student.d_model != d_model or student.n_heads != n_heads:
        raise AttnlabError(
            f"The student for {key} was built for d_model={student.d_model}, n_heads="
            f"{student.n_heads}; this model has {d_model} and {n_heads}. Build it with "
            "build_students(model, ...)."
        )
