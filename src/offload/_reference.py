"""Functions by name: how a decorated function finds its way to another process.

A decorated function can't be pickled as itself: under its name pickle finds the decorated form. So it goes as a `Reference`, its name and how many
wrappers stand around it there, and the other side runs the undecorated function, which does not offload again.
"""

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator
from types import MethodType
from typing import Any

from offload._errors import OffloadError

MOST_WRAPPERS = 50


class Reference:
    """An undecorated function, by the name under which its decorated form stands. Calling it calls the function."""

    __slots__ = ("depth", "module", "path")

    def __init__(self, module: str, path: str, depth: int) -> None:
        self.module = module
        self.path = path
        self.depth = depth

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        for function in itertools.islice(_layers(self.module, self.path), self.depth, None):
            return function(*args, **kwargs)
        where = next((directory for directory in sys.path if os.path.isdir(directory or ".")), "") or os.getcwd()
        raise OffloadError(
            f"can't find {self.module}.{self.path} here, in another process, as it is decorated where it was called; what was typed at a prompt or "
            "in a notebook, or has changed since, can't be found by its name: put it in a module that both sides import (this one looks in "
            f"{where!r} and the rest of its sys.path)"
        )


class Method:
    """A bound method whose function goes by reference."""

    __slots__ = ("function", "instance")

    def __init__(self, function: Callable[..., Any], instance: Any) -> None:
        self.function = function
        self.instance = instance

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        return self.function(self.instance, *args, **kwargs)


def _layers(module: str, path: str) -> Iterator[Any]:
    """What stands under a name, and what that wraps, from the outside in."""
    *parents, name = path.split(".")
    try:
        __import__(module)
        owner: Any = sys.modules[module]
        for parent in parents:
            owner = getattr(owner, parent)
        found = vars(owner).get(name)
    except (AttributeError, TypeError, KeyError):
        return
    for _ in range(MOST_WRAPPERS):
        if found is None:
            return
        yield found
        found = getattr(found, "__wrapped__", None)


def _refer(fn: Any, *, has_script: bool) -> Any:
    """A Reference to a function that is wrapped under its own name; anything else as it is."""
    module, path = getattr(fn, "__module__", None), getattr(fn, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(path, str) or "<" in path or module not in sys.modules:
        return fn
    if module in ("__main__", "__mp_main__") and not has_script:  # cloudpickle sends the function itself
        return fn
    depth = next((depth for depth, layer in enumerate(_layers(module, path)) if layer is fn), 0)
    return Reference(module, path, depth) if depth else fn


def target_of(fn: Any, *, has_script: bool) -> Any:
    """What stands for the called thing on its way to another process; `has_script` if that imports this program's script."""
    if type(fn) is MethodType:
        function = _refer(fn.__func__, has_script=has_script)
        return fn if function is fn.__func__ else Method(function, fn.__self__)
    if type(fn) is functools.partial:
        return functools.partial(target_of(fn.func, has_script=has_script), *fn.args, **fn.keywords)
    return _refer(fn, has_script=has_script)


# -- the program's script ---------------------------------------------------------------------------------------------


def script_path() -> str | None:
    """The path of the program's script. To be asked for while it runs: CPython forgets it ahead of every exit hook."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return os.path.abspath(path) if path is not None and getattr(main, "__spec__", None) is None else None


def import_script(path: str | None) -> None:
    """Import the script in a process that was spawned when its parent had forgotten the path, and so could not tell it."""
    if path is None or hasattr(sys.modules.get("__main__"), "__file__"):
        return
    import multiprocessing.process
    import multiprocessing.spawn

    if multiprocessing.get_start_method(allow_none=True) not in ("spawn", "forkserver"):
        return
    current: Any = multiprocessing.process.current_process()
    current._inheriting = True  # as while multiprocessing imports it: see `_process.importing_script`
    try:
        multiprocessing.spawn.import_main_path(path)
    finally:
        del current._inheriting
