"""``attnlab study``: run named experiments, go on after an interruption, keep trained models."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from attnlab.cli.speak import counts, names, say, say_table

THREADS = "of torch; default as installed. Results are bit-equal only for equal thread counts"


def add_commands(commands: Any) -> None:
    """Add ``study`` with ``list``, ``run``, ``resume``, ``report`` and ``export``."""
    study = commands.add_parser("study", help="run a named experiment into data/runs")
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="every study, its variants and corpora")
    listing.set_defaults(run=_list)
    run = actions.add_parser(
        "run",
        help="run what is missing; may be stopped at any moment",
        description="Run the jobs of a study that have no record yet. A job that was cut short "
        "goes on from its checkpoint; several processes may share one study.",
    )
    _add_plan(run)
    _add_machine(run)
    run.set_defaults(run=_run)
    resume = actions.add_parser("resume", help="go on with every study that was interrupted")
    _add_machine(resume)
    resume.set_defaults(run=_resume)
    report = actions.add_parser("report", help="write the results block of a document again")
    report.add_argument("document", type=Path, nargs="?", help="as README.md; default the screen")
    report.set_defaults(run=_report)
    export = actions.add_parser("export", help="copy trained models of finished jobs, in bfloat16")
    _add_plan(export)
    export.add_argument("--to", type=Path, required=True, help="folder for VARIANT.safetensors")
    export.set_defaults(run=_export)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", help="a study, see: attnlab study list")
    parser.add_argument("--scale", default="smoke", help="smoke, classroom or paper")
    parser.add_argument("--corpus", default="tales", help="tales, or see: attnlab data list")
    parser.add_argument("--variants", type=names, default=(), help="comma-separated; default all")
    parser.add_argument("--seeds", type=counts, default=(0,), help="comma-separated, as in 0,1,2")


def _add_machine(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=None, help=THREADS)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="default cpu")


def _plan(options: argparse.Namespace) -> Any:
    from attnlab.studies import Plan

    return Plan(
        study=options.name,
        scale=options.scale,
        corpus=options.corpus,
        variants=options.variants,
        seeds=options.seeds,
    )


def _list(options: argparse.Namespace) -> None:
    from attnlab.studies import list_studies

    for study in list_studies():
        say(f"{study.name}: {study.summary}")
        rows = [
            ("variants", ", ".join(study.variants)),
            ("corpora", ", ".join(study.corpora)),
            ("scales", "smoke (seconds), classroom (minutes), paper (hours on two cores)"),
        ]
        say_table(rows)


def _run(options: argparse.Namespace) -> None:
    device = _prepare_process(options)
    _run_plans([_plan(options)], device=device)


def _resume(options: argparse.Namespace) -> None:
    from attnlab.studies import unfinished_plans

    device = _prepare_process(options)
    plans = unfinished_plans()
    if not plans:
        say("Nothing to resume: every study begun here is finished.")
    _run_plans(plans, device=device)


def _export(options: argparse.Namespace) -> None:
    from attnlab.studies import export_models

    for path in export_models(_plan(options), to=options.to):
        say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")


def _report(options: argparse.Namespace) -> None:
    from attnlab.paths import write_whole
    from attnlab.studies.report import replace_block, results_block

    block = results_block()
    if options.document is None:
        say(block)
        return
    before = options.document.read_text(encoding="utf-8")
    write_whole(options.document, replace_block(before, block))


def _run_plans(plans: Iterable[Any], *, device: str) -> None:
    from tqdm import tqdm

    from attnlab.studies import Folders, run_plan

    for plan in plans:
        say(f"{plan.name}: variants {', '.join(plan.variants) or 'all'}; seeds {plan.seeds}")
        bar: Any = None
        for progress in run_plan(plan, folders=Folders(device=device)):
            if bar is None or bar.desc != progress.job:
                if bar is not None:
                    bar.close()
                bar = tqdm(total=progress.n_steps, unit="step", mininterval=2)
                bar.set_description_str(progress.job, refresh=False)
            bar.set_postfix_str(progress.message, refresh=False)
            bar.total = progress.n_steps  # a job may have several stretches of work
            bar.update(progress.step - bar.n)
        if bar is not None:
            bar.close()


def _prepare_process(options: argparse.Namespace) -> str:
    """Set threads and memory of this process; return the device to compute on."""
    import torch

    from attnlab.analysis.timing import keep_pages
    from attnlab.errors import AttnlabError

    if options.device == "cuda" and not torch.cuda.is_available():
        raise AttnlabError("--device cuda: torch finds no graphics card here. Use --device cpu.")
    keep_pages()
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    return options.device
