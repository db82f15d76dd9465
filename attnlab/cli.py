"""The commands behind ``attnlab``: each adds its options and says how it runs."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from typing import Any


def add_commands(commands: Any) -> None:
    """Add every command to the parser; heavy modules are imported when a command runs."""
    study = commands.add_parser("study", help="run a named experiment into data/runs")
    actions = study.add_subparsers(dest="action", required=True, metavar="ACTION")
    run = actions.add_parser("run", help="run what is missing; may be stopped at any moment")
    run.add_argument("name", help="a study, see: attnlab study list")
    run.add_argument("--scale", default="smoke", help="smoke, classroom or paper")
    run.add_argument("--corpus", default="tales", help="a data set, see: attnlab data list")
    run.add_argument("--variants", type=_names, default=(), help="comma-separated; default all")
    run.add_argument("--seeds", type=_counts, default=(0,), help="comma-separated, as in 0,1,2")
    run.add_argument("--threads", type=int, default=None, help="of torch; default as installed")
    run.set_defaults(run=_study_run)
    resume = actions.add_parser("resume", help="go on with every study that was interrupted")
    resume.add_argument("--threads", type=int, default=None, help="of torch; default as installed")
    resume.set_defaults(run=_study_resume)


def _study_run(options: argparse.Namespace) -> None:
    from attnlab.studies import Plan

    plan = Plan(
        study=options.name,
        scale=options.scale,
        corpus=options.corpus,
        variants=options.variants,
        seeds=options.seeds,
    )
    _prepare_process(options.threads)
    _run_plans([plan])


def _study_resume(options: argparse.Namespace) -> None:
    from attnlab.studies import unfinished_plans

    _prepare_process(options.threads)
    plans = unfinished_plans()
    if not plans:
        _say("Nothing to resume: every study begun here is finished.")
    _run_plans(plans)


def _run_plans(plans: Iterable[Any]) -> None:
    from tqdm import tqdm

    from attnlab.studies import run_plan

    for plan in plans:
        _say(f"{plan.name}: variants {', '.join(plan.variants) or 'all'}; seeds {plan.seeds}")
        bar, job = None, None
        for progress in run_plan(plan):
            if progress.job != job:
                if bar is not None:
                    bar.close()
                bar = tqdm(total=progress.n_steps, desc=progress.job, unit="step", mininterval=5)
                job = progress.job
            assert bar is not None
            bar.set_postfix_str(progress.message, refresh=False)
            bar.update(progress.step - bar.n)
        if bar is not None:
            bar.close()


def _prepare_process(threads: int | None) -> None:
    import torch

    from attnlab.training.speed import keep_pages

    keep_pages()
    if threads is not None:
        torch.set_num_threads(threads)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _counts(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _names(text))
