"""The package's modules import one way (check_imports.py), and the check finds what it is for."""

from __future__ import annotations

from pathlib import Path

import pytest
from check_imports import LAYERS, LAZY, PACKAGE, faults


def test_package_keeps_to_its_layers() -> None:
    assert (PACKAGE / "__init__.py").is_file()
    assert faults(PACKAGE, LAYERS, LAZY) == []


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("from toy._low import thing", None),
        ("from toy import _low", None),
        ("from . import _low", None),
        ("import toy._low", None),
        ("import os, wrapt, toybox", None),
        ("from toy._high import thing", "toy/_middle.py:1: imports _high, which stands no lower"),
        ("from ._high import thing", "toy/_middle.py:1: imports _high, which stands no lower"),
        ("from toy import _low, _high", "toy/_middle.py:1: imports _high, which stands no lower"),
        ("import toy._high", "toy/_middle.py:1: imports _high, which stands no lower"),
        ("from toy._beside import thing", "toy/_middle.py:1: imports _beside, which stands no lower"),
        ("from toy import thing", "toy/_middle.py:1: imports __init__, which stands no lower"),
        ("import toy", "toy/_middle.py:1: imports __init__, which stands no lower"),
        (
            "if TYPE_CHECKING:\n    from toy._high import T",
            "toy/_middle.py:2: imports _high, which stands no lower",
        ),
        ("def f():\n    from toy import _low", "toy/_middle.py:2: imports _low inside a function"),
        ("async def f():\n    import toy._low", "toy/_middle.py:2: imports _low inside a function"),
        ("f = lambda: import_module('toy._low')", "toy/_middle.py:1: imports _low inside a function"),
        ("importlib.import_module('toy._high')", "toy/_middle.py:1: imports _high, which stands no lower"),
    ],
)
def test_finds_each_fault(tmp_path: Path, source: str, fault: str | None) -> None:
    package = tmp_path / "toy"
    package.mkdir()
    for module in ("__init__", "_high", "_beside", "_low"):
        (package / f"{module}.py").touch()
    (package / "_middle.py").write_text(source)
    layers = [
        frozenset({"_low"}),
        frozenset({"_middle", "_beside"}),
        frozenset({"_high"}),
        frozenset({"__init__"}),
    ]
    assert faults(package, layers) == ([] if fault is None else [fault])


@pytest.mark.parametrize(("module", "found"), [("_low", 0), ("_high", 1)])
def test_what_is_lazy_stands_lower_all_the_same(tmp_path: Path, module: str, found: int) -> None:
    package = tmp_path / "toy"
    package.mkdir()
    for name in ("_high", "_low"):
        (package / f"{name}.py").touch()
    (package / "_middle.py").write_text(f"def f():\n    from toy import {module}")
    layers = [frozenset({"_low"}), frozenset({"_middle"}), frozenset({"_high"})]
    assert len(faults(package, layers, frozenset({module}))) == found


def test_finds_a_module_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "_new.py").touch()
    (tmp_path / "_stub.pyi").touch()
    assert faults(tmp_path, [frozenset({"_old"})]) == [
        f"{tmp_path.name}/_new.py: stands in no layer",
        f"{tmp_path.name}/_stub.pyi: stands in no layer",
    ]
