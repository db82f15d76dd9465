"""Run a notebook source from top to bottom and store what it shows, the same bytes every time.

python tools/notebooks.py 03 --check
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from nbformat import NotebookNode

from attnlab.errors import AttnlabError, UnknownNameError
from attnlab.paths import write_whole
from attnlab.runmode import RunMode
from attnlab.show.panels import LIVE
from attnlab.teach.copies import find_source, list_sources

# What a notebook run may depend on, apart from the code: fixed, so that two runs agree.
KERNEL_ENVIRONMENT = {
    "ATTNLAB_STRICT": "1",  # a solution that fails its check fails its cell
    "ATTNLAB_WIDGETS": "on",
    "OMP_NUM_THREADS": "1",
    "PYTHONHASHSEED": "0",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "JUPYTER_PREFER_ENV_PATH": "1",
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PROGRESS_CLOCK = re.compile(r"\[\d+:\d+(?::\d+)?<[^\]]*\]")
CELL_TIMEOUT_S = {"fast": 600, "full": 6 * 3600}
Keep = Literal["write", "compare", "discard"]


class NotebookFailedError(AttnlabError):
    """A notebook that did not run to its end, or that wrote to standard error."""


def source_digest(source: Path) -> str:
    """Return the hash that ties an executed notebook to the text of its source."""
    text = source.read_text(encoding="utf-8").replace("\r\n", "\n")
    return hashlib.sha256(text.encode()).hexdigest()


def notebook_path(source: Path) -> Path:
    """Return where the executed copy of a source belongs."""
    return source.parent.parent / f"{source.stem}.ipynb"


def is_stale(source: Path) -> bool:
    """Say whether the executed copy is missing, or was made from another text."""
    target = notebook_path(source)
    if not target.exists():
        return True
    metadata = json.loads(target.read_text(encoding="utf-8")).get("metadata", {})
    return metadata.get("attnlab", {}).get("source_sha256") != source_digest(source)


def run_notebook(source: Path, *, mode: RunMode = "fast") -> NotebookNode:
    """Execute a source in a fresh kernel and return the notebook, cleaned.

    Two runs of the same source give equal notebooks as long as the cells are deterministic.
    """
    notebook = execute(source, mode=mode)
    return clean_notebook(notebook, name=source.stem, digest=source_digest(source))


def execute(source: Path, *, mode: RunMode = "fast", record_timing: bool = False) -> NotebookNode:
    """Execute a source in a fresh kernel and return the notebook as it comes.

    Args:
        record_timing: Keep in each cell's metadata when it began and ended.

    Raises:
        NotebookFailedError: A cell raised, wrote to standard error, or killed the kernel.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    folder = source.parent.parent
    client = NotebookClient(
        notebook,
        kernel_name="python3",
        timeout=CELL_TIMEOUT_S[mode],
        record_timing=record_timing,
        coalesce_streams=True,  # else it depends on the clock where a text is cut
        store_widget_state=False,  # a slider without a kernel would move nothing
        resources={"metadata": {"path": str(folder)}},
    )
    try:
        client.execute(env=os.environ | KERNEL_ENVIRONMENT | {"ATTNLAB_MODE": mode})
    except CellExecutionError as error:
        raise NotebookFailedError(_describe_failure(source, notebook, error)) from None
    except DeadKernelError:
        raise NotebookFailedError(f"{source.name}: the kernel died. Is memory short?") from None
    _refuse_stderr(source, notebook)
    return notebook


def clean_notebook(notebook: NotebookNode, *, name: str, digest: str) -> NotebookNode:
    """Take out whatever differs between two runs and says nothing.

    Args:
        name: Stem of the file; cell ids are derived from it.
        digest: Hash of the source, kept in the notebook's metadata.
    """
    for index, cell in enumerate(notebook.cells):
        cell.id = hashlib.sha256(f"{name}/{index}".encode()).hexdigest()[:12]
        cell.metadata.pop("execution", None)
        for output in cell.get("outputs", []):
            output.update(_without_noise(_without_widget(output)))
    metadata = notebook.metadata
    metadata.pop("widgets", None)
    metadata["kernelspec"] = {
        "display_name": "Python 3 (ipykernel)",
        "language": "python",
        "name": "python3",
    }
    metadata["language_info"] = {"name": "python"}
    metadata["attnlab"] = {"source_sha256": digest}
    return notebook


def write_notebook(notebook: NotebookNode, target: Path) -> None:
    """Write a notebook whole or not at all."""
    nbformat.validate(notebook)
    write_whole(target, _as_text(notebook))


def run_all(
    sources: Sequence[Path],
    *,
    report: Callable[[str], None],
    keep: Keep = "write",
    mode: RunMode = "fast",
) -> list[Path]:
    """Run each source and return those that went wrong.

    Args:
        report: Receives one line for each notebook, and the error of each that fails.
        keep: ``write`` stores the notebooks; ``compare`` stores nothing and finds fault with a
            notebook whose bytes would change; ``discard`` only runs them.
        mode: The run mode of the kernels.
    """
    failed = []
    for source in sources:
        started = time.perf_counter()
        try:
            notebook = run_notebook(source, mode=mode)
        except NotebookFailedError as error:
            report(str(error))
            failed.append(source)
            continue
        seconds = time.perf_counter() - started
        target = notebook_path(source)
        if keep == "write":
            write_notebook(notebook, target)
            words = f"{target.stat().st_size / 1e3:.0f} kB"
        elif keep == "discard":
            words = "ran to its end"
        elif target.exists() and _as_text(notebook) == target.read_text(encoding="utf-8"):
            words = "the same bytes again"
        else:
            words = "the outputs differ from the stored ones"
            failed.append(source)
        report(f"{target.name}: {seconds:.1f} s, {words}")
    return failed


def select_sources(folder: Path, *, numbers: Sequence[str], everything: bool) -> list[Path]:
    """Return the sources to run: the numbered ones, all, or those that are stale.

    Args:
        numbers: Beginnings of file names, such as ``03`` or ``03_extractor``.
        everything: Run those that are up to date as well.
    """
    sources = list_sources(folder)
    if not numbers:
        return [source for source in sources if everything or is_stale(source)]
    return [find_source(number, sources) for number in numbers]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run notebooks from the command line; returns 1 if one of them failed."""
    parser = argparse.ArgumentParser(prog="make notebooks", description=__doc__)
    parser.add_argument("numbers", nargs="*", help="for example 03; without one, all stale ones")
    parser.add_argument("--all", action="store_true", help="also those that are up to date")
    parser.add_argument("--check", action="store_true", help="store nothing; compare the bytes")
    parser.add_argument("--full", action="store_true", help="full sizes; store nothing; hours")
    parser.add_argument("--folder", type=Path, default=Path("notebooks"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    keep: Keep = "discard" if options.full else "compare" if options.check else "write"
    everything = options.all or keep != "write"
    try:
        sources = select_sources(options.folder, numbers=options.numbers, everything=everything)
    except UnknownNameError as error:
        _report(str(error))
        return 2
    if not sources:
        _report("Every notebook is up to date with its source.")
    mode: RunMode = "full" if options.full else "fast"
    return 1 if run_all(sources, report=_report, keep=keep, mode=mode) else 0


def _report(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _as_text(notebook: NotebookNode) -> str:
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def _describe_failure(source: Path, notebook: NotebookNode, error: CellExecutionError) -> str:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        if any(output.output_type == "error" for output in cell.outputs):
            return (
                f"{source.name}: code cell {number} failed; nothing was written.\n"
                f"{_indent(cell.source)}\n{error.ename}: {error.evalue}"
            )
    return f"{source.name}: {error.ename}: {error.evalue}; nothing was written."


def _refuse_stderr(source: Path, notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        texts = [out.text for out in cell.outputs if out.get("name") == "stderr"]
        if texts:
            raise NotebookFailedError(
                f"{source.name}: code cell {number} wrote to standard error; nothing was written. "
                f"Take away the cause of the warning.\n{_indent(cell.source)}\n{''.join(texts)}"
            )


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _without_noise(value: Any) -> Any:
    """Replace addresses and the clock of progress bars in all text below ``value``."""
    if isinstance(value, str):
        return PROGRESS_CLOCK.sub("[done]", ADDRESS.sub(" at 0x0", value))
    if isinstance(value, list):
        return [_without_noise(item) for item in value]
    if isinstance(value, dict):
        return {
            key: item if key.startswith("image/") else _without_noise(item)
            for key, item in value.items()
        }
    return value


def _without_widget(output: NotebookNode) -> NotebookNode:
    """Take the live form of a panel away: what it shows without a kernel and a line stay."""
    data = output.get("data", {})
    if data.pop(WIDGET_VIEW, None) and LIVE not in data.get("text/plain", ""):
        data["text/plain"] = LIVE  # in place of what Python prints of a widget
    return output


if __name__ == "__main__":
    sys.exit(main())
