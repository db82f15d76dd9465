"""Imports only go down, and the lower layers do without torch."""

import ast
import subprocess
import sys
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# One row a layer, lowest first. A module may import from its own row and from the rows before it
# in this table. Chapters never import each other.
LAYERS = {
    "ground": ("errors", "seeding", "paths", "markdown"),
    "records": ("config", "records", "runmode"),
    "show": ("show", "corpora", "sources"),
    "mixers": ("mixers", "teach"),
    "models": ("models",),
    "training": ("training",),
    "analysis": ("analysis", "distillation"),
    "tasks": ("tasks",),
    "studies": ("studies",),
    "claims": ("claims",),
    "web": ("web",),
    "chapters": ("chapters",),
    "faces": ("__main__", "cli"),
}
ORDER = list(LAYERS)
MAY_IMPORT = {layer: set(ORDER[:place]) for place, layer in enumerate(ORDER)}
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules}
NO_TORCH = ("show", "teach", "sources", "corpora")
NO_TORCH += ("errors", "paths", *LAYERS["records"])


@cache
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
    module, *inside = path.with_suffix("").parts[1:]
    parts = [name.split(".") for name in sorted(imports(path, source))]
    if module == "__init__":
        return [f"{path} imports {'.'.join(part)}" for part in parts]
    if module not in LAYER_OF:
        return [f"{path} belongs to no layer; add {module!r} to LAYERS in {Path(__file__).name}"]
    layer, found = LAYER_OF[module], []
    for part in parts:
        target = part[1] if part[0] == "attnlab" and part[1:] else module
        if LAYER_OF.get(target, layer) not in MAY_IMPORT[layer] | {layer}:
            found.append(f"{path} ({layer}) imports attnlab.{target} ({LAYER_OF[target]})")
        if module == target == "chapters" and part[0] == "attnlab" and part[2:3] != inside[:1]:
            found.append(f"{path} imports {'.'.join(part)}, another chapter")
    return found


@cache
def package_files() -> dict[Path, str]:
    """Return the text of every file of the package."""
    paths = sorted((ROOT / "attnlab").rglob("*.py"))
    return {path.relative_to(ROOT): path.read_text("utf-8") for path in paths}


def test_no_import_runs_up_the_layers():
    found = [up for path, source in package_files().items() for up in arrows_up(path, source)]
    assert not found, "\n".join(found)


def test_rooms_import_each_other_in_no_circle():
    graph = {}
    for path, source in package_files().items():
        room = path.with_suffix("").parts[1]
        parts = (name.split(".") for name in imports(path, source))
        graph.setdefault(room, set()).update(p[1] for p in parts if p[0] == "attnlab" and p[1:])
        graph[room].discard(room)
    TopologicalSorter(graph).prepare()  # raises where there is one


@pytest.mark.parametrize(
    ("path", "line", "is_seen"),
    [
        ("attnlab/mixers/she.py", "from ..training.loop import train_steps", True),
        ("attnlab/errors.py", "from attnlab import records", True),
        ("attnlab/show/style.py", "def f():\n    import attnlab.models.blocks", True),
        ("attnlab/chapters/a/live.py", "from attnlab.chapters.b import pictures", True),
        ("attnlab/novelty/thing.py", "import os", True),
        ("attnlab/__init__.py", "import torch", True),
        ("attnlab/models/blocks.py", "from attnlab.mixers import build_mixer", False),
        ("attnlab/chapters/a/live.py", "from attnlab.chapters.a import pictures", False),
    ],
)
def test_an_import_that_runs_up_is_seen(path, line, is_seen):
    assert bool(arrows_up(Path(path), line)) == is_seen


def run_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_modules_name_no_torch_and_import_none():
    for path, source in package_files().items():
        if path.with_suffix("").parts[1] in NO_TORCH[:4]:  # wherever in the file
            assert "torch" not in {name.split(".")[0] for name in imports(path, source)}, path
    lines = "\n".join(f"import attnlab.{name}" for name in NO_TORCH)
    assert run_python(f"import sys\n{lines}\nprint('torch' in sys.modules)") == "False"


def test_import_attnlab_is_quick_and_takes_no_torch():
    code = (
        "import sys, time; start = time.process_time(); import attnlab; "
        "print(time.process_time() - start, 'torch' in sys.modules)"
    )
    seconds, has_torch = min(run_python(code).split() for _ in range(3))
    assert float(seconds) < 0.3
    assert has_torch == "False"
