"""Check that the package's modules import one way: `python tests/check_imports.py`.

LAYERS is the architecture, lowest first. A module may import from lower layers only, never from its own or
a higher one, so no circle is possible; an import for type checkers alone counts like any other. No function
imports a module of the package, for that mostly hides a circle; but those in LAZY, which cost too much for who
never needs them, and stand lower all the same. A module that no layer names is a fault, so that each new file
finds its place.
"""

import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "offload"

LAYERS: Sequence[frozenset[str]] = [
    frozenset(layer.split())
    for layer in (
        # plain values and the lowest tools
        "_errors",
        "_process",
        "_settings _stats _monitor _threads _snapshot _timeline _standstill",
        "_policy _environ _observing _measures",
        # the exit hooks know no queue: they are handed what to call
        "_exit _progress _signals",
        # one call, and the state that a queue and its workers share
        "_task _reference",
        "_line _crew _payload",
        "_state",
        "_core",
        "_failures _reading",
        # how a call runs and ends
        "_ending",
        "_loop",
        "_run",
        "_processes _call",
        "_executors",
        "_worker",
        # a queue: the way in, the way to wait, and how it drains
        "_ticket _waiting",
        "_admission",
        "_drain",
        "_queue",
        "_view",
        "_registry _typing",
        "_decorator",
        "_api",
        "testing _trace _otel _prometheus _watch",
        # the façade, and what stands outside of it
        "__init__",
        "pytest_plugin __main__",
    )
]

LAZY = frozenset({"_executors", "_processes", "_stats", "_reading", "_view", "_trace"})
"""With the first two comes pickle; the rest would make half as much again of what importing the package costs."""


def faults(package: Path, layers: Sequence[frozenset[str]], lazy: frozenset[str] = frozenset()) -> list[str]:
    """What is wrong, one line each: empty if every module of `package` keeps to `layers`."""
    place = {module: number for number, layer in enumerate(layers) for module in layer}
    files = {file: file.relative_to(package).with_suffix("").as_posix() for file in sources(package)}
    modules = set(files.values())
    found = []
    for file, module in files.items():
        if module not in place:
            found.append(f"{package.name}/{file.name}: stands in no layer")
            continue
        for line, imported, hidden in own_imports(ast.parse(file.read_bytes()), package.name, modules):
            where = f"{package.name}/{file.name}:{line}"
            if hidden and imported not in lazy:
                found.append(f"{where}: imports {imported} inside a function")
            if imported not in modules:
                found.append(f"{where}: imports {imported}, which is no module of the package")
            elif imported in place and place[imported] >= place[module]:
                found.append(f"{where}: imports {imported}, which stands no lower")
    return found


def sources(package: Path) -> list[Path]:
    """The package's modules and stubs."""
    return sorted([*package.rglob("*.py"), *package.rglob("*.pyi")])


def own_imports(tree: ast.AST, package: str, modules: set[str]) -> Iterator[tuple[int, str, bool]]:
    """For each import of one of `modules`: its line, the module, and whether it is inside a function."""
    for node, hidden in walk(tree):
        match node:
            case ast.Import(names=names):
                targets = [alias.name for alias in names]
            case ast.ImportFrom(module=source, names=names, level=level):
                origin = ".".join(filter(None, (package if level else "", source)))
                targets = [f"{origin}.{alias.name}" for alias in names] if origin == package else [origin]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[ast.Constant(value=str(target)), *_]):
                targets = [target] if name in {"import_module", "__import__"} else []
            case _:
                continue
        for target in targets:
            top, _, name = target.partition(".")
            if top == package:  # a name of the package that is no module comes from the façade
                yield node.lineno, name if name in modules or "." in name else "__init__", hidden


def walk(node: ast.AST, hidden: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Every node below, and whether it is inside a function."""
    for child in ast.iter_child_nodes(node):
        yield child, hidden
        inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        yield from walk(child, hidden or inside)


if __name__ == "__main__":
    wrong = faults(PACKAGE, LAYERS, LAZY)
    print("\n".join(wrong) or f"imports: {len(sources(PACKAGE))} modules point one way")
    sys.exit(bool(wrong))
