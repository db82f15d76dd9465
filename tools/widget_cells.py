"""Which cells of a notebook its panels stand on: those run in the browser, nbval runs all."""

import ast
from collections.abc import Iterator
from typing import Any, NamedTuple


class Names(NamedTuple):
    """What a cell does with names."""

    read: set[str]
    bound: set[str]  # for good: what they were before no longer matters
    touched: set[str]  # bound somewhere, or handed to a call, which may change what they name
    defined: set[str]  # imports, functions and classes, which no call changes


def below(*nodes: ast.AST, store: bool = False) -> set[str]:
    """Return the names below these nodes; with ``store``, those that are bound there."""
    found = (n for node in nodes for n in ast.walk(node) if isinstance(n, ast.Name))
    return {n.id for n in found if not store or isinstance(n.ctx, ast.Store)}


def names(source: str) -> Names:
    """Return what a cell reads, binds, touches and defines."""
    tree = ast.parse(source)
    bound = below(
        *(t for n in tree.body if isinstance(n, ast.Assign) for t in n.targets), store=True
    )
    touched, defined = below(tree, store=True), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            defined |= {(each.asname or each.name).split(".")[0] for each in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Call):
            touched |= below(*node.args, *node.keywords)
            touched |= below(node.func) if isinstance(node.func, ast.Attribute) else set()
        elif isinstance(node, ast.Subscript | ast.Attribute) and isinstance(node.ctx, ast.Store):
            touched |= below(node)
    read = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return Names(read, bound, touched, defined)


def needed(cells: list[Any]) -> Iterator[Any]:
    """Yield text, cells that show a panel or answer one, and the code that those stand on."""
    code = {id(cell): names(cell.source) for cell in cells if cell.cell_type == "code"}
    fixed = set().union(*(each.defined for each in code.values()))
    panels = [cell for cell in cells if "widget" in cell.metadata.get("tags", ())]
    answered = set().union(*(code[id(cell)].bound for cell in panels))  # the verdict comes later
    kept, wanted = set(), set()
    for cell in reversed(cells):
        if id(cell) not in code:
            continue
        read, bound, touched, defined = code[id(cell)]
        shows = {"widget", "setup"} & set(cell.metadata.get("tags", ()))
        if shows or answered & touched or wanted & (touched - fixed | defined):
            kept.add(id(cell))
            wanted = wanted - (bound - read) | read
    yield from (cell for cell in cells if id(cell) not in code or id(cell) in kept)
