"""The ``attnlab`` command: look around, get data, train, run studies, measure, draw figures."""

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib.metadata import distributions, requires
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from attnlab.errors import AttnlabError, CorpusNotFoundError, UnknownNameError, shorten

EPILOG = """\b
First steps:
  attnlab doctor                                     is everything here?
  attnlab list                                       mixers, sources, corpora, studies, figures
  attnlab train --mixer she                          watch a small model learn to tell tales
  attnlab study run language-model --scale smoke     every mixer once, in seconds

\b
Exit codes: 0 done, 1 it could not be done (the message says why), 2 wrong usage, 130 interrupted.
"""
PLAIN = {"rich_markup_mode": None, "add_completion": False, "no_args_is_help": False}
PLAIN["context_settings"] = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(TyperGroup):
    """Commands whose result is an exit code, and whose failures are one line each."""

    def invoke(self, ctx: Any) -> Any:
        """Run what was asked for."""
        try:
            code = super().invoke(ctx)
        except (AttnlabError, OSError) as error:
            typer.echo(f"attnlab: {error}", err=True)
            code = 1
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
                raise
            typer.echo("attnlab: this machine's memory is too small. Take smaller sizes.", err=True)
            code = 1
        except KeyboardInterrupt:
            typer.echo("attnlab: interrupted; 'attnlab study resume' goes on.", err=True)
            code = 130
        raise typer.Exit(code or 0)


app = typer.Typer(
    cls=Commands,
    help="Take attention out of a Transformer, put something else in, and see.",
    epilog=EPILOG,
    pretty_exceptions_enable=False,
    **PLAIN,
)
data = typer.Typer(help="List, fetch and verify the text corpora.", **PLAIN)
study = typer.Typer(help="Run a named experiment into data/runs.", **PLAIN)
app.add_typer(data, name="data")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Whatever it prints to, printing never fails."""
    with _patient_consoles():
        try:
            app(arguments, prog_name="attnlab")
        except SystemExit as stop:
            return stop.code
    return 0


class _Console:
    """Standard output or error for one command.

    Letters that it does not know are spelled out; where nobody reads, or nothing more fits, the
    command goes on in silence.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        self._try(self._stream.write, text)
        return len(text)

    def flush(self) -> None:
        self._try(self._stream.flush)

    def _try(self, do: Callable, *what: str) -> None:
        try:
            do(*what)
        except UnicodeEncodeError as error:
            known = what[0].encode(error.encoding, "backslashreplace").decode(error.encoding)
            self._try(do, known)
        except (OSError, ValueError):  # ValueError: it was closed
            with suppress(OSError, ValueError):
                os.dup2(nowhere := os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
                os.close(nowhere)


@contextmanager
def _patient_consoles() -> Iterator[None]:
    before = sys.stdout, sys.stderr
    with ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        sys.stdout, sys.stderr = (_Console(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stdout, sys.stderr = before


def say(text: str) -> None:
    """Write a line to standard output."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say_table(rows: Iterable[Sequence[str]]) -> None:
    """Write rows of text in aligned columns; the last column is left ragged."""
    rows = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        say(f"  {'  '.join(cells)}".rstrip())


@app.command()
def doctor() -> int:
    """Check this installation.

    Versions, folders, corpora and arithmetic are looked at. Exit code 1: something that the
    workbook needs is missing; the line says what to do.
    """
    checks = {
        "python": lambda: sys.version.split()[0],
        "packages": _packages,
        "torch": _torch,
        "arithmetic": _arithmetic,
        "cache": _cache,
        "corpora": _corpora,
        "records": _records,
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


def _packages() -> str:
    wanted = [re.split(r"[^\w.-]", r)[0] for r in requires("attnlab") or [] if "extra ==" not in r]
    here = {each.name.lower().replace("_", "-") for each in distributions()}
    missing = [name for name in wanted if name.lower().replace("_", "-") not in here]
    if missing:
        raise AttnlabError(f"missing {', '.join(missing)}: run make setup, or pip install -e .")
    return f"all {len(wanted)} are installed"


def _torch() -> str:
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU only"
    spinning = torch.get_num_threads() > 1 and os.environ.get("OMP_WAIT_POLICY") != "PASSIVE"
    hint = "; on a busy machine set OMP_WAIT_POLICY=PASSIVE" if spinning else ""
    return f"{torch.__version__}, {device}, {torch.get_num_threads()} threads{hint}"


def _arithmetic() -> str:
    """Hold mixers against their definitions: if this fails, no number here can be trusted."""
    import torch

    from attnlab.mixers import build_mixer, list_mixers

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 9, 6, generator=generator, dtype=torch.float64)
    worst = 0.0
    for name in list_mixers():
        mixer = build_mixer(name, d_model=6, context_len=5).double()
        fits = x[:, : mixer.longest]
        with torch.no_grad():
            error = (mixer(fits) - mixer.definition(fits)).abs().max()
        worst = max(worst, float(error))
    if worst > 1e-10:
        raise AttnlabError(f"fast and naive mixers differ by {worst:.1e}; torch is broken here")
    return f"fast and naive mixers agree to {worst:.0e}"


def _cache() -> str:
    from attnlab.paths import cache_folder

    folder = cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise AttnlabError(f"{folder} cannot be written: downloads and studies need it")
    return f"{folder} can be written"


def _corpora() -> str:
    from attnlab.corpora import list_corpora, load_corpus

    found, missing = [], []
    for name in list_corpora():
        try:
            load_corpus(name)
            found.append(name)
        except CorpusNotFoundError:
            missing.append(name)
    rest = f"; to get {missing[0]}: attnlab data fetch {missing[0]}" if missing else ""
    return f"here: {', '.join(found)}{rest}"


def _records() -> str:
    from attnlab.paths import where_written
    from attnlab.records import RUNS, read_records

    if not RUNS.is_dir():
        raise AttnlabError(
            f"{RUNS} is missing: restore it with git checkout data/runs, or clone the repository"
        )
    experiments = [record["experiment"] for record in read_records()]
    counts = f"{len(experiments)} runs of {len(set(experiments))} experiments"
    return f"{counts}. {where_written()}".rstrip(". ")


def _mixers() -> list[tuple[str, ...]]:
    """Return a row for each mixer: what its matrix M is, what it costs, what it does."""
    from attnlab.analysis.theory import mixer_prices

    d_model, context_len = 64, 128
    columns = ("mixer", "M", "adapts", "  weights", "   state", "work a token")
    rows = [(*columns, f"(numbers at width {d_model} and context {context_len})")]
    for row in mixer_prices(d_model=d_model, context_len=context_len):
        costs = (f"{row[n]:>{w},}" for n, w in (("weights", 9), ("state", 8), ("work", 12)))
        adapts = "yes" if row["adapts"] else "no"
        rows.append((row["mixer"], row["structure"], adapts, *costs, row["summary"]))
    return rows


@app.command("list")
def list_things(
    kind: Annotated[str | None, typer.Argument(help="one of them; default all")] = None,
) -> None:
    """List mixers, sources, corpora, studies, figures."""
    from attnlab import sources
    from attnlab.chapters import load_figures
    from attnlab.corpora import describe_corpus, list_corpora
    from attnlab.studies import list_studies

    makers = ("markov_chain", "variable_length_chain", "tales", "translation_source")
    kinds = {
        "mixers": _mixers,
        "sources": lambda: [(n, getattr(sources, n).__doc__.split("\n")[0]) for n in makers],
        "corpora": lambda: [(name, describe_corpus(name).about) for name in list_corpora()],
        "studies": lambda: [(study.name, study.summary) for study in list_studies()],
        "figures": lambda: [(name, f"attnlab figure {name}") for name in load_figures()],
    }
    if kind is not None and kind not in kinds:
        step = "Leave it out to see everything."
        raise UnknownNameError("kind of thing", kind, kinds, next_step=step)
    for name in [kind] if kind else kinds:
        say(name)
        say_table(kinds[name]() or [("none", "")])


@app.command()
def claims(
    name: Annotated[str | None, typer.Argument(metavar="ID", help="as E7; default all")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="the whole as a table")] = False,
) -> None:
    """Show what came of each claim of the papers."""
    from attnlab.claims import ledger, ledger_markdown, ledger_rows

    table = ledger_markdown(ledger(), folder="notebooks/") if markdown else ""
    say(table) if markdown else say_table(ledger_rows(name))


@data.command("list")
def list_data() -> None:
    """Show every corpus, its licence and size."""
    from attnlab.corpora import describe_corpus, list_corpora

    rows = []
    for name in list_corpora():
        entry = describe_corpus(name)
        size = f"{entry.n_download_bytes / 1e6:.1f} MB" if entry.folder else "no file needed"
        rows.append((name, size, entry.licence))
    say_table(rows)


@data.command()
def fetch(
    name: Annotated[str, typer.Argument(help="a corpus, see: attnlab data list")],
    to: Annotated[Path | None, typer.Option(help="data folder to fill; default the cache")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="accept the licence without asking")] = False,
) -> None:
    """Download a corpus: pinned, verified, never executed."""
    from tqdm import tqdm

    from attnlab.corpora import describe_corpus, fetch_corpus
    from attnlab.paths import require_folder

    entry = describe_corpus(name)
    if entry.folder is None:
        say(f"{name} needs no file: it comes with Python.")
        return
    say(f"{name}: {entry.about}\nLicence: {entry.licence}")
    if not yes and not (sys.stdin and sys.stdin.isatty() and typer.confirm("Download?")):
        raise AttnlabError("Nothing was downloaded. Add --yes to accept the licence.")
    if to is not None:
        require_folder(to)
    with tqdm(total=entry.n_download_bytes, unit="B", unit_scale=True) as bar:
        folder = fetch_corpus(name, to=to, on_bytes=lambda n_bytes: bar.update(n_bytes - bar.n))
    say(f"Done: {folder}")


@data.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="a corpus; default all that are here")] = None,
) -> int:
    """Check every file against its pinned checksum."""
    from attnlab.corpora import list_corpora, verify_corpus

    code = 0
    for corpus in [name] if name else list_corpora():
        try:
            n_files = verify_corpus(corpus)
            say(f"{corpus}: {n_files} files verified" if n_files else f"{corpus}: no file needed")
        except CorpusNotFoundError as error:
            if name:
                raise
            say(f"{corpus}: not here ({str(error).splitlines()[0][:90]})")
        except UnknownNameError:
            raise
        except AttnlabError as error:
            say(f"{corpus}: NOT OK: {error}")
            code = 1
    return code


Seed = Annotated[int, typer.Option(min=0)]


@app.command()
def train(
    mixer: Annotated[str, typer.Option(help="see: attnlab list mixers")] = "attention",
    corpus: Annotated[str, typer.Option(help="tales, or see: attnlab data list")] = "tales",
    steps: Annotated[int, typer.Option(min=1, help="optimiser steps")] = 300,
    batch_size: Annotated[int, typer.Option(min=1, help="windows a step")] = 32,
    context_len: Annotated[int, typer.Option(min=1, help="tokens a model reads")] = 64,
    d_model: Annotated[int, typer.Option(min=1, help="width of the residual stream")] = 64,
    layers: Annotated[int, typer.Option(min=1, help="blocks")] = 2,
    heads: Annotated[int, typer.Option(min=1, help="of attention")] = 4,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    vocab_size: Annotated[int, typer.Option(min=256, help="BPE pieces of a corpus")] = 1000,
    seed: Seed = 0,
    out: Annotated[Path | None, typer.Option(help="folder for the model and tokenizer")] = None,
) -> None:
    """Train one small model and hear it speak.

    Its loss is held against the true source's, where there is one.
    """
    import torch
    from tqdm import tqdm

    from attnlab.config import ModelConfig, TrainConfig
    from attnlab.paths import require_folder
    from attnlab.seeding import torch_generator
    from attnlab.tasks import LanguageTask, prepare_dataset
    from attnlab.training import train_model

    is_first = _join()
    sizes = {"context_len": context_len, "d_model": d_model, "n_layers": layers, "n_heads": heads}
    config = ModelConfig(mixer=mixer, vocab_size=vocab_size, **sizes)
    warmup = max(1, steps // 20)
    plan = TrainConfig(n_steps=steps, batch_size=batch_size, lr=lr, warmup_steps=warmup, seed=seed)
    _require_memory(config, plan, corpus)
    if out:
        require_folder(out)
    n_tokens = steps * batch_size * context_len + 1
    text = prepare_dataset(corpus, vocab_size=vocab_size, n_train_tokens=n_tokens)
    task = LanguageTask(data=text)
    config = replace(config, vocab_size=text.vocab_size)
    model = task.build(config, generator=torch_generator(seed, "init"))
    say(f"{mixer} on {corpus}: {sum(p.numel() for p in model.parameters()):,} weights")
    started = time.perf_counter()
    with tqdm(total=steps, unit="step", disable=not is_first) as bar:
        for state in train_model(task, model, plan):
            bar.set_postfix_str(f"{state.loss_nats:.3f} nats", refresh=False)
            bar.update()
            if state.step == N_TIMED and is_first:
                per_step = (time.perf_counter() - started) / N_TIMED
                bar.write(_time_needed(per_step, steps), file=sys.stderr)
    if out and is_first:
        _save_trained(out, model, text)
    found, _ = task.score(model)
    say(f"Held-out loss: {found['test_loss_nats']:.4f} nats per token")
    if "oracle_nats" in found:
        gap = f"gap {found['test_gap_nats']:+.4f}"
        say(f"True source, same tokens: {found['oracle_nats']:.4f}; {gap}")
    if "test_bits_per_byte" in found:
        say(f"That is {found['test_bits_per_byte']:.3f} bits per byte")
    prompt = text.test[0][None, : min(8, context_len)].astype("int64")
    how = {"n_tokens": 48, "temperature": 0.8, "generator": torch_generator(seed, "generate")}
    tokens = model.generate(torch.from_numpy(prompt), **how)[0].numpy()
    decode = text.decode or str
    say(f"It was given: {decode(tokens[: prompt.size])}")
    say(f"It went on:   {decode(tokens[prompt.size :])}")
    if out:
        say(f"Saved in {out}")


def _join(device: str = "cpu") -> bool:
    """Meet the processes of torchrun; return whether this one is to speak, and hush it if not."""
    from attnlab.training.parallel import is_first, join

    join(device)
    if not is_first():
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    return is_first()


N_TIMED = 3  # steps before one knows how long all of them take


def _time_needed(seconds_a_step: float, n_steps: int) -> str:
    """Say how long a training takes, and how to make it shorter if it is minutes."""
    seconds = seconds_a_step * n_steps
    if seconds < 90:
        return f"About {seconds:.0f} s on this machine"
    one_minute = max(1, round(60 / seconds_a_step))
    return f"About {seconds / 60:.0f} min on this machine; --steps {one_minute} takes one"


def _require_memory(config: Any, plan: Any, corpus: str) -> None:
    """Raise unless weights, gradients, moments, activations and text fit this machine."""
    from attnlab.analysis.theory import expected_language_model_weights
    from attnlab.config import require_memory

    rows = plan.batch_size * config.context_len
    n_kept = rows * config.n_layers * (12 * config.d_model + 3 * config.mlp_width)
    n_text = rows * plan.n_steps if corpus == "tales" else 0
    n_bytes = 16 * expected_language_model_weights(config) + 4 * n_kept + 40 * n_text
    require_memory(n_bytes, "A training of these sizes")


def _save_trained(folder: Path, model: Any, text: Any) -> None:
    """Write a model and the tokenizer of its text; of two processes one waits for the other."""
    from filelock import FileLock

    from attnlab.training import save_model

    with FileLock(folder / ".lock"):
        save_model(folder / "model.safetensors", model=model, corpus=text.name)
        if text.tokenizer is not None:
            text.tokenizer.save(folder / "tokenizer.json")


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
        say(f"{each.name}: {each.summary}")
        scales = "smoke (seconds), classroom (minutes), paper (hours on two cores)"
        parts = {"variants": ", ".join(each.variants), "corpora": ", ".join(each.corpora)}
        parts |= {"axes": ", ".join(each.axes)} if each.axes else {}
        say_table([*parts.items(), ("scales", scales)])


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
        say("Nothing to resume: every study begun here is finished.")
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
        say(sentence)
    keep_pages()
    torch.set_num_threads(threads or torch.get_num_threads())
    is_first = _join(device)
    for plan in plans:
        say(f"{plan.name}: variants {', '.join(plan.variants) or 'all'}; seeds {plan.seeds}")
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
        say(results_block())
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
        say(f"{path} ({path.stat().st_size / 1e6:.2f} MB)")


app.add_typer(study, name="study")
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


@app.command()
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
            say(line)


@app.command()
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
            say(name)
        return
    for name in ids or known:
        say(", ".join(map(str, make_figure(name, out=out or OWN_FIGURES))))
