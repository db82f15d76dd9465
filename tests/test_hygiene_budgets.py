"""The package stays small: lines by room, by chapter, by mixer, by task, and of functions.

The table alone: ``python tests/test_hygiene_budgets.py``
"""

import ast
import statistics
import sys
from collections import Counter
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUND = ("__init__", "__main__", "errors", "seeding", "config", "runmode", "paths")
GROUND += ("records", "markdown")
ROOMS = {  # lines at most
    "ground": 700,
    "show": 1_200,
    "sources": 2_350,
    "corpora": 1_250,
    "mixers": 2_300,  # of those of the two papers; another one may bring MIXER more
    "models": 1_080,
    "training": 1_280,
    "distillation": 1_900,
    "analysis": 2_100,
    "tasks": 500,  # language and translation; another one may bring TASK more
    "studies": 1_700,
    "claims": 450,
    "web": 720,
    "teach": 500,
    "chapters": 10_940,
    "cli": 320,
}
PACKAGE, WITHOUT_CHAPTERS, TESTS = 20_000, 15_000, 10_500
CHAPTER, MIXER, TASK = 550, 120, 140
FIRST = 7, 3, 11  # mixers, files of tasks and chapters that the budgets of the rooms hold
MEDIAN, NINE_OF_TEN = (7, 12), 40  # lines of a function

# What is over its budget today, and by how much it may be. Lower a number when lines go; raise one
# only for what is named here: sweeps and their verdicts (studies, tasks, command line, mixers'
# starts), products through oneDNN (training), notebook 14 and the ledger of all claims, own input
# and words shown as they stand (show, chapters, sources), panels that close with their cell and
# judge late guesses (show), downloads from servers that are busy or foreign (corpora), several
# processes (training, studies, command line), damaged files and places that cannot be written
# (ground, training, command line), what models are given (models, mixers), answers of any kind
# (teach), something to build in each notebook with its mistakes (chapters), ten wrong answers to
# each exercise (tests), the frame, positions and windows of attention (mixers), recall and
# languages in context (sources), texts and images with a class (corpora, models, training), studies
# of all mixers, of labels, growth and scaling with their fits (studies, analysis, claims), pairs
# that are no translations (corpora, tasks) and scores of single texts (training), a switch at each
# site of two translators and what the records of stand-ins say (chapters), verdicts from two
# studies of replaced attention and from tasks with scores of their own (studies, claims), stand-ins
# with their loops, what they match and low-rank corrections (distillation), their rows, stages,
# small teachers and lengths (studies), losses by a teacher's distribution (models),
# learners' copies with what nbgrader reads of them (teach, command line, tests), models that run in
# a page, with their weights as text and their first state (web, command line, tests).
# small teachers and lengths (studies), losses by a teacher's distribution (models), a book and
# slides in a browser (tests).
CEILINGS = {
    "corpora": 1_900,
    "ground": 1_160,
    "training": 1_850,
    "mixers": 5_280,
    "claims": 970,
    "analysis": 2_760,
    "cli": 825,
    "chapters": 10_980,
    "distillation": 3_310,
    "show": 2_370,
    "sources": 2_970,
    "studies": 5_480,
    "web": 745,
    "teach": 1_200,
    "models": 1_510,
    "chapters/attention": 680,
    "chapters/attention_after_training": 1_180,
    "chapters/critical_path": 730,
    "chapters/distillation": 625,
    "chapters/extractor": 660,
    "chapters/fast_extractors": 980,
    "chapters/language_models": 1_160,
    "chapters/markov_framing": 630,
    "chapters/other_mixers": 650,
    "chapters/recall_and_state": 670,
    "chapters/replacing_attention": 730,
    "chapters/scaling_and_other_tasks": 690,
    "chapters/translation_teacher": 950,
    "mixer Attention": 175,
    "mixer Extractor": 295,
    "tasks/language": 256,
    "tasks/pairs": 190,
    "attnlab": 44_500,
    "attnlab without chapters": 33_530,
    "tests": 28_750,
}


def count_lines(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines())


@cache
def classes_and_functions() -> tuple[ast.AST, ...]:
    paths = sorted((ROOT / "attnlab").rglob("*.py"))
    nodes = (node for path in paths for node in ast.walk(ast.parse(path.read_text("utf-8"))))
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return tuple(node for node in nodes if isinstance(node, kinds))


def length(node) -> int:
    return node.end_lineno - node.lineno + 1


def brought() -> Counter[str]:
    """Return the lines that mixers, tasks and chapters beyond the first ones may bring."""
    mixers = sum(
        isinstance(node, ast.ClassDef)
        and any(ast.unparse(each).startswith("mixer(") for each in node.decorator_list)
        for node in classes_and_functions()
    )
    tasks = len(list((ROOT / "attnlab" / "tasks").glob("[!_]*.py")))
    chapters = len(list((ROOT / "attnlab" / "chapters").glob("*/__init__.py")))
    first_mixers, first_tasks, first_chapters = FIRST
    return Counter(
        mixers=MIXER * (mixers - first_mixers),
        tasks=TASK * (tasks - first_tasks),
        chapters=CHAPTER * (chapters - first_chapters),
    )


@cache
def measured() -> dict[str, tuple[int, int]]:
    """Return the lines of everything that has a budget, and the budget."""
    rooms, chapters = Counter(), Counter()
    for path in sorted((ROOT / "attnlab").rglob("*.py")):
        inside = path.relative_to(ROOT / "attnlab").with_suffix("")
        rooms["ground" if inside.parts[0] in GROUND else inside.parts[0]] += count_lines(path)
        if inside.parts[0] == "chapters":
            chapters[f"chapters/{inside.parts[1]}"] += count_lines(path)
    tests = sum(count_lines(path) for path in (ROOT / "tests").rglob("*.py"))
    more = brought()
    rows = {room: (n, ROOMS.get(room, 0) + more[room]) for room, n in sorted(rooms.items())}
    rows |= {chapter: (n, CHAPTER) for chapter, n in chapters.items()}
    for node in classes_and_functions():
        if isinstance(node, ast.ClassDef) and "TokenMixer" in map(ast.unparse, node.bases):
            rows[f"mixer {node.name}"] = (length(node), MIXER)
    for path in sorted((ROOT / "attnlab" / "tasks").glob("[!_]*.py")):
        rows[f"tasks/{path.stem}"] = (count_lines(path), TASK)
    total = rooms.total()
    without = total - rooms["chapters"]
    rows["attnlab"] = (total, PACKAGE + more.total())
    rows["attnlab without chapters"] = (without, WITHOUT_CHAPTERS + more.total() - more["chapters"])
    return rows | {"tests": (tests, TESTS)}


def table() -> str:
    """Return the budgets as text; ``over`` marks what a ceiling still allows."""
    lines = [f"{'':30}{'lines':>8}{'budget':>8}"]
    for name, (n, budget) in measured().items():
        lines.append(f"{name:30}{n:8,}{budget:8,}{'  over' * (n > budget)}")
    return "\n".join(lines) + "\n"


def test_every_room_keeps_to_its_budget():
    sys.stdout.write(table())
    over = {
        name: f"{n} lines, at most {CEILINGS.get(name, budget)}"
        for name, (n, budget) in measured().items()
        if n > CEILINGS.get(name, budget)
    }
    assert not over, f"{over}\n{table()}"


def test_functions_are_neither_chopped_nor_long():
    lengths = [
        length(node) for node in classes_and_functions() if not isinstance(node, ast.ClassDef)
    ]
    assert MEDIAN[0] <= statistics.median(lengths) <= MEDIAN[1]
    assert statistics.quantiles(lengths, n=10)[-1] <= NINE_OF_TEN


if __name__ == "__main__":
    sys.stdout.write(table())
