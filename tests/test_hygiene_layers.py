"""Imports only go down, and the lower layers do without torch."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# One row a layer, lowest first. A module may import from its own row and from the rows before it
# in this table. Chapters never import each other.
LAYERS = {
    "ground": ("errors", "seeding", "paths", "markdown"),
    "records": ("config", "records", "runmode"),
    "show": ("show", "corpora", "sources", "tokenizers"),
    "mixers": ("mixers", "teach"),
    "models": ("models",),
    "training": ("training",),
    "analysis": ("analysis", "distillation"),
    "tasks": ("tasks",),
    "studies": ("studies",),
    "chapters": ("chapters",),
    "faces": ("__main__", "cli"),
}
ORDER = list(LAYERS)
MAY_IMPORT = {layer: set(ORDER[:place]) for place, layer in enumerate(ORDER)}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}
NO_TORCH = ("show", "teach", "sources", "corpora", "config", "errors", "records", "paths")


def imports(path: Path, source: str) -> set[str]:
    """Return the full names of all modules that a file imports, wherever in the file."""
    package = path.with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *filter(None, [node.module])])
            found |= {f"{name}.{alias.name}" for alias in node.names}
    return found


def arrows_up(path: Path, source: str) -> list[str]:
    """Return the imports of a file of the package that its layer may not make."""
    module = path.with_suffix("").parts[1]
    if module == "__init__":
        return [f"{path} imports {name}" for name in sorted(imports(path, source))]
    if module not in LAYER_OF:
        return [f"{path} belongs to no layer; add {module!r} to LAYERS in {Path(__file__).name}"]
    layer = LAYER_OF[module]
    chapter = path.with_suffix("").parts[2:3]
    others = [
        f"{path} imports {name}, another chapter"
        for name in sorted(imports(path, source))
        if name.startswith("attnlab.chapters.") and name.split(".")[2:3] != list(chapter)
        if module == "chapters"
    ]
    parts = [name.split(".") for name in sorted(imports(path, source))]
    targets = [part[1] for part in parts if part[0] == "attnlab" and len(part) > 1]
    return others + [
        f"{path} ({layer}) imports attnlab.{target} ({LAYER_OF.get(target, 'no layer')})"
        for target in targets
        if target in LAYER_OF and LAYER_OF[target] not in MAY_IMPORT[layer] | {layer}
    ]


def package_files() -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / "attnlab").rglob("*.py"))


def test_no_import_runs_up_the_layers():
    problems = [
        problem
        for path in package_files()
        for problem in arrows_up(path, (ROOT / path).read_text(encoding="utf-8"))
    ]
    assert not problems, "\n".join(problems)


def test_rooms_import_each_other_in_no_circle():
    graph = {}
    for path in package_files():
        parts = (name.split(".") for name in imports(path, (ROOT / path).read_text("utf-8")))
        room = path.with_suffix("").parts[1]
        graph.setdefault(room, set()).update(p[1] for p in parts if p[0] == "attnlab" and p[1:])
        graph[room].discard(room)
    TopologicalSorter(graph).prepare()  # raises where there is one


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("attnlab/mixers/she.py", "from attnlab.models import LanguageModel"),
        ("attnlab/mixers/she.py", "from ..training.loop import train_steps"),
        ("attnlab/sources/markov.py", "import attnlab.mixers.base"),
        ("attnlab/errors.py", "from attnlab import records"),
        ("attnlab/show/style.py", "def f():\n    from attnlab.models import blocks"),
        ("attnlab/chapters/extractor/live.py", "from attnlab.chapters.attention import pictures"),
        ("attnlab/novelty/thing.py", "import os"),
        ("attnlab/__init__.py", "import torch"),
    ],
)
def test_an_import_that_runs_up_is_seen(path, line):
    assert arrows_up(Path(path), line)


def test_an_import_that_runs_down_is_fine():
    assert not arrows_up(Path("attnlab/models/blocks.py"), "from attnlab.mixers import build_mixer")


def test_show_and_sources_name_no_torch():
    for path in package_files():
        if path.with_suffix("").parts[1] in ("sources", "corpora", "show", "teach"):
            names = imports(path, (ROOT / path).read_text(encoding="utf-8"))
            assert not [name for name in names if name.split(".")[0] == "torch"], path


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_modules_import_without_torch():
    present = [name for name in NO_TORCH if list((ROOT / "attnlab").glob(f"{name}*"))]
    lines = "\n".join(f"import attnlab.{name}" for name in present)
    assert run_python(f"import sys\n{lines}\nprint('torch' in sys.modules)") == "False"


def test_import_attnlab_is_quick_and_takes_no_torch():
    code = (
        "import sys, time; start = time.process_time(); import attnlab; "
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    seconds, has_torch = min(run_python(code).split() for _ in range(3))
    assert float(seconds) < 0.3
    assert has_torch == "False"
