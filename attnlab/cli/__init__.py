"""The ``attnlab`` command: look around, get data, train, run studies, measure, draw figures."""

import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import distributions, requires
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attnlab.errors import AttnlabError, CorpusNotFoundError, UnknownNameError

EPILOG = """\b
First steps:
  attnlab doctor                                     is everything here?
  attnlab learn                                      notebooks to work in: work/00_start_here.ipynb
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


@app.command()
def learn(
    notebooks: Annotated[
        list[str] | None, typer.Argument(metavar="[NOTEBOOK]...", help="as 03; default all")
    ] = None,
    reset: Annotated[
        bool, typer.Option("--reset", help="begin these again; yours stay, under a dated name")
    ] = False,
    to: Annotated[Path | None, typer.Option(help="folder for the copies; default work")] = None,
) -> None:
    """Make copies of the notebooks to work in.

    They have no solutions, and a cell under each exercise. What you changed is never overwritten:
    where the workbook has changed too, its copy is put beside yours.
    """
    from attnlab.paths import ROOT
    from attnlab.teach.copies import find_source, list_sources, reset_copy, update_copies

    sources = list_sources(ROOT / "notebooks") if ROOT else []
    if not ROOT or not sources:
        raise AttnlabError(
            "There are no notebooks here: an installed attnlab comes without them. Clone the "
            "repository and run this command in its folder."
        )
    if reset and not notebooks:
        raise AttnlabError("Say which notebook to begin again, as in: attnlab learn --reset 03")
    chosen = [find_source(name, sources) for name in notebooks or ()] or sources
    folder = ROOT / "work" if to is None else to
    if reset:
        lines = [reset_copy(source, folder=folder) for source in dict.fromkeys(chosen)]
    else:
        lines = update_copies(chosen, folder=folder)
    for line in lines or [f"The copies in {folder} are up to date."]:
        say(line)


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
    markdown: Annotated[bool, typer.Option("--markdown", help="the whole as Markdown")] = False,
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


from attnlab.cli import studies, training, web  # noqa: E402, F401  (their commands join those above)
