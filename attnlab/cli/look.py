"""``attnlab doctor`` and ``attnlab list``: what is here, and is it in order."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from typing import Any

from attnlab.cli.speak import say, say_table
from attnlab.errors import AttnlabError, UnknownNameError


def add_commands(commands: Any) -> None:
    """Add ``doctor`` and ``list``."""
    doctor = commands.add_parser(
        "doctor",
        help="check this installation",
        description="Check versions, folders, corpora and arithmetic. Exit code 1: something "
        "that the workbook needs is missing; the line says what to do.",
    )
    doctor.set_defaults(run=_doctor)
    parts = commands.add_parser("list", help="mixers, sources, corpora, studies, figures")
    parts.add_argument("kind", nargs="?", help="one of them; default all")
    parts.set_defaults(run=_list)


def _doctor(options: argparse.Namespace) -> int:
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: sys.version.split()[0],
        "packages": _check_packages,
        "torch": _check_torch,
        "arithmetic": _check_arithmetic,
        "cache": _check_cache,
        "corpora": _check_corpora,
        "records": _check_records,
    }
    rows, n_failed = [], 0
    for name, check in checks.items():
        try:
            rows.append(("ok", name, check()))
        except (AttnlabError, ImportError, OSError) as error:
            n_failed += 1
            rows.append(("NOT OK", name, str(error)))
    say_table(rows)
    say(f"{n_failed} of {len(rows)} checks failed." if n_failed else "All is well.")
    return 1 if n_failed else 0


def _check_packages() -> str:
    wanted = [r for r in requires("attnlab") or [] if "extra ==" not in r]
    missing = []
    for requirement in wanted:
        name = requirement.split(";")[0].split(">")[0].split("=")[0].split("<")[0].strip()
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(name)
    if missing:
        raise AttnlabError(f"missing {', '.join(missing)}: run make setup, or pip install -e .")
    return f"all {len(wanted)} are installed"


def _check_torch() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    spinning = torch.get_num_threads() > 1 and os.environ.get("OMP_WAIT_POLICY") != "PASSIVE"
    hint = "; on a busy machine set OMP_WAIT_POLICY=PASSIVE" if spinning else ""
    return f"{torch.__version__}, {device}, {torch.get_num_threads()} threads{hint}"


def _check_arithmetic() -> str:
    """One mixer against its definition: if this fails, no number here can be trusted."""
    import torch

    from attnlab.mixers import build_mixer, naive

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    worst = 0.0
    for name in ("attention", "she", "he", "we", "me"):
        mixer = build_mixer(name, d_model=6, context_len=5).double()
        with torch.no_grad():
            error = (mixer(x) - naive.definition(name)(mixer, x)).abs().max()
        worst = max(worst, float(error))
    if worst > 1e-10:
        raise AttnlabError(f"fast and naive mixers differ by {worst:.1e}; torch is broken here")
    return f"fast and naive mixers agree to {worst:.0e}"


def _check_cache() -> str:
    from attnlab.corpora import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise AttnlabError(f"{folder} cannot be written: downloads and studies need it")
    return f"{folder} can be written"


def _check_corpora() -> str:
    from attnlab.corpora import list_corpora

    found = [name for name in list_corpora() if _is_here(name)]
    missing = [name for name in list_corpora() if name not in found]
    rest = f"; to get {missing[0]}: attnlab data fetch {missing[0]}" if missing else ""
    return f"here: {', '.join(found)}{rest}"


def _check_records() -> str:
    from attnlab.records import RUNS, read_records

    if not RUNS.is_dir():
        raise AttnlabError(f"{RUNS} is missing: restore it with git checkout data/runs")
    experiments = [record["experiment"] for record in read_records()]
    return f"{len(experiments)} runs of {len(set(experiments))} experiments"


def _is_here(corpus: str) -> bool:
    from attnlab.corpora import load_corpus
    from attnlab.errors import CorpusNotFoundError

    try:
        load_corpus(corpus)
    except CorpusNotFoundError:
        return False
    return True


def _list(options: argparse.Namespace) -> None:
    kinds: dict[str, Callable[[], list[tuple[str, str]]]] = {
        "mixers": _mixers,
        "sources": _sources,
        "corpora": _corpora,
        "studies": _studies,
        "figures": _figures,
    }
    if options.kind is not None and options.kind not in kinds:
        step = "Leave it out to see everything."
        raise UnknownNameError("kind of thing", options.kind, kinds, next_step=step)
    for kind in [options.kind] if options.kind else kinds:
        say(kind)
        say_table(kinds[kind]() or [("none", "")])


def _mixers() -> list[tuple[str, str]]:
    from attnlab.mixers import list_mixers, mixer_summary

    return [(name, mixer_summary(name)) for name in list_mixers()]


def _sources() -> list[tuple[str, str]]:
    from attnlab import sources

    makers = ("markov_chain", "variable_length_chain", "tales", "translation_source")
    return [(name, _first_line(getattr(sources, name))) for name in makers]


def _corpora() -> list[tuple[str, str]]:
    from attnlab.corpora import describe_corpus, list_corpora

    return [(name, describe_corpus(name).about) for name in list_corpora()]


def _studies() -> list[tuple[str, str]]:
    from attnlab.studies import list_studies

    return [(study.name, study.summary) for study in list_studies()]


def _figures() -> list[tuple[str, str]]:
    from attnlab.figures import list_figures

    return [(figure, f"attnlab figure {figure}") for figure in list_figures()]


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().splitlines()[0]
