"""Small trained models as text that a page can carry: weights, words, and a proof of both.

A bundle is plain JSON. Its weights are half-precision numbers, packed by zlib and written in
base64; with it come logits of torch for three prompts, which ``model.js`` has to reproduce.
"""

from __future__ import annotations

import base64
import copy
import json
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from attnlab.config import N_SPECIAL
from attnlab.corpora import load_tokenizer
from attnlab.distillation import StudentSpec, build_controls, build_students, substitute
from attnlab.distillation.sites import SITES, Key
from attnlab.distillation.surgery import load_replaced, students_in
from attnlab.errors import AttnlabError
from attnlab.models import LanguageModel, Translator
from attnlab.paths import require_folder, write_whole
from attnlab.seeding import numpy_generator
from attnlab.show import look
from attnlab.sources import TaleSource, tales, translation_source
from attnlab.sources.stories import END
from attnlab.training import load_model
from attnlab.training.checkpoint import read_tensors

FORMAT = "attnlab-web-1"
MIXERS = ("attention", "linear_attention", "she", "he", "we", "me", "mean", "identity")
OPTIONS = ("n_heads", "feature_map")  # of mixers, that the page knows
PROMPT_LENGTHS = (1, 7, 11)
N_LOGITS = 200  # of each prompt, at most
LARGEST_HALF = 65504.0


def export_models(paths: Iterable[Path], *, to: Path) -> list[Path]:
    """Write a bundle ``FOLDER-NAME.json`` for each file of a model; return the files."""
    to, written = require_folder(to), []
    for path in map(Path, paths):
        target = to / f"{path.parent.name}-{path.stem}.json"
        write_whole(target, json.dumps(export_model(path)))
        written.append(target)
    return written


def export_model(path: Path) -> dict[str, Any]:
    """Return the bundle of one file: a language model, a translator, or one with stand-ins.

    Raises:
        AttnlabError: It has a mixer or a stand-in that the page does not know, or its words
            are not here.
    """
    _, facts = read_tensors(path)
    if "source_vocab_size" in facts.get("config", {}):
        model, _ = load_replaced(path)
        bundle = translator_bundle(model)
    else:
        model, _ = load_model(path)
        bundle = language_bundle({model.config.mixer: model})
    return {**bundle, "words": words_of(Path(path), facts)}


def language_bundle(models: Mapping[str, LanguageModel]) -> dict[str, Any]:
    """Return language models of one vocabulary side by side, each under its name."""
    tensors, described = {}, {}
    for name, model in models.items():
        _require_known(model)
        model = rounded(model)
        prompts = _prompts(model.config.vocab_size, longest=model.config.context_len)
        with torch.no_grad():
            logits = [model(torch.tensor([each]))[0, -1] for each in prompts]
        own = look(name)
        described[name] = {
            "config": model.config.to_dict(), "prefix": f"{name}.", "label": own.label,
            "colour": own.colour, "marker": own.marker, "expected": _expected(prompts, logits),
        }  # fmt: skip
        tensors |= {f"{name}.{n}": w for n, w in model.named_parameters()}
    return {"format": FORMAT, "kind": "language models", "models": described, **packed(tensors)}


def translator_bundle(
    model: Translator, *, taught: Mapping[str, Mapping[Key, nn.Module]] | None = None
) -> dict[str, Any]:
    """Return a translator, what may stand at its sites, and logits with each kind in place.

    Args:
        taught: Students by name, then by place; beside attention, an average, and linear
            attention with the maps of attention, which need no weights.
    """
    model, own = rounded(model), students_in(model)
    taught = {
        name: {k: rounded(s) for k, s in each.items()} for name, each in (taught or {}).items()
    }
    tensors, listed = dict(model.named_parameters()), []
    for (site, layer), student in own.items():
        side = "encoder" if site == "encoder_self" else "decoder"
        place = "cross_attention" if site == "cross" else "self_attention"
        about = _described(student, site=site, layer=layer, name="trained")
        listed.append({**about, "prefix": f"{side}.{layer}.{place}.student.", "stands": True})
    for name, students in taught.items():
        for (site, layer), student in students.items():
            prefix = f"{name}.{site}.{layer}."
            listed.append(
                {**_described(student, site=site, layer=layer, name=name), "prefix": prefix}
            )
            tensors |= {prefix + n: w for n, w in student.named_parameters()}
    described = {
        "config": model.config.to_dict(), "prefix": "", "stand_ins": listed,
        "expected": [] if own else _expected_settings(model, taught),
    }  # fmt: skip
    return {
        "format": FORMAT,
        "kind": "translator",
        "models": {"translator": described},
        **packed(tensors),
    }


def rounded(model: Any) -> Any:
    """Return a copy in double precision whose weights a page can hold: rounded to two bytes."""
    largest = max(float(w.detach().abs().max()) for w in model.parameters())
    if largest > LARGEST_HALF:
        raise AttnlabError(
            f"A weight of {largest:.3g} is beyond half precision, which ends at {LARGEST_HALF:g}. "
            "Train the model with weight decay, or a smaller rate."
        )
    model = copy.deepcopy(model).double().eval()
    for weight in model.parameters():
        weight.data = weight.data.half().double()
    return model


def packed(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return tensors as text: high bytes of all half-precision numbers, then the low ones."""
    listed, parts, start = [], [], 0
    for name, tensor in tensors.items():
        listed.append([name, start, list(tensor.shape)])
        parts.append(tensor.detach().half().numpy().ravel())
        start += tensor.numel()
    halves = np.concatenate(parts).astype(">f2").view(np.uint8).reshape(-1, 2)
    data = zlib.compress(halves.T.tobytes(), level=9)
    return {"tensors": listed, "weights": base64.b64encode(data).decode("ascii")}


def words_of(path: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the vocabulary of a model's file: of its corpus, or the tokenizer beside it.

    Raises:
        AttnlabError: Neither is here.
    """
    corpus = str(facts.get("experiment", "")).partition("/")[2].partition("/")[2]
    beside = path.parent / "tokenizer.json"
    if corpus.startswith("tales"):
        return {"kind": "tales", "symbols": tales().symbols}
    if corpus.startswith("toy"):
        return {"kind": "words", "symbols": translation_source().symbols}
    if beside.exists():
        return byte_pairs(load_tokenizer(beside))
    raise AttnlabError(
        f"The words of {path} are not here: it learnt {corpus or 'an unnamed corpus'}, and there "
        f"is no {beside.name} beside it. Save the tokenizer there with tokenizer.save(path)."
    )


def byte_pairs(tokenizer: Any, *, first: int = 0) -> dict[str, Any]:
    """Return the pieces of a tokenizer and the pairs it joins, in their order.

    Args:
        first: Id of the first piece: ``N_SPECIAL`` for a translator.
    """
    state = json.loads(tokenizer._library.to_str())["model"]
    pieces = sorted(state["vocab"], key=state["vocab"].__getitem__)
    merges = [each.split(" ") if isinstance(each, str) else each for each in state["merges"]]
    return {"kind": "byte pairs", "pieces": pieces, "merges": merges, "first": first}


def story_tables(source: TaleSource) -> dict[str, Any]:
    """Return the machine behind the tales: arcs of each place, words of each form of a role.

    An arc is form (0: a word of its own), word, chance, next place. Of a form there are its role
    and pairs of a word and the set of values that say it; sets are bits of a number.
    """
    t = source.tables
    places: list[list[list[float]]] = [[] for _ in range(source.n_places)]
    for arc in range(len(t.arc_from)):
        own = [
            t.arc_form[arc],
            t.arc_token[arc],
            round(float(t.arc_chance[arc]), 12),
            t.arc_to[arc],
        ]
        places[t.arc_from[arc]].append(
            [each if isinstance(each, float) else int(each) for each in own]
        )
    forms = [
        [int(role), [[int(w), int(said[w])] for w in np.flatnonzero(said)] if form else []]
        for form, (role, said) in enumerate(zip(t.form_role, t.form_values, strict=True))
    ]
    end = source.symbols.index(END)
    return {"places": places, "forms": forms, "sets": t.all_values.tolist(), "end": end}


# What a page may hold, and what it has to reproduce ----------------------------------------------


def stand_ins(
    model: Translator, kind: str, *, sites: Iterable[str] = SITES
) -> dict[Key, nn.Module]:
    """Return what a page makes of attention's own maps: an ``average``, or ``linear``."""
    found: dict[Key, nn.Module] = {}
    for site in sites:
        if kind == "average":
            found |= build_controls("uniform", teacher=model, site=site)
        else:
            found |= build_students(model, spec=StudentSpec(site=site, method="linear"))
    return found


def _expected_settings(
    model: Translator, taught: Mapping[str, Mapping[Key, nn.Module]]
) -> list[dict[str, Any]]:
    """Return logits with attention, and with each kind at all places where it can stand."""
    settings: dict[str, dict[Key, nn.Module]] = {"attention": {}}
    settings |= {
        kind: {**stand_ins(model, kind), **taught.get(kind, {})} for kind in ("average", "linear")
    }
    settings |= {name: dict(students) for name, students in taught.items() if name not in settings}
    size, longest = model.config.source_vocab_size, model.config.max_len
    pairs = [
        (a, b)
        for a, b in zip(
            *(_prompts(size, longest=longest, name=name) for name in ("source", "target")),
            strict=True,
        )
    ]
    found = []
    for name, modules in settings.items():
        with torch.no_grad(), substitute(model, modules):
            logits = [model(*(torch.tensor([each]) for each in pair))[0, -1] for pair in pairs]
        put = [[site, layer, name] for site, layer in modules]
        found.append({"put": put, **_expected(pairs, logits)})
    return found


def _prompts(vocab_size: int, *, longest: int, name: str = "target") -> list[list[int]]:
    dice = numpy_generator(0, f"web/{name}")
    return [
        dice.integers(N_SPECIAL, vocab_size, min(length, longest)).tolist()
        for length in PROMPT_LENGTHS
    ]


def _expected(prompts: list[Any], logits: list[Tensor]) -> dict[str, Any]:
    return {
        "prompts": prompts,
        "logits": [[round(z, 6) for z in each[:N_LOGITS].tolist()] for each in logits],
    }


def _require_known(model: LanguageModel) -> None:
    config = model.config
    odd = [name for name in config.mixer_options if name not in OPTIONS]
    if config.mixer not in MIXERS or odd or config.short_conv:
        what = f"options {', '.join(odd)}" if odd else "a short convolution"
        what = what if config.mixer in MIXERS else f"mixer {config.mixer!r}"
        raise AttnlabError(
            f"A page cannot run {what}; it knows {', '.join(MIXERS)} with their usual options. "
            "Export another model, or run this one in a notebook."
        )


def _described(student: Any, *, site: str, layer: int, name: str) -> dict[str, Any]:
    """Return what a page has to know of a student.

    Raises:
        AttnlabError: It is of a kind that the page does not know.
    """
    spec = student.spec
    kind = {"linear": "linear", "alr": "net" if site != "cross" else spec.layout}.get(spec.method)
    if kind not in ("linear", "net", "low_rank") or spec.depth > 1:
        raise AttnlabError(
            f"A page cannot run the stand-in {spec.label}; it knows linear attention, nets of one "
            "hidden layer (ALR) and low_rank. Export a translator with one of these."
        )
    how = {
        "feature_map": spec.feature_map,
        "window": spec.window,
        "window_scale": spec.window_scale,
    }
    options = how if kind == "linear" else {}
    return {"name": name, "site": site, "layer": layer, "kind": kind, "options": options}
