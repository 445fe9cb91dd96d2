"""Type checkers accept tests/typing/accepted.py, with the types that it asserts, and refuse each marked line of rejected.py.

Each checker that is installed is run, once, on copies of both files in a directory of their own, so that no
configuration but its strictest reaches it. The rest makes sure that what checkers see is what there is at run time.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import shutil
import subprocess
import sys
import typing
from collections.abc import Callable
from pathlib import Path

import pytest

import offload
from offload import Offloaded, Queue, Registry, Task, _settings

FILES = Path(__file__).with_name("typing")
STUB = Path(offload.__file__).with_name("_typing.pyi")
PATIENCE = 110.0
"""Seconds that one checker may take; the slowest takes about ten, and its first run fetches what it needs."""


def module(name: str, *options: str) -> list[str] | None:
    return [sys.executable, "-m", name, *options] if importlib.util.find_spec(name) else None


def mypy(directory: Path) -> list[str] | None:
    cache = f"--cache-dir={directory / 'cache'}"
    return module("mypy", "--strict", "--config-file=", cache, "--no-pretty", "--hide-error-context")


def pyright(directory: Path, name: str = "pyright") -> list[str] | None:
    config = '{"typeCheckingMode": "strict"}'
    (directory / "pyrightconfig.json").write_text(config, encoding="utf-8")
    command = module(name, "--level=error", f"--pythonpath={sys.executable}")
    if command and name == "pyright":
        _skip_without_its_own_package(command)
    return command


def _skip_without_its_own_package(command: list[str]) -> None:
    """PyPI's pyright is a launcher, which fetches the checker itself at its first run."""
    version = [*command[:3], "--version"]
    done = subprocess.run(version, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode:
        pytest.skip(f"pyright can't fetch what it launches: {(done.stderr.strip().splitlines() or ['?'])[-1]}")


def basedpyright(directory: Path) -> list[str] | None:
    return pyright(directory, "basedpyright")


def pyrefly(directory: Path) -> list[str] | None:
    (directory / "pyrefly.toml").touch()
    found = shutil.which("pyrefly", path=Path(sys.executable).parent)
    options = ["check", "--output-format=min-text", f"--python-interpreter-path={sys.executable}"]
    return [found, *options] if found else None


Fault = tuple[str, int]
"""A file's name and a line in it."""


@pytest.fixture(scope="module", params=[mypy, pyright, basedpyright, pyrefly], ids=lambda checker: checker.__name__)
def faults(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[set[Fault], str]:
    """What one checker finds in both files, and all that it said."""
    checker: Callable[[Path], list[str] | None] = request.param
    directory = tmp_path_factory.mktemp(checker.__name__)
    for path in FILES.glob("*.py"):
        shutil.copy(path, directory)
    command = checker(directory)
    if command is None:
        pytest.skip(f"{checker.__name__} is not installed")
    files = ["accepted.py", "rejected.py"]
    done = subprocess.run([*command, *files], cwd=directory, capture_output=True, text=True, timeout=PATIENCE, check=False)
    said = f"{done.stdout}\n{done.stderr}"
    if done.returncode != 1:  # "ran, and found faults"
        pytest.fail(f"{checker.__name__} did not run, or found nothing at all:\n{said}")
    lines = [line for line in done.stdout.splitlines() if ": note:" not in line]
    found = [re.search(r"(accepted|rejected)\.py:(\d+):", line) for line in lines]
    return {(match[1], int(match[2])) for match in found if match}, said


def test_the_checker_accepts_user_code(faults: tuple[set[Fault], str]) -> None:
    found, said = faults
    assert not [fault for fault in found if fault[0] == "accepted"], said


def test_the_checker_refuses_what_is_wrong_and_nothing_else(faults: tuple[set[Fault], str]) -> None:
    found, said = faults
    lines = (FILES / "rejected.py").read_text(encoding="utf-8").splitlines()
    marked = {number for number, line in enumerate(lines, 1) if "  # error: " in line}
    assert len(marked) > 50
    refused = {number for name, number in found if name == "rejected"}
    assert (sorted(marked - refused), sorted(refused - marked)) == ([], []), said


# --- what checkers see is what there is


def declared(name: str) -> dict[str, ast.FunctionDef]:
    tree = ast.parse(STUB.read_text(encoding="utf-8"))
    [found] = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name]
    return {node.name: node for node in found.body if isinstance(node, ast.FunctionDef)}


def test_what_is_declared_exists() -> None:
    @Registry().offload
    def function(x: int) -> int:
        """Documented."""
        return x

    for name in declared("Offloaded"):
        assert hasattr(Offloaded, name) or name == "__wrapped__", name
        assert hasattr(function, name), name
    assert (function.__name__, function.__doc__) == ("function", "Documented.")


def test_the_decorators_options_are_those_of_the_method() -> None:
    options = {p.name for p in inspect.signature(offload.offload).parameters.values() if p.name != "fn"}
    assert {argument.arg for argument in declared("Decorator")["__call__"].args.kwonlyargs} == options
    assert {argument.arg for argument in declared("Offloaded")["using"].args.kwonlyargs} == options


def test_the_settings_that_checkers_know_are_those_that_there_are() -> None:
    assert tuple(_settings.SettingsGiven.__annotations__) == _settings.NAMES
    given, kept = map(typing.get_type_hints, (_settings.SettingsGiven, _settings.Settings))
    assert given == kept


def test_offloaded_and_task_take_parameters_in_annotations() -> None:
    def annotated(send: Offloaded[[int], str, str], anything: Offloaded[..., object, object]) -> Task[str]:
        raise NotImplementedError

    hints = typing.get_type_hints(annotated, localns=None)
    assert typing.get_origin(hints["send"]) is Offloaded
    assert typing.get_args(hints["send"]) == ([int], str, str)
    assert typing.get_origin(hints["return"]) is Task


@pytest.mark.parametrize("public", [Registry.__init__, Registry.configure, Queue.submit, Task.result])
def test_annotations_of_public_methods_can_be_evaluated(public: Callable[..., object]) -> None:
    assert typing.get_type_hints(public)


def test_the_options_can_be_given_step_by_step() -> None:
    """As the declared type says: with options only, the decorator returns itself with other defaults."""
    registry = Registry()
    preset = registry.offload(queue="plots")(snapshot=True)
    assert preset(len).queue is registry.queue("plots")
    assert preset(len, queue="mail").queue is registry.queue("mail")
