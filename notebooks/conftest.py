"""What nbval lacks: rounding, pictures, widgets. Each notebook runs again and is compared.

Numbers may differ by one unit in the last place that the notebook prints; whole numbers may not.
Pictures and widgets must be there, in a cell whose output is otherwise ignored as well.
"""

import os
import re
from pathlib import Path

# Kernels inherit these; the stored notebooks were made with the same ones.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["ATTNLAB_MODE"] = "fast"
os.environ["ATTNLAB_WIDGETS"] = "on"
os.environ["ATTNLAB_STRICT"] = "1"
OFFLINE = Path(__file__).resolve().parents[1] / "tests" / "offline"
if OFFLINE.is_dir():  # its sitecustomize keeps the kernels on loopback
    paths = [str(OFFLINE), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    os.environ["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))

import pytest
from nbformat import NotebookNode
from nbval import plugin as nbval

from attnlab.show.panels import LIVE

NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?(?!\w)")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
PRESENT = ("image/png", "image/svg+xml")
ROUTED = ("stream", "display_data", "execute_result", "clear_output", "update_display_data")

_compare_outputs = nbval.IPyNbCell.compare_outputs
_get_kernel_message = nbval.IPyNbFile.get_kernel_message


def pytest_configure(config):
    """Let ``--nbval-lax`` on the command line win over ``--nbval`` in pyproject.toml."""
    if config.option.nbval_lax:
        config.option.nbval = False


def pytest_itemcollected(item):
    """Compare every cell: whole, or, where its output is ignored, what kinds of thing it shows."""
    if isinstance(item, nbval.IPyNbCell):
        tags = item.cell.metadata.get("tags", [])
        item.presence_only = not item.options["check"] or "setup" in tags
        item.options["check"] = True
        item.add_marker(pytest.mark.filterwarnings("default"))


def last_place(number: str) -> float:
    """Return one unit in the last printed place; 0 for a whole number."""
    mantissa, _, exponent = number.lower().partition("e")
    if "." not in mantissa and not exponent:
        return 0.0
    return 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))


def same_within_rounding(stored: str, computed: str) -> bool:
    """Say whether two texts are equal but for the last printed place of their numbers."""
    if NUMBER.split(stored) != NUMBER.split(computed):
        return False
    pairs = zip(NUMBER.findall(stored), NUMBER.findall(computed), strict=True)
    return all(
        abs(float(a) - float(b)) <= 1.01 * max(last_place(a), last_place(b)) for a, b in pairs
    )


def presence(outputs) -> list:
    """Return one small output for each picture or widget, so that their number is compared.

    A stored panel is not the widget that it was, but the line that stands in its place.
    """
    kinds = []
    for data in (output.get("data", {}) for output in outputs):
        kinds += [kind for kind in PRESENT if kind in data]
        kinds += ["picture"] * data.get("text/html", "").count("<img ")
        kinds += ["widget"] * (WIDGET_VIEW in data or LIVE in data.get("text/plain", ""))
    return [NotebookNode({"output_type": "presence", f"has {kind}": "yes"}) for kind in kinds]


def round_alike(computed, stored) -> None:
    """Put the stored text in place of a computed one that agrees within rounding."""
    for new, old in zip(computed, stored, strict=False):
        if "text" in new and "text" in old:
            if same_within_rounding(old["text"], new["text"]):
                new["text"] = old["text"]
            continue
        for kind in set(new.get("data", {})) & set(old.get("data", {})):
            texts = old["data"][kind], new["data"][kind]
            if all(isinstance(text, str) for text in texts) and same_within_rounding(*texts):
                new["data"][kind] = old["data"][kind]


def compare_outputs(cell, test, ref, skip_compare=None) -> bool:
    """Compare as nbval does, plus presence, minus rounding."""
    marks = presence(test), presence(ref)
    if cell.presence_only:
        return _compare_outputs(cell, *marks, skip_compare)
    round_alike(test, ref)
    return _compare_outputs(cell, [*test, *marks[0]], [*ref, *marks[1]], skip_compare)


def get_kernel_message(notebook, timeout=None, stream="iopub"):
    """Drop what an Output widget captures, as a front end does, so that ``interact`` can run.

    Errors are passed on: an exception inside ``with out:`` fails its cell.
    """
    holders = notebook.__dict__.setdefault("_output_widgets", {})
    while True:
        message = _get_kernel_message(notebook, timeout, stream)
        kind, content = message["msg_type"], message["content"]
        state = content.get("data", {}).get("state", {}) if kind.startswith("comm") else {}
        if kind == "comm_open" and state.get("_model_name") == "OutputModel":
            holders[content["comm_id"]] = state.get("msg_id", "")
        elif kind == "comm_msg" and content["comm_id"] in holders and "msg_id" in state:
            holders[content["comm_id"]] = state["msg_id"]
        elif kind in ROUTED and message["parent_header"].get("msg_id") in filter(
            None, holders.values()
        ):
            continue
        return message


nbval.IPyNbCell.compare_outputs = compare_outputs
nbval.IPyNbFile.get_kernel_message = get_kernel_message
