"""The house's rules: the public names, one run-time dependency, small files, imports that point one way."""

from __future__ import annotations

import ast
import dataclasses
import graphlib
import importlib.metadata
import inspect
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import wrapt

import offload

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "offload"
MODULES = sorted(SOURCE.rglob("*.py"))
PUBLIC = {
    *("offload", "Offloaded", "Task", "Queue", "Registry", "QueueStats"),
    *("configure", "configure_from", "configure_exit", "queue", "queues", "flush", "aflush", "shutdown"),
    *("trace", "stats", "drain_on_signal", "testing"),
    *("OffloadError", "QueueFull", "QueueClosed", "FlushTimeout", "ConfigurationError"),
}
PUBLIC_MODULES = {"testing", "pytest_plugin"}

each_module = pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)


# --- the public names


def test_the_public_names_are_exactly_the_contracts() -> None:
    assert len(offload.__all__) == len(set(offload.__all__))
    assert set(offload.__all__) == PUBLIC
    visible = {name for name in dir(offload) if not name.startswith(("_", "@"))}
    assert visible - PUBLIC_MODULES == PUBLIC - PUBLIC_MODULES
    assert all(hasattr(offload, name) for name in PUBLIC)
    assert isinstance(offload.testing, ModuleType)


def test_star_import_gives_the_public_names() -> None:
    namespace: dict[str, Any] = {}
    exec("from offload import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC


def test_every_other_module_is_private() -> None:
    names = {path.stem for path in MODULES if not path.stem.startswith("_")}
    assert names <= PUBLIC_MODULES
    assert (SOURCE / "py.typed").exists()


def test_public_objects_say_where_they_are_public() -> None:
    for name in PUBLIC - {"testing"}:
        value = getattr(offload, name)
        assert value.__name__ == name
        assert inspect.getdoc(value), f"{name} has no docstring"


EMPTY = inspect.Parameter.empty
SIGNATURES: dict[str, list[tuple[str, Any]]] = {
    "offload": [("fn", None), ("queue", "default"), ("snapshot", False), ("coalesce", False)],
    "Registry": [("name", ""), ("exit_timeout", None), ("**defaults", EMPTY)],
    "configure": [("name", "default"), ("**settings", EMPTY)],
    "configure_from": [("source", EMPTY)],
    "configure_exit": [("**settings", EMPTY)],
    "queue": [("name", "default")],
    "queues": [],
    "flush": [("*names", EMPTY), ("timeout", None), ("raise_errors", False)],
    "aflush": [("*names", EMPTY), ("timeout", None), ("raise_errors", False)],
    "shutdown": [("wait", True), ("cancel_futures", False)],
    "trace": [("path", EMPTY)],
    "stats": [],
    "drain_on_signal": [("*signals", EMPTY)],
}
POSITIONAL_ONLY = {("offload", "fn"), ("Registry", "name"), ("configure", "name")}
KEYWORD_ONLY = {
    ("offload", "queue"),
    ("offload", "snapshot"),
    ("offload", "coalesce"),
    ("Registry", "exit_timeout"),
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signatures_are_the_contracts(name: str) -> None:
    parameters = list(inspect.signature(getattr(offload, name)).parameters.values())
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    assert [(stars.get(p.kind, "") + p.name, p.default) for p in parameters] == SIGNATURES[name]
    for p in parameters:
        assert (p.kind is p.POSITIONAL_ONLY) == ((name, p.name) in POSITIONAL_ONLY)
        if (name, p.name) in KEYWORD_ONLY:
            assert p.kind is p.KEYWORD_ONLY


@pytest.mark.parametrize("name", sorted(set(SIGNATURES) - {"Registry", "configure_exit", "trace", "drain_on_signal"}))
def test_a_registrys_methods_have_the_same_signatures(name: str) -> None:
    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        return [(p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()]

    assert shape(getattr(offload.Registry(), name)) == shape(getattr(offload, name))


def test_the_queues_own_flush() -> None:
    parameters = inspect.signature(offload.Queue.flush).parameters.values()
    assert [(p.name, p.default) for p in parameters][1:] == [("timeout", None), ("raise_errors", False)]


def test_the_kinds_of_the_public_classes() -> None:
    assert issubclass(offload.Task, Future)
    assert issubclass(offload.Queue, Executor)
    assert issubclass(offload.Offloaded, wrapt.FunctionWrapper)
    assert inspect.iscoroutinefunction(offload.aflush)
    assert dataclasses.is_dataclass(offload.QueueStats)
    assert {field.name for field in dataclasses.fields(offload.QueueStats)} >= {
        *("submitted", "succeeded", "failed", "cancelled", "dropped", "coalesced", "rejected"),
        *("waiting", "running", "blocked_seconds"),
    }


@pytest.mark.parametrize(
    ("name", "bases"),
    [
        ("OffloadError", (Exception,)),
        ("QueueFull", (offload.OffloadError,)),
        ("QueueClosed", (offload.OffloadError, RuntimeError)),
        ("FlushTimeout", (offload.OffloadError, TimeoutError)),
        ("ConfigurationError", (offload.OffloadError, ValueError)),
    ],
)
def test_the_errors(name: str, bases: tuple[type, ...]) -> None:
    assert getattr(offload, name).__bases__ == bases


# --- dependencies


def statements(tree: ast.AST, *, functions: bool) -> Iterator[ast.AST]:
    """All nodes that run: not what type checkers alone read, nor the bodies of functions unless asked for."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            continue
        if functions or not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from statements(node, functions=functions)


def imports(tree: ast.AST, *, functions: bool = True) -> Iterator[str]:
    """The modules that a file imports, those of one's own package in full."""
    for node in statements(tree, functions=functions):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level or not node.module:
                yield f"offload.{node.module or ''}"
            elif node.module == "offload":
                yield from (f"offload.{alias.name}" for alias in node.names)
            else:
                yield node.module


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def test_the_only_run_time_dependency_is_wrapt() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert [re.split(r"[^\w.-]", requirement)[0] for requirement in project["dependencies"]] == ["wrapt"]
    assert re.search(r">=\s*2", project["dependencies"][0])
    assert project["requires-python"] == ">=3.11"
    assert {"test", "examples", "bench", "dev"} <= set(project["optional-dependencies"])
    installed = [line for line in importlib.metadata.requires("offload") or [] if "extra ==" not in line]
    assert [re.split(r"[^\w.-]", requirement)[0] for requirement in installed] == ["wrapt"]


@each_module
def test_modules_import_the_standard_library_wrapt_and_themselves(path: Path) -> None:
    """An optional package may be imported where it is used, inside a function."""
    allowed = {"wrapt", "offload", *sys.stdlib_module_names}
    if path.stem == "pytest_plugin":
        allowed.add("pytest")
    assert {name.partition(".")[0] for name in imports(parsed(path), functions=False)} <= allowed


def test_import_loads_no_optional_package() -> None:
    """Measured in a fresh interpreter, against what its start-up had loaded already."""
    code = (
        "import sys, json; before = set(sys.modules); import offload;"
        "print(json.dumps(sorted({name.partition('.')[0] for name in set(sys.modules) - before})))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    loaded = set(json.loads(done.stdout)) - set(sys.stdlib_module_names)
    assert "offload" in loaded
    assert loaded <= {"offload", "wrapt"}
    assert done.stderr == ""


def test_import_starts_no_thread_and_takes_no_signal() -> None:
    code = (
        "import signal, threading; before = [signal.getsignal(n) for n in signal.valid_signals()];"
        "import offload;"
        "assert threading.active_count() == 1, threading.enumerate();"
        "assert [signal.getsignal(n) for n in signal.valid_signals()] == before"
    )
    subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], timeout=60, check=True)


# --- files and the direction of imports


@each_module
def test_files_are_small(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


@each_module
def test_nothing_sleeps(path: Path) -> None:
    assert "sleep(" not in path.read_text(encoding="utf-8")


@each_module
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(parsed(path))


def own_imports(tree: ast.AST) -> set[str]:
    """The modules of the package that a file imports, `offload` itself as ``__init__``."""
    stems = {path.stem for path in MODULES}
    found = set()
    for name in imports(tree):
        if name == "offload" or name.startswith("offload."):
            stem = name.partition(".")[2].partition(".")[0]
            found.add(stem if stem in stems else "__init__")
    return found


def test_imports_run_in_no_circle() -> None:
    graph = {path.stem: own_imports(parsed(path)) - {path.stem} for path in MODULES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle
    private = {stem for stem in graph if stem.startswith("_") and not stem.startswith("__")}
    assert not [stem for stem in private if "__init__" in graph[stem]], "they would import the façade above them"


def test_the_top_level_holds_nothing_else() -> None:
    allowed = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "src", "tests", "examples"}
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if listed.returncode == 0:
        entries = {line.partition("/")[0] for line in listed.stdout.splitlines()}
    else:  # not a git checkout, an unpacked archive
        entries = {path.name for path in ROOT.iterdir()} - {"PKG-INFO"}
    assert {entry for entry in entries if not entry.startswith(".")} <= allowed
