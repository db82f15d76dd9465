"""``attnlab study``, ``bench`` and ``figure``: what makes records, and what draws them."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from attnlab import cli
from attnlab.cli.training import join
from attnlab.errors import AttnlabError, UnknownNameError, shorten

study = typer.Typer(help="Run a named experiment into data/runs.", **cli.PLAIN)
Name = Annotated[str, typer.Argument(help="a study, see: attnlab study list")]
Scale = Annotated[str, typer.Option(help="smoke, classroom or paper")]
Corpus = Annotated[str, typer.Option(help="tales, or see: attnlab data list")]
Variants = Annotated[str, typer.Option(help="comma-separated; default all")]
Seeds = Annotated[str, typer.Option(help="comma-separated, as in 0,1,2")]
AXES = "settings to sweep, as in lr=0.003,0.01; once an axis, see: attnlab study list"
Axes = Annotated[list[str] | None, typer.Option("--axis", help=AXES)]
Device = Annotated[Literal["cpu", "cuda"], typer.Option(help="to compute on")]
THREADS = "of torch; default as installed. Results are bit-equal only for equal thread counts"
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help=THREADS)]
SWEEP = "local:N for N processes here, or the address of a Dask scheduler; needs attnlab[sweep]"
Scheduler = Annotated[str | None, typer.Option(help=SWEEP)]


def _plan(
    name: str, scale: str, corpus: str, variants: str, seeds: str, axes: Sequence[str] | None = None
) -> Any:
    from attnlab.studies import Plan, get_study

    try:
        numbers = tuple(int(seed) for seed in seeds.split(",") if seed.strip())
    except ValueError:
        message = f"{shorten(seeds)} is not a list of whole numbers such as 0,1,2"
        raise typer.BadParameter(message, param_hint="--seeds") from None
    names = tuple(variant.strip() for variant in variants.split(",") if variant.strip())
    swept = {}
    for axis, _, words in (text.partition("=") for text in axes or ()):
        read = get_study(name).axes.get(axis, str)  # an axis it lacks is refused with the plan
        try:
            swept[axis] = tuple(read(word.strip()) for word in words.split(",") if word.strip())
        except UnknownNameError:
            raise
        except ValueError:
            message = f"{shorten(words)} is not a list of numbers, as 0.003,0.01 is, for {axis!r}"
            raise typer.BadParameter(message, param_hint="--axis") from None
    return Plan(study=name, scale=scale, corpus=corpus, variants=names, seeds=numbers, axes=swept)


@study.command("list")
def list_studies() -> None:
    """Show every study, its variants and corpora."""
    from attnlab import studies

    for each in studies.list_studies():
        cli.say(f"{each.name}: {each.summary}")
        scales = "smoke (seconds), classroom (minutes), paper (hours on two cores)"
        parts = {"variants": ", ".join(each.variants), "corpora": ", ".join(each.corpora)}
        parts |= {"axes": ", ".join(each.axes)} if each.axes else {}
        cli.say_table([*parts.items(), ("scales", scales)])


@study.command()
def run(
    name: Name,
    scale: Scale = "smoke",
    corpus: Corpus = "tales",
    variants: Variants = "",
    seeds: Seeds = "0",
    axis: Axes = None,
    threads: Threads = None,
    device: Device = "cpu",
    scheduler: Scheduler = None,
) -> None:
    """Run what is missing; may be stopped at any moment.

    A job that was cut short goes on from its checkpoint; several processes may share one study.
    """
    plan = _plan(name, scale, corpus, variants, seeds, axis)
    _run_plans([plan], threads=threads, device=device, scheduler=scheduler)


@study.command()
def resume(threads: Threads = None, device: Device = "cpu", scheduler: Scheduler = None) -> None:
    """Go on with every study that was interrupted."""
    from attnlab.studies import unfinished_plans

    plans = unfinished_plans()
    if not plans:
        cli.say("Nothing to resume: every study begun here is finished.")
    _run_plans(plans, threads=threads, device=device, scheduler=scheduler)


def _run_plans(
    plans: Iterable[Any], *, threads: int | None, device: str, scheduler: str | None
) -> None:
    import torch
    from tqdm import tqdm

    from attnlab.analysis.timing import keep_pages
    from attnlab.paths import where_written
    from attnlab.studies import Folders, run_plan, run_sweep

    if device == "cuda" and not torch.cuda.is_available():
        raise AttnlabError("--device cuda: torch finds no graphics card here. Use --device cpu.")
    if sentence := where_written():
        cli.say(sentence)
    keep_pages()
    torch.set_num_threads(threads or torch.get_num_threads())
    is_first = join(device)
    for plan in plans:
        cli.say(f"{plan.name}: variants {', '.join(plan.variants) or 'all'}; seeds {plan.seeds}")
        folders = Folders(device=device)
        if scheduler:
            reports = run_sweep(plan, scheduler=scheduler, folders=folders)
        else:
            reports = run_plan(plan, folders=folders)
        for name, of_job in groupby(reports, attrgetter("job")):
            how = {"unit": "step", "mininterval": 2, "disable": not is_first}
            with tqdm(desc=name, **how) as bar:
                for progress in of_job:
                    bar.set_postfix_str(progress.message, refresh=False)
                    bar.total = progress.n_steps  # a job may have several stretches of work
                    bar.update(progress.step - bar.n)


@study.command()
def report(
    document: Annotated[
        Path | None, typer.Argument(help="as README.md; default the screen")
    ] = None,
) -> None:
    """Write the results block of a document again."""
    from attnlab.paths import file_errors, read_whole, write_whole
    from attnlab.studies.report import replace_block, results_block

    if document is None:
        cli.say(results_block())
        return
    with file_errors(document, "read"):
        text = read_whole(document).decode()
    write_whole(document, replace_block(text, results_block()))


@study.command()
def export(
    name: Name,
    to: Annotated[Path, typer.Option(help="folder for VARIANT.safetensors")],
    scale: Scale = "smoke",
    corpus: Corpus = "tales",
    variants: Variants = "",
    seeds: Seeds = "0",
) -> None:
    """Copy trained models of finished jobs, in bfloat16."""
    from attnlab.paths import require_folder
    from attnlab.studies import check_plan, export_models

    check_plan(plan := _plan(name, scale, corpus, variants, seeds))
    for path in export_models(plan, to=require_folder(to)):
        cli.say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")


cli.app.add_typer(study, name="study")
PARTS = (
    "mixers, methods, training, prefill, generation, streaming, growth, translation, lengths; "
    "default all"
)
OWN_FIGURES = "my-figures"
CHECK = "exit with 1 where method=auto takes over 1.25 times the best method's time"


@contextmanager
def _alone(what: str) -> Iterator[None]:
    """Raise AttnlabError if another process is doing the same."""
    from filelock import FileLock, Timeout

    from attnlab.paths import WORK, require_folder

    with ExitStack() as stack:
        try:
            stack.enter_context(FileLock(require_folder(WORK) / f"{what}.lock", timeout=0))
        except Timeout:
            raise AttnlabError(
                f"Another process runs attnlab {what}; two at once disturb each other. Wait for it."
            ) from None
        yield


@cli.app.command()
def bench(
    parts: Annotated[list[str] | None, typer.Argument(metavar="PART", help=PARTS)] = None,
    scale: Scale = "classroom",
    threads: Threads = None,
    repeats: Annotated[int | None, typer.Option(min=5, help="rounds of each race")] = None,
    device: Device = "cpu",
    record: Annotated[
        bool, typer.Option("--record", help="append to data/runs/speed.jsonl")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="folder for speed.jsonl instead")] = None,
    check: Annotated[bool, typer.Option("--check", help=CHECK)] = False,
) -> None:
    """Measure speed side by side.

    Candidates take turns in shuffled rounds after a warm-up. Shown are medians with quartiles,
    ratios of the same round with their interval, and what share of this machine's measured peak
    was reached. Nothing is stored without --record or --out.
    """
    from attnlab.paths import OWN_RUNS, require_folder
    from attnlab.studies import clock

    folder = out or (OWN_RUNS if record else None)
    how = {"scale": scale, "threads": threads, "repeats": repeats, "device": device}
    file = clock.run_file(require_folder(folder)) if folder else None
    with _alone("bench"):
        for line in clock.bench(parts or (), file=file, is_checked=check, **how):
            cli.say(line)


@cli.app.command()
def figure(
    ids: Annotated[list[str] | None, typer.Argument(metavar="ID", help="default all")] = None,
    show: Annotated[bool, typer.Option("--list", help="show the ids and draw nothing")] = False,
    out: Annotated[Path | None, typer.Option(help=f"folder to write to; {OWN_FIGURES}")] = None,
) -> None:
    """Draw figures of the workbook from records.

    Writes ID.svg, ID.png and ID.json (caption, alt text, records used). Those of the documents
    are drawn again with --out figures; without ID and --out, the ids are shown.
    """
    from attnlab.chapters import load_figures
    from attnlab.show import make_figure

    known = load_figures()
    if show or not (ids or out):
        for name in known:
            cli.say(name)
        return
    for name in ids or known:
        cli.say(", ".join(map(str, make_figure(name, out=out or OWN_FIGURES))))
